"""State and results of a rescue: plain values, saved in `rescue.json` after every step."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from llmtune._models import DocumentedModel
from llmtune.evaluation.results import EvaluationResult
from llmtune.metrics.points import NotReported
from llmtune.redaction.documents import dump_json
from llmtune.redaction.rendering import Renderable
from llmtune.verifications.results import Verification

#: The steps of a rescue, in order.
STEPS = ("fetch", "golden", "plan", "train", "report")

#: A step of a rescue.
RescueStep = Literal["fetch", "golden", "plan", "train", "report"]


class DataFile(DocumentedModel):
    """A file of the old job, as it lies in the folder: its number of `rows`, and the `sha256` of its content."""

    path: str
    """Relative to the folder."""

    rows: int
    sha256: str
    came_from: str
    """The vendor's file id, the run's dataset, or the file that was given instead."""


class RescueSource(DocumentedModel):
    """The tuned model that is rescued, and how it was made.

    `provider` and `base` are where and from what it was tuned, `job` is its job's id there; `method` and `seed` are the
    job's.
    """

    provider: str
    model: str
    base: str
    job: str | None = None
    run: str | None = None
    """The run that made it, where the store knows it."""

    method: str = "sft"
    hyperparameters: dict[str, Any] = {}
    """By llmtune's names."""

    unmapped: dict[str, Any] = {}
    """Settings of the vendor without an equivalent in llmtune, by the vendor's names."""

    chosen: dict[str, Any] = {}
    """Values that the vendor chose, by its names; the new backend chooses its own."""

    seed: int | None = None
    files: dict[str, DataFile] = {}
    """By role: train, validation, test."""

    gone: dict[str, str] = {}
    """Files that could not be fetched any more, with the reason, by role."""

    seen_in_training: bool = False
    """Whether the old model was trained on the evaluation rows, so that its figures are too good."""


class GoldenSet(DocumentedModel):
    """The old model's answers: how many of the `rows` it `answered` and `refused`, with which `sampling` settings.

    `prompt_tokens` and `completion_tokens` are the vendor's own counts, over all of them.
    """

    rows: int
    answered: int
    refused: int = 0
    sampling: dict[str, Any] = {}
    prompt_tokens: int | NotReported = NotReported("the vendor does not report it")
    completion_tokens: int | NotReported = NotReported("the vendor does not report it")


class RescueReport(Renderable, DocumentedModel):
    """The old model against the new one: `labels` by the reference answers, `agreement` by the old model's answers.

    `provider` and `run` are where the new model was trained; `golden` are the old model's answers.
    """

    _renderers: ClassVar[Mapping[str, str]] = {"document": "llmtune.rescues.document:document"}

    source: RescueSource
    provider: str
    model: str
    """The new base model."""

    run: str
    golden: GoldenSet | NotReported
    labels: EvaluationResult | NotReported
    agreement: EvaluationResult | NotReported
    dropped: dict[str, str] = {}
    """Hyperparameters that the new backend refused and that were left to it, with the reason."""

    lost: dict[str, str] = {}
    """Hyperparameters that the new backend has no setting for, with what happens instead."""

    cost: str = ""
    """The estimate of the new run, in words."""

    def to_json(self) -> str:
        """Return the report as indented JSON."""
        return dump_json(self.model_dump(mode="json")) + "\n"


class Rescue(DocumentedModel):
    """Progress of a rescue: the content of `rescue.json`, and what `llmtune.rescue` returns.

    `folder` has all its files; `done` are its completed steps. `source` is the old model, `golden` its answers and
    `report` the comparison with the new one.
    """

    asked: str
    """The model, job or run that was named."""

    folder: str
    done: tuple[RescueStep, ...] = ()
    source: RescueSource | None = None
    golden: GoldenSet | NotReported | None = None
    to: str | None = None
    """The provider of the new run."""

    run: str | None = None
    """The new run."""

    deployment: str | None = None
    """The key of a deployment of the old model that was or may have been made, and is to be removed."""

    jobs: tuple[str, ...] = ()
    """SHA-256 of every job.yaml that was written, so that a manual edit is noticed."""

    report: RescueReport | None = None
    verification: Verification | None = None
    """The last server that was verified against the golden set."""

    notes: tuple[str, ...] = ()
    """Notes for the reader: what is missing, and what was done instead."""


class ModelRescue(DocumentedModel):
    """What was rescued of one tuned model of an account.

    `folder` has its files, `base` is its base model; `answered` of its `questions` have an answer; `notes` are for the
    reader.
    """

    model: str
    folder: str
    base: str = ""
    job: bool = False
    """Whether job.yaml is written."""

    train_rows: int | None = None
    """None: the training file is gone."""

    questions: int = 0
    answered: int = 0
    run: str | None = None
    """The new run, where it was trained again."""

    notes: tuple[str, ...] = ()
    error: str | None = None
    """Why the rest is missing; the same call tries again."""


class AccountRescue(DocumentedModel):
    """Every tuned model of an account: the content of `summary.json`, and what `llmtune.rescue_all` returns.

    `provider` is the vendor, `folder` has the files of all `models`; `notes` are for the reader.
    """

    provider: str
    folder: str
    models: tuple[ModelRescue, ...] = ()
    left_out: int = 0
    """Tuned models that the filters left out."""

    checkpoints: int = 0
    """Checkpoints, which are not rescued beside their models."""

    notes: tuple[str, ...] = ()

    @property
    def failed(self) -> tuple[ModelRescue, ...]:
        """The models of which something is missing that the same call may still get."""
        return tuple(model for model in self.models if model.error is not None)
