"""Models that cost next to nothing, on the same held-out rows: what tuning has to beat to be worth its price.

Where rows have labels, a linear model: TF-IDF over words and pairs of words, and logistic regression fitted by
stochastic gradient descent. Where answers are text, the answer of the nearest training row by the same TF-IDF. Both
learn from the training rows alone and take a few seconds for ten thousand of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from llmtune.data.example import Example
from llmtune.data.hashing import label_of, prompt_text
from llmtune.evaluation.sampling import expected_text

if TYPE_CHECKING:
    from sklearn.feature_extraction.text import TfidfVectorizer

#: Words and pairs of words that are looked at, the most frequent ones.
MOST_FEATURES = 50_000
#: Training rows that the nearest one is looked for among.
MOST_NEIGHBOURS = 20_000
#: Held-out rows whose likeness to all of them is held at once.
ROWS_AT_ONCE = 200
#: Texts with fewer blanks than one in so many characters are not separated by blanks: they are read by characters.
CHARACTERS_A_WORD = 15

#: How the linear model is described in a report.
LINEAR = "TF-IDF of words and pairs of words, and logistic regression on the training rows"
NEAREST = "the answer of the training row whose prompt is nearest by TF-IDF"


def predict_labels(train: Sequence[Example], rows: Sequence[Example], labels: Sequence[str]) -> list[int] | str:
    """Return the label of each row, an index into `labels`, by a linear model of the training rows; or why not."""
    places = {label: place for place, label in enumerate(labels)}
    known = [(row, places[label]) for row in train if (label := label_of(row)) in places]
    if len({place for _, place in known}) < 2:
        return "it takes training rows of two labels or more"
    from sklearn.linear_model import SGDClassifier

    texts = [prompt_text(row) for row, _ in known]
    vectors = _vectors(texts)
    try:
        features = vectors.fit_transform(texts)
    except ValueError:
        return "the prompts have no words in them"
    model = SGDClassifier(loss="log_loss", alpha=1e-5, max_iter=50, random_state=0)
    model.fit(features, [place for _, place in known])
    return [int(place) for place in model.predict(vectors.transform([prompt_text(row) for row in rows]))]


def nearest_answers(train: Sequence[Example], rows: Sequence[Example]) -> list[str] | str:
    """Return for each row the answer of the training row whose prompt is nearest; or why not."""
    known = [row for row in train if row.preference is None and row.text is None and expected_text(row)]
    known = known[:: max(1, -(-len(known) // MOST_NEIGHBOURS))]
    if not known:
        return "no training row has an answer"
    import numpy as np

    texts = [prompt_text(row) for row in known]
    vectors = _vectors(texts)
    try:
        features = vectors.fit_transform(texts)
    except ValueError:
        return "the prompts have no words in them"
    answers = []
    for start in range(0, len(rows), ROWS_AT_ONCE):
        block = vectors.transform([prompt_text(row) for row in rows[start : start + ROWS_AT_ONCE]])
        places = np.asarray((block @ features.T).argmax(axis=1)).ravel()
        answers += [expected_text(known[int(place)]) for place in places]
    return answers


def _vectors(texts: Sequence[str]) -> TfidfVectorizer:
    from sklearn.feature_extraction.text import TfidfVectorizer

    length = sum(map(len, texts))
    blanks = sum(text.count(" ") + text.count("\n") for text in texts)
    by_word = blanks * CHARACTERS_A_WORD >= length
    return TfidfVectorizer(
        analyzer="word" if by_word else "char",
        ngram_range=(1, 2) if by_word else (1, 3),
        token_pattern=r"(?u)\b\w+\b" if by_word else None,
        sublinear_tf=True,
        max_features=MOST_FEATURES,
    )
