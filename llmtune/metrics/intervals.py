"""How sure one number is: Wilson's interval for proportions, a bootstrap over rows for everything else.

The bootstrap is BCa with 2,000 resamples, seeded and vectorised: a metric is a function from a matrix of row numbers
to one value per resample.

Sources: Wilson 1927 (J. Am. Stat. Assoc. 22:209); Newcombe 1998 (Stat. Med. 17:857) on its coverage; Efron 1987
(J. Am. Stat. Assoc. 82:171) on BCa.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from llmtune._models import DocumentedModel
from llmtune.errors import InvalidData
from llmtune.metrics.points import Number

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    #: A metric over resampled rows: row indices, shape [resamples, rows], to its value in each, shape [resamples].
    Statistic = Callable[[NDArray[np.intp]], NDArray[np.float64]]

LabelAverage = Literal["macro", "micro", "weighted"]
LabelFigure = Literal["precision", "recall", "f"]

LEVEL = 0.95
RESAMPLES = 2000

#: Indices held at once; bounds memory to about 50 MB whatever the number of rows.
_CHUNK = 2_000_000


@dataclass(frozen=True, kw_only=True)
class Resampling:
    """How a bootstrap is drawn: the confidence `level` (0..1), the number of `resamples`, and the `seed`."""

    level: float = LEVEL
    resamples: int = RESAMPLES
    seed: int = 0


DEFAULT_RESAMPLING = Resampling()


class Interval(DocumentedModel):
    """A confidence interval: `low` and `high` at `level` (0..1), and the method that gave it."""

    low: Number
    high: Number
    level: Annotated[float, Field(gt=0, lt=1)] = LEVEL
    method: str

    def __contains__(self, value: float) -> bool:
        return self.low <= value <= self.high

    def overlaps(self, interval: Interval) -> bool:
        """Return whether the two intervals share a value."""
        return self.low <= interval.high and interval.low <= self.high


def wilson(successes: int, rows: int, level: float = LEVEL) -> Interval:
    """Compute Wilson's score interval of a proportion, without continuity correction.

    Raises:
        InvalidData: no rows, or more successes than rows.
    """
    if rows < 1 or not 0 <= successes <= rows:
        raise InvalidData(f"a proportion needs 0 <= successes <= rows and rows >= 1, not {successes} of {rows}")
    z = NormalDist().inv_cdf(0.5 + level / 2)
    share = successes / rows
    centre = (share + z * z / (2 * rows)) / (1 + z * z / rows)
    half = z / (1 + z * z / rows) * math.sqrt(share * (1 - share) / rows + z * z / (4 * rows * rows))
    # At 0 and at all rows the bound is exactly 0 or 1; rounding would leave 1e-18 there.
    low = 0.0 if successes == 0 else max(0.0, centre - half)
    high = 1.0 if successes == rows else min(1.0, centre + half)
    return Interval(low=low, high=high, level=level, method="Wilson")


def mean_of(values: Sequence[float] | NDArray[np.float64]) -> Statistic:
    """Return the statistic "mean of one value per row"."""
    import numpy as np

    array = np.asarray(values, dtype=np.float64)

    def statistic(rows: NDArray[np.intp]) -> NDArray[np.float64]:
        means: NDArray[np.float64] = array[rows].mean(axis=1)
        return means

    return statistic


def ratio_of(numerators: Sequence[float], denominators: Sequence[float]) -> Statistic:
    """Return the statistic "sum of one column over sum of another": loss per token, from rows of unequal length."""
    import numpy as np

    above, below = np.asarray(numerators, dtype=np.float64), np.asarray(denominators, dtype=np.float64)

    def statistic(rows: NDArray[np.intp]) -> NDArray[np.float64]:
        ratio: NDArray[np.float64] = above[rows].sum(axis=1) / below[rows].sum(axis=1)
        return ratio

    return statistic


def label_average_of(
    truth: Sequence[int],
    answered: Sequence[int],
    labels: int,
    *,
    average: LabelAverage = "macro",
    figure: LabelFigure = "f",
    beta: float = 1.0,
) -> Statistic:
    """Return the statistic "precision, recall or F-beta, averaged over labels".

    "macro" and "weighted" are over the labels that have a row: with few rows and many labels the others would only
    say that they were not drawn. A figure without a denominator is 0.

    Args:
        truth: label index of each row, 0..labels-1.
        answered: likewise, with `labels` for an answer outside the set.
        labels: how many labels there are.
        average: "macro" (each label the same), "weighted" (by its rows) or "micro" (all decisions together).
        figure: "precision", "recall" or "f".
        beta: weight of recall against precision in F.
    """
    import numpy as np

    true_labels, answers = np.asarray(truth, dtype=np.intp), np.asarray(answered, dtype=np.intp)
    right = np.where(true_labels == answers, true_labels, labels)
    columns = labels + 1
    weight = beta * beta

    def statistic(rows: NDArray[np.intp]) -> NDArray[np.float64]:
        base = np.arange(len(rows))[:, None] * columns

        def count_by_label(column: NDArray[np.intp]) -> NDArray[np.float64]:
            flat = np.bincount((base + column[rows]).ravel(), minlength=len(rows) * columns)
            table: NDArray[np.float64] = flat.reshape(len(rows), columns)[:, :labels].astype(np.float64)
            return table.sum(axis=1, keepdims=True) if average == "micro" else table

        hits, support, predicted = count_by_label(right), count_by_label(true_labels), count_by_label(answers)
        above, below = {
            "precision": (hits, predicted),
            "recall": (hits, support),
            "f": ((1 + weight) * hits, weight * support + predicted),
        }[figure]
        scores = np.divide(above, below, out=np.zeros_like(hits), where=below > 0)
        weights = support if average == "weighted" else (support > 0).astype(np.float64)
        means: NDArray[np.float64] = (scores * weights).sum(axis=1) / weights.sum(axis=1)
        return means

    return statistic


def loop_statistic(metric: Callable[[Sequence[int]], float]) -> Statistic:
    """Return a statistic from a plain function of row numbers: slow, for metrics that cannot be vectorised."""
    import numpy as np

    def statistic(rows: NDArray[np.intp]) -> NDArray[np.float64]:
        return np.array([metric(row.tolist()) for row in rows], dtype=np.float64)

    return statistic


def bootstrap(
    statistic: Statistic,
    rows: int,
    *,
    level: float = LEVEL,
    resamples: int = RESAMPLES,
    seed: int = 0,
    method: Literal["BCa", "percentile"] = "BCa",
) -> Interval:
    """Compute the bootstrap interval of any statistic over rows.

    BCa falls back to the percentile interval where its correction is not defined (the value lies outside everything
    resampled). When every resample gives the same value the interval has no width, and its method says so: that is no
    proof of certainty.

    Args:
        statistic: index matrix to values; see `mean_of`, `ratio_of`, `label_average_of`, `loop_statistic`.
        rows: how many rows there are. >= 1.
        level: confidence, 0..1.
        resamples: bootstrap samples. Thousands; 2,000 leaves the ends uncertain by about 2 % of the width.
        seed: of the resampling; the same seed gives the same interval.
        method: "BCa" or "percentile".
    """
    import numpy as np

    if rows < 1:
        raise InvalidData("an interval needs at least one row")
    value = float(statistic(np.arange(rows)[None, :])[0])
    draws = _resample(statistic, rows, resamples, seed)
    return _interval(statistic, value, draws, rows, level, method)


def _resample(statistic: Statistic, rows: int, resamples: int, seed: int) -> NDArray[np.float64]:
    import numpy as np

    generator = np.random.default_rng(seed)
    step = max(1, _CHUNK // rows)
    sizes = [min(step, resamples - start) for start in range(0, resamples, step)]
    return np.concatenate([statistic(generator.integers(0, rows, size=(size, rows))) for size in sizes])


def _interval(
    statistic: Statistic, value: float, draws: NDArray[np.float64], rows: int, level: float, method: str
) -> Interval:
    import numpy as np

    if not np.isfinite(draws).all() or not math.isfinite(value):
        # A diverged loss is infinite in most resamples: there is nothing to take a quantile of.
        return Interval(low=-math.inf, high=math.inf, level=level, method="none (values are not finite)")
    spread = float(np.ptp(draws))
    if spread <= 1e-12 * max(1.0, abs(value)):
        return Interval(low=value, high=value, level=level, method="bootstrap (every resample gave this value)")
    tail = (1 - level) / 2
    shares = (tail, 1 - tail)
    name = "bootstrap percentile"
    if method == "BCa" and rows > 1:
        corrected = _bca_shares(statistic, value, draws, rows, shares)
        if corrected is not None:
            shares, name = corrected, "bootstrap BCa"
    low, high = (float(edge) for edge in np.quantile(draws, shares))
    return Interval(low=low, high=high, level=level, method=name)


def _bca_shares(
    statistic: Statistic, value: float, draws: NDArray[np.float64], rows: int, shares: tuple[float, float]
) -> tuple[float, float] | None:

    normal = NormalDist()
    # Ties count half below and half above: with few rows a discrete metric often lands on its own value.
    tolerance = 1e-12 * max(1.0, abs(value))
    below = float(((draws < value - tolerance).mean() + (draws <= value + tolerance).mean()) / 2)
    if not 0 < below < 1:
        return None
    bias = normal.inv_cdf(below)
    left_out = _jackknife(statistic, rows)
    away = left_out.mean() - left_out
    squares = float((away**2).sum())
    acceleration = float((away**3).sum()) / (6 * squares**1.5) if squares > 0 else 0.0

    def correct_share(share: float) -> float:
        z = bias + normal.inv_cdf(share)
        below_one = 1 - acceleration * z
        return normal.cdf(bias + z / below_one) if below_one > 0 else math.nan

    ends = (correct_share(shares[0]), correct_share(shares[1]))
    return ends if all(math.isfinite(end) for end in ends) and ends[0] < ends[1] else None


def _jackknife(statistic: Statistic, rows: int) -> NDArray[np.float64]:
    """Return the statistic with each row left out in turn, shape [rows]."""
    import numpy as np

    step = max(1, _CHUNK // rows)
    indices = np.arange(rows - 1)
    parts = []
    for start in range(0, rows, step):
        left_out = np.arange(start, min(rows, start + step))[:, None]
        parts.append(statistic(indices + (indices >= left_out)))
    return np.concatenate(parts)


def interval_of_mean(
    values: Sequence[float], *, level: float = LEVEL, resamples: int = RESAMPLES, seed: int = 0
) -> Interval:
    """Compute the interval of a mean of row values: Wilson where every row is 0 or 1, a bootstrap otherwise.

    Where all rows have one value within 0..1, a bootstrap has no width; Wilson's interval of as many rows
    is used instead ("twenty of twenty" still leaves 84 % possible), and the method says so.
    """
    if not values:
        raise InvalidData("an interval needs at least one row")
    if all(value in (0.0, 1.0) for value in values):
        return wilson(int(sum(values)), len(values), level)
    interval = bootstrap(mean_of(values), len(values), level=level, resamples=resamples, seed=seed)
    return widen_interval(interval, len(values))


def interval_over_seeds(values: Sequence[float], *, unit: str = "", level: float = LEVEL) -> Interval:
    """Compute Student's t interval of the mean of one figure over runs that differ in nothing but their seed.

    It says how far the mean would move with other seeds, not with other rows. For a share it is cut at 0 and 1.

    Raises:
        InvalidData: fewer than two values.
    """
    from scipy.stats import t

    if len(values) < 2:
        raise InvalidData(f"a spread over seeds needs at least two values, not {len(values)}")
    half_width = float(t.ppf((1 + level) / 2, len(values) - 1)) * statistics.stdev(values) / math.sqrt(len(values))
    mean = statistics.fmean(values)
    low, high = mean - half_width, mean + half_width
    if unit == "share":
        low, high = max(0.0, low), min(1.0, high)
    return Interval(low=low, high=high, level=level, method="t over seeds")


def interval_between_seeds(
    baseline: Sequence[float], values: Sequence[float], *, level: float = LEVEL
) -> Interval | None:
    """Compute the t interval of the difference of two means (`values` less `baseline`) over runs with different seeds.

    Both are taken to vary alike from seed to seed, so that a single run can be compared with several. None where
    neither has more than one value.
    """
    from scipy.stats import t

    groups = [list(baseline), list(values)]
    freedom = sum(len(group) - 1 for group in groups)
    if not all(groups) or freedom < 1:
        return None
    squares = sum((len(group) - 1) * statistics.variance(group) for group in groups if len(group) > 1)
    error = math.sqrt(squares / freedom * sum(1 / len(group) for group in groups))
    half_width = float(t.ppf((1 + level) / 2, freedom)) * error
    change = statistics.fmean(values) - statistics.fmean(baseline)
    return Interval(low=change - half_width, high=change + half_width, level=level, method="t over seeds")


def widen_interval(interval: Interval, rows: int) -> Interval:
    """Return the interval, or Wilson's where a score of exactly 0 or 1 left the bootstrap without width."""
    if interval.low == interval.high and interval.low in (0.0, 1.0):
        stand_in = wilson(rows if interval.low == 1.0 else 0, rows, interval.level)
        return stand_in.model_copy(update={"method": "Wilson (all rows agree)"})
    return interval
