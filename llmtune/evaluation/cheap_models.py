"""Baselines that cost next to nothing, on the same held-out rows: tuning has to beat them to be worth its price.

Where rows have labels, a linear model: TF-IDF over words and pairs of words, and logistic regression fitted by
stochastic gradient descent. Where answers are text, the answer of the nearest training row by the same TF-IDF. Both
learn from the training rows alone and take a few seconds for ten thousand of them.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from typing import TYPE_CHECKING

from llmtune.data.example import Example
from llmtune.data.hashing import label_of, prompt_text
from llmtune.evaluation.sampling import expected_text

if TYPE_CHECKING:
    from sklearn.feature_extraction.text import TfidfVectorizer

#: Features of the vectorizer: the most frequent words and pairs of words.
MOST_FEATURES = 50_000
#: Training rows among which the nearest one is searched.
MOST_NEIGHBOURS = 20_000
#: Held-out rows that are compared with all training rows in one matrix.
ROWS_AT_ONCE = 200
#: Texts with fewer blanks than one per this number of characters (as in Chinese) are split into characters, not words.
CHARACTERS_PER_WORD = 15

#: How the linear model is described in a report.
LINEAR = "TF-IDF of words and pairs of words, and logistic regression on the training rows"
NEAREST = "the answer of the training row whose prompt is nearest by TF-IDF"


def predict_labels(train: Sequence[Example], rows: Sequence[Example], labels: Sequence[str]) -> list[int] | str:
    """Return the label of each row, an index into `labels`, by a linear model of the training rows; or why not."""
    probabilities = predict_probabilities(train, rows, labels)
    if isinstance(probabilities, str):
        return probabilities
    return [max(range(len(row)), key=row.__getitem__) for row in probabilities]


def predict_probabilities(
    train: Sequence[Example], rows: Sequence[Example], labels: Sequence[str]
) -> list[list[float]] | str:
    """Return the probability of each label for each row, by a linear model of the training rows; or why not.

    A label without a training row has probability 0.
    """
    label_indices = {label: index for index, label in enumerate(labels)}
    labelled_rows = [(row, label_indices[label]) for row in train if (label := label_of(row)) in label_indices]
    if len({index for _, index in labelled_rows}) < 2:
        return "it takes training rows of two labels or more"
    from sklearn.linear_model import SGDClassifier

    texts = [prompt_text(row) for row, _ in labelled_rows]
    vectorizer = _build_vectorizer(texts)
    try:
        features = vectorizer.fit_transform(texts)
    except ValueError:
        return "the prompts have no words in them"
    model = SGDClassifier(loss="log_loss", alpha=1e-5, max_iter=50, random_state=0)
    model.fit(features, [index for _, index in labelled_rows])
    import numpy as np

    shares = model.predict_proba(vectorizer.transform([prompt_text(row) for row in rows]))
    # Where no label is at all likely, the shares are 0/0.
    shares = np.nan_to_num(shares, nan=1 / len(model.classes_))
    probabilities = [[0.0] * len(labels) for _ in rows]
    for row, row_shares in zip(probabilities, shares.tolist(), strict=True):
        for index, share in zip(model.classes_.tolist(), row_shares, strict=True):
            row[index] = share
    return probabilities


def nearest_answers(train: Sequence[Example], rows: Sequence[Example]) -> list[str] | str:
    """Return for each row the answer of the training row whose prompt is nearest; or why not."""
    numbers = array("Q", (number for number, row in enumerate(train) if _has_answer(row)))
    answered_rows = [train[number] for number in numbers[:: max(1, -(-len(numbers) // MOST_NEIGHBOURS))]]
    if not answered_rows:
        return "no training row has an answer"
    import numpy as np

    texts = [prompt_text(row) for row in answered_rows]
    vectorizer = _build_vectorizer(texts)
    try:
        features = vectorizer.fit_transform(texts)
    except ValueError:
        return "the prompts have no words in them"
    answers = []
    for start in range(0, len(rows), ROWS_AT_ONCE):
        block = vectorizer.transform([prompt_text(row) for row in rows[start : start + ROWS_AT_ONCE]])
        nearest = np.asarray((block @ features.T).argmax(axis=1)).ravel()
        answers += [expected_text(answered_rows[int(index)]) for index in nearest]
    return answers


def _has_answer(row: Example) -> bool:
    return row.preference is None and row.text is None and bool(expected_text(row))


def _build_vectorizer(texts: Sequence[str]) -> TfidfVectorizer:
    from sklearn.feature_extraction.text import TfidfVectorizer

    length = sum(map(len, texts))
    blanks = sum(text.count(" ") + text.count("\n") for text in texts)
    by_word = blanks * CHARACTERS_PER_WORD >= length
    return TfidfVectorizer(
        analyzer="word" if by_word else "char",
        ngram_range=(1, 2) if by_word else (1, 3),
        token_pattern=r"(?u)\b\w+\b" if by_word else None,
        sublinear_tf=True,
        max_features=MOST_FEATURES,
    )
