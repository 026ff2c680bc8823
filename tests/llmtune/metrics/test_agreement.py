"""Cohen's kappa: its published examples, its limits, and an interval."""

from __future__ import annotations

import pytest

from llmtune.errors import InvalidData
from llmtune.metrics.agreement import measure_kappa


def test_the_textbook_table() -> None:
    """20 both yes, 5 and 10 apart, 15 both no: observed 0.70, expected 0.50, kappa 0.40."""
    a = [1] * 25 + [0] * 25
    b = [1] * 20 + [0] * 5 + [1] * 10 + [0] * 15
    measured = measure_kappa(a, b, 2)
    assert measured is not None
    kappa, interval = measured
    assert kappa == pytest.approx(0.4)
    assert 0.1 < interval.low < kappa < interval.high < 0.7


def test_weights_forgive_what_is_near() -> None:
    a, near, far = [0, 1, 2, 3, 4] * 6, [1, 2, 3, 4, 3] * 6, [4, 4, 0, 0, 0] * 6
    values = []
    for b in (a, near, far):
        measured = measure_kappa(a, b, 5, ordered=True)
        assert measured is not None
        values.append(measured[0])
    assert values[0] == 1.0
    assert values[0] > values[1] > 0.5 > 0 > values[2]
    plain = measure_kappa(a, near, 5)
    assert plain is not None
    assert plain[0] < 0


def test_chance_is_about_nothing_and_one_category_tells_nothing() -> None:
    measured = measure_kappa([0, 0, 1, 1] * 10, [0, 1, 0, 1] * 10, 2)
    assert measured is not None
    assert measured[0] == pytest.approx(0.0)
    assert 0.0 in measured[1]
    assert measure_kappa([1, 1, 1], [1, 1, 1], 2) is None
    lone = measure_kappa([0] + [1] * 5, [0] + [1] * 5, 2)  # a resample may have one category alone
    assert lone is not None
    assert lone[0] == 1.0


def test_pairs_are_needed() -> None:
    with pytest.raises(InvalidData, match="0 and 0"):
        measure_kappa([], [], 2)
    with pytest.raises(InvalidData, match="1 and 2"):
        measure_kappa([0], [0, 1], 2)
