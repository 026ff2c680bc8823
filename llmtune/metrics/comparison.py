"""Compare two systems: is one "better" or "worse" than the other, or are they "not separable"?

Systems that answered the same rows are compared in pairs: a bootstrap of the difference and, where each row is simply
right or wrong, McNemar's exact test as well. "better" and "worse" need both to agree. Systems that answered different
rows are compared by their intervals alone, which needs a larger difference to say the same.

Sources: McNemar 1947 (Psychometrika 12:153), exact by the binomial distribution; Newcombe 1998 (Stat. Med. 17:873),
method 10, for two independent proportions; Zou and Donner 2008 (Stat. Med. 27:1693) for any two intervals.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from llmtune.errors import InvalidData
from llmtune.metrics.intervals import (
    DEFAULT_RESAMPLING,
    LEVEL,
    RESAMPLES,
    Interval,
    Resampling,
    bootstrap,
    mean_of,
    wilson,
)
from llmtune.metrics.points import Better, Number

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from llmtune.metrics.intervals import Statistic

#: Statistical power at which a number of rows is computed: the probability of finding the difference.
POWER = 0.8
#: Share of rows that only one of two systems gets right, where nothing is known yet: one row in four.
DISCORDANT = 0.25

#: The two systems of a comparison, where nothing else is named.
NAMES = ("base", "tuned")

#: Whether the second system is better than the first.
ComparisonVerdict = Literal["better", "worse", "not separable"]


class Comparison(BaseModel):
    """Two systems judged by one metric. The verdict is about the second, `name_b`, relative to the first, `name_a`.

    `a` and `b` are their values, over `rows` rows.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    metric: str
    name_a: str
    name_b: str
    a: Number
    b: Number
    difference: Number
    """b - a, in the metric's own unit."""

    interval: Interval
    """Of the difference; its method says whether rows were paired."""

    p_value: Annotated[float, Field(ge=0, le=1)] | None = None
    """Two-sided, of the exact McNemar test; None where rows are not simply right or wrong."""

    discordant: tuple[int, int] | None = None
    """Rows that only a has right, and rows that only b has right."""

    rows: int
    better: Better = "higher"
    """Which direction is good."""

    verdict: ComparisonVerdict

    @property
    def separable(self) -> bool:
        """Whether the data can tell the two apart."""
        return self.verdict != "not separable"


def mcnemar(only_a: int, only_b: int) -> float:
    """Return the two-sided p-value of McNemar's exact test of rows that only a, and rows that only b, has right.

    The smaller count under Binomial(only_a + only_b, 1/2), doubled, at most 1; 1 when there is no such row.
    """
    if only_a < 0 or only_b < 0:
        raise InvalidData("counts of discordant rows cannot be negative")
    rows = only_a + only_b
    term = total = 1
    for count in range(1, min(only_a, only_b) + 1):
        term = term * (rows - count + 1) // count
        total += term
    return min(1.0, 2 * total / (1 << rows))


def paired_bootstrap(
    statistic_a: Statistic,
    statistic_b: Statistic,
    rows: int,
    *,
    level: float = LEVEL,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Interval:
    """Compute the BCa interval of b - a; each resample draws the same rows for both: what is hard for both cancels."""

    def difference(indices: NDArray[np.intp]) -> NDArray[np.float64]:
        return statistic_b(indices) - statistic_a(indices)

    return bootstrap(difference, rows, level=level, resamples=resamples, seed=seed)


def compare_means(
    a: Sequence[float],
    b: Sequence[float],
    *,
    metric: str,
    names: tuple[str, str] = NAMES,
    better: Better = "higher",
    level: float = LEVEL,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Comparison:
    """Compare two systems by one value per row (right or wrong, an overlap score) on the same rows.

    Args:
        a: the values of the first system.
        b: the values of the second system; row i is the same question in both.
        metric: name of the metric.
        names: of the two systems.
        better: whether high or low values are good.
        level: confidence of the interval, 0..1.
        resamples: bootstrap samples.
        seed: of the bootstrap.

    Raises:
        InvalidData: no rows, or unequal numbers of rows.
    """
    _check_pairs(len(a), len(b))
    binary = all(value in (0.0, 1.0) for value in (*a, *b))
    return compare_statistics(
        mean_of(a),
        mean_of(b),
        len(a),
        metric=metric,
        names=names,
        better=better,
        resampling=Resampling(level=level, resamples=resamples, seed=seed),
        right=(a, b) if binary else None,
    )


def compare_statistics(
    statistic_a: Statistic,
    statistic_b: Statistic,
    rows: int,
    *,
    metric: str,
    names: tuple[str, str] = NAMES,
    better: Better = "higher",
    resampling: Resampling = DEFAULT_RESAMPLING,
    right: tuple[Sequence[float], Sequence[float]] | None = None,
) -> Comparison:
    """Compare two systems by any statistic over the same rows.

    `right` are the rows' 0/1 scores of a and b, where there are such: McNemar's exact test must then agree.
    """
    import numpy as np

    level = resampling.level

    everything = np.arange(rows)[None, :]
    value_a, value_b = float(statistic_a(everything)[0]), float(statistic_b(everything)[0])
    interval = paired_bootstrap(
        statistic_a, statistic_b, rows, level=level, resamples=resampling.resamples, seed=resampling.seed
    )
    p_value, discordant = None, None
    if right is not None:
        only_a = sum(score_a > score_b for score_a, score_b in zip(*right, strict=True))
        only_b = sum(score_a < score_b for score_a, score_b in zip(*right, strict=True))
        p_value, discordant = mcnemar(only_a, only_b), (only_a, only_b)
        if interval.low == interval.high:  # every row moved alike: as many rows still leave this much open
            open_by = wilson(0, rows, level).high
            interval = Interval(
                low=max(-1.0, interval.low - open_by),
                high=min(1.0, interval.high + open_by),
                level=level,
                method="Wilson (all rows agree)",
            )
    return Comparison(
        metric=metric,
        name_a=names[0],
        name_b=names[1],
        a=value_a,
        b=value_b,
        difference=value_b - value_a,
        interval=interval,
        p_value=p_value,
        discordant=discordant,
        rows=rows,
        better=better,
        verdict=_verdict(interval, p_value, better, rows),
    )


def compare_unpaired(
    a: float,
    interval_a: Interval,
    b: float,
    interval_b: Interval,
    *,
    rows: int,
    metric: str,
    names: tuple[str, str] = NAMES,
    better: Better = "higher",
) -> Comparison:
    """Compare two systems that answered different rows, from their values and intervals alone.

    Both intervals must be at one level. `rows` is the smaller number of rows.
    """
    if interval_a.level != interval_b.level:
        raise InvalidData(f"intervals of level {interval_a.level:g} and {interval_b.level:g} cannot be compared")
    difference = b - a
    interval = Interval(
        low=difference - math.hypot(b - interval_b.low, interval_a.high - a),
        high=difference + math.hypot(interval_b.high - b, a - interval_a.low),
        level=interval_a.level,
        method="unpaired (from both intervals)",
    )
    return Comparison(
        metric=metric,
        name_a=names[0],
        name_b=names[1],
        a=a,
        b=b,
        difference=difference,
        interval=interval,
        rows=rows,
        better=better,
        verdict=_verdict(interval, None, better, rows),
    )


def rows_to_settle(comparison: Comparison, *, level: float = LEVEL, power: float = POWER) -> int | None:
    """Return how many rows would show the difference that was seen with probability `power`; None for no difference.

    The standard error is read from the interval (or from the discordant rows, where they are known) and shrinks with
    the square root of the rows: the usual formula for a paired difference (Connor 1987, Biometrics 43:207). Never
    fewer than a fifth more than there were, which have just not been enough.
    """
    size = abs(comparison.difference)
    if not size or not math.isfinite(size):
        return None
    normal = NormalDist()
    z_level, z_power = normal.inv_cdf(0.5 + level / 2), normal.inv_cdf(power)
    only_a, only_b = comparison.discordant or (0, 0)
    if only_a + only_b:
        share = (only_a + only_b) / comparison.rows
        needed = max(_rows_for_pairs(size, share, z_level, z_power), fewest_rows(level))
    else:
        width = comparison.interval.high - comparison.interval.low
        error = width / (2 * normal.inv_cdf(0.5 + comparison.interval.level / 2))
        needed = comparison.rows * ((z_level + z_power) * error / size) ** 2
    return max(math.ceil(needed), math.ceil(1.2 * comparison.rows)) if math.isfinite(needed) else None


def rows_needed(size: float, *, discordant: float = DISCORDANT, level: float = LEVEL, power: float = POWER) -> int:
    """Return how many rows show a difference of `size` (a share) between two systems that answer the same rows.

    `discordant` is the share of rows that only one of the two gets right; a difference needs at least its own size.
    """
    normal = NormalDist()
    share = max(discordant, size)
    rows = math.ceil(_rows_for_pairs(size, share, normal.inv_cdf(0.5 + level / 2), normal.inv_cdf(power)))
    if size < discordant:
        return rows
    # All discordant rows are for one side then, and so few that the normal distribution flatters McNemar's exact test.
    rows = max(rows, fewest_rows(level))
    while _chance_to_show(size, rows, level) < power:
        rows += 1
    return rows


def fewest_rows(level: float = LEVEL) -> int:
    """Return how many rows it takes for McNemar's exact test to tell anything, where all are for one side."""
    return math.ceil(1 - math.log2(1 - level))


def _chance_to_show(size: float, rows: int, level: float) -> float:
    """Return how likely so many rows hold enough that only one side gets right, a share of `size` of all rows."""
    fewest = fewest_rows(level)
    return 1 - sum(math.comb(rows, k) * size**k * (1 - size) ** (rows - k) for k in range(fewest))


def smallest_difference(
    rows: int, *, discordant: float = DISCORDANT, level: float = LEVEL, power: float = POWER
) -> float:
    """Return the smallest difference (a share) that so many rows show with probability `power`; see `rows_needed`."""
    low, high = 1e-4, 1.0
    if rows < rows_needed(high, discordant=discordant, level=level, power=power):
        return high
    while high - low > 1e-4:
        middle = (low + high) / 2
        enough = rows_needed(middle, discordant=discordant, level=level, power=power) <= rows
        low, high = (low, middle) if enough else (middle, high)
    return high


def _rows_for_pairs(size: float, discordant: float, z_level: float, z_power: float) -> float:
    spread = math.sqrt(max(0.0, discordant - size * size))
    return ((z_level * math.sqrt(discordant) + z_power * spread) / size) ** 2


def _verdict(interval: Interval, p_value: float | None, better: Better, rows: int) -> ComparisonVerdict:
    certain = interval.low > 0 or interval.high < 0
    if p_value is not None:
        certain = certain and p_value <= 1 - interval.level
    elif interval.low == interval.high:
        # No spread at all: the same shift in every row. A sign test with that many rows must support it.
        certain = certain and mcnemar(0, rows) <= 1 - interval.level
    if not certain:
        return "not separable"
    up = interval.low > 0
    return "better" if up == (better == "higher") else "worse"


def _check_pairs(rows_a: int, rows_b: int) -> None:
    if rows_a != rows_b:
        raise InvalidData(f"a paired comparison needs the same rows on both sides, not {rows_a} and {rows_b}")
    if rows_a < 1:
        raise InvalidData("a comparison needs at least one row")
