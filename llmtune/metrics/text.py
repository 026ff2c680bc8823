"""Metrics of one answer against one reference: matches, the final number, overlap, and your own function.

Each gives one value a row, so that every metric has an interval, a paired comparison and its worst rows.
"""

from __future__ import annotations

import importlib
import math
import os
import re
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from functools import cache
from typing import TYPE_CHECKING, Any

from llmtune._models import DocumentedModel
from llmtune.errors import InvalidData, InvalidJob, MissingExtra, UnknownName
from llmtune.metrics.labels import normalise
from llmtune.metrics.points import Better, Number

if TYPE_CHECKING:
    from llmtune.metrics.points import TokenStats

#: The value of one row: (reference answer, answer given) to a number.
RowScore = Callable[[str, str], float]


@dataclass(frozen=True)
class TextMetric:
    """A metric that gives every row a value; the metric of a split is their mean."""

    name: str
    says: str
    """What it measures and by which rule, in words."""

    score: RowScore
    better: Better = "higher"
    unit: str = "share"
    """ "share" is 0..1 and is shown in per cent; anything else is shown as it is."""


# --- matches ---------------------------------------------------------------------------------------------------------
def exact_match(expected: str, got: str) -> float:
    """1 when the answer is the reference, blanks at both ends aside; else 0."""
    return float(got.strip() == expected.strip())


def normalised_match(expected: str, got: str) -> float:
    """1 when both are the same once case, runs of blanks, outer quotes and trailing punctuation are set aside."""
    return float(normalise(" ".join(got.split())) == normalise(" ".join(expected.split())))


_PLAIN = r"(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?|\.\d+"
_SIGN = r"(?:(?<![\w.,)])[-\u2212])?"
_NUMBER = re.compile(rf"{_SIGN}[$\u20ac\u00a3]?\s?(?:{_PLAIN})(?:[eE][+-]?\d+)?(?![\d])")
_AFTER_HASHES = re.compile(r"####\s*([-\u2212]?\s*[$\u20ac\u00a3]?\s*[\d.,]*\d)")


def final_number(text: str) -> Decimal | None:
    """The number an answer ends in: the first after "####" (as GSM8K writes it, Cobbe et al., arXiv:2110.14168),
    else the last in the text. Thousands separators and currency signs are set aside; None where there is no number.
    """
    marked = _AFTER_HASHES.search(text)
    if marked:
        return _decimal(marked.group(1))
    if "####" in text:
        return None  # the place of the answer is marked, and holds none
    found = _NUMBER.findall(text)
    return _decimal(found[-1]) if found else None


def _decimal(text: str) -> Decimal | None:
    digits = re.sub(r"[\s,$\u20ac\u00a3]", "", text).replace("\u2212", "-")
    try:
        return Decimal(digits)
    except InvalidOperation:
        return None


def final_answer(expected: str, got: str) -> float:
    """1 when both end in the same number by `final_number`, compared by value ("18" and "$18.00" are one); else 0.

    Raises:
        InvalidData: the reference itself holds no number.
    """
    wanted = final_number(expected)
    if wanted is None:
        raise InvalidData(f"the reference answer {expected[:60]!r} holds no number, so 'final_answer' cannot score it")
    return float(final_number(got) == wanted)


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
    """ROUGE-L F1 (Lin 2004) by the rouge-score package, words of any script, no stemming. 0..1.

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
    """chrF2 of the row (Popovic 2015: characters to order 6, no words, beta 2) by sacrebleu, as 0..1.

    Raises:
        MissingExtra: the package is not installed.
    """
    return float(_chrf().sentence_score(got, [expected]).score) / 100


METRICS: dict[str, TextMetric] = {
    metric.name: metric
    for metric in (
        TextMetric("exact_match", "the answer is the reference, outer blanks aside", exact_match),
        TextMetric(
            "normalised_match", "the same, case, blanks, outer quotes and trailing punctuation aside", normalised_match
        ),
        TextMetric(
            "final_answer", "the number after '####', else the last number, equals the reference's", final_answer
        ),
        TextMetric("rouge_l", "ROUGE-L F1 of words, mean over rows (rouge-score)", rouge_l),
        TextMetric("chrf", "chrF2 of characters, mean over rows (sacrebleu)", chrf),
    )
}


# --- your own --------------------------------------------------------------------------------------------------------
def text_metric(wanted: str | RowScore, *, known: Iterable[str] = ()) -> TextMetric:
    """A metric by name, by "module:function", or a function `(expected, got) -> number` of your own.

    A function may carry the attributes `better` ("higher", the default, or "lower") and `unit`.

    Args:
        wanted: which one.
        known: further names that a mistake is compared with.

    Raises:
        UnknownName: there is no metric of that name.
        InvalidJob: "module:function" names nothing that can be called.
    """
    if not isinstance(wanted, str):
        name = getattr(wanted, "__name__", type(wanted).__name__)
        return _own(name, wanted)
    if wanted in METRICS:
        return METRICS[wanted]
    if ":" not in wanted:
        raise UnknownName("metric", wanted, [*METRICS, *known], where="evaluation.metrics")
    return _own(wanted, _load(wanted))


def _load(path: str) -> RowScore:
    module_name, _, name = path.partition(":")
    # A console script's path holds no current folder, where the user's metrics.py usually lies.
    sys.path.insert(0, os.getcwd())  # noqa: PTH109
    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        raise InvalidJob(
            f"the metric {path!r} cannot be loaded: {error}",
            where="evaluation.metrics",
            hint="write it as module:function, with the module importable from here",
        ) from error
    finally:
        sys.path.pop(0)
    function = getattr(module, name, None)
    if not callable(function):
        raise InvalidJob(f"module {module_name!r} has no function {name!r}", where="evaluation.metrics")
    scored: RowScore = function
    return scored


def _own(name: str, function: RowScore) -> TextMetric:
    better: Better = "lower" if getattr(function, "better", "higher") == "lower" else "higher"
    first_line = (getattr(function, "__doc__", None) or "your own function").strip().splitlines()[0]

    def score(expected: str, got: str) -> float:
        try:
            value = function(expected, got)
        except Exception as error:  # the user's code may raise anything
            raise InvalidJob(
                f"the metric {name!r} failed on the answer {got[:60]!r}: {type(error).__name__}: {error}",
                where="evaluation.metrics",
            ) from error
        if isinstance(value, bool):
            return float(value)
        if not isinstance(value, (int, float)) and not hasattr(value, "__float__"):
            raise InvalidJob(f"the metric {name!r} must return a number, not {value!r}", where="evaluation.metrics")
        return float(value)

    return TextMetric(name, first_line, score, better=better, unit=str(getattr(function, "unit", "")))


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
    """exp(loss), and infinity where that is too large for a float."""
    try:
        return math.exp(loss)
    except OverflowError:
        return math.inf


def token_figures(stats: Sequence[TokenStats]) -> TokenFigures:
    """The figures of several rows (or groups of rows) together: every token weighs the same.

    Raises:
        InvalidData: no trained token among them.
    """
    tokens = sum(each.tokens for each in stats)
    if tokens == 0:
        raise InvalidData("none of the rows has a token to score: each needs an answer")
    loss = sum(each.loss_sum for each in stats) / tokens
    return TokenFigures(
        rows=len(stats),
        tokens=tokens,
        loss=loss,
        perplexity=perplexity_of(loss),
        token_accuracy=sum(each.correct for each in stats) / tokens,
    )
