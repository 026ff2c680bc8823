"""Thresholds with a promise: exact tails, and a promise that is kept, by simulation."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import binom

from llmtune.errors import InvalidData
from llmtune.metrics.abstention import binomial_tail, choose_threshold, fewest_rows


@pytest.mark.parametrize(("errors", "rows", "share"), [(0, 149, 0.02), (3, 400, 0.02), (60, 1500, 0.05), (5, 5, 0.1)])
def test_the_tail_is_scipys(errors: int, rows: int, share: float) -> None:
    assert binomial_tail(errors, rows, share) == pytest.approx(binom.cdf(errors, rows, share), rel=1e-9)


def test_the_fewest_rows_by_hand() -> None:
    # Two sequences share 5 %: 0.98**183 = 0.0248 is the first below 2.5 %, and 0.95**72 = 0.0249.
    assert fewest_rows(0.02, 0.95) == 183
    assert fewest_rows(0.05, 0.95) == 72
    assert (
        binomial_tail(1, fewest_rows(0.02, 0.95, 1), 0.02)
        <= 0.025
        < binomial_tail(1, fewest_rows(0.02, 0.95, 1) - 1, 0.02)
    )


def test_a_threshold_by_hand() -> None:
    # Two hundred sure rows without an error, a hundred at 0.6 of which half are wrong.
    confidences = [0.99] * 200 + [0.6] * 100
    right = [1.0] * 200 + [1.0, 0.0] * 50
    threshold = choose_threshold(confidences, right, error=0.05, confidence=0.95)
    assert threshold.value is not None
    assert 0.6 < threshold.value <= 0.99
    assert (threshold.answered, threshold.wrong, threshold.rows) == (200, 0, 300)


def test_rows_of_one_confidence_are_answered_together_or_not_at_all() -> None:
    threshold = choose_threshold([0.8] * 400, [1.0] * 398 + [0.0] * 2, error=0.05, confidence=0.95)
    assert threshold.answered == 400
    threshold = choose_threshold([0.8] * 400, [1.0] * 360 + [0.0] * 40, error=0.05, confidence=0.95)
    assert threshold.value is None


def test_too_few_rows_are_refused_with_the_number_needed() -> None:
    threshold = choose_threshold([0.9] * 100, [1.0] * 100, error=0.02, confidence=0.95)
    assert threshold.value is None
    assert threshold.needed == 183
    assert threshold.reason == "100 rows are too few: it takes about 183"


def test_the_number_needed_would_do() -> None:
    generator = np.random.default_rng(0)
    confidences = generator.uniform(0.5, 1, 260)
    right = (generator.uniform(size=260) < 0.985).astype(float)
    refused = choose_threshold(confidences.tolist(), right.tolist(), error=0.02, confidence=0.95)
    assert refused.value is None
    assert refused.needed is not None
    assert refused.needed > 260
    rows = 2 * refused.needed
    more = choose_threshold(
        generator.uniform(0.5, 1, rows).tolist(),
        (generator.uniform(size=rows) < 0.985).astype(float).tolist(),
        error=0.02,
        confidence=0.95,
    )
    assert more.value is not None


def test_what_no_number_of_rows_would_do_is_said() -> None:
    generator = np.random.default_rng(1)
    right = (generator.uniform(size=3000) < 0.6).astype(float)
    threshold = choose_threshold(generator.uniform(0, 1, 3000).tolist(), right.tolist(), error=0.02, confidence=0.95)
    assert threshold.needed is None
    assert "even of the answers that the model is surest of" in threshold.reason


@pytest.mark.parametrize("error", [0.02, 0.05])
def test_the_promise_is_broken_in_at_most_one_case_in_twenty(error: float) -> None:
    # Wrong with probability 1 - confidence = u**3 / 2, u uniform: of the answers with u < v, v**3 / 8 are wrong.
    generator = np.random.default_rng(2)
    broken = promised = 0
    for _ in range(300):
        confidences = 1 - generator.uniform(size=800) ** 3 / 2
        right = (generator.uniform(size=800) < confidences).astype(float)
        threshold = choose_threshold(confidences.tolist(), right.tolist(), error=error, confidence=0.95)
        if threshold.value is not None:
            promised += 1
            broken += (1 - threshold.value) / 4 > error
    assert broken <= 0.05 * 300
    assert promised > 200


def test_a_wrong_promise_is_refused() -> None:
    with pytest.raises(InvalidData, match="between 0 and 1"):
        choose_threshold([0.5], [1.0], error=0.0, confidence=0.95)
    with pytest.raises(InvalidData, match="do not belong"):
        choose_threshold([0.5], [], error=0.1, confidence=0.95)
    assert choose_threshold([], [], error=0.1, confidence=0.95).value is None
