"""A verification as lines of text: the same on the command line and in every form of the report."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime

from llmtune.metrics.points import NotReported
from llmtune.report.format import count
from llmtune.verifications.results import Verification

#: The verdicts in words.
VERDICTS = {"same": "the same", "drift": "drift", "unclear": "could not tell"}


def headline(verification: Verification) -> str:
    """Return the verdict on a server, or an export, in one sentence."""
    return f"{_describe_subject(verification)}: {VERDICTS[verification.verdict]}: {verification.reason}"


def _describe_subject(verification: Verification) -> str:
    export = verification.export
    if export is None:
        return f"{verification.endpoint} ({verification.model})"
    precision = f" in {export.precision}" if export.precision is not None else ""
    return f"{export.format} export{precision} in {export.folder}, served by {export.program}"


def result_lines(verification: Verification) -> Iterator[str]:
    """Yield everything that a verification says: the verdict, the differences, the figures, what was not checked."""
    yield headline(verification)
    for line in difference_lines(verification):
        yield f"- {line}"
    yield from figure_lines(verification)
    yield from verification.notes


def difference_lines(verification: Verification) -> Iterator[str]:
    """Yield each difference with its kind."""
    for difference in verification.differences:
        yield f"{difference.kind}: {difference.says}"


def figure_lines(verification: Verification) -> Iterator[str]:
    """Yield what was compared, and with what result."""
    how = {"tokens": "token by token", "counts": "by their numbers of tokens"}.get(verification.prompts)
    if how is not None:
        yield f"prompts: {verification.prompts_same} of {verification.prompts_compared} the same, {how}"
    ties = f", {verification.answers_tied} more up to rounding" if verification.answers_tied else ""
    yield f"answers: {verification.answers_same} of {verification.rows} the same{ties}, beside {verification.source}"
    if not isinstance(verification.likelihood_gap, NotReported):
        yield f"likelihoods: {verification.likelihood_gap:.4f} nats per token apart on average"
    tokens_in, tokens_out = verification.prompt_tokens, verification.completion_tokens
    both_counted = isinstance(tokens_in, int) and isinstance(tokens_out, int)
    counted = f", {tokens_in:,} tokens in and {tokens_out:,} out" if both_counted else ""
    asked = f"asked: {count(verification.requests, 'question')}{counted}, in {verification.seconds:.1f} s"
    yield f"{asked}{_date(verification)}"


def _date(verification: Verification) -> str:
    if verification.finished is None:
        return ""
    return f", {datetime.fromtimestamp(verification.finished, UTC):%Y-%m-%d %H:%M} UTC"
