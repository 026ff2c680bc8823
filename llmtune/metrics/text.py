"""Scores of one answer against one reference: matches, the final number, overlap; and figures of tokens.

Each gives one value per row, so that every metric has an interval, a paired comparison and its worst rows.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from decimal import Decimal, InvalidOperation
from functools import cache
from typing import TYPE_CHECKING, Any

from llmtune._models import DocumentedModel
from llmtune.errors import InvalidData, MissingExtra
from llmtune.metrics.labels import normalise
from llmtune.metrics.points import Number

if TYPE_CHECKING:
    from llmtune.metrics.points import TokenStats


# --- matches ---------------------------------------------------------------------------------------------------------
def exact_match(expected: str, got: str) -> float:
    """Return 1 when the answer is the reference, blanks at both ends aside; else 0."""
    return float(got.strip() == expected.strip())


def normalised_match(expected: str, got: str) -> float:
    """Return 1 when both are equal without case, runs of blanks, outer quotes and trailing punctuation; else 0."""
    return float(normalise(" ".join(got.split())) == normalise(" ".join(expected.split())))


def same_json(expected: Any, got: Any) -> bool:
    """Return whether two JSON values are the same: in any order of an object's fields; true is no 1, and 1 is 1.0."""
    if isinstance(expected, Mapping) and isinstance(got, Mapping):
        return expected.keys() == got.keys() and all(same_json(expected[name], got[name]) for name in expected)
    if isinstance(expected, list) and isinstance(got, list):
        return len(expected) == len(got) and all(map(same_json, expected, got))
    return isinstance(expected, bool) == isinstance(got, bool) and bool(expected == got)


_PLAIN = r"(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?|\.\d+"
_SIGN = r"(?:(?<![\w.,)])[-\u2212])?"
_NUMBER = re.compile(rf"{_SIGN}[$\u20ac\u00a3]?\s?(?:{_PLAIN})(?:[eE][+-]?\d+)?(?![\d])")
_AFTER_HASHES = re.compile(r"####\s*([-\u2212]?\s*[$\u20ac\u00a3]?\s*[\d.,]*\d)")


def final_number(text: str) -> Decimal | None:
    """Return the number an answer ends in; None where there is no number.

    It is the first after "####" (as GSM8K writes it, Cobbe et al., arXiv:2110.14168), else the last in the text.
    Thousands separators and currency signs are set aside.
    """
    marked = _AFTER_HASHES.search(text)
    if marked:
        return _decimal(marked.group(1))
    if "####" in text:
        return None  # the place of the answer is marked, and holds none
    numbers = _NUMBER.findall(text)
    return _decimal(numbers[-1]) if numbers else None


def _decimal(text: str) -> Decimal | None:
    digits = re.sub(r"[\s,$\u20ac\u00a3]", "", text).replace("\u2212", "-")
    try:
        return Decimal(digits)
    except InvalidOperation:
        return None


def final_answer(expected: str, got: str) -> float:
    """Return 1 when both end in the same number by `final_number` ("18" and "$18.00" are equal); else 0.

    Raises:
        InvalidData: the reference itself holds no number.
    """
    reference = final_number(expected)
    if reference is None:
        raise InvalidData(f"the reference answer {expected[:60]!r} holds no number, so 'final_answer' cannot score it")
    return float(final_number(got) == reference)


# --- overlap ---------------------------------------------------------------------------------------------------------
class _Words:
    """Words of any script, where the library's own tokenizer keeps a-z and 0-9 only (and scores Greek with 0).

    On ASCII text both give the same words. Scripts without spaces (CJK, Thai, ...) are cut into characters.
    """

    _WORD = re.compile(
        r"[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]|"
        r"[^\W_\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]+"
    )

    def tokenize(self, text: str) -> list[str]:
        return self._WORD.findall(text.lower())


@cache
def _rouge() -> Any:
    try:
        from rouge_score.rouge_scorer import RougeScorer
    except ImportError as error:
        raise MissingExtra("report", "rouge-score", purpose="the metric 'rouge_l'") from error
    return RougeScorer(["rougeL"], tokenizer=_Words())


def rouge_l(expected: str, got: str) -> float:
    """Compute ROUGE-L F1 (Lin 2004) by the rouge-score package, words of any script, no stemming. 0..1.

    Raises:
        MissingExtra: the package is not installed.
    """
    return float(_rouge().score(expected, got)["rougeL"].fmeasure)


@cache
def _chrf() -> Any:
    try:
        from sacrebleu.metrics.chrf import CHRF
    except ImportError as error:
        raise MissingExtra("report", "sacrebleu", purpose="the metric 'chrf'") from error
    return CHRF()


def chrf(expected: str, got: str) -> float:
    """Compute chrF2 of the row (Popovic 2015: characters to order 6, no words, beta 2) by sacrebleu, as 0..1.

    Raises:
        MissingExtra: the package is not installed.
    """
    return float(_chrf().sentence_score(got, [expected]).score) / 100


# --- where logits exist ----------------------------------------------------------------------------------------------
class TokenFigures(DocumentedModel):
    """Loss, perplexity and token accuracy over the trained tokens of some rows."""

    rows: int
    tokens: int
    """Trained tokens, that is those the loss is taken over."""

    loss: Number
    """Mean negative log-likelihood, nats per token."""

    perplexity: Number
    """exp(loss), >= 1; infinite beyond a loss of 709."""

    token_accuracy: Number
    """Share of those tokens that were the likeliest one, 0..1."""


def perplexity_of(loss: float) -> float:
    """Return exp(loss), or infinity where that is too large for a float."""
    try:
        return math.exp(loss)
    except OverflowError:
        return math.inf


def token_figures(stats: Sequence[TokenStats]) -> TokenFigures:
    """Return the figures of several rows (or groups of rows) together: every token weighs the same.

    Raises:
        InvalidData: no trained token among them.
    """
    tokens = sum(row_stats.tokens for row_stats in stats)
    if tokens == 0:
        raise InvalidData("none of the rows has a token to score: each needs an answer")
    loss = sum(row_stats.loss_sum for row_stats in stats) / tokens
    return TokenFigures(
        rows=len(stats),
        tokens=tokens,
        loss=loss,
        perplexity=perplexity_of(loss),
        token_accuracy=sum(row_stats.correct for row_stats in stats) / tokens,
    )
