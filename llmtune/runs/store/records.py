"""What the store knows of one run."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict
from pydantic_core import to_jsonable_python

from llmtune.job.spec import TuningJob
from llmtune.provider.cost import CostEstimate
from llmtune.provider.receipt import Receipt
from llmtune.provider.types import Billed, Cursor, EncodedFile, Progress, Request, RunKey, RunState


class LiveRecord(BaseModel):
    """What happens to a run: written by polls and by the steps of finishing. Kept apart, because it changes often."""

    model_config = ConfigDict(frozen=True, extra="ignore")  # a field of an older version may be left over

    raw_state: str = ""
    outcome: RunState | None = None
    """How the job ended at the vendor; the run itself may still be finalizing."""

    progress: Progress = Progress()
    cursor: Cursor | None = None
    error: str | None = None
    warnings: tuple[str, ...] = ()
    billed: Billed | None = None
    resolved: dict[str, Any] = {}
    not_reported: dict[str, str] = {}
    cancel_requested: bool = False
    submits: int = 0
    """How many times the paid call was made (or about to be made)."""


class RunRecord(LiveRecord):
    """One run as it stands in the store. A value: asking the store again is the way to see it change."""

    id: str
    key: RunKey
    name: str
    provider: str
    kind: str
    model: str
    fingerprint: str
    state: RunState
    created: float
    updated: float

    # What was planned; written with the intent.
    job: dict[str, Any]
    receipt: dict[str, Any]
    settings: dict[str, Any] | None = None
    """The account settings it was started with (never a secret), so that another process reaches the same account."""

    hosted: bool = True
    host: dict[str, Any] = {}
    """Where it was started: host name, process id, versions."""

    files: tuple[EncodedFile, ...] = ()
    lossy: tuple[str, ...] = ()
    budget: float | None = None
    group: str | None = None
    """The comparison or sweep it belongs to."""

    request: Request | None = None
    """The exact request, once every file is there."""

    @property
    def tuning_job(self) -> TuningJob:
        """The job, as it was given."""
        return TuningJob.model_validate(self.job)

    @property
    def plan(self) -> Receipt:
        """The receipt, as it was planned."""
        return load_receipt(self.receipt)

    @property
    def cost(self) -> CostEstimate:
        """The estimate, for the number of epochs that the vendor says it trains."""
        return self.plan.cost.for_epochs(self.resolved.get("epochs"))


#: Fields that have a column of their own and never change; state and updated have one too. Then those that change
#: with every poll, and those that are planned.
FIXED = ("id", "key", "name", "provider", "kind", "model", "fingerprint", "created")
LIVE = tuple(LiveRecord.model_fields)
PLANNED = tuple(set(RunRecord.model_fields) - {*FIXED, *LIVE, "state", "updated"})


def dump_receipt(receipt: Receipt) -> dict[str, Any]:
    """The whole receipt as JSON data, with the wire spelling of each field that its published shape leaves out."""
    data = receipt.model_dump(mode="json")
    data["fields"] = [to_jsonable_python(dict(row)) for row in receipt.fields]
    return data


def load_receipt(data: dict[str, Any]) -> Receipt:
    """A receipt written by `dump_receipt`."""
    return Receipt.model_validate(data)
