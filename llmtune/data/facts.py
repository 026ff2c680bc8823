"""What the rows of a dataset are like: labels, lengths, tools, images, JSON, scripts. `llmtune init` chooses by it."""

from __future__ import annotations

import json
import unicodedata
from array import array
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import islice
from statistics import median

from llmtune._models import DocumentedModel
from llmtune.data.dataset import Dataset, label_counts
from llmtune.data.example import Example
from llmtune.data.hashing import turn_text

#: Rows whose texts are read for scripts and languages.
TEXT_ROWS = 500
#: Characters of a row that are read for it.
TEXT_CHARACTERS = 2_000
#: Share of accented letters from which on a text in Latin script is not taken for English. English has fewer than 1 in
#: 1,000; Italian has about 7, German 15 to 20 and French 35.
ACCENTED = 0.004
#: Share of the answers that must be JSON before they are all meant to be.
JSON_SHARE = 0.9
#: Share of letters of other scripts from which on a dataset is not English.
OTHER_SCRIPTS = 0.1


class DatasetFacts(DocumentedModel):
    """Facts about a dataset's rows. Tokens are an estimate (`llmtune.data.rendering.token_count`)."""

    rows: dict[str, int]
    """Rows by part: train, validation, test."""

    kind: str
    """chat, preference or text."""

    labels: tuple[str, ...] = ()
    """The labels, sorted, where each answer is one; else empty."""

    label_rows: dict[str, int] = {}
    """Training rows by label, the most frequent one first."""

    several_labels: bool = False
    """Whether a row may have more than one label."""

    training_tokens: int = 0
    """Tokens of one pass over the training rows."""

    longest_row: int = 0
    """Tokens of the longest row."""

    median_answer: int = 0
    """Characters of the answers of the training rows, half of which are shorter."""

    longest_answer: int = 0
    """Characters of the longest answer of a training row."""

    json_answers: int = 0
    """Training rows whose answer is a JSON object or array."""

    tool_rows: int = 0
    """Rows that offer tools or call them."""

    image_rows: int = 0
    """Rows with an image."""

    scripts: dict[str, float] = {}
    """Shares of the letters by script, by its Unicode name in lower case (latin, cyrillic, cjk, hiragana)."""

    accented: float = 0.0
    """Share of the Latin letters that are not a to z."""

    @property
    def total(self) -> int:
        """Rows of all parts."""
        return sum(self.rows.values())

    @property
    def rarest_label(self) -> str | None:
        """The label with the fewest training rows; None where rows have no labels."""
        return min(self.labels, key=lambda label: self.label_rows.get(label, 0), default=None)

    @property
    def answers_are_json(self) -> bool:
        """Whether nearly all answers are JSON."""
        return self.rows["train"] > 0 and self.json_answers >= JSON_SHARE * self.rows["train"]

    @property
    def latin_share(self) -> float:
        """Share of the letters that are Latin; 1 where there are none."""
        return self.scripts.get("latin", 0.0) if self.scripts else 1.0

    @property
    def language(self) -> str:
        """What is known of the language: "" (English, as far as the letters say), "Latin script, not English", or the
        script's name."""
        foreign = {script: share for script, share in self.scripts.items() if script != "latin"}
        if sum(foreign.values()) >= OTHER_SCRIPTS:
            kana = foreign.get("hiragana", 0) + foreign.get("katakana", 0)
            if kana:
                return "Japanese"
            script = max(foreign, key=lambda name: foreign[name])
            return {"cjk": "Chinese", "hangul": "Korean"}.get(script, f"{script.capitalize()} script")
        return "not English (accented letters)" if self.accented >= ACCENTED else ""


def describe_dataset(dataset: Dataset) -> DatasetFacts:
    """Collect the facts about a dataset. Reads every row once, and the letters of some."""
    train = dataset.train
    everything = dataset.everything
    labels = tuple(dataset.labels or ()) if dataset.kind == "chat" else ()
    counts = label_counts(train) if labels else Counter[str]()
    answers = array("Q", (len(text) for row in train if (text := _answer_text(row))))
    scripts, accented = _measure_scripts(everything)
    tokens = dataset.estimated_tokens
    return DatasetFacts(
        rows=dataset.counts,
        kind=dataset.kind,
        labels=labels,
        label_rows=dict(counts.most_common()),
        several_labels=any(isinstance(row.label, tuple) for row in everything),
        training_tokens=tokens["train"],
        longest_row=tokens["longest"],
        median_answer=round(median(answers)) if answers else 0,
        longest_answer=max(answers, default=0),
        json_answers=sum(_is_json(_answer_text(row)) for row in train),
        tool_rows=sum(1 for row in everything if row.tools or any(turn.tool_calls for turn in row.messages)),
        image_rows=sum(1 for row in everything if any(turn.images for turn in row.messages)),
        scripts=scripts,
        accented=accented,
    )


def _answer_text(row: Example) -> str:
    answer = row.answer()
    return turn_text(answer) if answer is not None else row.text or ""


def _is_json(text: str) -> bool:
    if text.lstrip()[:1] not in ("{", "["):
        return False
    try:
        json.loads(text)
    except ValueError:
        return False
    return True


def _measure_scripts(rows: Sequence[Example]) -> tuple[dict[str, float], float]:
    """Return the shares of the letters by script, and how many of the Latin ones are not a to z."""
    counts: Counter[str] = Counter()
    accented = 0
    for row in rows[:: max(1, len(rows) // TEXT_ROWS)]:
        for character in islice(_letters(row), TEXT_CHARACTERS):
            if character.isascii():
                counts["latin"] += 1
                continue
            script = unicodedata.name(character, "").split(" ")[0].lower()
            counts[script] += 1
            accented += script == "latin"
    letters = sum(counts.values())
    if not letters:
        return {}, 0.0
    return {name: round(count / letters, 4) for name, count in counts.most_common()}, accented / max(1, counts["latin"])


def _letters(row: Example) -> Iterator[str]:
    texts = [row.text] if row.text is not None else [turn.words for turn in row.messages if turn.role != "tool"]
    return (character for text in texts for character in text if character.isalpha())
