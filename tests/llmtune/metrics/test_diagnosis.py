"""Fit: the textbook cases, curves that turn, curves that still fall, curves that break, and spikes with their step."""

from __future__ import annotations

import csv
import math
from pathlib import Path

import numpy as np
import pytest

from llmtune.metrics.diagnosis import Diagnosis, diagnose, find_spikes
from llmtune.metrics.points import MetricPoint, NotReported, Series


def curve(name: str, values: list[float], every: int = 1) -> Series:
    points = (MetricPoint(step=(i + 1) * every, series=name, value=v) for i, v in enumerate(values))
    return Series(name=name, points=tuple(points))


@pytest.mark.parametrize(
    ("train", "validation", "test", "verdict"),
    [
        (0.60, 0.58, 0.59, "underfit"),
        (0.90, 0.88, 0.90, "good fit"),
        (0.98, 0.75, 0.74, "overfit"),
        (0.98, None, 0.74, "overfit"),
        (0.98, 0.75, None, "overfit"),
        (0.60, 0.30, 0.31, "overfit"),
    ],
)
def test_textbook_cases(train: float, validation: float | None, test: float | None, verdict: str) -> None:
    diagnosis = diagnose(train=train, validation=validation, test=test)
    assert diagnosis.verdict == verdict
    assert f"train {train:.1%}" in diagnosis.sentence
    assert bool(diagnosis.advice) == (verdict != "good fit")


def test_the_textbook_cases_hold_with_a_few_hundred_rows() -> None:
    rows = {"train": 200, "validation": 200, "test": 300}
    assert diagnose(train=0.60, validation=0.58, test=0.59, rows=rows).verdict == "underfit"
    assert diagnose(train=0.90, validation=0.88, test=0.90, rows=rows).verdict == "good fit"
    assert diagnose(train=0.98, validation=0.75, test=0.74, rows=rows).verdict == "overfit"


def test_a_gap_that_few_rows_could_show_by_chance_is_no_overfitting() -> None:
    few = {"train": 15, "test": 15}
    diagnosis = diagnose(train=0.93, test=0.80, rows=few)
    assert diagnosis.verdict == "good fit"
    assert "could be chance" in diagnosis.sentence
    assert diagnose(train=0.93, test=0.80, rows={"train": 1000, "test": 1000}).verdict == "overfit"


def test_no_better_than_the_most_frequent_answer_is_underfit_however_high() -> None:
    diagnosis = diagnose(train=0.91, test=0.90, majority=0.90)
    assert diagnosis.verdict == "underfit"
    assert "90.0%" in diagnosis.sentence
    assert diagnose(train=0.99, test=0.98, majority=0.90).verdict == "good fit"


def test_rows_that_are_all_answered_right_ask_for_no_more_training() -> None:
    falling = {"validation/loss": curve("validation/loss", [2.0, 1.7, 1.4, 1.2, 1.0, 0.85, 0.7, 0.58])}
    for scores in ({"test": 1.0}, {"validation": 0.99, "test": 0.99}, {"train": 1.0, "test": 1.0}):
        diagnosis = diagnose(**scores, series=falling)
        assert diagnosis.verdict == "good fit", scores
        assert diagnosis.advice == ()
        assert "still falling" in diagnosis.evidence[0]
    assert diagnose(test=0.9, series=falling).verdict == "underfit"
    assert diagnose(test=0.99, majority=0.99, series=falling).verdict == "underfit", "nothing but the usual answer"


def test_validation_loss_that_turns_is_overfit_and_names_the_step() -> None:
    train = curve("train/loss", list(np.linspace(2.0, 0.1, 40)), every=5)
    validation = curve("validation/loss", [1.5, 1.0, 0.8, 0.7, 0.8, 0.95, 1.1, 1.3], every=25)
    diagnosis = diagnose(series={"train/loss": train, "validation/loss": validation})
    assert diagnosis.verdict == "overfit"
    assert "lowest at step 100 (0.7)" in diagnosis.sentence
    assert "1.3 at step 200" in diagnosis.sentence
    assert "training loss fell" in diagnosis.sentence
    assert any("early_stopping_patience" in advice for advice in diagnosis.advice)


def test_validation_loss_that_still_falls_is_underfit() -> None:
    validation = curve("validation/loss", [2.0, 1.7, 1.4, 1.2, 1.0, 0.85, 0.7, 0.58])
    diagnosis = diagnose(series={"validation/loss": validation})
    assert diagnosis.verdict == "underfit"
    assert "still falling" in diagnosis.sentence


def test_validation_loss_that_levels_off_is_a_good_fit() -> None:
    validation = curve("validation/loss", [2.0, 1.0, 0.7, 0.61, 0.6, 0.595, 0.598, 0.6])
    assert diagnose(series={"validation/loss": validation}).verdict == "good fit"


# --- curves of known truth -------------------------------------------------------------------------------------------
def _falling(steps: np.ndarray) -> np.ndarray:
    return 3.0 - 2.2 * steps  # a straight line down: far from its floor at the end


def _exponential(steps: np.ndarray) -> np.ndarray:
    return 0.5 + 2.0 * np.exp(-1.5 * steps)


def _flat(steps: np.ndarray) -> np.ndarray:
    return 0.8 + 1.5 * np.exp(-12 * steps)


def _rising(steps: np.ndarray) -> np.ndarray:
    return 0.6 + 1.2 * np.exp(-10 * steps) + 0.9 * np.clip(steps - 0.3, 0, None)


SHAPES = {
    "falling": (_falling, "underfit"),
    "exponential": (_exponential, "underfit"),
    "flat": (_flat, "good fit"),
    "rising": (_rising, "overfit"),
}


def shaped(shape: str, points: int, noise: float, seed: int, name: str = "validation/loss") -> Series:
    """Make a curve of a known shape: `points` values, each with relative noise of `noise`."""
    generator = np.random.default_rng(seed)
    steps = np.linspace(1 / points, 1, points)
    values = SHAPES[shape][0](steps) * generator.lognormal(0, noise, points)
    return curve(name, [float(value) for value in values], every=10)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("points", [6, 8, 12, 20, 50, 200])
def test_a_clean_curve_is_judged_by_its_shape(shape: str, points: int) -> None:
    diagnosis = diagnose(series={"validation/loss": shaped(shape, points, 0.0, 0)})
    assert diagnosis.verdict == SHAPES[shape][1], diagnosis.sentence
    assert f"({points} points)" in diagnosis.sentence


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(("points", "noise"), [(20, 0.01), (50, 0.03), (200, 0.05), (400, 0.15)])
def test_a_noisy_curve_is_judged_by_its_shape_in_nineteen_cases_of_twenty(
    shape: str, points: int, noise: float
) -> None:
    verdicts = [diagnose(series={"validation/loss": shaped(shape, points, noise, seed)}).verdict for seed in range(100)]
    assert verdicts.count(SHAPES[shape][1]) >= 95, verdicts


@pytest.mark.parametrize("shape", ["falling", "rising"])
def test_a_sparse_full_validation_loss_does_not_hide_what_the_dense_one_shows(shape: str) -> None:
    series = {
        "train/loss": shaped("falling", 60, 0.05, 1, "train/loss"),
        "validation/loss": shaped(shape, 24, 0.01, 2),
        "validation/full_loss": curve("validation/full_loss", [1.0, 0.99, 0.99], every=80),
    }
    diagnosis = diagnose(series=series)
    assert diagnosis.verdict == SHAPES[shape][1]
    assert "validation loss (24 points)" in diagnosis.sentence
    assert "levelled off" not in diagnosis.sentence


@pytest.mark.parametrize("values", [[0.9], [0.9, 0.7], [0.9, 0.8, 0.79], [0.9, 0.8, 0.79, 0.785]])
def test_a_few_points_are_not_said_to_have_levelled_off(values: list[float]) -> None:
    diagnosis = diagnose(series={"validation/loss": curve("validation/loss", values)})
    assert diagnosis.verdict == "unclear"
    assert diagnosis.advice


def test_a_diverged_curve_is_diverged_whatever_its_noise() -> None:
    for seed in range(20):
        generator = np.random.default_rng(seed)
        values = (1.0 + 3.0 * np.linspace(0, 1, 60) ** 2) * generator.lognormal(0, 0.1, 60)
        train = curve("train/loss", [float(value) for value in values])
        assert diagnose(series={"train/loss": train}).verdict == "diverged"


# --- one verdict -----------------------------------------------------------------------------------------------------
VERDICT_WORDS = ("Underfit", "Overfit", "Good fit", "Diverged")


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(("train", "test"), [(0.6, 0.59), (0.9, 0.89), (0.98, 0.7)])
def test_there_is_one_verdict_and_its_advice_goes_with_the_curve(shape: str, train: float, test: float) -> None:
    diagnosis = diagnose(train=train, test=test, series={"validation/loss": shaped(shape, 20, 0.01, 3)})
    lines = (diagnosis.sentence, *diagnosis.evidence)
    assert sum(verdict in line for line in lines for verdict in VERDICT_WORDS) == 1
    longer = [line for line in diagnosis.advice if line.startswith("train longer")]
    earlier = [line for line in diagnosis.advice if line.startswith("stop earlier")]
    if SHAPES[shape][1] == "overfit":
        assert not longer
    if SHAPES[shape][1] == "underfit":
        assert not earlier
        assert diagnosis.verdict == "overfit" or longer
    assert not (longer and earlier)


def test_the_full_validation_loss_is_preferred() -> None:
    sampled = curve("validation/loss", [1.0, 0.5, 0.9, 0.4, 1.2])
    full = curve("validation/full_loss", [1.0, 0.6, 0.55, 0.549, 0.548])
    assert diagnose(series={"validation/loss": sampled, "validation/full_loss": full}).verdict == "good fit"


def test_scores_decide_and_curves_stand_beside() -> None:
    turned = curve("validation/loss", [1.5, 0.7, 0.8, 1.0, 1.2])
    diagnosis = diagnose(train=0.92, test=0.91, series={"validation/loss": turned})
    assert diagnosis.verdict == "good fit"
    assert any("lowest at step 2" in line for line in diagnosis.evidence)


def test_a_loss_that_is_no_number_has_diverged_and_names_the_step() -> None:
    train = curve("train/loss", [2.0, 1.5, 1.2, math.nan, math.nan])
    diagnosis = diagnose(train=0.5, test=0.5, series={"train/loss": train})
    assert diagnosis.verdict == "diverged"
    assert "since step 4" in diagnosis.sentence
    assert [spike.step for spike in diagnosis.spikes] == [4, 5]
    assert Diagnosis.model_validate_json(diagnosis.model_dump_json()).verdict == "diverged"


def test_a_rising_training_loss_has_diverged() -> None:
    train = curve("train/loss", [1.0, 1.1, 1.3, 2.0, 3.5, 5.0, 7.0, 8.0, 8.5, 9.0])
    assert diagnose(series={"train/loss": train}).verdict == "diverged"


def test_what_is_not_reported_leaves_it_unclear() -> None:
    diagnosis = diagnose(series={"train/loss": NotReported("the service shows no curves")})
    assert diagnosis.verdict == "unclear"
    assert diagnosis.advice
    assert diagnose().verdict == "unclear"
    assert diagnose(test=0.9).verdict == "unclear"


def noisy(seed: int, steps: int = 400) -> list[float]:
    generator = np.random.default_rng(seed)
    trend = 0.4 + 2.0 * np.exp(-np.arange(steps) / 60)
    return list(trend * generator.lognormal(0, 0.15, steps))


def test_spikes_are_found_with_their_step() -> None:
    values = noisy(1)
    values[150] = 4.0
    values[300] = 6.0
    spikes = find_spikes(curve("train/loss", values))
    assert [spike.step for spike in spikes] == [151, 301]
    assert spikes[1].sentence().startswith("train/loss jumped to 6 at step 301 (before: 0.")


def test_ordinary_noise_is_no_spike() -> None:
    assert sum(len(find_spikes(curve("train/loss", noisy(seed)))) for seed in range(20)) <= 2


def test_a_level_change_is_one_spike_at_its_first_step() -> None:
    values = [0.5 + 0.01 * (i % 3) for i in range(50)] + [2.0 + 0.01 * (i % 3) for i in range(50)]
    spikes = find_spikes(curve("train/loss", values))
    assert [(spike.step, spike.value) for spike in spikes] == [(51, 2.02)]


def test_a_curve_that_jumps_all_the_time_has_no_spikes() -> None:
    values = [4.0 if i % 7 == 3 else 0.1 + 0.001 * (i % 5) for i in range(300)]
    assert find_spikes(curve("train/loss", values)) == []


def test_a_flat_curve_has_none_and_short_ones_neither() -> None:
    assert find_spikes(curve("train/loss", [0.5] * 50)) == []
    assert find_spikes(curve("train/loss", [0.1, 9.0])) == []


def test_the_largest_are_kept() -> None:
    values = [0.5 + 0.001 * (i % 5) for i in range(600)]
    for step, height in zip(range(20, 600, 60), range(2, 12), strict=True):
        values[step] = float(height)
    spikes = find_spikes(curve("train/loss", values), limit=3)
    assert len(spikes) == 3
    assert [spike.value for spike in spikes] == sorted(values)[-3:]


def test_a_real_curve_of_a_hosted_run(shared: Path) -> None:
    """1,500 steps of a published result file, batch by batch: noisy, and nothing diverged."""
    with (shared / "data" / "results" / "openai" / "step_metrics_issueclass_2023.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    points = tuple(
        MetricPoint(step=int(row["step"]), series="train/loss", value=float(row["train_loss"]), source="vendor_file")
        for row in rows
        if row["train_loss"]
    )
    diagnosis = diagnose(series={"train/loss": Series(name="train/loss", points=points)})
    assert len(points) >= 1490
    assert diagnosis.verdict != "diverged"
    assert diagnosis.spikes == ()  # three rows a step: it jumps at one step in ten


def test_two_full_validation_losses_are_too_few_when_there_is_a_longer_curve() -> None:
    def curve(name: str, *values: float) -> Series:
        return Series(
            name=name, points=tuple(MetricPoint(step=10 * n, series=name, value=v) for n, v in enumerate(values))
        )

    falling = (2.0, 1.5, 1.2, 1.0, 0.9, 0.85)
    series = {
        "train/loss": curve("train/loss", *falling),
        "validation/loss": curve("validation/loss", *falling),
        "validation/full_loss": curve("validation/full_loss", 1.2, 0.9),
    }
    assert (
        diagnose(series=series).verdict
        == diagnose(series={k: series[k] for k in ("train/loss", "validation/loss")}).verdict
    )
    assert "no validation loss" not in diagnose(series=series).sentence
