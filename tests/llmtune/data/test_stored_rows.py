"""Rows in a temporary file are the rows in a list: the same sequence, and the same dataset."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from pathlib import Path

import pytest

from llmtune.data import stored_rows
from llmtune.data.dataset import Dataset, take_rows
from llmtune.data.example import Example, FoldedMessage, Message, chat, folded
from llmtune.data.facts import describe_dataset
from llmtune.data.split import split
from llmtune.data.stored_rows import ChainedRows, StoredRows, select_rows, store_rows
from llmtune.errors import InvalidData
from llmtune.evaluation.few_shot import select_shots
from llmtune.evaluation.sampling import subsample
from llmtune.job.spec import DatasetSpec


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten rows are many."""
    monkeypatch.setattr(stored_rows, "ROWS_IN_MEMORY", 10)


def make_rows(count: int, labels: int = 0) -> list[Example]:
    draw = random.Random(count)
    return [
        chat(
            ("user", f"question {draw.random()} about {number}"),
            ("assistant", f"label{number % labels}" if labels else f"the answer {draw.random()} of {number}"),
            line=number + 1,
        )
        for number in range(count)
    ]


@pytest.mark.parametrize("count", [11, 64, 65, 300])
def test_stored_rows_are_the_sequence_that_was_stored(count: int) -> None:
    rows = make_rows(count)
    stored = store_rows(iter(rows))
    assert isinstance(stored, StoredRows)
    assert len(stored) == count
    assert list(stored) == rows == list(stored)
    assert [stored[index] for index in range(-count, count)] == rows + rows
    assert list(stored[3:9]) == rows[3:9]
    assert list(stored[::7]) == rows[::7]
    assert list(stored[::-1]) == rows[::-1]
    for index in (count, -count - 1):
        with pytest.raises(IndexError):
            stored[index]


def test_few_rows_stay_a_list() -> None:
    rows = make_rows(10)
    assert store_rows(iter(rows)) == rows
    assert store_rows(iter([])) == []


def test_a_selection_of_a_selection() -> None:
    rows = make_rows(500)
    stored = store_rows(rows)
    odd = select_rows(stored, range(1, 500, 2))
    assert list(odd) == rows[1::2]
    assert list(select_rows(odd, range(0, 250, 3))) == rows[1::2][::3]
    assert odd[-1] == rows[-1]
    assert list(select_rows(stored, [7, 7, 2])) == [rows[7], rows[7], rows[2]]
    assert list(select_rows(rows, [7, 2])) == [rows[7], rows[2]]


def test_every_field_of_a_row_survives() -> None:
    turn = folded(Message("user", "both", reasoning="why", extra={"a": [1]}), [Message("system", "one")])
    rows = [Example((turn,), ({"name": "tool"},), ("x", "y"), line=3, group="g", extra={"k": {"n": None}})] * 12
    stored = store_rows(rows)
    assert list(stored) == rows
    read = stored[11].messages[0]
    assert isinstance(read, FoldedMessage)
    assert read.listed == turn.listed == 2
    assert repr(stored[11]) == repr(rows[11])


def test_chained_rows_are_one_sequence() -> None:
    rows = make_rows(90)
    chained = ChainedRows(store_rows(rows[:50]), [], rows[50:])
    assert len(chained) == 90
    assert list(chained) == rows
    assert [chained[index] for index in (0, 49, 50, -1)] == [rows[index] for index in (0, 49, 50, -1)]
    assert chained[45:55] == rows[45:55]
    with pytest.raises(IndexError):
        chained[90]


@pytest.mark.parametrize("labels", [0, 4])
def test_what_is_chosen_of_stored_rows_is_chosen_of_a_list(labels: int) -> None:
    rows = make_rows(400, labels)
    stored = store_rows(rows)
    for shares in ((0.8, 0.1, 0.1), (100, 50, 20)):
        assert [list(part) for part in split(stored, shares)] == [list(part) for part in split(rows, shares)]
    assert list(take_rows(stored, 77)) == take_rows(rows, 77)
    assert subsample(stored, 30) == subsample(rows, 30)
    assert select_shots(stored, 3) == select_shots(rows, 3)


def read_dataset(file: Path) -> Dataset:
    return Dataset.from_spec(DatasetSpec(path=str(file), limit_rows=200))


def test_a_dataset_is_the_same_dataset(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "rows.jsonl"
    rows = make_rows(300, labels=3)
    turns = [[{"role": turn.role, "content": turn.content} for turn in row.messages] for row in [*rows, rows[5]]]
    file.write_text("".join(json.dumps({"messages": row, "id": 7}) + "\n" for row in turns))
    stored = read_dataset(file)
    assert isinstance(stored.train, StoredRows)
    monkeypatch.setattr(stored_rows, "ROWS_IN_MEMORY", 10_000)
    held = read_dataset(file)
    assert isinstance(held.train, list)

    def parts(dataset: Dataset) -> list[list[Example]]:
        return [list(part) for part in (dataset.train, dataset.validation, dataset.test)]

    assert parts(stored) == parts(held)
    assert list(stored.findings) == list(held.findings)
    assert any(finding.code == "duplicate-row" for finding in held.findings)
    assert (stored.labels, stored.counts, stored.estimated_tokens) == (held.labels, held.counts, held.estimated_tokens)
    assert describe_dataset(stored) == describe_dataset(held)


def test_errors_are_found_in_many_rows(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    good = json.dumps({"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]})
    file.write_text((good + "\n") * 40 + "{broken\n" + good + "\n")
    with pytest.raises(InvalidData, match=r"rows\.jsonl:41"):
        read_dataset(file)


def test_a_full_disk_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "rows.jsonl"
    good = json.dumps({"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]})
    file.write_text((good + "\n") * 40)

    def refuse(_self: object, _block: Sequence[Example]) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(stored_rows._RowFile, "append", refuse)
    with pytest.raises(InvalidData, match="no space left on the disk") as refused:
        read_dataset(file)
    assert "TMPDIR" in (refused.value.hint or "")
