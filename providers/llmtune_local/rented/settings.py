"""Options of a run on a rented machine, beside those of the local trainer."""

from __future__ import annotations

from pydantic import Field, model_validator

from llmtune_local.settings import LocalOptions


class RentedOptions(LocalOptions):
    """Options of a run on a rented machine."""

    machine: str | None = None
    """The vendor's name of the machine; None: the cheapest on which the run fits."""

    max_cost: float | None = Field(default=None, gt=0)
    """USD that the machine may cost, at most. The run then stops with a checkpoint, and can be resumed for as much
    again. None: only `max_hours` ends it."""

    max_hours: float = Field(default=12.0, gt=0, le=240)
    """Hours after which the run stops with a checkpoint, whatever it costs."""

    keep_files: bool = False
    """Leave the rows, checkpoints and result in the vendor's storage when the model has been fetched."""

    @model_validator(mode="after")
    def _one_process(self) -> RentedOptions:
        several = self.processes > 1 or self.launcher not in (None, "worker")
        if several or self.sharding == "shard" or self.offload:
            raise ValueError(
                "a rented machine trains in one process on one of its devices: leave processes, launcher, sharding and"
                " offload out"
            )
        return self
