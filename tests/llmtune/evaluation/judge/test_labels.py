"""Labelled answers from a file: both forms, and every row that is none is named."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

import pytest

from llmtune.errors import InvalidData
from llmtune.evaluation.judge.labels import choose_labels, read_labels


def write(folder: Path, *rows: Any) -> Path:
    path = folder / "labels.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return path


def test_pairs_and_points(tmp_path: Path) -> None:
    pair = {"question": "Where?", "answer_a": "there", "answer_b": "here", "verdict": "B ", "reference": 7}
    turns = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Where?"}]
    same = {"messages": turns, "answer_a": "x", "answer_b": "x", "verdict": "tie"}
    first, second = read_labels(write(tmp_path, pair, same), "pairwise")
    assert (first.question, first.answers, first.category) == (
        ({"role": "user", "content": "Where?"},),
        ("there", "here"),
        1,
    )
    assert first.reference == "7"
    assert (list(second.question), second.category) == (turns, 2)
    points = [{"question": "Where?", "answer": "there", "score": score} for score in (1, 5, "3", 4.0)]
    assert [row.category for row in read_labels(write(tmp_path, *points), "score")] == [0, 4, 2, 3]
    table = tmp_path / "labels.csv"
    table.write_text("question,answer,score\nWhere?,there,2\n", encoding="utf-8")
    assert read_labels(table, "score")[0].category == 1


@pytest.mark.parametrize(
    ("mode", "row", "sentence"),
    [
        ("pairwise", {"question": "?", "answer_a": "x", "verdict": "a"}, "row 1: answer_b must be a text"),
        (
            "pairwise",
            {"question": "?", "answer_a": "x", "answer_b": "y", "verdict": "c"},
            "a, b or tie, not 'c'",
        ),
        ("pairwise", {"question": "?", "answer_a": "x", "answer_b": "y"}, "verdict is a, b or tie, not None"),
        ("pairwise", {"answer_a": "x", "answer_b": "y", "verdict": "a"}, "give a question, or messages"),
        ("pairwise", {"messages": ["x"], "answer_a": "x", "answer_b": "y", "verdict": "a"}, "give a question"),
        ("score", {"question": "?", "answer": "x", "score": 6}, "score is a whole number from 1 to 5, not 6"),
        ("score", {"question": "?", "answer": "x", "score": True}, "not True"),
        ("score", {"question": "?", "answer": "x", "score": 2.5}, "not 2.5"),
        ("score", {"question": "?", "answer": "x", "score": float("nan")}, "finite numbers only"),
    ],
)
def test_a_row_that_is_none_is_named(
    tmp_path: Path, mode: Literal["pairwise", "score"], row: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(InvalidData, match=sentence):
        read_labels(write(tmp_path, row), mode)


def test_a_file_that_is_not_there_or_empty(tmp_path: Path) -> None:
    with pytest.raises(InvalidData, match=r"none\.jsonl does not exist"):
        read_labels(tmp_path / "none.jsonl", "score")
    with pytest.raises(InvalidData, match="is not a regular file"):
        read_labels(tmp_path, "score")
    with pytest.raises(InvalidData):
        read_labels(write(tmp_path), "score")


def test_a_sample_is_chosen_by_content(tmp_path: Path) -> None:
    rows = [{"question": f"{n}?", "answer": f"{n}", "score": 1 + n % 5} for n in range(30)]
    labelled = read_labels(write(tmp_path, *rows), "score")
    chosen = choose_labels(labelled, 10)
    assert len(chosen) == 10
    assert {row.answers for row in choose_labels(labelled[::-1], 10)} == {row.answers for row in chosen}
    assert choose_labels(labelled, 30) == labelled
