"""Job x capabilities -> receipt: a total function. Every field of the job appears once, under one of seven words.

This is where a hyperparameter would vanish if it could. It cannot: the receipt is built from the list of fields, not
from the list of parameters, and a request is built from the receipt.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

from pydantic import Field

from llmtune._models import FrozenModel
from llmtune.provider.cost import CostEstimate
from llmtune.provider.declarations import NOT_PUBLISHED, Support
from llmtune.provider.duration import Duration
from llmtune.provider.memory import Footprint
from llmtune.provider.types import Readiness, Request, Target
from llmtune.redaction.rendering import Rendered


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
    def is_set(self) -> bool:
        """Whether the job sets it."""
        return self.requested is not None

    @property
    def is_sent(self) -> bool:
        """Whether it is sent."""
        return self.support in ("sent", "converted")


#: What a job file that `init` writes names where no model was given.
PLACEHOLDER = "MODEL_ID"


class DatasetStatus(FrozenModel):
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

    validation_tokens: int | None = None
    """Tokens of one pass over the validation rows, where the service uses them."""

    prompt_tokens: float | None = None
    """Tokens of the prompt of an average row that the evaluation asks; an estimate, as `answer_tokens` is."""

    answer_tokens: float | None = None
    """Tokens of the answer of such a row."""

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


class PanelPlan(FrozenModel):
    """A panel of questions outside the task, which the evaluation asks base and tuned model.

    `name` is the panel's, `questions` their number. `prompt_tokens` and `answer_tokens` are estimates over all of them,
    for one model.
    """

    name: str
    questions: int
    prompt_tokens: int
    answer_tokens: int
    """Of the reference answers."""


class JudgePlan(FrozenModel):
    """A model that judges the answers of base and tuned model in the evaluation.

    `model` is the judge as the job names it, `location` where it is asked; `leaves_machine` says whether the judged
    rows are sent there from this machine, and `billed` whether its replies cost money, as far as is known. `mode` is
    "pairwise" or "score"; `rows` test rows and `labels` labelled answers are judged by `replies` at most.
    `prompt_tokens` is an estimate over all of them, `reply_tokens` the most that they may have; None where the dataset
    could not be read.
    """

    model: str
    location: str
    leaves_machine: bool
    billed: bool
    mode: str
    rows: int
    labels: int = 0
    replies: int = 0
    prompt_tokens: int | None = None
    reply_tokens: int | None = None
    obstacle: str | None = None
    """Why it cannot be asked from here; None where nothing is known against it."""

    def describe_sending(self) -> str:
        """Say what is sent where: the sentence that a plan and a run warn with; "" where nothing leaves the machine."""
        if not self.leaves_machine:
            return ""
        labels = f", and {self.labels:,} labelled answers," if self.labels else ""
        return (
            f"evaluation.judge: up to {self.rows:,} test rows and the models' answers to them{labels} are sent to"
            f" {self.model} at {self.location}"
        )


class LifecycleStatus(FrozenModel):
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


class Receipt(Rendered, FrozenModel):
    """What a backend will do with a job, field by field, before anything is sent.

    `target` and `family` say where, `job_name` which job; `fields` holds one row per field of the job, under one of
    the seven words. `request` is the exact body that would go out, `cost` the estimate, `lifecycle` whether the
    service takes jobs today, `ready` whether it could be used from here. `warnings` stop nothing.
    """

    _renderers: ClassVar[Mapping[str, str]] = {"notebook": "llmtune.report.html.notebook:show_receipt"}

    target: Target
    family: str
    job_name: str
    fields: tuple[FieldReceipt, ...]
    refusals: tuple[str, ...] = ()
    """Why this job cannot run here as asked; empty when it can."""

    warnings: tuple[str, ...] = ()
    data: DatasetStatus = DatasetStatus()
    panel: PanelPlan | None = None
    """Questions outside the task; None where the job asks for none, or nothing is evaluated."""

    judge: JudgePlan | None = None
    """A judge of the models' answers; None where the job names none, or nothing is evaluated."""

    request: Request | None = None
    cost: CostEstimate = CostEstimate(unknown="not estimated")
    lifecycle: LifecycleStatus = LifecycleStatus()
    ready: Readiness = Readiness(extra="not needed", credentials="not checked")
    memory: Footprint | None = None
    """What a run on this machine will take; None where jobs leave it."""

    duration: Duration | None = None
    """About how long a run on this machine takes, and where the figure comes from; None where jobs leave it."""

    def __repr_args__(self) -> Iterator[tuple[str | None, Any]]:
        """Yield the few words by which a plan is recognised."""
        yield from {"job": self.job_name, "provider": self.target.provider, "model": self.target.model}.items()
        if unsupported := [row.field for row in self.unsupported()]:
            yield "unsupported", unsupported
        if obstacles := self.obstacles():
            yield "obstacles", obstacles
        yield "cost", self.cost.sentence()

    def __getitem__(self, field: str) -> FieldReceipt:
        for row in self.fields:
            if row.field == field:
                return row
        raise KeyError(field)

    def effective(self, field: str, otherwise: Any = None) -> Any:
        """Return the value of a `field` that the backend will use, or `otherwise` if the vendor does not publish it."""
        value = self[field].effective
        return otherwise if value is None or value == NOT_PUBLISHED else value

    def obstacles(self) -> list[str]:
        """List why a run would not start from here today: what is refused, and what is missing. Empty if it would."""
        obstacles = list(self.refusals)
        if not self.lifecycle.open:
            obstacles.append(self.lifecycle.sentence)
        if self.data.errors:
            obstacles.append("the dataset has errors")
        if self.target.model == PLACEHOLDER:
            obstacles.append(f"model: {PLACEHOLDER} stands for a model that is not named yet")
        if self.ready.extra == "missing":
            obstacles.append("the packages of this backend are not installed")
        if self.ready.credentials == "not found":
            obstacles.append("no credentials were found")
        if self.ready.missing_settings:
            obstacles.append(f"settings are missing: {', '.join(self.ready.missing_settings)}")
        if self.judge is not None and self.judge.obstacle is not None:
            obstacles.append(f"evaluation.judge: {self.judge.obstacle}")
        return obstacles

    @property
    def bills_judge(self) -> bool:
        """Whether the evaluation asks a judge who bills: then a job on this machine costs money, too."""
        return self.judge is not None and self.judge.billed

    def sent_fields(self) -> Iterator[FieldReceipt]:
        """Yield the fields that go into the training request."""
        return (row for row in self.fields if row.is_sent and row.where == "training" and row.wire)

    def unsupported(self) -> list[FieldReceipt]:
        """Return the fields that the job sets and that this backend cannot take."""
        return [row for row in self.fields if row.support == "unsupported" and row.is_set]

    def request_parameters(self) -> dict[str, Any]:
        """Return everything that goes into the training request, nested by the request paths."""
        body: dict[str, Any] = {}
        for row in self.sent_fields():
            set_path(body, row.wire or "", row.encoded)
            for path, value in row.also.items():
                set_path(body, path, value)
        return body

    def to_json(self) -> dict[str, Any]:
        """Return the plan of one backend as JSON, with the fields by name."""
        dumped = self.model_dump(mode="json", exclude={"fields"})
        dumped["fields"] = {row.field: row.model_dump(mode="json", exclude={"field"}) for row in self.fields}
        return dumped


def set_path(body: dict[str, Any], path: str, value: Any) -> None:
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
