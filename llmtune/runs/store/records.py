"""The stored record of one run."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict
from pydantic_core import to_jsonable_python

from llmtune.job.spec import TuningJob
from llmtune.provider.cost import CostEstimate
from llmtune.provider.receipt import Receipt
from llmtune.provider.types import Billed, Cursor, EncodedFile, Progress, Request, RunKey, RunState


class LiveRecord(BaseModel):
    """What happens to a run: written by polls and by the steps of finishing. Kept apart, because it changes often.

    `raw_state` is the vendor's own word, `progress` how far the job is, `cursor` how far it was read; `error` says why
    it failed, `warnings` what else is to be known. `billed` is what the vendor billed, `resolved` are values that it
    chose, `not_reported` why a series is missing; `cancel_requested` is whether it is to end.
    """

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
    """The record of one run as read from the store. It never changes: read the store again to see changes.

    `key` is its id at the vendor, `name` the job's. `provider` is the configured instance, `kind` the adapter behind
    it, `model` the base model; `fingerprint` is equal for runs of the same content. `state` is where it is; `created`
    and `updated` are in seconds since 1970 UTC. `job` and `receipt` are plain data (`tuning_job` and `plan` read them);
    `hosted` is whether a vendor bills it, `budget` the limit in USD. `files` are what was uploaded, `lossy` what the
    vendor's row format could not carry.
    """

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

    # What was planned; written when the run is created.
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
        # Before an adapter could be left open, one that was not stored was lora.
        return TuningJob.model_validate({"adapter": "lora"} | self.job)

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
    """Return the receipt as JSON data, with the request paths of its fields, which the published schema leaves out."""
    data = receipt.model_dump(mode="json")
    data["fields"] = [to_jsonable_python(dict(row)) for row in receipt.fields]
    return data


def load_receipt(data: dict[str, Any]) -> Receipt:
    """Read a receipt that `dump_receipt` wrote."""
    return Receipt.model_validate(data)
