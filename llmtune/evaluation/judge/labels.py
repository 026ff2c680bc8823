"""Answers with the verdict of a human, on which a judge's agreement is measured.

A row of the file (JSON lines, CSV, ...) has a `question`, or `messages` that end with the user's turn, and

- for pairs `answer_a`, `answer_b` and `verdict`: a, b or tie;
- for points `answer` and `score`: 1 to 5.

`reference` is a right answer, which the judge sees where the job shows it references.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from llmtune.errors import InvalidData
from llmtune.graders.judging import HIGHEST, LOWEST
from llmtune.graders.rows import read_rows

#: The verdicts of a human on a pair, in the order of their categories.
VERDICTS = ("a", "b", "tie")


@dataclass(frozen=True)
class LabelledAnswers:
    """One labelled row: the question as turns, one answer or two, and the human's verdict as a category from 0."""

    question: tuple[dict[str, Any], ...]
    answers: tuple[str, ...]
    category: int
    reference: str | None = None


def read_labels(path: str | Path, mode: Literal["pairwise", "score"]) -> list[LabelledAnswers]:
    """Read a file of labelled answers; the first 10,000 rows.

    Raises:
        InvalidData: it cannot be read, or a row is not one of labelled answers; the sentence names the row.
    """
    file = Path(path).expanduser()
    if not file.is_file():
        problem = "is not a regular file" if file.exists() else "does not exist"
        raise InvalidData(f"evaluation.judge.labels: {path} {problem}", hint="docs/judge.md has an example")
    return [_read_row(row, mode, f"{path}: row {number}") for number, row in enumerate(read_rows(file), 1)]


def choose_labels(rows: Sequence[LabelledAnswers], limit: int) -> list[LabelledAnswers]:
    """Return the rows, or `limit` of them, chosen by a hash of their content."""
    if len(rows) <= limit:
        return list(rows)
    hashed = sorted(range(len(rows)), key=lambda index: _hash(rows[index]))
    return [rows[index] for index in sorted(hashed[:limit])]


def _hash(row: LabelledAnswers) -> str:
    text = json.dumps([row.question, row.answers, row.category], sort_keys=True, default=str)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def _read_row(row: Mapping[str, Any], mode: Literal["pairwise", "score"], where: str) -> LabelledAnswers:
    names = ("answer_a", "answer_b") if mode == "pairwise" else ("answer",)
    answers = [row.get(name) for name in names]
    for name, answer in zip(names, answers, strict=True):
        if not isinstance(answer, str):
            raise InvalidData(f"{where}: {name} must be a text", hint="docs/judge.md has an example")
    reference = row.get("reference")
    return LabelledAnswers(
        question=_read_question(row, where),
        answers=tuple(map(str, answers)),
        category=_read_verdict(row, where) if mode == "pairwise" else _read_score(row, where),
        reference=None if reference is None else str(reference),
    )


def _read_question(row: Mapping[str, Any], where: str) -> tuple[dict[str, Any], ...]:
    question, turns = row.get("question"), row.get("messages")
    if isinstance(question, str):
        return ({"role": "user", "content": question},)
    if not isinstance(turns, list) or not turns or not all(isinstance(turn, Mapping) for turn in turns):
        raise InvalidData(f"{where}: give a question, or messages that end with the user's turn")
    return tuple(dict(turn) for turn in turns)


def _read_verdict(row: Mapping[str, Any], where: str) -> int:
    verdict = row.get("verdict")
    if not isinstance(verdict, str) or verdict.strip().lower() not in VERDICTS:
        raise InvalidData(f"{where}: verdict is a, b or tie, not {verdict!r:.60}")
    return VERDICTS.index(verdict.strip().lower())


def _read_score(row: Mapping[str, Any], where: str) -> int:
    score = row.get("score")
    if isinstance(score, str) and score.strip().isdigit():  # of a table
        score = int(score)
    if isinstance(score, bool) or not isinstance(score, int | float) or score not in range(LOWEST, HIGHEST + 1):
        raise InvalidData(f"{where}: score is a whole number from {LOWEST} to {HIGHEST}, not {score!r:.60}")
    return int(score) - LOWEST
