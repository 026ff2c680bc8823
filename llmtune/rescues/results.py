"""What a rescue knows and finds: plain values, kept in `rescue.json` after every step."""

from __future__ import annotations

from typing import Any, Literal

from llmtune._models import DocumentedModel
from llmtune.evaluation.results import EvaluationResult
from llmtune.metrics.points import NotReported
from llmtune.redaction.documents import dump_json

#: The steps of a rescue, in order.
STEPS = ("fetch", "golden", "plan", "train", "report")

Step = Literal["fetch", "golden", "plan", "train", "report"]


class DataFile(DocumentedModel):
    """A file of the old job, as it lies in the folder."""

    path: str
    """Relative to the folder."""

    rows: int
    sha256: str
    came_from: str
    """The vendor's file id, the run's dataset, or the file that was given instead."""


class Source(DocumentedModel):
    """The tuned model that is rescued, and what is still known of how it was made."""

    provider: str
    model: str
    base: str
    job: str | None = None
    run: str | None = None
    """The run that made it, where the store knows it."""

    method: str = "sft"
    hyperparameters: dict[str, Any] = {}
    """By our names."""

    unmapped: dict[str, Any] = {}
    """The vendor's settings that have no name of ours, as it tells them."""

    chosen: dict[str, Any] = {}
    """Values that the vendor chose by itself, under its names: the new backend chooses its own."""

    seed: int | None = None
    files: dict[str, DataFile] = {}
    """By role: train, validation, test."""

    gone: dict[str, str] = {}
    """Files that could not be fetched any more, with the reason, by role."""

    seen_in_training: bool = False
    """Whether the rows to judge by were among those the old model was trained on: its figures flatter it then."""


class GoldenSet(DocumentedModel):
    """The old model's answers: how many, asked how."""

    rows: int
    answered: int
    refused: int = 0
    sampling: dict[str, Any] = {}
    prompt_tokens: int | NotReported = NotReported("the vendor does not report it")
    completion_tokens: int | NotReported = NotReported("the vendor does not report it")


class RescueReport(DocumentedModel):
    """Old against new. `labels` judges both by the reference answers, `agreement` judges new by old's answers."""

    source: Source
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
    """Hyperparameters that the new backend has no knob for, with what happens instead."""

    cost: str = ""
    """The estimate of the new run, in words."""

    def to_json(self) -> str:
        """The report as JSON, indented."""
        return dump_json(self.model_dump(mode="json")) + "\n"


class Rescue(DocumentedModel):
    """Where a rescue is: the content of `rescue.json`, and what `llmtune.rescue` returns."""

    asked: str
    """The model, job or run that was named."""

    folder: str
    done: tuple[Step, ...] = ()
    source: Source | None = None
    golden: GoldenSet | NotReported | None = None
    to: str | None = None
    """The provider of the new run."""

    run: str | None = None
    """The new run."""

    deployment: str | None = None
    """The key of a deployment of the old model that was made, or was about to be, and is to be removed."""

    jobs: tuple[str, ...] = ()
    """SHA-256 of every job.yaml that was written, so that one changed by hand is recognised."""

    report: RescueReport | None = None
    notes: tuple[str, ...] = ()
    """What a person should know: what could not be had, and what was done instead."""


class ModelRescue(DocumentedModel):
    """One tuned model of an account, and what there is of it."""

    model: str
    folder: str
    base: str = ""
    job: bool = False
    """Whether job.yaml is written."""

    train_rows: int | None = None
    """None: the training file could not be had."""

    questions: int = 0
    answered: int = 0
    run: str | None = None
    """The new run, where it was trained again."""

    notes: tuple[str, ...] = ()
    error: str | None = None
    """Why the rest of it could not be had; the same call tries again."""


class AccountRescue(DocumentedModel):
    """Every tuned model of an account: the content of `summary.json`, and what `llmtune.rescue_all` returns."""

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
