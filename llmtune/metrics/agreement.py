"""Agreement of two raters beyond chance: Cohen's kappa, with an interval.

Sources: Cohen 1960 (Educ. Psychol. Meas. 20:37); for ordered categories Cohen 1968 (Psychol. Bull. 70:213), whose
weights are the squared distances here.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from llmtune.errors import InvalidData
from llmtune.metrics.intervals import RESAMPLES, Interval, bootstrap

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from llmtune.metrics.intervals import Statistic


def measure_kappa(
    a: Sequence[int],
    b: Sequence[int],
    categories: int,
    *,
    ordered: bool = False,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> tuple[float, Interval] | None:
    """Compute Cohen's kappa of two raters, and its bootstrap interval over rows.

    1 is full agreement, 0 is as much as chance gives, and below 0 is less. None where both raters give one and the same
    category throughout, which tells nothing.

    Args:
        a: the categories of the first rater, 0..categories-1.
        b: those of the second; row i is the same thing rated.
        categories: how many there are.
        ordered: whether a distance of two categories weighs more than one (squared distances).
        resamples: bootstrap samples.
        seed: of the bootstrap.

    Raises:
        InvalidData: no rows, or unequal numbers of rows.
    """
    if not a or len(a) != len(b):
        raise InvalidData(f"agreement needs pairs of ratings, and there are {len(a)} and {len(b)}")
    import numpy as np

    statistic = _kappa_of(a, b, categories, ordered=ordered)
    value = float(statistic(np.arange(len(a))[None, :])[0])
    if math.isnan(value):
        return None

    def defined(indices: NDArray[np.intp]) -> NDArray[np.float64]:
        # A resample of one category alone tells nothing; it counts as chance.
        return np.nan_to_num(statistic(indices), nan=0.0)

    return value, bootstrap(defined, len(a), resamples=resamples, seed=seed)


def _kappa_of(a: Sequence[int], b: Sequence[int], categories: int, *, ordered: bool) -> Statistic:
    """Return kappa as a statistic of rows; NaN where chance alone would give full agreement."""
    import numpy as np

    first, second = np.eye(categories)[list(a)], np.eye(categories)[list(b)]
    places = np.arange(categories)
    if ordered:
        weights = (places[:, None] - places[None, :]) ** 2 / max(1, categories - 1) ** 2
    else:
        weights = (places[:, None] != places[None, :]).astype(float)
    apart = np.einsum("ri,ij,rj->r", first, weights, second)

    def statistic(indices: NDArray[np.intp]) -> NDArray[np.float64]:
        observed = apart[indices].mean(axis=1)
        shares = first[indices].mean(axis=1), second[indices].mean(axis=1)
        expected = np.einsum("ri,ij,rj->r", shares[0], weights, shares[1])
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.where(expected > 0, 1 - observed / expected, math.nan)

    return statistic
