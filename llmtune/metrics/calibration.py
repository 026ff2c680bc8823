"""Calibration: is a model that says "90 % sure" right nine times in ten, and what does abstaining buy?

Everything here is about probabilities over a fixed set of labels, one row of them for each question. The confidence of
an answer is the probability of its likeliest label.

Sources: Guo et al. 2017 (arXiv:1706.04599) for the expected calibration error; Kumar, Liang and Ma 2019
(arXiv:1909.10155) for bins of equal mass and the correction of its bias; Brier 1950 (Mon. Weather Rev. 78:1) and Murphy
1973 (J. Appl. Meteor. 12:595) for the score and its parts; Geifman and El-Yaniv 2017 (arXiv:1705.08500) for
risk-coverage curves.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from llmtune._models import DocumentedModel
from llmtune.errors import InvalidData
from llmtune.metrics.points import Number

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from llmtune.metrics.intervals import Statistic

#: Bins of a reliability diagram, and the fewest rows of one: fewer would show chance alone.
MOST_BINS, FEWEST_IN_BIN = 15, 50
#: Points of a stored risk-coverage curve.
MOST_POINTS = 100
#: A probability of 0 for the true label is read as this, so that one row does not make a loss infinite.
SMALLEST = 1e-15


class ReliabilityBin(DocumentedModel):
    """Rows of similar confidence: how sure the model was, and how often it was right."""

    confidence: Number
    """Mean confidence, 0..1."""

    accuracy: Number
    """Share of these rows whose likeliest label is the true one."""

    rows: int
    """Number of rows in the group."""


class CoveragePoint(DocumentedModel):
    """What remains when every answer below a confidence is withheld."""

    confidence: Number
    """The lowest confidence that is still answered."""

    coverage: Number
    """Share of rows that are answered."""

    error: Number
    """Share of wrong answers among them."""


class Calibration(DocumentedModel):
    """How far the probabilities of one system can be believed, on the evaluated rows."""

    confidence: Number
    """Mean confidence over all rows, 0..1."""

    accuracy: Number
    """Share of rows whose likeliest label is the true one."""

    reliability: Number
    """Part of the Brier score: squared distance of probabilities from frequencies; 0 is perfectly calibrated."""

    resolution: Number
    """Part of the Brier score, subtracted: how far the frequencies of the bins lie from the overall one."""

    uncertainty: Number
    """Part of the Brier score that the labels' frequencies alone make, whatever the model."""

    bins: tuple[ReliabilityBin, ...]
    """Of equal numbers of rows, by rising confidence."""

    coverage: tuple[CoveragePoint, ...]
    """The risk-coverage curve, from the surest rows to all of them."""

    coverage_area: Number
    """Area under that curve: the mean error over all coverages. Lower is better."""


def to_probabilities(log_likelihoods: Sequence[float]) -> list[float]:
    """Normalise log-likelihoods to probabilities that sum to 1; all alike where none of them is finite."""
    highest = max(log_likelihoods)
    weights = [math.exp(value - highest) if math.isfinite(highest) else 1.0 for value in log_likelihoods]
    total = sum(weights)
    return [weight / total for weight in weights]


def brier_scores(probabilities: Sequence[Sequence[float]], truth: Sequence[int]) -> list[float]:
    """Return the Brier score of each row: squared distance of its probabilities from 1 for the true label, 0 else.

    0 is best, 2 is worst: sure of a wrong label. With two labels it is twice the score of the binary definition.
    """
    check_probabilities(probabilities, truth)
    return [
        sum((value - (label == true)) ** 2 for label, value in enumerate(row))
        for row, true in zip(probabilities, truth, strict=True)
    ]


def log_losses(probabilities: Sequence[Sequence[float]], truth: Sequence[int]) -> list[float]:
    """Return minus the logarithm of the true label's probability, for each row, in nats."""
    check_probabilities(probabilities, truth)
    return [-math.log(min(1.0, max(SMALLEST, row[true]))) for row, true in zip(probabilities, truth, strict=True)]


def assign_bins(values: Sequence[float]) -> list[int]:
    """Assign each value to one of at most 15 bins with equal numbers of rows, at least 50 each; equal values share one.

    Returns the bin of each value, from 0 for the lowest.
    """
    count = max(1, min(MOST_BINS, len(values) // FEWEST_IN_BIN))
    order = sorted(range(len(values)), key=values.__getitem__)
    bins = [0] * len(values)
    used = -1
    last_share, last_value = -1, math.nan
    for rank, index in enumerate(order):
        share = rank * count // len(values)
        if share != last_share and values[index] != last_value:
            used, last_share = used + 1, share
        bins[index], last_value = used, values[index]
    return bins


def calibration_error_of(confidences: Sequence[float], right: Sequence[float]) -> Statistic:
    """Return the statistic "expected calibration error" (ECE), over bins of equal mass, corrected for its bias.

    The plain estimate is too high: even perfect probabilities meet frequencies that differ by chance. What chance
    alone would add to the difference that was seen in each bin (the mean of a folded normal distribution, less that
    difference) is taken off, down to 0 in all; of perfect probabilities a bit more than half of the bias remains. The
    bins are those of all rows; a resample does not move them.

    Args:
        confidences: probability of each row's likeliest label, 0..1.
        right: 1 where that label is the true one, else 0.
    """
    import numpy as np

    _check_confidences(confidences, right)
    sure, hits = np.asarray(confidences, dtype=np.float64), np.asarray(right, dtype=np.float64)
    bins = np.asarray(assign_bins(confidences), dtype=np.intp)
    columns = int(bins.max()) + 1

    def statistic(rows: NDArray[np.intp]) -> NDArray[np.float64]:
        flat = (np.arange(len(rows))[:, None] * columns + bins[rows]).ravel()

        def total(values: NDArray[np.float64] | None) -> NDArray[np.float64]:
            weights = None if values is None else values[rows].ravel()
            summed = np.bincount(flat, weights=weights, minlength=len(rows) * columns)
            return summed.reshape(len(rows), columns).astype(np.float64)

        counts = total(None)
        filled = np.maximum(counts, 1)
        accuracy = total(hits) / filled
        distance = np.abs(total(sure) / filled - accuracy)
        deviation = np.sqrt(accuracy * (1 - accuracy) / filled)
        corrected = 2 * distance - _folded_normal_mean(distance, deviation)
        error: NDArray[np.float64] = (counts * corrected).sum(axis=1) / counts.sum(axis=1)
        return np.maximum(error, 0.0)

    return statistic


def measure_calibration(probabilities: Sequence[Sequence[float]], truth: Sequence[int]) -> Calibration:
    """Compute the reliability diagram, the risk-coverage curve and the parts of the Brier score.

    Raises:
        InvalidData: no rows, unequal numbers of rows or labels, or a true label without a probability.
    """
    check_probabilities(probabilities, truth)
    confidences = [max(row) for row in probabilities]
    right = [float(row.index(max(row)) == true) for row, true in zip(probabilities, truth, strict=True)]
    reliability, resolution, uncertainty = _brier_parts(probabilities, truth)
    curve, area = _coverage_curve(confidences, right)
    return Calibration(
        confidence=sum(confidences) / len(confidences),
        accuracy=sum(right) / len(right),
        reliability=reliability,
        resolution=resolution,
        uncertainty=uncertainty,
        bins=tuple(
            ReliabilityBin(
                confidence=sum(confidences[row] for row in rows) / len(rows),
                accuracy=sum(right[row] for row in rows) / len(rows),
                rows=len(rows),
            )
            for rows in _rows_by_bin(confidences)
        ),
        coverage=tuple(curve),
        coverage_area=area,
    )


def check_probabilities(probabilities: Sequence[Sequence[float]], truth: Sequence[int]) -> None:
    """Raise `InvalidData` where probabilities and true labels do not belong together."""
    if not probabilities or len(probabilities) != len(truth):
        raise InvalidData(f"probabilities of {len(probabilities)} rows cannot be scored by {len(truth)} true labels")
    labels = len(probabilities[0])
    for number, (row, true) in enumerate(zip(probabilities, truth, strict=True), 1):
        if len(row) != labels or not 0 <= true < labels:
            raise InvalidData(f"row {number} has {len(row)} probabilities; its true label is number {true} of {labels}")
        if abs(sum(row) - 1) > 1e-3 or min(row) < 0:
            raise InvalidData(f"the probabilities of row {number} are not shares of 1: they add up to {sum(row):.4g}")


def _check_confidences(confidences: Sequence[float], right: Sequence[float]) -> None:
    if not confidences or len(confidences) != len(right):
        raise InvalidData(f"{len(confidences)} confidences do not belong to {len(right)} answers")


def _folded_normal_mean(mean: NDArray[np.float64], deviation: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the mean of |X| for a normally distributed X."""
    import numpy as np

    spread = np.where(deviation > 0, deviation, 1.0)
    ratio = mean / spread
    error_function = np.vectorize(math.erf, otypes=[np.float64])
    folded = spread * math.sqrt(2 / math.pi) * np.exp(-(ratio**2) / 2) + mean * error_function(ratio / math.sqrt(2))
    result: NDArray[np.float64] = np.where(deviation > 0, folded, mean)
    return result


def _rows_by_bin(values: Sequence[float]) -> list[list[int]]:
    bins = assign_bins(values)
    rows: list[list[int]] = [[] for _ in range(max(bins) + 1)]
    for row, number in enumerate(bins):
        rows[number].append(row)
    return rows


def _brier_parts(probabilities: Sequence[Sequence[float]], truth: Sequence[int]) -> tuple[float, float, float]:
    """Return (reliability, resolution, uncertainty): each label is one event, with bins of its own, and all are added.

    The score is reliability - resolution + uncertainty, but for what probabilities vary within a bin.
    """
    total = len(truth)
    reliability = resolution = uncertainty = 0.0
    for label in range(len(probabilities[0])):
        column = [row[label] for row in probabilities]
        overall = sum(true == label for true in truth) / total
        uncertainty += overall * (1 - overall)
        for rows in _rows_by_bin(column):
            weight = len(rows) / total
            frequency = sum(truth[row] == label for row in rows) / len(rows)
            reliability += weight * (sum(column[row] for row in rows) / len(rows) - frequency) ** 2
            resolution += weight * (frequency - overall) ** 2
    return reliability, resolution, uncertainty


def _coverage_curve(confidences: Sequence[float], right: Sequence[float]) -> tuple[list[CoveragePoint], float]:
    """Return points of the curve and the area under all of it. Rows of equal confidence are answered together."""
    total = len(confidences)
    order = sorted(range(total), key=lambda row: -confidences[row])
    points: list[CoveragePoint] = []
    wrong = area = 0.0
    start = 0
    while start < total:
        end = start
        while end < total and confidences[order[end]] == confidences[order[start]]:
            wrong += 1 - right[order[end]]
            end += 1
        points.append(CoveragePoint(confidence=confidences[order[start]], coverage=end / total, error=wrong / end))
        area += (end - start) / total * wrong / end
        start = end
    if len(points) > MOST_POINTS:
        indices = (round(number * (len(points) - 1) / (MOST_POINTS - 1)) for number in range(MOST_POINTS))
        points = [points[index] for index in indices]
    return points, area
