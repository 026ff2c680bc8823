"""How many rows a difference takes: against the textbook, and against what was just not enough."""

from __future__ import annotations

import numpy as np
import pytest

from llmtune.metrics.comparison import compare_means, fewest_rows, rows_needed, rows_to_settle, smallest_difference


@pytest.mark.parametrize(
    ("size", "discordant", "rows"),
    # Connor 1987: n = (1.96 sqrt(d) + 0.8416 sqrt(d - size^2))^2 / size^2, worked by hand.
    [(0.10, 0.25, 194), (0.05, 0.25, 783), (0.20, 0.30, 57)],
)
def test_the_rows_of_a_paired_difference_are_the_textbooks(size: float, discordant: float, rows: int) -> None:
    assert rows_needed(size, discordant=discordant) == pytest.approx(rows, abs=2)


def test_the_smallest_difference_is_the_inverse() -> None:
    for rows in (40, 100, 400, 1000):
        size = smallest_difference(rows)
        assert rows_needed(size) <= rows
        assert rows_needed(size - 0.002) > rows
    assert smallest_difference(1) == 1.0


@pytest.mark.parametrize("rows", [6, 7, 10, 15, 25])
def test_few_rows_show_what_they_promise_by_mcnemars_exact_test(rows: int) -> None:
    size, generator = smallest_difference(rows), np.random.default_rng(11)
    # Every row that only one of the two gets right is for one side: the easiest case there is.
    only_b = generator.binomial(rows, size, size=20_000)
    power = np.mean(2.0 ** (1 - only_b) <= 0.05)
    assert power >= 0.78
    assert fewest_rows() == 6


def test_what_one_row_showed_takes_as_many_as_the_exact_test_needs() -> None:
    assert rows_to_settle(compare_means([0.0], [1.0], metric="accuracy", resamples=200)) == 6


def test_what_was_not_enough_needs_more_and_equal_models_are_never_told_apart() -> None:
    a = [1.0] * 30 + [0.0] * 10
    b = [1.0] * 34 + [0.0] * 6
    comparison = compare_means(a, b, metric="accuracy", resamples=400)
    assert comparison.verdict == "not separable"
    needed = rows_to_settle(comparison)
    assert needed is not None
    assert needed > 40
    assert rows_to_settle(comparison, level=0.99) > needed  # type: ignore[operator]
    assert rows_to_settle(compare_means(a, a, metric="accuracy", resamples=400)) is None


def test_the_number_of_rows_settles_it_in_about_eight_cases_of_ten() -> None:
    generator = np.random.default_rng(5)
    rows = rows_needed(0.1, discordant=0.3)
    separated = 0
    for _ in range(300):
        draw = generator.random(rows)  # 20 % only b is right, 10 % only a is
        a = [float(0.2 <= uniform < 0.7) for uniform in draw]
        b = [float(uniform < 0.2 or 0.3 <= uniform < 0.7) for uniform in draw]
        separated += compare_means(a, b, metric="accuracy", resamples=300).verdict == "better"
    assert 0.7 <= separated / 300 <= 0.9
