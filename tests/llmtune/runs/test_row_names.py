"""Rows that a vendor names, as lines of the user's own file."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from llmtune.data.dataset import Dataset
from llmtune.errors import InvalidData
from llmtune.provider.types import EncodedFile, Event, RunState, Snapshot
from llmtune.runs.row_names import add_own_lines, name_rows, name_rows_in
from llmtune.runs.store.records import RunRecord
from tests.llmtune.runs.helpers import a_record

SENT = Path("/home/someone/files/train-ab12.jsonl")


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    path = tmp_path / "orders.jsonl"
    turns = (
        [{"role": "user", "content": f"order {n}"}, {"role": "assistant", "content": f"shelf {n}"}] for n in range(40)
    )
    path.write_text("\n".join(json.dumps({"messages": each}) for each in turns))
    return path


@pytest.fixture
def dataset(rows: Path) -> Dataset:
    return Dataset.from_spec(a_record(job={"name": "j", "model": "m", "dataset": str(rows)}).tuning_job.dataset)


@pytest.fixture
def record(rows: Path, dataset: Dataset) -> RunRecord:
    files = tuple(
        EncodedFile(role=role, path=SENT.with_name(f"{role}.jsonl"), sha256="", rows=amount, bytes=1, format="chat")  # type: ignore[arg-type]
        for role, amount in (("train", len(dataset.train)), ("validation", len(dataset.validation)))
    )
    job = {"name": "j", "model": "m", "dataset": str(rows)}
    return a_record(job=job, receipt={"data": {"sha256": dataset.sha256}}, files=files)


@pytest.mark.parametrize(
    ("text", "row", "words"),
    [
        ("Example 21 message contains an invalid token", 21, "Example 21"),
        ("Line 1, message 3, key content is missing", 1, "Line 1"),
        ("Dataset example 2 of 32 has no model turn", 2, "Dataset example 2 of 32"),
        ("Bad file: line 3: not an object", 3, "line 3"),
    ],
)
def test_a_row_is_named_by_the_users_line(
    record: RunRecord, rows: Path, dataset: Dataset, text: str, row: int, words: str
) -> None:
    line = dataset.train[row - 1].line
    told = add_own_lines(record, text)
    assert f"{rows}:{line} ({words} of {SENT.with_name('train.jsonl')})" in told
    assert told.endswith(text.split(words)[1])


def test_rows_of_the_validation_file_are_looked_up_there(record: RunRecord, rows: Path, dataset: Dataset) -> None:
    told = add_own_lines(record, "The validation file is refused: Example 2 is empty, Example 1 too")
    assert f"{rows}:{dataset.validation[1].line} (Example 2 of {SENT.with_name('validation.jsonl')})" in told
    assert f"{rows}:{dataset.validation[0].line} (Example 1) too" in told


def test_indices_are_counted_from_zero(record: RunRecord, rows: Path, dataset: Dataset) -> None:
    told = add_own_lines(record, "2 rows were truncated (indices 0, 4)")
    assert f"({rows}:{dataset.train[0].line}, {dataset.train[4].line}; indices 0, 4 of" in told


@pytest.mark.parametrize("text", ["Example 9999 is bad", "line 1 column 5 is no JSON", "nothing of the kind", "Step 3"])
def test_what_names_no_row_of_the_file_stays_as_it_is(record: RunRecord, text: str) -> None:
    assert add_own_lines(record, text) == text


def test_a_dataset_that_has_changed_is_not_guessed_at(record: RunRecord, rows: Path) -> None:
    rows.write_text(rows.read_text().replace("order 1", "order one"))
    assert add_own_lines(record, "Example 2 is bad") == "Example 2 is bad"


def test_every_text_of_a_snapshot_and_of_an_error_is_named(record: RunRecord, rows: Path, dataset: Dataset) -> None:
    place = f"{rows}:{dataset.train[1].line}"
    seen = Snapshot(
        state=RunState.FAILED,
        raw_state="failed",
        error="Example 2 is bad",
        warnings=("Example 2 is odd",),
        events=(Event(id="e", time=0.0, message="Example 2 is seen"), Event(id="f", time=0.0, message="fine")),
    )
    named = name_rows(record, seen)
    texts = [named.error or "", *named.warnings, named.events[0].message]
    assert all(text.startswith(place) for text in texts)
    assert named.events[1] is seen.events[1]
    error = InvalidData("line 2 holds no messages")
    name_rows_in(record, error)
    assert error.message.startswith(place)
    assert str(error).startswith(place)
