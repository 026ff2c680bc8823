"""A gate for decisions: does a model answer enough rows, when at most a stated share of its answers may be wrong?"""

from __future__ import annotations

from llmtune._models import DocumentedModel
from llmtune.errors import EXIT_NOT_PASSED, InvalidJob, NotJudged
from llmtune.evaluation.decisions import keep_promise
from llmtune.evaluation.results import Promise
from llmtune.metrics.intervals import LEVEL
from llmtune.metrics.points import NotReported, Number
from llmtune.report.format import number, one_line, spread
from llmtune.report.gate import require_evaluation
from llmtune.report.markdown import plain, table
from llmtune.report.schema import Report
from llmtune.report.verdicts import describe_promise


class PromiseGateResult(DocumentedModel):
    """Whether a run may pass (`passed`), and why, in one sentence for each question (`reasons`).

    `run` is its id; `error`, `confidence` and `min_coverage` are what it was tested by.
    """

    passed: bool
    run: str
    error: Number
    confidence: Number
    min_coverage: Number
    promises: dict[str, Promise]
    """By question, what can be promised of it."""

    reasons: tuple[str, ...]

    @property
    def exit_code(self) -> int:
        """0 when it passes, 5 when it does not; a run that cannot be judged raises `NotJudged` (6)."""
        return 0 if self.passed else EXIT_NOT_PASSED

    def to_markdown(self) -> str:
        """Return a comment for a pull request, in Markdown."""
        mark = "\u2705" if self.passed else "\u274c"
        rows = [
            [
                plain(one_line(name, 60)),
                "none" if promise.coverage is None else f"**{number(promise.coverage, 'share')}**",
                "" if promise.interval is None else spread(promise.interval, "share"),
                f"{promise.wrong:,} of {promise.answered:,}",
            ]
            for name, promise in self.promises.items()
        ]
        parts = [
            f"### {mark} llmtune gate: {'passed' if self.passed else 'not passed'}",
            *(plain(reason, 600) for reason in self.reasons),
            table(["question", "answered", f"{LEVEL:.0%} interval", "wrong among them"], rows, right=(1, 2, 3)),
        ]
        return "\n\n".join(parts) + "\n"


def gate_promise(report: Report, *, error: float, min_coverage: float, confidence: float = LEVEL) -> PromiseGateResult:
    """Test whether a tuned model answers enough rows under a promise, for each of its questions.

    It passes where the interval of the share of answered test rows lies at or above `min_coverage`. The threshold is
    chosen on the rows that the evaluation has kept for it, so that another error may be asked for than the job's.

    Args:
        report: the run in question.
        error: share of wrong answers among those given, at most; in (0, 0.5).
        min_coverage: share of rows that must be answered, in [0, 1].
        confidence: probability with which the promise holds, in (0, 1).

    Raises:
        NotJudged: the run was not evaluated or not calibrated, or has too few rows to promise anything.
        InvalidJob: a share out of its range.
    """
    if not 0 < error < 0.5:
        raise InvalidJob(f"an error is between 0 and 0.5, not {error:g}", where="abstain_error")
    if not 0 <= min_coverage <= 1:
        raise InvalidJob(f"a coverage is between 0 and 1, not {min_coverage:g}", where="min_coverage")
    if not 0 < confidence < 1:
        raise InvalidJob(f"a confidence is between 0 and 1, not {confidence:g}", where="confidence")
    _, tuned = require_evaluation(report)
    run = report.identity.run_id
    if isinstance(tuned.decisions, NotReported):
        raise NotJudged(
            f"run {run} promises nothing: {tuned.decisions.reason}",
            hint=f"llmtune evaluate {run} calibrates where rows have labels and the job has validation rows",
        )
    promises: dict[str, Promise] = {}
    reasons = []
    passed = True
    several = len(tuned.decisions.questions) > 1
    for result in tuned.decisions.questions:
        name = result.rule.question.name
        promise = promises[name] = keep_promise(result, error, confidence)
        if promise.threshold.value is None and promise.threshold.needed is not None:
            reason = promise.threshold.reason
            raise NotJudged(f"run {run} cannot promise at most {number(error, 'share')} errors: {reason}")
        who = f"The tuned model{f', asked for {one_line(name, 40)!r},' if several else ''}"
        enough = promise.interval is not None and promise.interval.low >= min_coverage
        passed = passed and enough
        verdict = "is enough" if enough else "is not enough"
        reasons.append(
            f"{describe_promise(promise, who)} The lower end of that interval {verdict}: at least"
            f" {number(min_coverage, 'share')} must be answered."
            if promise.interval is not None
            else describe_promise(promise, who)
        )
    return PromiseGateResult(
        passed=passed,
        run=run,
        error=error,
        confidence=confidence,
        min_coverage=min_coverage,
        promises=promises,
        reasons=tuple(reasons),
    )
