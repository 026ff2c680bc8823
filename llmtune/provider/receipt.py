"""Job x capabilities -> receipt: a total function. Every field of the job appears once, under one of seven words.

This is where a hyperparameter would vanish if it could. It cannot: the receipt is built from the list of fields, not
from the list of knobs, and a request is built from the receipt.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import Field

from llmtune._models import FrozenModel
from llmtune.provider.cost import CostEstimate
from llmtune.provider.declarations import NOT_PUBLISHED, Support
from llmtune.provider.memory import Footprint
from llmtune.provider.types import Readiness, Request, Target


class FieldReceipt(FrozenModel):
    """What becomes of one field of the job at one backend.

    `support` is one of the seven words, `requested` the job's value (None: it sets none), and `where` the request that
    carries the field: "training" or "generation".
    """

    field: str
    support: Support
    requested: Any = None
    effective: Any = None
    """What the backend will use: the value sent, its default, or "not published"."""

    wire: str | None = None
    """Where it stands in the request (a dotted path), when it is sent."""

    rule: str | None = None
    """The conversion in words, when there was one."""

    reason: str | None = None
    source: str | None = None
    encoded: Any = Field(default=None, exclude=True)
    """The value as it is spelled on the wire."""

    also: dict[str, Any] = Field(default_factory=dict, exclude=True)
    """Constants that go out with it."""

    where: str = Field(default="training", exclude=True)

    @property
    def asked(self) -> bool:
        """Whether the job sets it."""
        return self.requested is not None

    @property
    def moves(self) -> bool:
        """Whether it goes out."""
        return self.support in ("sent", "converted")


#: What a job file that `init` writes names where no model was given.
PLACEHOLDER = "MODEL_ID"


class DataVerdict(FrozenModel):
    """What the backend would say of the dataset.

    `rows` counts the rows by split, `format` is the row format they are sent in, `sha256` identifies their content.
    `errors` and `warnings` count the findings; errors refuse the dataset.
    """

    source: str = ""
    sha256: str | None = None
    rows: dict[str, int] = {}
    tokens: int | None = None
    """Tokens of one pass over the training rows, as the vendor would bill them."""

    tokens_estimated: bool = True
    """False when they were counted with the model's tokenizer."""

    evaluated: int | None = None
    """Test rows that the evaluation will ask."""

    errors: int = 0
    warnings: int = 0
    findings: tuple[str, ...] = ()
    """The first findings, one line each."""

    lossy: tuple[str, ...] = ()
    """What the vendor's row format cannot carry, by row."""

    changed: tuple[str, ...] = ()
    """What it leaves out or carries in another way, one line a kind; the first of `findings`, too."""

    format: str = ""
    checked: bool = True
    """False when the dataset could not be read here (the findings say why)."""


class LifecycleVerdict(FrozenModel):
    """Whether the service takes this job today.

    `open` is the answer, `sentence` says it in words, and `status` is the vendor's own word. From the day `closes` on
    no new job is taken; tuned models answer until the day `answers_until`. `alternatives` are providers to go to.
    """

    status: str = "active"
    sentence: str = "active"
    open: bool = True
    closes: str | None = None
    answers_until: str | None = None
    note: str = ""
    source: str = ""
    alternatives: tuple[str, ...] = ()


class Receipt(FrozenModel):
    """What a backend will do with a job, field by field, before anything is sent.

    `target` and `family` say where, `job_name` which job; `fields` holds one row a field of the job, under one of
    the seven words. `request` is the exact body that would go out, `cost` the estimate, `lifecycle` whether the
    service takes jobs today, `ready` whether it could be used from here. `warnings` stop nothing.
    """

    target: Target
    family: str
    job_name: str
    fields: tuple[FieldReceipt, ...]
    refusals: tuple[str, ...] = ()
    """Why this job cannot run here as asked; empty when it can."""

    warnings: tuple[str, ...] = ()
    data: DataVerdict = DataVerdict()
    request: Request | None = None
    cost: CostEstimate = CostEstimate(unknown="not estimated")
    lifecycle: LifecycleVerdict = LifecycleVerdict()
    ready: Readiness = Readiness(extra="not needed", credentials="not checked")
    memory: Footprint | None = None
    """What a run on this machine will take; None where jobs leave it."""

    def __getitem__(self, field: str) -> FieldReceipt:
        for row in self.fields:
            if row.field == field:
                return row
        raise KeyError(field)

    def effective(self, field: str, otherwise: Any = None) -> Any:
        """The value of a `field` that the backend will use, or `otherwise` when the vendor does not publish it."""
        value = self[field].effective
        return otherwise if value is None or value == NOT_PUBLISHED else value

    def obstacles(self) -> list[str]:
        """Why a run would not start from here today: what is refused, and what is missing. Empty when it would."""
        found = list(self.refusals)
        if not self.lifecycle.open:
            found.append(self.lifecycle.sentence)
        if self.data.errors:
            found.append("the dataset has errors")
        if self.target.model == PLACEHOLDER:
            found.append(f"model: {PLACEHOLDER} stands for a model that is not named yet")
        if self.ready.extra == "missing":
            found.append("the packages of this backend are not installed")
        if self.ready.credentials == "not found":
            found.append("no credentials were found")
        if self.ready.missing_settings:
            found.append(f"settings are missing: {', '.join(self.ready.missing_settings)}")
        return found

    def moving(self) -> Iterator[FieldReceipt]:
        """The fields that go into the training request."""
        return (row for row in self.fields if row.moves and row.where == "training" and row.wire)

    def unsupported(self) -> list[FieldReceipt]:
        """The fields that were asked for and that this backend cannot take."""
        return [row for row in self.fields if row.support == "unsupported" and row.asked]

    def knobs(self) -> dict[str, Any]:
        """Everything that goes into the training request, nested as the wire paths say."""
        body: dict[str, Any] = {}
        for row in self.moving():
            place(body, row.wire or "", row.encoded)
            for path, value in row.also.items():
                place(body, path, value)
        return body

    def to_json(self) -> dict[str, Any]:
        """The plan of one backend in the published shape (fields by name)."""
        dumped = self.model_dump(mode="json", exclude={"fields"})
        dumped["fields"] = {row.field: row.model_dump(mode="json", exclude={"field"}) for row in self.fields}
        return dumped


def place(body: dict[str, Any], path: str, value: Any) -> None:
    """Set `value` at a dotted path, making the mappings on the way."""
    *parents, last = path.split(".")
    for part in parents:
        body = body.setdefault(part, {})
    body[last] = value


def deep_merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Return a copy of `base` with `over` laid over it, mapping by mapping; elsewhere the value of `over` stands."""
    merged = copy.deepcopy(dict(base))
    for key, value in over.items():
        if isinstance(value, Mapping) and isinstance(merged.get(key), Mapping):
            merged[key] = deep_merge(merged[key], value)
        else:
            merged[key] = copy.deepcopy(value)
    return merged
