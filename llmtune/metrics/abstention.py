"""A threshold of confidence with a promise: of the answers above it at most a stated share is wrong.

The threshold is chosen by Learn-then-Test (Angelopoulos et al. 2021, arXiv:2110.01052). Each threshold of a fixed grid
is a hypothesis: "of what is answered here, more than the promised share is wrong". It is rejected where so few errors
among so many answers would be too unlikely under it, by the exact tail of the binomial distribution. The grid is tested
from the surest end down, and ends at the first threshold that cannot be rejected, so that all tests together are wrong
with the stated probability at most (fixed-sequence testing). There are two such sequences, which share that
probability: one begins where as few rows are answered as could carry the promise, the other at a quarter of the rows,
where one error among the surest does not end it.

The guarantee needs rows that were neither trained on nor used to fit the confidences, and that are drawn like those to
come.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from llmtune._models import DocumentedModel
from llmtune.errors import InvalidData
from llmtune.metrics.points import Number

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

#: Thresholds of the grid, as log-odds: from 1 - 2e-9 down to 0.7 %, each 0.02 apart; then all rows.
HIGHEST, LOWEST, STEP = 20.0, -5.0, 0.02
#: Share of the rows at which the second sequence begins.
SECOND_START = 0.25
#: Above this the number of rows that a promise takes is not named.
MOST_NEEDED = 100_000
#: Sequences that share the probability of a wrong promise.
SEQUENCES = 2


class Threshold(DocumentedModel):
    """The confidence from which on answers are given under a promise, or why there is none."""

    error: Annotated[float, Field(gt=0, lt=1)]
    """The promised share of wrong answers among those given."""

    confidence: Annotated[float, Field(gt=0, lt=1)]
    """Probability with which the promise holds, over the rows that the threshold is chosen on."""

    value: Number | None
    """Answers at least so confident are given; None where nothing can be promised."""

    rows: int
    """Rows that the threshold was chosen on."""

    answered: int = 0
    """Of them, those at or above it."""

    wrong: int = 0
    """Wrong answers among these."""

    needed: int | None = None
    """Without a promise: about how many rows it would take; None where no number of rows would do."""

    @property
    def reason(self) -> str:
        """Why there is no promise, as the end of a sentence; empty where there is one."""
        if self.value is not None:
            return ""
        if self.needed is None:
            return "even of the answers that the model is surest of, more are wrong"
        if self.needed > MOST_NEEDED:
            return f"{self.rows:,} rows are too few: it takes more than {MOST_NEEDED:,}"
        return f"{self.rows:,} rows are too few: it takes about {self.needed:,}"


def binomial_tail(errors: int, rows: int, share: float) -> float:
    """Return the probability of at most `errors` errors in `rows` rows, each wrong with probability `share`."""
    if errors >= rows:
        return 1.0
    log_share, log_rest = math.log(share), math.log1p(-share)
    total = 0.0
    for count in range(errors + 1):
        ways = math.lgamma(rows + 1) - math.lgamma(count + 1) - math.lgamma(rows - count + 1)
        total += math.exp(ways + count * log_share + (rows - count) * log_rest)
    return min(1.0, total)


def fewest_rows(error: float, confidence: float, errors: int = 0) -> int:
    """Return the fewest answers among which so many errors still carry the promise in one sequence of tests."""
    risk = (1 - confidence) / SEQUENCES
    low = high = max(1, errors)
    while binomial_tail(errors, high, error) > risk:
        low, high = high, 2 * high
    while low < high:
        middle = (low + high) // 2
        if binomial_tail(errors, middle, error) > risk:
            low = middle + 1
        else:
            high = middle
    return high


def choose_threshold(
    confidences: Sequence[float], right: Sequence[float], *, error: float, confidence: float
) -> Threshold:
    """Choose the lowest confidence from which on at most a share `error` of the answers is wrong.

    Args:
        confidences: of each row's answer, 0..1.
        right: 1 where that answer is right, else 0.
        error: the promised share of wrong answers, in (0, 1).
        confidence: the probability with which the promise holds, in (0, 1).

    Raises:
        InvalidData: unequal numbers of rows, or a promise that is none.
    """
    import numpy as np

    if len(confidences) != len(right):
        raise InvalidData(f"{len(confidences)} confidences do not belong to {len(right)} answers")
    if not (0 < error < 1 and 0 < confidence < 1):
        raise InvalidData(
            f"a promise needs an error and a confidence between 0 and 1, not {error:g} and {confidence:g}"
        )
    grid = _build_grid()
    answered, wrong = _count_above(np.asarray(confidences, dtype=float), np.asarray(right, dtype=float), grid)
    first = fewest_rows(error, confidence)
    risk = (1 - confidence) / SEQUENCES
    lowest = -1
    for start in (first, max(first, math.ceil(SECOND_START * len(confidences)))):
        index = int(np.searchsorted(answered, start))
        while index < len(grid) and binomial_tail(int(wrong[index]), int(answered[index]), error) <= risk:
            lowest, index = max(lowest, index), index + 1
    if lowest >= 0:
        return Threshold(
            error=error,
            confidence=confidence,
            value=float(grid[lowest]),
            rows=len(confidences),
            answered=int(answered[lowest]),
            wrong=int(wrong[lowest]),
        )
    return Threshold(
        error=error,
        confidence=confidence,
        value=None,
        rows=len(confidences),
        needed=_estimate_needed(answered, wrong, len(confidences), error, confidence),
    )


def _build_grid() -> NDArray[np.float64]:
    """Return the thresholds from the strictest to 0. They are the same for every model and every row."""
    import numpy as np

    log_odds = np.linspace(HIGHEST, LOWEST, round((HIGHEST - LOWEST) / STEP) + 1)
    return np.append(1 / (1 + np.exp(-log_odds)), 0.0)


def _count_above(
    confidences: NDArray[np.float64], right: NDArray[np.float64], grid: NDArray[np.float64]
) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Return how many rows are answered at each threshold, and how many of these answers are wrong."""
    import numpy as np

    order = np.argsort(-confidences, kind="stable")
    answered = np.searchsorted(-confidences[order], -grid, side="right")
    wrong = np.concatenate([[0], np.cumsum(1 - right[order])]).round().astype(np.intp)
    return answered, wrong[answered]


def _estimate_needed(
    answered: NDArray[np.intp], wrong: NDArray[np.intp], rows: int, error: float, confidence: float
) -> int | None:
    """Estimate how many rows would carry the promise, if the shares of errors stay as they are; None where none do.

    What counts is where the sequences begin: further down none of them arrives without having passed there.
    """
    fewest = fewest_rows(error, confidence)
    if rows < fewest:
        return fewest
    estimates: list[int] = []
    for count, errors in sorted(set(zip(answered.tolist(), wrong.tolist(), strict=True))):
        share = (errors + 0.5) / (count + 1)
        if not fewest / 4 <= count <= max(fewest, math.ceil(SECOND_START * rows)) or share >= error:
            continue
        # The normal distribution is near enough for an estimate: error - share = z * sqrt(share' / n).
        needed = max(fewest, _normal_rows(share, error, confidence))
        estimates.append(math.ceil(needed * rows / count))
    if not estimates:
        return None
    estimate = max(min(estimates), rows + 1)
    step: int = 10 ** max(0, math.floor(math.log10(estimate)) - 1)  # two digits: more would pretend to be exact
    return math.ceil(estimate / step) * step


def _normal_rows(share: float, error: float, confidence: float) -> float:
    from statistics import NormalDist

    quantile = NormalDist().inv_cdf(1 - (1 - confidence) / SEQUENCES)
    return float(quantile**2 * error * (1 - error) / (error - share) ** 2)
