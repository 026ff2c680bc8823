"""Metrics from answers: each is one statistic over rows, so that value, interval and comparison agree."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from llmtune.errors import LlmtuneError
from llmtune.evaluation.results import EvaluationResult, MetricValue, SystemResult
from llmtune.metrics.calibration import calibration_error_of
from llmtune.metrics.comparison import Comparison, compare_statistics
from llmtune.metrics.intervals import (
    LEVEL,
    Interval,
    Resampling,
    bootstrap,
    interval_of_mean,
    label_average_of,
    mean_of,
    ratio_of,
    widen_interval,
)
from llmtune.metrics.points import Better
from llmtune.metrics.registry import LABEL_AVERAGE, Metric, RowScore, get_metric, list_names

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from llmtune.metrics.intervals import Statistic

#: Accuracy of the likeliest label: reported in addition to that of the answers, never instead of it.
LIKELIHOOD_ACCURACY = "likelihood_accuracy"
#: Accuracy and confidence of the likeliest label, row by row: what a calibration error is computed from.
LIKELIEST_RIGHT, CONFIDENCE = "likeliest_right", "confidence"
#: Metrics over the probabilities of labels.
PROBABILITY_METRICS = list_names("probabilities")
#: Metrics over the tokens of answers.
TOKEN_METRICS = list_names("tokens")


@dataclass(frozen=True)
class RowData:
    """The columns of one system's rows; all sequences have one entry per row."""

    labels: int = 0
    truth: Sequence[int] | None = None
    predicted: Sequence[int] | None = None
    token_rows: Sequence[tuple[float, int, int]] | None = None
    scores: dict[str, Sequence[float]] = field(default_factory=dict)

    @property
    def rows(self) -> int:
        """Number of rows."""
        for column in (self.predicted, self.token_rows, *self.scores.values()):
            if column is not None:
                return len(column)
        return 0


def get_row_data(result: EvaluationResult, system: str) -> RowData | None:
    """Return the rows of one system of a stored result; None when it did not answer."""
    system_result = result.system(system)
    if system_result is None:
        return None
    return RowData(
        labels=len(result.labels or ()),
        truth=result.truth,
        predicted=system_result.predicted,
        token_rows=system_result.token_rows,
        scores=dict(system_result.scores),
    )


def select_rows(data: RowData, rows: Sequence[int]) -> RowData:
    """Return the data of some rows only, in the order given."""

    def take(column: Sequence[Any] | None) -> list[Any] | None:
        return None if column is None else [column[row] for row in rows]

    return RowData(
        labels=data.labels,
        truth=take(data.truth),
        predicted=take(data.predicted),
        token_rows=take(data.token_rows),
        scores={name: take(column) or [] for name, column in data.scores.items()},
    )


def find_beta(metrics: Sequence[Metric]) -> float:
    """Return the beta of the first F-beta among the metrics that is not F1; 1 where there is none."""
    named = (LABEL_AVERAGE.fullmatch(metric.name) for metric in metrics)
    betas = (float(match.group(3)) for match in named if match is not None and match.group(3) is not None)
    return next((beta for beta in betas if beta != 1.0), 1.0)


def check_metrics(names: Sequence[str | RowScore] | None) -> None:
    """Raise an error for metrics that do not exist, before anything is trained or asked.

    Raises:
        UnknownName: a metric does not exist; the message suggests the nearest names.
        InvalidJob: `module:function` cannot be loaded, or an F-beta has a beta of 0.
    """
    for name in names or ():
        get_metric(name)


def build_statistic(metric: str, data: RowData) -> Statistic | None:
    """Return the metric as a statistic over rows; None when these rows do not have it."""
    if metric == "accuracy" or (match := LABEL_AVERAGE.fullmatch(metric)):
        if data.truth is None or data.predicted is None:
            return None
        if metric == "accuracy":
            return mean_of(label_hits(data))
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
        return loss if metric == "loss" else _exponentiate(loss)
    if metric == "ece":
        confidences, right = data.scores.get(CONFIDENCE), data.scores.get(LIKELIEST_RIGHT)
        return None if confidences is None or right is None else calibration_error_of(confidences, right)
    column = data.scores.get(metric)
    return None if column is None else mean_of(column)


def _exponentiate(loss: Statistic) -> Statistic:
    def perplexity(rows: NDArray[np.intp]) -> NDArray[np.float64]:
        import numpy as np

        with np.errstate(over="ignore"):
            values: NDArray[np.float64] = np.exp(loss(rows))
            return values

    return perplexity


def label_hits(data: RowData) -> list[float]:
    """Return 1 for each row whose true label was answered, else 0."""
    assert data.truth is not None
    assert data.predicted is not None
    return [float(true == predicted) for true, predicted in zip(data.truth, data.predicted, strict=True)]


def binary_scores(metric: str, data: RowData) -> list[float] | None:
    """Return the scores of the rows when all are 0 or 1 and the metric is their mean, else None."""
    if metric == "accuracy":
        return label_hits(data) if data.truth is not None and data.predicted is not None else None
    column = data.scores.get(metric)
    return list(column) if column is not None and all(value in (0.0, 1.0) for value in column) else None


def measure(metric: Metric, data: RowData, *, level: float = LEVEL, resamples: int, seed: int) -> MetricValue | None:
    """Compute value and interval of a metric; None when these rows do not have it."""
    name = metric.name
    statistic = build_statistic(name, data)
    if statistic is None or data.rows == 0:
        return None
    import numpy as np

    value = float(statistic(np.arange(data.rows)[None, :])[0])
    interval: Interval
    column = binary_scores(name, data) or data.scores.get(name)
    if column is not None:
        interval = interval_of_mean(list(column), level=level, resamples=resamples, seed=seed)
    else:
        interval = bootstrap(statistic, data.rows, level=level, resamples=resamples, seed=seed)
        if metric.unit == "share":
            interval = widen_interval(interval, data.rows)
    return MetricValue(
        name=name,
        says=metric.says,
        value=value,
        interval=interval,
        rows=data.rows,
        better=metric.better,
        unit=metric.unit,
    )


def compare_data(
    metric: str,
    a: RowData,
    b: RowData,
    *,
    better: Better,
    names: tuple[str, str],
    level: float = LEVEL,
    resamples: int,
    seed: int,
) -> Comparison | None:
    """Compare systems `a` and `b`, called by `names`, on the same rows; None when one of them lacks the metric."""
    statistic_a, statistic_b = build_statistic(metric, a), build_statistic(metric, b)
    if statistic_a is None or statistic_b is None:
        return None
    pair = (binary_scores(metric, a), binary_scores(metric, b))
    return compare_statistics(
        statistic_a,
        statistic_b,
        a.rows,
        metric=metric,
        names=names,
        better=better,
        resampling=Resampling(level=level, resamples=resamples, seed=seed),
        right=(pair[0], pair[1]) if pair[0] is not None and pair[1] is not None else None,
    )


def score_text(
    score: RowScore, expected: Sequence[str], got: Sequence[str | None]
) -> tuple[list[float] | None, str | None]:
    """Return the scores of the rows, or why there are none. A missing answer is scored as an empty one."""
    try:
        return [score(true, answer or "") for true, answer in zip(expected, got, strict=True)], None
    except LlmtuneError as error:
        return None, str(error)


def default_metrics(
    *, labelled: bool, preference: bool, tools: bool, expected: Iterable[str], sets: bool = False
) -> tuple[list[str], list[str]]:
    """Return the names of the metrics that suit the rows, and notes on the choice. `expected` are their answers."""
    if labelled:
        return ["accuracy", "macro_f1", "weighted_f1"], []
    if sets:
        return ["subset_accuracy", "samples_f1"], []
    if preference:
        return ["reward_accuracy", "preference_accuracy"], []
    if tools:
        return ["tool_call_match"], []
    if all("####" in text for text in expected):
        return ["final_answer", "exact_match"], []
    return _add_overlap_metrics(["exact_match", "normalised_match"])


def explain_missing(metric: Metric) -> str:
    """Return why a system has no such metric, when no more specific reason is known."""
    return metric.needs or "nothing was generated to score"


def _add_overlap_metrics(names: list[str]) -> tuple[list[str], list[str]]:
    from importlib.util import find_spec

    missing = [
        name for name, package in (("rouge_l", "rouge_score"), ("chrf", "sacrebleu")) if find_spec(package) is None
    ]
    names += [name for name in ("rouge_l", "chrf") if name not in missing]
    if not missing:
        return names, []
    return names, [f"{' and '.join(missing)} left out: pip install 'llmtune-sdk[report]' installs them"]


def build_row_data(result: SystemResult, truth: Sequence[int] | None, labels: int) -> RowData:
    """Return the rows of one system."""
    return RowData(
        labels=labels,
        truth=truth,
        predicted=result.predicted,
        token_rows=result.token_rows,
        scores=dict(result.scores),
    )
