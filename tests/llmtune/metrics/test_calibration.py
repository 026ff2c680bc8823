"""Figures of probabilities: equal to scikit-learn's, to sums done by hand, and to what they estimate, by simulation."""

from __future__ import annotations

import math

import numpy as np
import pytest
from sklearn.metrics import log_loss

from llmtune.errors import InvalidData
from llmtune.metrics.calibration import (
    MOST_BINS,
    assign_bins,
    brier_scores,
    calibration_error_of,
    log_losses,
    measure_calibration,
    to_probabilities,
)


def draw(rows: int, labels: int, seed: int, *, sharpness: float = 1.0) -> tuple[list[list[float]], list[int]]:
    """Probabilities, and true labels drawn by them; a `sharpness` over 1 then states them surer than they are."""
    generator = np.random.default_rng(seed)
    logits = generator.normal(size=(rows, labels)) * 1.5
    honest = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    truth = [int(generator.choice(labels, p=row)) for row in honest]
    stated = honest**sharpness
    return (stated / stated.sum(axis=1, keepdims=True)).tolist(), truth


def error(probabilities: list[list[float]], truth: list[int]) -> float:
    confidences = [max(row) for row in probabilities]
    right = [float(row.index(max(row)) == true) for row, true in zip(probabilities, truth, strict=True)]
    return float(calibration_error_of(confidences, right)(np.arange(len(truth))[None, :])[0])


def test_log_loss_is_scikit_learns() -> None:
    probabilities, truth = draw(300, 4, 0)
    ours = sum(log_losses(probabilities, truth)) / 300
    assert ours == pytest.approx(log_loss(truth, probabilities, labels=range(4)), rel=1e-12)


def test_a_brier_score_by_hand() -> None:
    assert brier_scores([[0.7, 0.2, 0.1], [0.0, 1.0, 0.0]], [0, 2]) == pytest.approx([0.09 + 0.04 + 0.01, 2.0])
    assert log_losses([[0.0, 1.0]], [0]) == [pytest.approx(-math.log(1e-15))]


def test_the_parts_make_up_the_brier_score_where_bins_hold_one_value() -> None:
    # Sixty rows say 0.9, of which 45 are right; sixty say 0.6, of which 36 are right: two labels, two bins each.
    probabilities = [[0.9, 0.1]] * 60 + [[0.6, 0.4]] * 60
    truth = [0] * 45 + [1] * 15 + [0] * 36 + [1] * 24
    calibration = measure_calibration(probabilities, truth)
    score = sum(brier_scores(probabilities, truth)) / 120
    parts = calibration.reliability - calibration.resolution + calibration.uncertainty
    assert parts == pytest.approx(score, abs=1e-12)
    assert calibration.reliability == pytest.approx(2 * (0.5 * 0.15**2 + 0.5 * 0.0**2))
    assert [(group.confidence, group.accuracy, group.rows) for group in calibration.bins] == [
        (pytest.approx(0.6), pytest.approx(0.6), 60),
        (pytest.approx(0.9), pytest.approx(0.75), 60),
    ]
    assert [(point.coverage, point.error) for point in calibration.coverage] == [
        (0.5, pytest.approx(0.25)),
        (1.0, pytest.approx(39 / 120)),
    ]
    assert calibration.coverage_area == pytest.approx(0.5 * 0.25 + 0.5 * 39 / 120)


def test_bins_have_equal_numbers_of_rows_and_equal_values_share_one() -> None:
    bins = assign_bins([number / 900 for number in range(900)])
    assert len(set(bins)) == MOST_BINS
    assert {bins.count(number) for number in set(bins)} == {60}
    assert assign_bins([0.5] * 100) == [0] * 100
    assert set(assign_bins([number / 90 for number in range(90)])) == {0}  # too few rows for two bins


@pytest.mark.slow
def test_the_calibration_error_is_corrected_for_chance() -> None:
    honest = [error(*draw(400, 3, seed)) for seed in range(60)]
    assert sum(honest) / 60 < 0.03  # the plain estimate of so many rows is about 0.05
    too_sure = [error(*draw(400, 3, seed, sharpness=2.0)) for seed in range(20)]
    exact = error(*draw(200_000, 3, 99, sharpness=2.0))  # so many rows that chance plays no part
    assert sum(too_sure) / 20 == pytest.approx(exact, abs=0.015)


def test_a_resample_is_binned_as_all_rows_are() -> None:
    probabilities, truth = draw(200, 3, 5)
    confidences = [max(row) for row in probabilities]
    right = [float(row.index(max(row)) == true) for row, true in zip(probabilities, truth, strict=True)]
    statistic = calibration_error_of(confidences, right)
    both = statistic(np.array([np.arange(200), np.zeros(200, dtype=int)]))
    assert both[0] == pytest.approx(error(probabilities, truth))
    assert both[1] == pytest.approx(abs(confidences[0] - right[0]))


def test_a_curve_of_many_rows_is_thinned_and_ends_at_all_of_them() -> None:
    calibration = measure_calibration(*draw(1000, 5, 2))
    assert len(calibration.coverage) == 100
    assert calibration.coverage[-1].coverage == 1
    assert calibration.coverage[-1].error == pytest.approx(1 - calibration.accuracy)


def test_probabilities_of_likelihoods() -> None:
    assert to_probabilities([math.log(0.2), math.log(0.6)]) == pytest.approx([0.25, 0.75])
    assert to_probabilities([-1e6, -1e6 - 1]) == pytest.approx([1 / (1 + math.exp(-1)), 1 - 1 / (1 + math.exp(-1))])
    assert to_probabilities([-math.inf, -math.inf]) == [0.5, 0.5]


@pytest.mark.parametrize(
    ("probabilities", "truth", "sentence"),
    [
        ([], [], "0 rows"),
        ([[0.5, 0.5]], [0, 1], "cannot be scored"),
        ([[0.5, 0.5]], [2], "number 2 of 2"),
        ([[0.5, 0.5], [1.0]], [0, 0], "row 2 has 1"),
        ([[0.5, 0.1]], [0], "add up to 0.6"),
    ],
)
def test_what_does_not_fit_together_is_refused(
    probabilities: list[list[float]], truth: list[int], sentence: str
) -> None:
    with pytest.raises(InvalidData, match=sentence):
        measure_calibration(probabilities, truth)
