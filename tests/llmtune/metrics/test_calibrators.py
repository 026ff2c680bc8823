"""Calibrators: equal to scikit-learn's and scipy's optimum on fixed arrays, and chosen only where they help."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.optimize import minimize
from sklearn.isotonic import IsotonicRegression

from llmtune.errors import InvalidData
from llmtune.metrics.calibrators import (
    FEWEST_ROWS,
    FOLDS,
    ISOTONIC_ROWS,
    Calibrator,
    assign_parts,
    fit_calibrator,
    fit_isotonic,
    fit_temperature,
    fit_vector_scaling,
    normalise_scores,
)


def draw(
    rows: int, labels: int, seed: int, *, sharpness: float = 1.0, bias: float = 0.0
) -> tuple[np.ndarray, list[int]]:
    """Log-likelihoods, and labels drawn by them; `sharpness` states them surer, `bias` favours the first label."""
    generator = np.random.default_rng(seed)
    logits = generator.normal(size=(rows, labels)) * 1.5
    honest = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    truth = [int(generator.choice(labels, p=row)) for row in honest]
    stated = logits * sharpness
    stated[:, 0] += bias
    return stated, truth


def mean_loss(probabilities: np.ndarray, truth: list[int]) -> float:
    return float(-np.log(probabilities[np.arange(len(truth)), truth]).mean())


def softmax(logits: np.ndarray) -> np.ndarray:
    weights = np.exp(logits - logits.max(axis=1, keepdims=True))
    return weights / weights.sum(axis=1, keepdims=True)


def test_the_temperature_is_that_of_lowest_log_loss() -> None:
    scores, truth = draw(400, 5, 0, sharpness=2.5)
    matrix = normalise_scores(scores.tolist())
    ours = fit_temperature(matrix, np.array(truth), prior=0)
    best = minimize(lambda log_t: mean_loss(softmax(scores / math.exp(log_t[0])), truth), [0.0], tol=1e-12)
    assert ours == pytest.approx(math.exp(best.x[0]), rel=1e-4)
    assert 2.0 < ours < 3.2  # the likelihoods were sharpened by 2.5


def test_the_temperature_is_scikit_learns_where_it_has_one() -> None:
    calibration = pytest.importorskip("sklearn.calibration")
    scaling = getattr(calibration, "_TemperatureScaling", None)
    if scaling is None:
        pytest.skip("this scikit-learn has no temperature scaling")
    scores, truth = draw(300, 4, 1, sharpness=1.8)
    theirs = 1 / scaling().fit(scores, np.array(truth)).beta_
    assert fit_temperature(normalise_scores(scores.tolist()), np.array(truth), prior=0) == pytest.approx(
        theirs, rel=1e-3
    )


def test_a_model_that_is_always_right_is_not_made_sure_without_end() -> None:
    scores = [[0.0, -4.0]] * 40 + [[-4.0, 0.0]] * 40
    calibrator = fit_calibrator(scores, [0] * 40 + [1] * 40).calibrator
    assert 0.2 < calibrator.temperature < 1
    assert max(calibrator.apply([[0.0, -4.0]])[0]) < 1 - 1e-6


def test_vector_scaling_is_the_optimum_of_its_stated_loss() -> None:
    scores, truth = draw(240, 3, 2, sharpness=1.5, bias=1.0)
    matrix = normalise_scores(scores.tolist())
    ours = fit_vector_scaling(matrix, np.array(truth), 3.0, 1.4)

    def loss(values: np.ndarray) -> float:
        probabilities = softmax(matrix * values[:3] + values[3:])
        distance = ((values[:3] - 1 / 1.4) ** 2).sum() + (values[3:] ** 2).sum()
        return mean_loss(probabilities, truth) * len(truth) + 3.0 / 2 * float(distance)

    best = minimize(loss, np.r_[np.full(3, 1 / 1.4), np.zeros(3)], tol=1e-12)
    assert [*ours.scales, *ours.offsets] == pytest.approx(best.x.tolist(), abs=1e-4)


def test_a_strong_ridge_is_the_temperature_alone() -> None:
    scores, truth = draw(240, 3, 3, bias=1.0)
    matrix = normalise_scores(scores.tolist())
    calibrator = fit_vector_scaling(matrix, np.array(truth), 1e9, 2.0)
    plain = Calibrator(temperature=2.0, rows=240)
    assert np.allclose(calibrator.apply(scores.tolist()), plain.apply(scores.tolist()), atol=1e-5)


def test_isotonic_curves_are_scikit_learns() -> None:
    scores, truth = draw(1200, 3, 4, sharpness=2)
    matrix = normalise_scores(scores.tolist())
    calibrator = fit_isotonic(matrix, np.array(truth), 1.0)
    stated = softmax(matrix)
    columns = [
        IsotonicRegression(y_min=1 / 1202, y_max=1 - 1 / 1202, out_of_bounds="clip")
        .fit(stated[:, label], np.array(truth) == label)
        .predict(stated[:, label])
        for label in range(3)
    ]
    expected = np.stack(columns, axis=1)
    expected /= expected.sum(axis=1, keepdims=True)
    assert np.allclose(calibrator.apply(scores.tolist()), expected, atol=1e-6)


def test_temperature_is_kept_unless_another_is_clearly_better() -> None:
    scores, truth = draw(600, 4, 5, sharpness=2)
    assert fit_calibrator(scores.tolist(), truth).calibrator.method == "temperature"
    scores, truth = draw(600, 4, 5, bias=2.0)  # one label is favoured, which no temperature corrects
    fitted = fit_calibrator(scores.tolist(), truth)
    assert fitted.calibrator.method == "vector"
    after = np.array(fitted.calibrator.apply(scores.tolist()))
    assert mean_loss(after, truth) < mean_loss(softmax(scores), truth)


def test_isotonic_regression_is_taken_where_rows_allow_and_a_curve_helps() -> None:
    generator = np.random.default_rng(6)
    stated = generator.uniform(0.02, 0.98, 3000)
    observed = np.where(stated > 0.5, 0.9, 0.1)  # a step, which no temperature makes
    truth = (generator.uniform(size=3000) < observed).astype(int).tolist()
    scores = np.log(np.stack([1 - stated, stated], axis=1)).tolist()
    assert fit_calibrator(scores, truth).calibrator.method == "isotonic"
    assert fit_calibrator(scores[: ISOTONIC_ROWS - 1], truth[: ISOTONIC_ROWS - 1]).calibrator.method != "isotonic"


def test_cross_fitted_probabilities_do_not_know_their_own_row() -> None:
    scores, truth = draw(300, 3, 7)
    fitted = fit_calibrator(scores.tolist(), truth)
    matrix, labels = normalise_scores(scores.tolist()), np.array(truth)
    folds = assign_parts(300, FOLDS)
    assert sorted(np.bincount(folds)) == [60] * 5
    others = folds != folds[0]
    by_hand = softmax(matrix[0:1] / fit_temperature(matrix[others], labels[others]))
    assert fitted.calibrator.method == "temperature"
    assert fitted.cross_fitted[0] == pytest.approx(by_hand[0].tolist())


def test_probabilities_add_up_to_one_and_keep_their_order_by_a_temperature() -> None:
    calibrator = Calibrator(temperature=3.0, rows=50)
    rows = calibrator.apply([[-1.0, -2.0, -500.0], [-math.inf, -math.inf, -math.inf], [-1e4, 0.0, -1e4]])
    assert [sum(row) for row in rows] == pytest.approx([1, 1, 1])
    assert rows[0][0] > rows[0][1] > rows[0][2] > 0
    assert rows[1] == pytest.approx([1 / 3] * 3)
    assert calibrator.apply([]) == []


def test_wrong_rows_are_refused() -> None:
    with pytest.raises(InvalidData, match="it takes 30"):
        fit_calibrator([[0.0, 1.0]] * (FEWEST_ROWS - 1), [0] * (FEWEST_ROWS - 1))
    with pytest.raises(InvalidData, match="none of the 2 labels"):
        fit_calibrator([[0.0, 1.0]] * 40, [2] * 40)
    vector = Calibrator(method="vector", scales=(1.0, 1.0), offsets=(0.0, 0.0), rows=40)
    with pytest.raises(InvalidData, match="for 2 labels"):
        vector.apply([[0.0, 1.0, 2.0]])


def test_a_calibrator_is_read_back_from_json_as_it_was() -> None:
    scores, truth = draw(1100, 3, 8)
    calibrator = fit_isotonic(normalise_scores(scores.tolist()), np.array(truth), 1.3)
    read = Calibrator.model_validate_json(calibrator.model_dump_json())
    assert read == calibrator
    assert read.apply(scores[:5].tolist()) == calibrator.apply(scores[:5].tolist())
