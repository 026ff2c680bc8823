"""The result of an evaluation: plain values that can be stored as JSON, with an interval on every metric."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from llmtune._models import DocumentedModel
from llmtune.evaluation.judge.results import JudgeResult
from llmtune.metrics.abstention import Threshold
from llmtune.metrics.calibration import Calibration
from llmtune.metrics.classification import ClassificationResult
from llmtune.metrics.comparison import Comparison
from llmtune.metrics.decisions import DecisionRule, DecisionRules
from llmtune.metrics.intervals import LEVEL, RESAMPLES, Interval
from llmtune.metrics.points import Better, NotReported, Number
from llmtune.metrics.text import TokenFigures

#: Scored by the likelihood of each label, by the generated text, or by loss alone.
ScoredBy = Literal["likelihood", "text", "loss"]

#: Of a test of non-inferiority.
PanelVerdict = Literal["not worse", "worse", "undecided"]


class MetricValue(DocumentedModel):
    """One metric of one system on the evaluated rows.

    `interval` is its confidence interval, over `rows` rows; `better` says which direction is good.
    """

    name: str
    says: str
    """What the metric measures, and by which rule."""

    value: Number
    interval: Interval
    rows: int
    better: Better = "higher"
    unit: str = "share"
    """ "share" is 0..1 and is shown in per cent; "nats/token" is a loss; anything else is shown as it is."""


class WorstRow(DocumentedModel):
    """A row with a poor score, for people to look at: its `prompt`, the `expected` answer, and the one it got."""

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
    """Why the row is listed: the model's confidence, its loss, or the vendor's refusal."""


class Contradiction(DocumentedModel):
    """One prompt with different labels, which no model can answer correctly each time."""

    prompt: str
    answers: tuple[tuple[str, str], ...]
    """(label, position), as in ("refund", "train line 12")."""


class Latency(DocumentedModel):
    """Seconds per answer: the median `p50` and the 95th percentile `p95` of the `answers` whose time is known."""

    p50: float
    p95: float
    answers: int


class Usage(DocumentedModel):
    """Tokens of the questions (`prompt_tokens`) and answers (`completion_tokens`), as the backend counts them.

    Those of cached answers are included.
    """

    prompt_tokens: int | NotReported
    completion_tokens: int | NotReported
    asked: int
    """Answers that were requested in this evaluation."""

    cached: int
    """Answers that came from the cache, and were not paid for again."""


class Promise(DocumentedModel):
    """How much is answered under a promise: the `threshold` of confidence, and what the test rows say of it.

    Of the test rows a share of `coverage` (with its `interval`) is answered; None where nothing can be promised.
    """

    threshold: Threshold
    coverage: Number | None = None
    interval: Interval | None = None
    answered: int = 0
    """Test rows that are answered."""

    wrong: int = 0
    """Wrong answers among these."""


class DecisionResult(DocumentedModel):
    """One question on the test rows: figures `before` and `after` calibration, the rule of use, and the promise.

    The figures are accuracy, ece, brier and log_loss, and for a score its mean distance from the true number.
    `promise` is None where none was asked for.
    """

    rule: DecisionRule
    before: tuple[MetricValue, ...]
    after: tuple[MetricValue, ...]
    calibration_before: Calibration
    """Reliability diagram and risk-coverage curve of the probabilities as the model states them."""

    calibration_after: Calibration
    """The same of the calibrated ones."""

    promise: Promise | None = None
    held_rows: tuple[tuple[Number, Number], ...] = ()
    """(confidence, 1 where right else 0) of the rows on which a threshold may be chosen."""

    test_rows: tuple[tuple[Number, Number], ...] = ()
    """The same of the test rows, after calibration."""


class DecisionSystem(DocumentedModel):
    """The decisions of one system: one result for each of its `questions`."""

    questions: tuple[DecisionResult, ...]


class SystemResult(DocumentedModel):
    """One system (the base model, the tuned model) on the evaluated rows.

    `metrics` are its figures, `classification` those by label, `tokens` the loss; `worst` are the rows with the poorest
    scores. `latency` and `usage` are those of its answers.
    """

    name: str
    metrics: tuple[MetricValue, ...] = ()
    not_reported: dict[str, str] = {}
    """By metric that could not be computed, the reason."""

    classification: ClassificationResult | None = None
    calibration: Calibration | None = None
    """How far the probabilities of its labels can be believed; None where it reports none."""

    decisions: DecisionSystem | NotReported = NotReported("its probabilities were not calibrated")
    """Its labels as decisions, with probabilities that were calibrated on validation rows."""

    tokens: TokenFigures | NotReported = NotReported("the backend reports no likelihoods of tokens")
    worst: tuple[WorstRow, ...] = ()
    failed: int = 0
    """Rows the backend refused to answer; they count as wrong."""

    cut: int = 0
    """Answers cut off at the token limit."""

    latency: Latency | NotReported = NotReported("the backend reports no times")
    usage: Usage | NotReported = NotReported("nothing was generated")
    scores: dict[str, tuple[Number, ...]] = {}
    """By metric, one score per row, in the order of `EvaluationResult.row_ids`, so that two runs can be paired.

    Where labels have probabilities also `confidence`, that of the likeliest label, and `likeliest_right`, 1 or 0.
    """

    predicted: tuple[int, ...] | None = None
    """Answered label of each row, an index into `EvaluationResult.labels`; `len(labels)` is any other answer."""

    token_rows: tuple[tuple[Number, int, int], ...] | None = None
    """(summed loss in nats, answer tokens, correctly predicted tokens) of each row, where the backend has logits."""

    def __getitem__(self, metric: str) -> MetricValue:
        for value in self.metrics:
            if value.name == metric:
                return value
        raise KeyError(metric)

    def get(self, metric: str) -> MetricValue | None:
        """Return the value of a metric, or None."""
        return next((value for value in self.metrics if value.name == metric), None)


class Majority(DocumentedModel):
    """The baseline that always answers the most frequent label, and its `accuracy`."""

    label: str
    accuracy: MetricValue
    source: Literal["train", "test"]
    """Where the most frequent label was counted."""


class Fit(DocumentedModel):
    """The tuned model on a sample of its own training rows (`train`), and on `validation` rows, by the main metric."""

    metric: str
    train: MetricValue | None = None
    validation: MetricValue | None = None
    hardest: tuple[WorstRow, ...] = ()
    """The sampled training rows of highest loss, where the backend has logits."""


class PanelSystem(DocumentedModel):
    """One model on the panel: `accuracy` by the rules of each question, `log_likelihood` of the reference answers.

    `usage` are the tokens of its questions and answers.
    """

    name: str
    accuracy: MetricValue
    log_likelihood: MetricValue | NotReported
    """Mean over the tokens of all reference answers, in nats."""

    right: tuple[int | None, ...] = ()
    """1 where the answer keeps the rules, else 0, by question; None for questions that were left out."""

    token_rows: tuple[tuple[Number, int] | None, ...] | None = None
    """(summed log-likelihood in nats, tokens) of each reference answer, where the backend has logits."""

    failed: int = 0
    """Questions that the backend refused to answer; they count as wrong."""

    usage: Usage | NotReported = NotReported("nothing was generated")


class PanelTest(DocumentedModel):
    """Whether the tuned model is worse than its base by more than a `margin`, by one figure of the panel.

    `comparison` is paired by question; `margin` is in the figure's own `unit` (shares are 0..1). The `verdict` is "not
    worse" where the whole interval lies above a loss of the margin, "worse" where it lies below, else "undecided".
    """

    comparison: Comparison
    unit: str
    margin: Number
    verdict: PanelVerdict


class PanelSkill(DocumentedModel):
    """One skill of the panel: its number of `questions`, and the shares that base and tuned model answer right."""

    skill: str
    questions: int
    base: Number
    tuned: Number


class PanelLoss(DocumentedModel):
    """A question that the base model answers right and the tuned model does not.

    `id`, `skill` and `prompt` are the question's; `before` is the base model's answer, `after` the tuned model's.
    """

    id: str
    skill: str
    prompt: str
    before: str
    after: str


class PanelResult(DocumentedModel):
    """Base and tuned model on questions outside the task: what else has tuning changed?

    `name` is the panel's, `sha256` identifies its content, `questions` are those that both models were asked.
    `systems` has each model's result by name, `tests` those of non-inferiority, `skills` the figures by skill.
    """

    name: str
    sha256: str
    questions: int
    ids: tuple[str, ...] = ()
    """The ids of all questions, in order."""

    left_out: dict[str, str] = {}
    """By kind of question that a model could not be asked, the reason."""

    systems: dict[str, PanelSystem | NotReported] = {}
    tests: tuple[PanelTest, ...] = ()
    skills: tuple[PanelSkill, ...] = ()
    lost: tuple[PanelLoss, ...] = ()
    """The first questions that were lost, skill by skill."""

    lost_in_all: int = 0
    """How many were lost."""

    gained_in_all: int = 0
    """How many the tuned model alone answers right."""

    @property
    def verdict(self) -> PanelVerdict | None:
        """The verdict over all tests: "worse" if one says so, "not worse" if all do; None where there is none."""
        verdicts = {test.verdict for test in self.tests}
        if not verdicts:
            return None
        return "worse" if "worse" in verdicts else "undecided" if "undecided" in verdicts else "not worse"

    def system(self, name: str) -> PanelSystem | None:
        """Return the result of a model; None if it did not answer."""
        system = self.systems.get(name)
        return system if isinstance(system, PanelSystem) else None

    def test(self, metric: str) -> PanelTest | None:
        """Return the test by a `metric`, "accuracy" or "log_likelihood"; None if there is none."""
        return next((test for test in self.tests if test.comparison.metric == metric), None)


class EvaluationResult(DocumentedModel):
    """Base and tuned model on held-out rows: metrics with intervals, comparisons, and the worst rows.

    `scored_by` says how answers became scores, `labels` are the label set where rows have labels. `systems` has each
    system's result by name ("base", "tuned", "linear", ...), `majority` the most frequent label's, `fit` that of
    the tuned model on rows that it was trained on. `contradictions` are prompts with several labels, `warnings` are
    whatever weakens the figures. Intervals are at `level` (0..1); those that are bootstrapped took `resamples` samples.
    """

    rows: int
    """Number of rows that were evaluated."""

    available: int
    """Number of test rows; more than `rows` when they were subsampled."""

    row_ids: tuple[str, ...] = ()
    """One id per row, derived from its content, in order."""

    main: str
    """Name of the main metric, which reports show first: accuracy, exact_match, ..."""

    scored_by: ScoredBy
    labels: tuple[str, ...] | None = None
    truth: tuple[int, ...] | None = None
    """True label of each row, an index into `labels`."""

    labels_told: bool | None = None
    """Whether the prompts name the labels; None where rows have none. Otherwise a base model cannot know them."""

    rule: str | None = None
    """When an answer counts as a label."""

    systems: dict[str, SystemResult | NotReported]
    majority: Majority | None = None
    comparisons: tuple[Comparison, ...] = ()
    """Tuned model against each other system and, by accuracy, against the majority class; one per metric."""

    fit: Fit | None = None
    panel: PanelResult | NotReported | None = None
    """Base and tuned model on questions outside the task; None where the job asks for none."""

    judge: JudgeResult | NotReported | None = None
    """What a judge said of the answers of base and tuned model; None where the job names none."""

    contradictions: tuple[Contradiction, ...] = ()
    warnings: tuple[str, ...] = ()
    level: Annotated[float, Field(gt=0, lt=1)] = LEVEL
    resamples: int = RESAMPLES
    seed: int = 0
    """Of the resampling."""

    generation: dict[str, Any] = {}
    """The settings that answers were generated with."""

    def system(self, name: str) -> SystemResult | None:
        """Return the result of a system; None if it did not answer."""
        result = self.systems.get(name)
        return result if isinstance(result, SystemResult) else None

    def comparison(self, metric: str | None = None, a: str = "base", b: str = "tuned") -> Comparison | None:
        """Return the comparison of system `b` with `a` by a metric (None: the main one); None if there is none."""
        metric_name = metric or self.main
        for comparison in self.comparisons:
            if (comparison.metric, comparison.name_a, comparison.name_b) == (metric_name, a, b):
                return comparison
        return None

    def decision_rules(self, system: str = "tuned") -> DecisionRules | None:
        """Return the rules by which a system's decisions are made when it is used; None where it has none."""
        result = self.system(system)
        if result is None or isinstance(result.decisions, NotReported) or self.labels is None:
            return None
        return DecisionRules(labels=self.labels, rules=tuple(entry.rule for entry in result.decisions.questions))
