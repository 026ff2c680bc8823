"""From answers to metrics: each metric is one statistic over rows, so that value, interval and comparison agree."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from llmtune.errors import InvalidJob, LlmtuneError
from llmtune.evaluation.results import EvaluationResult, MetricValue, SystemResult
from llmtune.metrics.comparison import Comparison, compare_statistics
from llmtune.metrics.intervals import (
    LEVEL,
    Interval,
    bootstrap,
    interval_of_mean,
    label_average_of,
    mean_of,
    ratio_of,
    widened,
)
from llmtune.metrics.points import Better
from llmtune.metrics.text import METRICS, RowScore, TextMetric, text_metric

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from llmtune.metrics.intervals import Statistic

_LABEL_AVERAGE = re.compile(r"(macro|micro|weighted)_(precision|recall|f(\d+(?:\.\d+)?))")

#: Metrics by name that are offered as the nearest to a mistake.
LABEL_METRICS = (
    "accuracy",
    *(f"{average}_{figure}" for average in ("macro", "micro", "weighted") for figure in ("precision", "recall", "f1")),
)
TOKEN_METRICS = {
    "loss": ("mean negative log-likelihood of the answer's tokens", "nats/token", "lower"),
    "perplexity": ("exp(loss)", "", "lower"),
    "token_accuracy": ("share of the answer's tokens that were the likeliest one", "share", "higher"),
}
#: What choosing the likeliest label would reach: beside the answers, never instead of them.
LIKELIHOOD_ACCURACY = "likelihood_accuracy"
#: Metrics that need more than (expected, got): the row's own structure.
ROW_METRICS = {
    LIKELIHOOD_ACCURACY: "of the labels, the likeliest as the whole answer is the row's own (nothing is generated)",
    "reward_accuracy": "tuning made the preferred answer likelier, against the base model, more than the rejected one",
    "subset_accuracy": "rows answered with all of their labels and no other",
    "samples_f1": "mean over the rows of the F1 between the labels answered and the row's own",
    "preference_accuracy": "the preferred answer is likelier than the rejected one",
    "tool_call_match": "the same tools are called with the same arguments, in the same order",
}


@dataclass(frozen=True)
class RowData:
    """What is known of one system's rows; all sequences run over the same rows."""

    labels: int = 0
    truth: Sequence[int] | None = None
    predicted: Sequence[int] | None = None
    token_rows: Sequence[tuple[float, int, int]] | None = None
    scores: dict[str, Sequence[float]] = field(default_factory=dict)

    @property
    def rows(self) -> int:
        """How many rows."""
        for column in (self.predicted, self.token_rows, *self.scores.values()):
            if column is not None:
                return len(column)
        return 0


def data_of(result: EvaluationResult, system: str) -> RowData | None:
    """The rows of one system of a stored result; None when it did not answer."""
    found = result.system(system)
    if found is None:
        return None
    return RowData(
        labels=len(result.labels or ()),
        truth=result.truth,
        predicted=found.predicted,
        token_rows=found.token_rows,
        scores=dict(found.scores),
    )


def pick(data: RowData, rows: Sequence[int]) -> RowData:
    """The same, of some rows only, in the order given."""

    def take(column: Sequence[Any] | None) -> list[Any] | None:
        return None if column is None else [column[row] for row in rows]

    return RowData(
        labels=data.labels,
        truth=take(data.truth),
        predicted=take(data.predicted),
        token_rows=take(data.token_rows),
        scores={name: take(column) or [] for name, column in data.scores.items()},
    )


def is_label_metric(name: str) -> bool:
    """Whether the metric is one over labels."""
    return name == "accuracy" or _LABEL_AVERAGE.fullmatch(name) is not None


def beta_of(metrics: Sequence[str | TextMetric]) -> float:
    """The beta of the first F-beta among the metrics that is not F1; 1 where there is none."""
    named = (_LABEL_AVERAGE.fullmatch(metric) for metric in metrics if isinstance(metric, str))
    betas = (float(found.group(3)) for found in named if found is not None and found.group(3) is not None)
    return next((beta for beta in betas if beta != 1.0), 1.0)


def check_metrics(names: Sequence[str | RowScore] | None) -> None:
    """Refuse metrics that do not exist, before anything is trained or asked.

    Raises:
        UnknownName: with the nearest names.
        InvalidJob: `module:function` that cannot be loaded, or the F of beta 0.
    """
    for name in names or ():
        resolve(name)


def resolve(name: str | RowScore) -> str | TextMetric:
    """A label, token or row metric by its own name, a text metric as what it is."""
    if isinstance(name, str):
        match = _LABEL_AVERAGE.fullmatch(name)
        if match and match.group(3) is not None and float(match.group(3)) == 0:
            raise InvalidJob(f"{name!r}: beta must be above 0", where="evaluation.metrics")
        if is_label_metric(name) or name in TOKEN_METRICS or name in ROW_METRICS:
            return name
    return text_metric(name, known=[*LABEL_METRICS, *TOKEN_METRICS, *ROW_METRICS])


def statistic(metric: str, data: RowData) -> Statistic | None:
    """The metric as a statistic over rows; None when this system's rows do not have it."""
    if metric == "accuracy" or (match := _LABEL_AVERAGE.fullmatch(metric)):
        if data.truth is None or data.predicted is None:
            return None
        if metric == "accuracy":
            return mean_of(right(data))
        assert match is not None
        figure, beta = match.group(2), float(match.group(3) or 1.0)
        kind = "f" if match.group(3) is not None else figure
        return label_average_of(
            data.truth,
            data.predicted,
            data.labels,
            average=match.group(1),  # type: ignore[arg-type]
            figure=kind,  # type: ignore[arg-type]
            beta=beta,
        )
    if metric in TOKEN_METRICS:
        if data.token_rows is None:
            return None
        tokens = [count for _, count, _ in data.token_rows]
        if metric == "token_accuracy":
            return ratio_of([correct for _, _, correct in data.token_rows], tokens)
        loss = ratio_of([total for total, _, _ in data.token_rows], tokens)
        return loss if metric == "loss" else _exp(loss)
    column = data.scores.get(metric)
    return None if column is None else mean_of(column)


def _exp(loss: Statistic) -> Statistic:
    def perplexity(rows: NDArray[np.intp]) -> NDArray[np.float64]:
        import numpy as np

        with np.errstate(over="ignore"):
            values: NDArray[np.float64] = np.exp(loss(rows))
            return values

    return perplexity


def right(data: RowData) -> list[float]:
    """1 for each row whose label was answered, else 0."""
    assert data.truth is not None
    assert data.predicted is not None
    return [float(true == said) for true, said in zip(data.truth, data.predicted, strict=True)]


def binary(metric: str, data: RowData) -> list[float] | None:
    """The rows' 0/1 scores, when that is what the metric is the mean of."""
    if metric == "accuracy":
        return right(data) if data.truth is not None and data.predicted is not None else None
    column = data.scores.get(metric)
    return list(column) if column is not None and all(value in (0.0, 1.0) for value in column) else None


def describe(metric: str | TextMetric) -> tuple[str, str, Better]:
    """What a metric measures, its unit, and which direction is good."""
    if isinstance(metric, TextMetric):
        return metric.says, metric.unit, metric.better
    if metric in TOKEN_METRICS:
        says, unit, better = TOKEN_METRICS[metric]
        return says, unit, "lower" if better == "lower" else "higher"
    if metric in ROW_METRICS:
        return ROW_METRICS[metric], "share", "higher"
    if metric == "accuracy":
        return "rows answered with their label; an answer outside the label set is wrong", "share", "higher"
    average, figure = metric.split("_", 1)
    how = {
        "macro": "mean over the labels that have a row",
        "weighted": "mean over the labels, by their rows",
        "micro": "over all answers together",
    }[average]
    return f"{figure.upper() if figure[0] == 'f' else figure}, {how}", "share", "higher"


def measure(
    metric: str | TextMetric, data: RowData, *, level: float = LEVEL, resamples: int, seed: int
) -> MetricValue | None:
    """Value and interval of a metric; None when this system's rows do not have it."""
    name = metric.name if isinstance(metric, TextMetric) else metric
    found = statistic(name, data)
    if found is None or data.rows == 0:
        return None
    import numpy as np

    value = float(found(np.arange(data.rows)[None, :])[0])
    interval: Interval
    column = binary(name, data) or data.scores.get(name)
    if column is not None:
        interval = interval_of_mean(list(column), level=level, resamples=resamples, seed=seed)
    else:
        interval = bootstrap(found, data.rows, level=level, resamples=resamples, seed=seed)
        if describe(metric)[1] == "share":
            interval = widened(interval, data.rows)
    says, unit, better = describe(metric)
    return MetricValue(name=name, says=says, value=value, interval=interval, rows=data.rows, better=better, unit=unit)


def compare_data(
    metric: str,
    a: RowData,
    b: RowData,
    *,
    better: Better,
    name_a: str,
    name_b: str,
    level: float = LEVEL,
    resamples: int,
    seed: int,
) -> Comparison | None:
    """Two systems on the same rows by one metric; None when one of them does not have it."""
    one, other = statistic(metric, a), statistic(metric, b)
    if one is None or other is None:
        return None
    pair = (binary(metric, a), binary(metric, b))
    return compare_statistics(
        one,
        other,
        a.rows,
        metric=metric,
        name_a=name_a,
        name_b=name_b,
        better=better,
        level=level,
        resamples=resamples,
        seed=seed,
        right=(pair[0], pair[1]) if pair[0] is not None and pair[1] is not None else None,
    )


def score_text(
    metric: TextMetric, expected: Sequence[str], got: Sequence[str | None]
) -> tuple[list[float] | None, str | None]:
    """The rows' scores, or why there are none. No answer is scored as an empty one."""
    try:
        return [metric.score(true, said or "") for true, said in zip(expected, got, strict=True)], None
    except LlmtuneError as error:
        return None, str(error)


def suited(
    *, labelled: bool, preference: bool, tools: bool, expected: Sequence[str], sets: bool = False
) -> tuple[list[str | TextMetric], list[str]]:
    """The metrics that suit the rows, and what there is to say about the choice."""
    if labelled:
        return ["accuracy", "macro_f1", "weighted_f1"], []
    if sets:
        return ["subset_accuracy", "samples_f1"], []
    if preference:
        return ["reward_accuracy", "preference_accuracy"], []
    if tools:
        return ["tool_call_match"], []
    if expected and all("####" in text for text in expected):
        return [METRICS["final_answer"], METRICS["exact_match"]], []
    return _with_overlap([METRICS["exact_match"], METRICS["normalised_match"]])


def why_not(metric: str) -> str:
    """Why a system has no such metric, when nothing more particular is known."""
    if metric in TOKEN_METRICS:
        return "the backend tells no likelihoods of tokens"
    if metric in ("subset_accuracy", "samples_f1"):
        return "it takes rows with several labels"
    if is_label_metric(metric):
        return "the rows have no label each (evaluation.labels names a label set)"
    if metric == LIKELIHOOD_ACCURACY:
        return "it takes rows with labels and a backend that tells how likely an answer is"
    if metric == "reward_accuracy":
        return "it compares a tuned model's likelihoods with the base model's, on preference rows"
    if metric == "preference_accuracy":
        return "it takes preference rows and a backend that tells how likely an answer is"
    return "nothing was generated to score"


def _with_overlap(picked: list[str | TextMetric]) -> tuple[list[str | TextMetric], list[str]]:
    from importlib.util import find_spec

    missing = [
        name for name, package in (("rouge_l", "rouge_score"), ("chrf", "sacrebleu")) if find_spec(package) is None
    ]
    picked += [METRICS[name] for name in ("rouge_l", "chrf") if name not in missing]
    if not missing:
        return picked, []
    return picked, [f"{' and '.join(missing)} left out: pip install 'llmtune-sdk[report]' brings them"]


def result_data(result: SystemResult, truth: Sequence[int] | None, labels: int) -> RowData:
    """The rows of a system that has just answered."""
    return RowData(
        labels=labels,
        truth=truth,
        predicted=result.predicted,
        token_rows=result.token_rows,
        scores=dict(result.scores),
    )
