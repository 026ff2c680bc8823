"""What a judge said of the answers of base and tuned model: plain values that can be stored as JSON."""

from __future__ import annotations

from typing import Literal

from llmtune._models import DocumentedModel
from llmtune.metrics.comparison import Comparison
from llmtune.metrics.intervals import Interval
from llmtune.metrics.points import NotReported, Number

#: What came of a pair of answers, for the tuned model.
Outcome = Literal["win", "loss", "tie"]


class JudgedFigure(DocumentedModel):
    """A figure over `rows` rows with its confidence `interval`."""

    value: Number
    interval: Interval
    rows: int


class JudgeCost(DocumentedModel):
    """What the judge's replies took. Those that were stored by an earlier evaluation are counted too.

    `replies` were needed, of which `stored` came from the store and were not paid for again. `prompt_tokens` and
    `completion_tokens` are the backend's own counts. `amount` is in `currency`; `formula` is the sum written out.
    """

    replies: int
    stored: int = 0
    prompt_tokens: int | NotReported
    completion_tokens: int | NotReported
    amount: Number | NotReported
    currency: str = "USD"
    formula: str = ""


class JudgeAgreement(DocumentedModel):
    """How far the judge agrees with humans: `agreement` is the share of equal verdicts, `kappa` Cohen's.

    `rows` labelled answers were judged, `unreadable` of them without a verdict that could be read. Of points, kappa is
    weighted by squared distances.
    """

    rows: int
    unreadable: int = 0
    agreement: JudgedFigure | NotReported
    kappa: JudgedFigure | NotReported

    @property
    def beyond_chance(self) -> bool | None:
        """Whether it agrees better than chance would, by the interval of kappa; None where there is no kappa."""
        return None if isinstance(self.kappa, NotReported) else self.kappa.interval.low > 0


class JudgedRow(DocumentedModel):
    """A row as it was judged: its `prompt`, the answers of `base` and `tuned` model, and the judge's `reasons`.

    `row` is its number among the evaluated rows, from 1.
    """

    row: int
    prompt: str
    base: str | None = None
    tuned: str
    outcome: str
    """win, loss or tie for the tuned model; or the points, "2 and 4" for base and tuned model."""

    reasons: tuple[str, ...] = ()


class JudgeResult(DocumentedModel):
    """What a judge said of answers to test rows, by a rubric.

    `model` is the judge, `location` where it was asked, `mode` how: "pairwise" or "score". Of `evaluated` rows `rows`
    were chosen to be judged. `agreement` is that with people, `cost` what the replies took.
    """

    model: str
    location: str
    leaves_machine: bool
    """Whether the rows were sent from this machine to the judge."""

    mode: Literal["pairwise", "score"]
    rubric: str
    rows: int
    evaluated: int
    unanswered: int = 0
    """Rows without an answer of base or tuned model, which are not judged."""

    refused: int = 0
    """Rows that the judge's backend refused."""

    unreadable: int = 0
    """Rows with a reply that is not the form that was asked for; they count for nothing."""

    wins: int = 0
    """Pairwise: rows in which the tuned model's answer is better, in both orders."""

    losses: int = 0
    """Pairwise: rows in which the base model's answer is better, in both orders."""

    ties: int = 0
    """Rows with a tie: by the judge's word, because the order turned the verdict, or because both answers are one."""

    identical: int = 0
    """Ties whose two answers are the same text; the judge was not asked."""

    turned: int = 0
    """Ties because the two orders gave two verdicts."""

    first_preferred: int = 0
    """Of these, rows in which the answer shown first was better both times."""

    second_preferred: int = 0
    """Of these, rows in which the answer shown second was better both times."""

    win_rate: JudgedFigure | NotReported = NotReported("answers were not compared")
    """Pairwise: wins and half of the ties, as a share of the rows with a verdict. 0.5 is no difference."""

    base_score: JudgedFigure | NotReported = NotReported("answers were not scored")
    """Mean points of the base model's answers, 1..5."""

    tuned_score: JudgedFigure | NotReported = NotReported("answers were not scored")
    """Mean points of the tuned model's answers, 1..5."""

    comparison: Comparison | None = None
    """Points of base and tuned model on the same rows."""

    agreement: JudgeAgreement | NotReported = NotReported("no labels of humans were given (evaluation.judge.labels)")
    cost: JudgeCost
    row_ids: tuple[str, ...] = ()
    """The ids of the rows with a verdict, as in `EvaluationResult.row_ids`."""

    values: tuple[Number, ...] = ()
    """By these rows: 1, 0.5 or 0 for win, tie and loss; or the points of the tuned model."""

    shown: tuple[JudgedRow, ...] = ()
    """The first rows of each outcome, to look at."""

    @property
    def position_bias(self) -> bool:
        """Whether the verdicts follow the place of an answer more often than chance would (McNemar's test, 5 %)."""
        from llmtune.metrics.comparison import mcnemar

        return mcnemar(self.first_preferred, self.second_preferred) < 0.05

    @property
    def verdict(self) -> Literal["better", "worse", "not separable"] | None:
        """Whether the tuned model's answers are better than the base model's; None where nothing was compared."""
        if self.mode == "score":
            return None if self.comparison is None else self.comparison.verdict
        if isinstance(self.win_rate, NotReported):
            return None
        interval = self.win_rate.interval
        return "better" if interval.low > 0.5 else "worse" if interval.high < 0.5 else "not separable"
