"""The verdict of a verification, by its differences and by the interval of what they cost."""

from __future__ import annotations

from collections.abc import Sequence

from llmtune.metrics.comparison import Comparison
from llmtune.verifications.answers import AnswerPair
from llmtune.verifications.results import Difference, PromptEvidence, VerificationVerdict

#: One-sided chance of seeing no difference in so many rows, at which the share that may differ is bounded.
_CHANCE = 0.05


def decide(
    pairs: Sequence[AnswerPair],
    differences: Sequence[Difference],
    comparison: Comparison,
    *,
    unit: str,
    margin: float,
    prompts: PromptEvidence,
) -> tuple[VerificationVerdict, str]:
    """Return the verdict and one sentence of reasons.

    A difference that makes the server another one is drift. Where all answers agree, it is the same. Where some differ,
    as rounded weights do it, the interval of the paired difference must leave out a loss of more than the margin.
    """
    faults = [difference for difference in differences if difference.drift]
    if faults:
        further = f"; and {len(faults) - 1} more" if len(faults) > 1 else ""
        return "drift", f"{faults[0].says}{further}"
    agree = sum(pair.agrees for pair in pairs)
    if agree == len(pairs):
        tied = sum(pair.tied for pair in pairs)
        by_rounding = f", {tied} of them up to rounding" if tied else ""
        how = {"tokens": "prompts are token-identical", "counts": "prompts have the same numbers of tokens"}
        evidence = f" and {how[prompts]}" if prompts in how else ""
        bound = 1 - _CHANCE ** (1 / len(pairs))
        return "same", (
            f"all {agree} answers are the same{by_rounding}{evidence}; at most {bound:.1%} of such questions are"
            " answered otherwise (95%)"
        )
    low, high = improvement(comparison, unit)
    loss = f"answers agree on {agree} of {len(pairs)}; {describe_change(comparison, unit)}"
    allowed = f"the margin of {margin:g}{' points' if unit == 'share' else ''}"
    if low >= -margin - 1e-9:
        return "same", f"{loss}: within {allowed}"
    if high < -margin or comparison.verdict == "worse":
        return "drift", f"{loss}: a loss, and not by chance"
    return "unclear", f"{loss}: too few rows to tell whether it is within {allowed}"


def improvement(comparison: Comparison, unit: str) -> tuple[float, float]:
    """Return the interval of the improvement, in points for a share: negative is worse, whichever direction is good."""
    scale = (100.0 if unit == "share" else 1.0) * (1 if comparison.better == "higher" else -1)
    low, high = sorted((scale * comparison.interval.low, scale * comparison.interval.high))
    return low, high


def describe_change(comparison: Comparison, unit: str) -> str:
    """Describe what the difference costs: "accuracy 95.0% to 91.7%, -3.3 points (-8.3 to 1.7)"."""
    scale, mark = (100.0, "%") if unit == "share" else (1.0, "")
    values = f"{scale * comparison.a:.1f}{mark} to {scale * comparison.b:.1f}{mark}"
    points = " points" if unit == "share" else ""
    change = f"{scale * comparison.difference:+.1f}{points}"
    low, high = scale * comparison.interval.low, scale * comparison.interval.high
    return f"{comparison.metric.replace('_', ' ')} {values}, {change} ({low:.1f} to {high:.1f})"
