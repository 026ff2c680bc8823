"""Intervals and comparisons: against published values, against scipy, and for what they promise in a simulation."""

from __future__ import annotations

import math
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from llmtune.errors import InvalidData
from llmtune.metrics.classification import classify
from llmtune.metrics.comparison import (
    Comparison,
    compare_means,
    compare_statistics,
    compare_unpaired,
    mcnemar,
    paired_bootstrap,
)
from llmtune.metrics.intervals import (
    Interval,
    bootstrap,
    interval_of_mean,
    label_average_of,
    loop_statistic,
    mean_of,
    ratio_of,
    widen_interval,
    wilson,
)


# --- Wilson ----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("successes", "rows", "low", "high"),
    # Newcombe 1998, Statistics in Medicine 17:857, table I, method 3 (Wilson without continuity correction).
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0000, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_wilson_equals_newcombes_table(successes: int, rows: int, low: float, high: float) -> None:
    interval = wilson(successes, rows)
    assert round(interval.low, 4) == low
    assert round(interval.high, 4) == high


@given(st.integers(1, 5000), st.floats(0, 1), st.sampled_from([0.8, 0.9, 0.95, 0.99]))
def test_wilson_equals_scipy(rows: int, share: float, level: float) -> None:
    successes = round(rows * share)
    expected = stats.binomtest(successes, rows).proportion_ci(level, method="wilson")
    interval = wilson(successes, rows, level)
    assert interval.low == pytest.approx(expected.low, abs=1e-12)
    assert interval.high == pytest.approx(expected.high, abs=1e-12)
    assert successes / rows in interval


@pytest.mark.parametrize(("successes", "rows"), [(1, 0), (-1, 5), (6, 5)])
def test_wilson_refuses_what_is_no_proportion(successes: int, rows: int) -> None:
    with pytest.raises(InvalidData):
        wilson(successes, rows)


def test_wilson_covers_at_the_nominal_rate() -> None:
    """Exact coverage by enumeration: near 95 % on average (Newcombe 1998: 0.952), never far below."""
    for rows in (20, 50, 200):
        coverage = []
        for share in np.linspace(0.02, 0.98, 97):
            inside = [k for k in range(rows + 1) if share in wilson(k, rows)]
            coverage.append(stats.binom.pmf(inside, rows, share).sum())
        assert 0.945 < np.mean(coverage) < 0.96
        assert min(coverage) > 0.82


# --- bootstrap -------------------------------------------------------------------------------------------------------
SAMPLE = np.random.default_rng(7).gamma(1.5, 2.0, size=80)


@pytest.mark.parametrize("method", ["BCa", "percentile"])
def test_the_bootstrap_of_a_mean_equals_scipys(method: str) -> None:
    interval = bootstrap(mean_of(SAMPLE), len(SAMPLE), resamples=40_000, seed=1, method=method)  # type: ignore[arg-type]
    reference = stats.bootstrap(
        (SAMPLE,), np.mean, n_resamples=40_000, method=method, rng=np.random.default_rng(2), vectorized=True
    ).confidence_interval
    width = reference.high - reference.low
    assert interval.low == pytest.approx(reference.low, abs=0.02 * width)
    assert interval.high == pytest.approx(reference.high, abs=0.02 * width)
    assert interval.method == f"bootstrap {method}"


def test_the_bootstrap_of_a_skewed_statistic_equals_scipys() -> None:
    """The variance: strongly biased and skewed, so that both of BCa's corrections matter."""

    def variance(rows: np.ndarray) -> np.ndarray:  # type: ignore[type-arg]
        return SAMPLE[rows].var(axis=1)

    interval = bootstrap(variance, len(SAMPLE), resamples=40_000, seed=1)
    reference = stats.bootstrap((SAMPLE,), np.var, n_resamples=40_000, rng=np.random.default_rng(2)).confidence_interval
    plain = bootstrap(variance, len(SAMPLE), resamples=40_000, seed=1, method="percentile")
    width = reference.high - reference.low
    assert interval.low == pytest.approx(reference.low, abs=0.03 * width)
    assert interval.high == pytest.approx(reference.high, abs=0.03 * width)
    assert interval.high > plain.high + 0.05 * width  # the correction really moved it


def test_the_same_seed_gives_the_same_interval_and_another_seed_another() -> None:
    one, two = (bootstrap(mean_of(SAMPLE), 80, seed=3) for _ in range(2))
    assert one == two
    assert bootstrap(mean_of(SAMPLE), 80, seed=4) != one


def test_cutting_the_work_into_pieces_does_not_change_the_statistic(monkeypatch: pytest.MonkeyPatch) -> None:
    uncut = bootstrap(mean_of(SAMPLE), 80, resamples=3000)
    monkeypatch.setattr("llmtune.metrics.intervals._CHUNK", 100)
    pieces = bootstrap(mean_of(SAMPLE), 80, resamples=3000)
    assert pieces.low == pytest.approx(uncut.low, rel=0.02)
    assert pieces.high == pytest.approx(uncut.high, rel=0.02)


def test_the_bootstrap_covers_at_the_nominal_rate() -> None:
    """600 samples of 60 skewed rows: the interval of the mean holds the true mean in about 95 % of them."""
    generator = np.random.default_rng(11)
    hits = {"BCa": 0, "percentile": 0}
    for trial in range(600):
        sample = generator.exponential(1.0, size=60)
        for method in hits:
            hits[method] += 1.0 in bootstrap(mean_of(sample), 60, resamples=600, seed=trial, method=method)  # type: ignore[arg-type]
    # Known to be a little short at this size and skew (Efron and Tibshirani 1993, chapter 14); +-1.8 % is two
    # standard errors of 600 trials.
    assert 0.91 <= hits["BCa"] / 600 <= 0.97
    assert 0.90 <= hits["percentile"] / 600 <= 0.97


def test_the_ratio_bootstrap_covers_at_the_nominal_rate() -> None:
    """Loss a token from rows of unequal length: the ratio of sums, whose truth is 2."""
    generator = np.random.default_rng(12)
    hits = 0
    for trial in range(400):
        tokens = generator.integers(1, 40, size=80)
        loss = np.array([generator.gamma(2.0 * count, 1.0) for count in tokens])
        hits += 2.0 in bootstrap(ratio_of(loss.tolist(), tokens.tolist()), 80, resamples=500, seed=trial)
    assert 0.91 <= hits / 400 <= 0.98


@settings(max_examples=60)
@given(
    st.lists(st.tuples(st.integers(0, 3), st.integers(0, 4)), min_size=1, max_size=50),
    st.sampled_from(["macro", "micro", "weighted"]),
    st.sampled_from(["precision", "recall", "f"]),
    st.sampled_from([0.5, 1.0, 2.0]),
)
def test_the_vectorised_label_averages_are_scikit_learns(
    rows: list[tuple[int, int]], average: str, figure: str, beta: float
) -> None:
    from sklearn.metrics import precision_recall_fscore_support

    truth, answers = [t for t, _ in rows], [s for _, s in rows]
    indices = np.random.default_rng(0).integers(0, len(rows), size=(5, len(rows)))
    statistic = label_average_of(truth, answers, 4, average=average, figure=figure, beta=beta)  # type: ignore[arg-type]
    for value, picked in zip(statistic(indices), indices, strict=True):
        true, answered = [truth[i] for i in picked], [answers[i] for i in picked]
        labels = sorted(set(true)) if average != "micro" else [0, 1, 2, 3]
        figures = precision_recall_fscore_support(
            true, answered, beta=beta, labels=labels, average=average, zero_division=0.0
        )
        assert value == pytest.approx(figures[["precision", "recall", "f"].index(figure)])


def test_macro_f1_of_a_result_equals_the_statistic() -> None:
    true, answers = list("aabbbccc"), list("abbbzccc")
    label_index = {"a": 0, "b": 1, "c": 2, "z": 3}
    value = label_average_of([label_index[t] for t in true], [label_index[s] for s in answers], 3)(
        np.arange(8)[None, :]
    )[0]
    assert value == pytest.approx(classify(true, answers).macro.f1)


def test_a_looped_metric_gives_what_the_vectorised_one_gives() -> None:
    slow = loop_statistic(lambda rows: float(SAMPLE[list(rows)].mean()))
    assert bootstrap(slow, 80, resamples=200, seed=5).low == pytest.approx(
        bootstrap(mean_of(SAMPLE), 80, resamples=200, seed=5).low
    )


def test_zero_or_one_rows_get_wilson() -> None:
    assert interval_of_mean([1.0] * 15 + [0.0] * 133) == wilson(15, 148)


def test_twenty_of_twenty_is_no_certainty() -> None:
    assert interval_of_mean([1.0] * 20).low == pytest.approx(0.8389, abs=1e-4)
    stuck = bootstrap(mean_of([1.0] * 20), 20)
    assert stuck.low == stuck.high == 1.0
    assert "every resample" in stuck.method
    assert widen_interval(stuck, 20).low == wilson(20, 20).low
    assert widen_interval(bootstrap(mean_of([0.0] * 20), 20), 20).high == wilson(0, 20).high


def test_a_value_in_every_row_elsewhere_stays_without_width_and_says_so() -> None:
    interval = interval_of_mean([0.25] * 20)
    assert interval.low == interval.high == 0.25
    assert "every resample" in interval.method


def test_a_diverged_value_has_no_interval_and_no_warning() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        interval = interval_of_mean([1.0, math.inf, 2.0])
    assert (interval.low, interval.high) == (-math.inf, math.inf)
    assert Interval.model_validate_json(interval.model_dump_json()) == interval


def test_one_row_gives_an_interval_without_a_crash() -> None:
    assert interval_of_mean([0.3]).low == 0.3


def test_no_rows_give_a_sentence() -> None:
    with pytest.raises(InvalidData, match="at least one row"):
        interval_of_mean([])
    with pytest.raises(InvalidData, match="at least one row"):
        bootstrap(mean_of([]), 0)


# --- two systems -----------------------------------------------------------------------------------------------------
@given(st.integers(0, 400), st.integers(0, 400))
def test_mcnemar_equals_the_binomial_test(only_a: int, only_b: int) -> None:
    expected = stats.binomtest(only_a, only_a + only_b, 0.5).pvalue if only_a + only_b else 1.0
    assert mcnemar(only_a, only_b) == pytest.approx(expected, rel=1e-9)
    assert mcnemar(only_a, only_b) == mcnemar(only_b, only_a)


def test_mcnemar_published_values() -> None:
    # Agresti, Categorical Data Analysis, table 10.1 (approval of the prime minister): 150 and 86 discordant.
    assert mcnemar(86, 150) == pytest.approx(3.716e-5, rel=1e-3)
    # By hand: 2 of 10 discordant rows: 2 * (1 + 10 + 45) / 1024.
    assert mcnemar(2, 8) == 112 / 1024
    assert mcnemar(0, 0) == mcnemar(3, 3) == 1.0
    with pytest.raises(InvalidData):
        mcnemar(-1, 2)


def test_mcnemar_of_many_rows_does_not_overflow() -> None:
    assert 0 <= mcnemar(4000, 6000) < 1e-80


def rows_of(both: int, only_a: int, only_b: int, neither: int) -> tuple[list[float], list[float]]:
    a = [1.0] * (both + only_a) + [0.0] * (only_b + neither)
    b = [1.0] * both + [0.0] * only_a + [1.0] * only_b + [0.0] * neither
    return a, b


def test_a_clear_difference_is_better_or_worse() -> None:
    a, b = rows_of(80, 5, 60, 55)
    comparison = compare_means(a, b, metric="accuracy")
    assert comparison.verdict == "better"
    assert comparison.discordant == (5, 60)
    assert comparison.difference == pytest.approx(0.275)
    assert comparison.difference in comparison.interval
    assert compare_means(b, a, metric="accuracy").verdict == "worse"
    assert compare_means(a, b, metric="error", better="lower").verdict == "worse"


def test_a_small_difference_is_not_separable() -> None:
    a, b = rows_of(80, 20, 26, 74)
    comparison = compare_means(a, b, metric="accuracy")
    assert comparison.verdict == "not separable"
    assert not comparison.separable
    assert 0.0 in comparison.interval


def test_identical_answers_are_not_separable_and_keep_an_honest_width() -> None:
    comparison = compare_means([1.0, 0.0] * 20, [1.0, 0.0] * 20, metric="accuracy")
    assert comparison.verdict == "not separable"
    assert comparison.p_value == 1.0
    assert comparison.interval.high == wilson(0, 40).high


def test_three_rows_prove_nothing_and_thirty_do() -> None:
    assert compare_means([0.0] * 3, [1.0] * 3, metric="accuracy").verdict == "not separable"
    assert compare_means([0.0] * 30, [1.0] * 30, metric="accuracy").verdict == "better"
    assert compare_means([0.2] * 3, [0.4] * 3, metric="overlap").verdict == "not separable"
    assert compare_means([0.2] * 30, [0.4] * 30, metric="overlap").verdict == "better"


def test_pairing_finds_a_difference_that_unpaired_intervals_hide() -> None:
    generator = np.random.default_rng(5)
    hard = generator.random(200)
    a = hard.tolist()
    b = (hard + 0.02 + generator.normal(0, 0.02, 200)).tolist()
    assert interval_of_mean(a).overlaps(interval_of_mean(b))
    assert compare_means(a, b, metric="overlap").verdict == "better"
    unpaired = compare_unpaired(
        float(np.mean(a)), interval_of_mean(a), float(np.mean(b)), interval_of_mean(b), rows=200, metric="overlap"
    )
    assert unpaired.verdict == "not separable"


def test_the_unpaired_interval_equals_newcombes_method_10() -> None:
    # Newcombe 1998, Statistics in Medicine 17:873, table II, method 10: 56/70 - 48/80 is 0.0524 to 0.3339.
    comparison = compare_unpaired(48 / 80, wilson(48, 80), 56 / 70, wilson(56, 70), rows=70, metric="share")
    assert round(comparison.interval.low, 4) == 0.0524
    assert round(comparison.interval.high, 4) == 0.3339
    assert comparison.verdict == "better"


def test_intervals_of_two_levels_are_not_compared() -> None:
    with pytest.raises(InvalidData, match="level"):
        compare_unpaired(0.5, wilson(5, 10), 0.5, wilson(5, 10, 0.9), rows=10, metric="share")


def test_unequal_rows_are_refused() -> None:
    with pytest.raises(InvalidData, match="not 2 and 3"):
        compare_means([1.0, 0.0], [1.0, 0.0, 1.0], metric="accuracy")


def test_two_equal_systems_are_told_apart_in_at_most_one_case_in_twenty() -> None:
    """The promise behind the verdict: false alarms stay at or below the nominal 5 %."""
    generator = np.random.default_rng(21)
    alarms = 0
    for trial in range(400):
        ability = generator.random(100)
        a = (generator.random(100) < ability).astype(float).tolist()
        b = (generator.random(100) < ability).astype(float).tolist()
        alarms += compare_means(a, b, metric="accuracy", resamples=400, seed=trial).separable
    assert alarms / 400 <= 0.06


def test_the_paired_interval_covers_at_the_nominal_rate() -> None:
    """Two systems 10 points apart on rows of shared difficulty: the interval holds 0.10 in about 95 % of trials."""
    generator = np.random.default_rng(22)
    hits = 0
    for trial in range(500):
        ability = generator.random(120) * 0.8
        a = generator.random(120) < ability
        b = generator.random(120) < ability + 0.1
        hits += 0.1 in paired_bootstrap(mean_of(a.tolist()), mean_of(b.tolist()), 120, resamples=500, seed=trial)
    assert 0.92 <= hits / 500 <= 0.98


def test_a_clear_difference_is_found_nearly_always() -> None:
    generator = np.random.default_rng(23)
    separated = 0
    for trial in range(100):
        a = (generator.random(200) < 0.60).astype(float).tolist()
        b = (generator.random(200) < 0.80).astype(float).tolist()
        separated += compare_means(a, b, metric="accuracy", resamples=400, seed=trial).verdict == "better"
    assert separated >= 95


def test_macro_f1_of_two_systems_is_compared_in_pairs() -> None:
    generator = np.random.default_rng(3)
    truth = generator.integers(0, 5, 300)
    weak = np.where(generator.random(300) < 0.5, truth, generator.integers(0, 6, 300)).tolist()
    strong = np.where(generator.random(300) < 0.9, truth, generator.integers(0, 6, 300)).tolist()
    comparison = compare_statistics(
        label_average_of(truth.tolist(), weak, 5), label_average_of(truth.tolist(), strong, 5), 300, metric="macro F1"
    )
    assert comparison.verdict == "better"
    assert comparison.p_value is None
    assert Comparison.model_validate_json(comparison.model_dump_json()) == comparison
