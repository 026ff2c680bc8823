"""Every metric of the evaluation by name: what it measures, in which unit, and what it needs of a row.

A new metric is one line of `METRICS`. One of kind "text" scores an answer against the row's reference and needs nothing
else; the values of the other kinds come from `llmtune.evaluation`.
"""

from __future__ import annotations

import importlib
import os
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from llmtune.errors import InvalidJob, UnknownName
from llmtune.metrics.points import Better
from llmtune.metrics.text import chrf, exact_match, final_answer, normalised_match, rouge_l

#: The score of one row: (reference answer, answer given) to a number.
RowScore = Callable[[str, str], float]

#: What a metric is computed from: the answer's text, its label, the likelihood of its tokens, the probabilities of all
#: labels, or the row as a whole.
MetricKind = Literal["text", "labels", "tokens", "probabilities", "row"]

#: An average over labels. F-beta is there for every beta: macro_f0.5.
LABEL_AVERAGE = re.compile(r"(macro|micro|weighted)_(precision|recall|f(\d+(?:\.\d+)?))")

_AVERAGES = {
    "macro": "mean over the labels that have a row",
    "weighted": "mean over the labels, by their rows",
    "micro": "over all answers together",
}


@dataclass(frozen=True)
class Metric:
    """A metric of the evaluation. Its value over some rows is a mean, a ratio or an average over labels."""

    name: str
    says: str
    """What it measures and by which rule, in words."""

    kind: MetricKind = "text"
    score: RowScore | None = None
    """Kind "text": the score of one row."""

    better: Better = "higher"
    unit: str = "share"
    """ "share" is 0..1 and is shown in per cent; anything else is shown as it is."""

    needs: str = ""
    """Why a system may lack it, where that is more than that nothing was generated."""


def _average(name: str) -> Metric:
    average, _, figure = name.partition("_")
    figure = figure.upper() if figure[0] == "f" else figure
    return Metric(name, f"{figure}, {_AVERAGES[average]}", "labels", needs=_ONE_LABEL)


_ONE_LABEL = "the rows do not have one label each (evaluation.labels names a label set)"
_SEVERAL_LABELS = "it needs rows with several labels"
_NO_TOKENS = "the backend reports no likelihoods of tokens"
_NO_PROBABILITIES = "it needs rows with labels and a model that reports the likelihood of each label"
_PAIRS = "it needs preference rows and a backend that reports the likelihood of answers"

METRICS: dict[str, Metric] = {
    metric.name: metric
    for metric in (
        Metric("exact_match", "the answer is the reference, outer blanks aside", score=exact_match),
        Metric(
            "normalised_match",
            "the same, case, blanks, outer quotes and trailing punctuation aside",
            score=normalised_match,
        ),
        Metric(
            "final_answer", "the number after '####', else the last number, equals the reference's", score=final_answer
        ),
        Metric("rouge_l", "ROUGE-L F1 of words, mean over rows (rouge-score)", score=rouge_l),
        Metric("chrf", "chrF2 of characters, mean over rows (sacrebleu)", score=chrf),
        Metric(
            "accuracy",
            "rows answered with their label; an answer outside the label set is wrong",
            "labels",
            needs=_ONE_LABEL,
        ),
        *(
            _average(f"{average}_{figure}")
            for average in ("macro", "micro", "weighted")
            for figure in ("precision", "recall", "f1")
        ),
        Metric(
            "loss",
            "mean negative log-likelihood of the answer's tokens",
            "tokens",
            better="lower",
            unit="nats/token",
            needs=_NO_TOKENS,
        ),
        Metric("perplexity", "exp(loss)", "tokens", better="lower", unit="", needs=_NO_TOKENS),
        Metric(
            "token_accuracy", "share of the answer's tokens that were the likeliest one", "tokens", needs=_NO_TOKENS
        ),
        Metric(
            "likelihood_accuracy",
            "of the labels, the likeliest as the whole answer is the row's own (nothing is generated)",
            "row",
            needs="it needs rows with labels and a backend that reports the likelihood of answers",
        ),
        Metric(
            "ece",
            "expected calibration error of the likeliest label: mean distance of confidence from accuracy, in bins of"
            " equal mass, corrected for its bias",
            "probabilities",
            better="lower",
            needs=_NO_PROBABILITIES,
        ),
        Metric(
            "brier",
            "Brier score over all labels: squared distance of the probabilities from 1 for the true label, 0 else",
            "probabilities",
            better="lower",
            unit="",
            needs=_NO_PROBABILITIES,
        ),
        Metric(
            "log_loss",
            "minus the logarithm of the true label's probability",
            "probabilities",
            better="lower",
            unit="nats",
            needs=_NO_PROBABILITIES,
        ),
        Metric(
            "reward_accuracy",
            "tuning made the preferred answer likelier, against the base model, more than the rejected one",
            "row",
            needs="it compares a tuned model's likelihoods with the base model's, on preference rows",
        ),
        Metric("preference_accuracy", "the preferred answer is likelier than the rejected one", "row", needs=_PAIRS),
        Metric("subset_accuracy", "rows answered with all of their labels and no other", "row", needs=_SEVERAL_LABELS),
        Metric(
            "samples_f1",
            "mean over the rows of the F1 between the labels answered and the row's own",
            "row",
            needs=_SEVERAL_LABELS,
        ),
        Metric("tool_call_match", "the same tools are called with the same arguments, in the same order", "row"),
    )
}


def list_names(kind: MetricKind) -> tuple[str, ...]:
    """Return the names of the metrics of one kind, in the order of the registry."""
    return tuple(metric.name for metric in METRICS.values() if metric.kind == kind)


def get_metric(metric: str | RowScore) -> Metric:
    """Return a metric by its name, by "module:function", or from a function `(expected, got) -> number` of your own.

    A function may carry the attributes `better` ("higher", the default, or "lower") and `unit`.

    Raises:
        UnknownName: there is no metric of that name; the message suggests the nearest names.
        InvalidJob: "module:function" names nothing that can be called, or the beta of an F-beta is 0.
    """
    if not isinstance(metric, str):
        return _wrap_function(getattr(metric, "__name__", type(metric).__name__), metric)
    if metric in METRICS:
        return METRICS[metric]
    if match := LABEL_AVERAGE.fullmatch(metric):
        if float(match.group(3)) == 0:
            raise InvalidJob(f"{metric!r}: beta must be above 0", where="evaluation.metrics")
        return _average(metric)
    if ":" not in metric:
        raise UnknownName("metric", metric, list(METRICS), where="evaluation.metrics")
    return _wrap_function(metric, _load_function(metric))


def _load_function(path: str) -> RowScore:
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


def _wrap_function(name: str, function: RowScore) -> Metric:
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

    return Metric(name, first_line, score=score, better=better, unit=str(getattr(function, "unit", "")))
