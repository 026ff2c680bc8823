"""Calibrators: they turn how likely a model finds each label into probabilities that can be believed.

A calibrator is fitted on rows of its own, neither trained on nor tested. Which kind is decided there, by the log loss
of rows that the calibrator was not fitted on (five-fold cross-fitting): temperature, unless another is better by more
than one standard error.

Sources: Guo et al. 2017 (arXiv:1706.04599) for temperature and vector scaling; Zadrozny and Elkan 2002 (KDD) for
isotonic regression of each label, divided by their sum.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal

from llmtune._models import DocumentedModel
from llmtune.errors import InvalidData
from llmtune.metrics.calibration import SMALLEST
from llmtune.metrics.points import Number

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    #: A matrix of one row per question and one column per label.
    Matrix = NDArray[np.float64]

#: Kinds of calibrators.
CalibratorMethod = Literal["temperature", "vector", "isotonic"]

#: Fewer rows than this calibrate nothing.
FEWEST_ROWS: Final = 30
#: Isotonic regression follows chance where rows are fewer (scikit-learn's guide says 1,000), or many labels share them.
ISOTONIC_ROWS, ISOTONIC_LABELS = 1000, 20
#: Vector scaling needs so many rows for each label, on average.
VECTOR_ROWS_PER_LABEL = 10
#: Parts of the cross-fitting.
FOLDS = 5
#: Inverse temperatures that are tried: a model whose rows are all right would otherwise be made sure without end.
COLDEST, HOTTEST = 20.0, 0.02
#: Strengths with which vector scaling is drawn to one temperature, in rows.
RIDGES = (3.0, 30.0, 300.0)
#: Newton steps at most; some ten suffice.
STEPS = 100


class IsotonicCurve(DocumentedModel):
    """A rising curve by its corners; between them it is straight, and outside of them level."""

    stated: tuple[Number, ...]
    """Probabilities as the model states them, rising."""

    observed: tuple[Number, ...]
    """What becomes of them."""


class Calibrator(DocumentedModel):
    """Turns log-likelihoods of labels into probabilities. `fit_calibrator` makes one."""

    method: CalibratorMethod = "temperature"
    """One temperature, vector scaling, or isotonic regression."""

    temperature: Number = 1.0
    """Log-likelihoods are divided by it. Above 1 the model was too sure."""

    scales: tuple[Number, ...] = ()
    """Vector scaling: what each label's log-likelihood is multiplied with, instead of the temperature."""

    offsets: tuple[Number, ...] = ()
    """Vector scaling: what is added to each."""

    curves: tuple[IsotonicCurve, ...] = ()
    """Isotonic regression: of each label, after the temperature."""

    rows: int
    """Rows that it was fitted on."""

    @property
    def says(self) -> str:
        """Describe it in some words."""
        if self.method == "vector":
            return "vector scaling"
        return "isotonic regression" if self.method == "isotonic" else f"temperature {self.temperature:.3g}"

    def apply(self, scores: Sequence[Sequence[float]]) -> list[list[float]]:
        """Return the probabilities of the labels of each row, which add up to 1.

        Args:
            scores: log-likelihoods in nats, [rows][labels], in the order of labels of the fit.

        Raises:
            InvalidData: another number of labels than it was fitted on.
        """
        labels = len(self.scales) or len(self.curves)
        if labels and any(len(row) != labels for row in scores):
            raise InvalidData(f"this calibrator is for {labels} labels")
        if not len(scores):
            return []
        probabilities: list[list[float]] = self._apply(normalise_scores(scores)).tolist()
        return probabilities

    def _apply(self, scores: Matrix) -> Matrix:
        import numpy as np

        if self.method == "vector":
            return _softmax(scores * np.asarray(self.scales) + np.asarray(self.offsets))
        probabilities = _softmax(scores / self.temperature)
        if self.method == "temperature":
            return probabilities
        columns = [
            np.interp(probabilities[:, label], curve.stated, curve.observed) for label, curve in enumerate(self.curves)
        ]
        shares = np.stack(columns, axis=1)
        result: Matrix = shares / shares.sum(axis=1, keepdims=True)
        return result


@dataclass(frozen=True)
class FittedCalibrator:
    """A calibrator, and what calibrators of its kind say of each row that were fitted on the other rows."""

    calibrator: Calibrator
    cross_fitted: list[list[float]]
    """Probabilities, [rows][labels]."""


def fit_calibrator(scores: Sequence[Sequence[float]], truth: Sequence[int]) -> FittedCalibrator:
    """Fit the calibrator that cross-fitting finds best.

    Args:
        scores: log-likelihoods in nats, [rows][labels].
        truth: the true label of each row, as an index.

    Raises:
        InvalidData: fewer than 30 rows, or rows and labels that do not belong together.
    """
    import numpy as np

    if len(scores) < FEWEST_ROWS or len(scores) != len(truth):
        raise InvalidData(f"{len(scores)} rows with {len(truth)} labels calibrate nothing: it takes {FEWEST_ROWS}")
    matrix, labels = normalise_scores(scores), np.asarray(truth, dtype=np.intp)
    if labels.min() < 0 or labels.max() >= matrix.shape[1]:
        raise InvalidData(f"a true label is none of the {matrix.shape[1]} labels")
    candidates = _list_candidates(*matrix.shape)
    crossed = _cross_fit(candidates, matrix, labels)
    losses = {candidate: _row_losses(probabilities, labels) for candidate, probabilities in crossed.items()}
    plain = candidates[0]
    best = plain
    for candidate in candidates[1:]:
        gain = losses[plain] - losses[candidate]
        certain = gain.mean() > gain.std(ddof=1) / math.sqrt(len(gain))
        if certain and losses[candidate].mean() < losses[best].mean():
            best = candidate
    calibrator = _fit(best, matrix, labels, fit_temperature(matrix, labels))
    return FittedCalibrator(calibrator, crossed[best].tolist())


def fit_temperature(scores: Matrix, truth: NDArray[np.intp], *, prior: float = 1.0) -> float:
    """Return the temperature of lowest log loss.

    `prior` weighs a preference for 1, as if the temperature's logarithm were normally distributed around 0, with
    variance 1/prior: it matters only where rows are few or all right. 0 has none.
    """
    import numpy as np

    true_scores = scores[np.arange(len(truth)), truth]
    low, high, inverse = HOTTEST, COLDEST, 1.0
    for _ in range(STEPS):
        probabilities = _softmax(scores * inverse)
        means = (probabilities * scores).sum(axis=1)
        slope = float((means - true_scores).sum()) + prior * math.log(inverse) / inverse
        spread = float(((probabilities * scores**2).sum(axis=1) - means**2).sum())
        curvature = spread + prior * (1 - math.log(inverse)) / inverse**2
        low, high = (low, inverse) if slope > 0 else (inverse, high)
        step = inverse - slope / curvature if curvature > 0 else math.nan
        following = step if low < step < high else math.sqrt(low * high)
        if abs(following - inverse) < 1e-10 * inverse:
            break
        inverse = following
    return 1 / inverse


def fit_vector_scaling(scores: Matrix, truth: NDArray[np.intp], ridge: float, temperature: float) -> Calibrator:
    """Fit a scale and an offset for each label, drawn to one temperature as strongly as `ridge` says.

    The sum over rows of the log loss, plus ridge/2 times the squared distances of the scales from 1/temperature and of
    the offsets from 0, is lowest. It is convex; Newton's method with halved steps finds it.
    """
    import numpy as np

    labels = scores.shape[1]
    target = np.zeros_like(scores)
    target[np.arange(len(truth)), truth] = 1.0
    centre = np.concatenate([np.full(labels, 1 / temperature), np.zeros(labels)])

    def loss(values: NDArray[np.float64]) -> float:
        logits = scores * values[:labels] + values[labels:]
        highest = logits.max(axis=1, keepdims=True)
        log_sums = np.log(np.exp(logits - highest).sum(axis=1)) + highest[:, 0]
        rows = log_sums - logits[np.arange(len(truth)), truth]
        return float(rows.sum() + ridge / 2 * ((values - centre) ** 2).sum())

    values = centre
    lowest = loss(values)
    for _ in range(STEPS):
        probabilities = _softmax(scores * values[:labels] + values[labels:])
        residual = probabilities - target
        gradient = np.concatenate([(scores * residual).sum(axis=0), residual.sum(axis=0)]) + ridge * (values - centre)
        weighted = scores * probabilities
        corner = np.diag(weighted.sum(axis=0)) - weighted.T @ probabilities
        hessian = np.block(
            [
                [np.diag((scores * weighted).sum(axis=0)) - weighted.T @ weighted, corner],
                [corner.T, np.diag(probabilities.sum(axis=0)) - probabilities.T @ probabilities],
            ]
        ) + ridge * np.eye(2 * labels)
        step = np.linalg.solve(hessian, gradient)
        size = 1.0
        while size > 1e-6 and loss(values - size * step) > lowest:
            size /= 2
        following = values - size * step
        reached = loss(following)
        if not reached < lowest - 1e-7 * max(1.0, lowest):
            break
        values, lowest = following, reached
    return Calibrator(
        method="vector",
        temperature=temperature,
        scales=tuple(values[:labels].tolist()),
        offsets=tuple(values[labels:].tolist()),
        rows=len(truth),
    )


def fit_isotonic(scores: Matrix, truth: NDArray[np.intp], temperature: float) -> Calibrator:
    """Fit scikit-learn's isotonic regression to each label's probability after the temperature."""
    import numpy as np
    from sklearn.isotonic import IsotonicRegression

    probabilities = _softmax(scores / temperature)
    # 0 and 1 would be certainty, which so many rows cannot give.
    least = 1 / (len(truth) + 2)
    curves = []
    for label in range(scores.shape[1]):
        regression: Any = IsotonicRegression(y_min=least, y_max=1 - least, out_of_bounds="clip")
        regression.fit(probabilities[:, label], np.asarray(truth == label, dtype=float))
        stated, observed = regression.X_thresholds_.tolist(), regression.y_thresholds_.tolist()
        curves.append(IsotonicCurve(stated=tuple(stated), observed=tuple(observed)))
    return Calibrator(method="isotonic", temperature=temperature, curves=tuple(curves), rows=len(truth))


def assign_parts(rows: int, parts: int) -> NDArray[np.intp]:
    """Assign rows to equal parts at random, the same each time: rows in a file may have an order, or a rhythm."""
    import numpy as np

    return np.random.default_rng(0).permutation(rows) % parts


def normalise_scores(scores: Sequence[Sequence[float]]) -> Matrix:
    """Return log-likelihoods as logarithms of shares, none of them below that of the smallest probability.

    A row in which no label is finite is all alike.
    """
    import numpy as np

    matrix = np.asarray(scores, dtype=np.float64)
    if matrix.ndim != 2 or not matrix.shape[1]:
        raise InvalidData("log-likelihoods are one row for each question, with one number for each label")
    matrix = np.nan_to_num(matrix, nan=-np.inf, posinf=np.finfo(np.float64).max, neginf=-np.inf)
    highest = matrix.max(axis=1, keepdims=True)
    matrix = np.where(np.isfinite(highest), matrix - np.where(np.isfinite(highest), highest, 0), 0.0)
    matrix = matrix - np.log(np.exp(matrix).sum(axis=1, keepdims=True))
    result: Matrix = np.maximum(matrix, math.log(SMALLEST))
    return result


#: A kind of calibrator and, of vector scaling, its ridge.
_Candidate = tuple[CalibratorMethod, float]


def _list_candidates(rows: int, labels: int) -> list[_Candidate]:
    candidates: list[_Candidate] = [("temperature", 0.0)]
    if rows >= VECTOR_ROWS_PER_LABEL * labels:
        candidates += [("vector", ridge) for ridge in RIDGES]
    if rows >= ISOTONIC_ROWS and labels <= ISOTONIC_LABELS:
        candidates.append(("isotonic", 0.0))
    return candidates


def _fit(candidate: _Candidate, scores: Matrix, truth: NDArray[np.intp], temperature: float) -> Calibrator:
    method, ridge = candidate
    if method == "vector":
        return fit_vector_scaling(scores, truth, ridge, temperature)
    if method == "isotonic":
        return fit_isotonic(scores, truth, temperature)
    return Calibrator(temperature=temperature, rows=len(truth))


def _cross_fit(candidates: Sequence[_Candidate], scores: Matrix, truth: NDArray[np.intp]) -> dict[_Candidate, Matrix]:
    """Return the probabilities of each row by calibrators that were fitted on the other four fifths."""
    import numpy as np

    fold = assign_parts(len(truth), FOLDS)
    crossed = {candidate: np.empty_like(scores) for candidate in candidates}
    for number in range(FOLDS):
        inside = fold == number
        temperature = fit_temperature(scores[~inside], truth[~inside])
        for candidate, probabilities in crossed.items():
            fitted = _fit(candidate, scores[~inside], truth[~inside], temperature)
            probabilities[inside] = fitted._apply(scores[inside])
    return crossed


def _row_losses(probabilities: Matrix, truth: NDArray[np.intp]) -> NDArray[np.float64]:
    import numpy as np

    losses: NDArray[np.float64] = -np.log(np.maximum(probabilities[np.arange(len(truth)), truth], SMALLEST))
    return losses


def _softmax(logits: Matrix) -> Matrix:
    import numpy as np

    weights = np.exp(logits - logits.max(axis=1, keepdims=True))
    probabilities: Matrix = weights / weights.sum(axis=1, keepdims=True)
    return probabilities
