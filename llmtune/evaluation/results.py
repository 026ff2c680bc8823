"""What an evaluation found: plain values that survive JSON, with an interval on every number."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from llmtune._models import DocumentedModel
from llmtune.metrics.classification import ClassificationResult
from llmtune.metrics.comparison import Comparison
from llmtune.metrics.intervals import LEVEL, RESAMPLES, Interval
from llmtune.metrics.points import Better, NotReported, Number
from llmtune.metrics.text import TokenFigures

#: How answers were scored: by the likelihood of each label, by generated text, or by loss alone.
ScoredBy = Literal["likelihood", "text", "loss"]


class MetricValue(DocumentedModel):
    """One metric of one system on the evaluated rows."""

    name: str
    says: str
    """What it measures and by which rule, in words."""

    value: Number
    interval: Interval
    rows: int
    better: Better = "higher"
    unit: str = "share"
    """ "share" is 0..1 and is shown in per cent; "nats/token" is a loss; anything else is shown as it is."""


class WorstRow(DocumentedModel):
    """A row that went wrong, for people to look at."""

    row: int
    """Its number among the rows of its part, from 1."""

    line: int | None = None
    """Its line in the file, where there is one."""

    prompt: str
    expected: str
    got: str | None
    """The answer; None when there was none."""

    score: Number
    """The row's score by the metric the rows are sorted by."""

    note: str = ""
    """Why it stands here: how sure the model was, its loss, the vendor's refusal."""


class Contradiction(DocumentedModel):
    """One prompt with different labels: no model can get all of them right."""

    prompt: str
    answers: tuple[tuple[str, str], ...]
    """(label, where it stands: "train line 12")."""


class Latency(DocumentedModel):
    """Seconds an answer took, over the answers whose time is known."""

    p50: float
    p95: float
    answers: int


class Usage(DocumentedModel):
    """Tokens that the answers took, by the backend's own count. Answers from the cache keep theirs."""

    prompt_tokens: int | NotReported
    completion_tokens: int | NotReported
    asked: int
    """Answers that were asked for in this evaluation."""

    cached: int
    """Answers that were there already, and were not paid for again."""


class SystemResult(DocumentedModel):
    """One system (the base model, the tuned model) on the evaluated rows."""

    name: str
    metrics: tuple[MetricValue, ...] = ()
    not_reported: dict[str, str] = {}
    """Metrics that could not be had, with the reason."""

    classification: ClassificationResult | None = None
    tokens: TokenFigures | NotReported = NotReported("the backend tells no likelihoods of tokens")
    worst: tuple[WorstRow, ...] = ()
    failed: int = 0
    """Rows the backend refused to answer; they count as wrong."""

    cut: int = 0
    """Answers cut off at the token limit."""

    latency: Latency | NotReported = NotReported("the backend tells no times")
    usage: Usage | NotReported = NotReported("nothing was generated")
    scores: dict[str, tuple[Number, ...]] = {}
    """By metric, one score a row, in the order of `EvaluationResult.row_ids`: what lets two runs be paired."""

    predicted: tuple[int, ...] | None = None
    """Answered label of each row, an index into `EvaluationResult.labels`; their number is "outside the set"."""

    token_rows: tuple[tuple[Number, int, int], ...] | None = None
    """Summed loss, trained tokens and rightly predicted tokens of each row, where the backend gives logits."""

    def __getitem__(self, metric: str) -> MetricValue:
        for each in self.metrics:
            if each.name == metric:
                return each
        raise KeyError(metric)

    def get(self, metric: str) -> MetricValue | None:
        """The metric, or None."""
        return next((each for each in self.metrics if each.name == metric), None)


class Majority(DocumentedModel):
    """What always giving the most frequent answer would reach."""

    label: str
    accuracy: MetricValue
    source: Literal["train", "test"]
    """Where the most frequent label was counted."""


class Fit(DocumentedModel):
    """The tuned model on a sample of its own training rows, and on validation rows, by the main metric."""

    metric: str
    train: MetricValue | None = None
    validation: MetricValue | None = None
    hardest: tuple[WorstRow, ...] = ()
    """The sampled training rows of highest loss, where the backend gives logits."""


class EvaluationResult(DocumentedModel):
    """Base and tuned model on held-out rows: how good, how sure, and where it goes wrong."""

    rows: int
    """Rows evaluated."""

    available: int
    """Test rows there were; more than `rows` when they were subsampled."""

    row_ids: tuple[str, ...] = ()
    """One id a row, by content, in order."""

    main: str
    """Name of the metric that stands first: accuracy, exact_match, ..."""

    scored_by: ScoredBy
    labels: tuple[str, ...] | None = None
    truth: tuple[int, ...] | None = None
    """True label of each row, an index into `labels`."""

    labels_told: bool | None = None
    """Whether the prompts name the labels; None where rows have none. A base model that was not told cannot know."""

    rule: str | None = None
    """When an answer counts as a label."""

    systems: dict[str, SystemResult | NotReported]
    majority: Majority | None = None
    comparisons: tuple[Comparison, ...] = ()
    """Tuned against base, and tuned against the majority class, by each metric."""

    fit: Fit | None = None
    contradictions: tuple[Contradiction, ...] = ()
    warnings: tuple[str, ...] = ()
    level: Annotated[float, Field(gt=0, lt=1)] = LEVEL
    resamples: int = RESAMPLES
    seed: int = 0
    """Of the resampling."""

    generation: dict[str, Any] = {}
    """The settings answers were generated with."""

    def system(self, name: str) -> SystemResult | None:
        """A system that answered, or None."""
        found = self.systems.get(name)
        return found if isinstance(found, SystemResult) else None

    def comparison(self, metric: str | None = None, a: str = "base", b: str = "tuned") -> Comparison | None:
        """The comparison of two systems by a metric (None: the main one)."""
        wanted = metric or self.main
        for each in self.comparisons:
            if (each.metric, each.name_a, each.name_b) == (wanted, a, b):
                return each
        return None
