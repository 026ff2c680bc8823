"""Scores of answers, baselines that cost next to nothing, and the paired interval between two sets of answers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from first_try.tasks import Metric, Row, answer, question
from llmtune.metrics.text import exact_match, final_number, rouge_l

RESAMPLES = 2000
#: Distinct answers up to which a linear model can learn them as labels, of a third of the rows at most; beyond that the
#: nearest row answers.
MOST_LABELS = 100


def row_scores(metric: Metric, expected: Sequence[str], answers: Sequence[str]) -> list[float]:
    """Score each answer from 0 to 1. Macro F1 is no mean of rows: its rows are scored by match, see `mean_score`."""
    if metric == "final_number":
        return [float(final_number(a) == final_number(e)) for e, a in zip(expected, answers, strict=True)]
    function = rouge_l if metric == "rouge_l" else exact_match
    return [function(e, a) for e, a in zip(expected, answers, strict=True)]


def score(metric: Metric, expected: Sequence[str], answers: Sequence[str]) -> float:
    """Return the task's score of all answers together."""
    if metric == "macro_f1":
        codes = _codes(expected, answers)
        return float(_macro_f1(codes[0], codes[1][None, :], np.arange(len(expected))[None, :])[0])
    return float(np.mean(row_scores(metric, expected, answers)))


def row_results(metric: Metric, expected: Sequence[str], answers: Sequence[str]) -> list[Any]:
    """Return what an interval needs of each answer: its score, or for macro F1 the answer itself."""
    if metric == "macro_f1":
        return list(answers)
    return [round(value, 4) if value % 1 else int(value) for value in row_scores(metric, expected, answers)]


def difference_interval(
    metric: Metric, expected: Sequence[str], ours: Sequence[Sequence[Any]], theirs: Sequence[Sequence[Any]]
) -> tuple[float, float, float]:
    """Return (difference, low, high) of the mean score over seeds, ours minus theirs, paired by row.

    `ours` and `theirs` are one list of `row_results` for each seed.

    A percentile bootstrap over rows at 95 %, the same rows drawn for both and for every seed.
    """
    draws = np.random.default_rng(0).integers(0, len(expected), size=(RESAMPLES, len(expected)))
    rows = np.concatenate([np.arange(len(expected))[None, :], draws])
    values = _resampled(metric, expected, ours, rows) - _resampled(metric, expected, theirs, rows)
    low, high = np.quantile(values[1:], (0.025, 0.975))
    return float(values[0]), float(low), float(high)


def _resampled(metric: Metric, expected: Sequence[str], runs: Sequence[Sequence[Any]], rows: np.ndarray) -> np.ndarray:
    if metric == "macro_f1":
        codes = _codes(expected, *runs)
        return np.mean([_macro_f1(codes[0], codes[k][None, :], rows) for k in range(1, len(codes))], axis=0)
    return np.mean(np.asarray(runs, dtype=float), axis=0)[rows].mean(axis=1)


def _codes(*columns: Sequence[str]) -> list[np.ndarray]:
    """Number the labels of the first column; what is no label of it is one more."""
    numbers = {label: number for number, label in enumerate(sorted(set(columns[0])))}
    return [np.array([numbers.get(text.strip(), len(numbers)) for text in column]) for column in columns]


def _macro_f1(truth: np.ndarray, answers: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Macro F1 over the labels of `truth` for each line of row numbers."""
    expected, given = truth[rows], answers[0][rows]
    figures = []
    for label in range(int(truth.max()) + 1):
        right = ((expected == label) & (given == label)).sum(axis=1)
        total = (expected == label).sum(axis=1) + (given == label).sum(axis=1)
        figures.append(np.where(total > 0, 2 * right / np.maximum(total, 1), 0.0))
    return np.mean(figures, axis=0)


def baselines(metric: Metric, train: Sequence[Row], test: Sequence[Row]) -> dict[str, float]:
    """Return the scores of the most frequent answer and of a linear (or nearest-row) model of TF-IDF."""
    expected = [answer(row) for row in test]
    frequent = Counter(answer(row) for row in train).most_common(1)[0][0]
    return {
        "majority": score(metric, expected, [frequent] * len(test)),
        "linear": score(metric, expected, linear_answers(train, test)),
    }


def linear_answers(train: Sequence[Row], test: Sequence[Row]) -> list[str]:
    """Answer by logistic regression on TF-IDF of words and pairs; by the nearest row where answers are too many."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression

    vectors = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, token_pattern=r"(?u)\b\w+\b")
    known = vectors.fit_transform([question(row) for row in train])
    asked = vectors.transform([question(row) for row in test])
    answers = [answer(row) for row in train]
    if len(set(answers)) > min(MOST_LABELS, len(answers) / 3):
        nearest = np.asarray((asked @ known.T).argmax(axis=1)).ravel()
        return [answers[int(place)] for place in nearest]
    model = LogisticRegression(C=10.0, max_iter=1000).fit(known, answers)
    return [str(label) for label in model.predict(asked)]
