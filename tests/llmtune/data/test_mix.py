"""Files of rows are mixed by weight: exactly so many rows, always the same ones, evenly spread, or nothing at all."""

from __future__ import annotations

import json
from collections import Counter
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from llmtune.data.mix import Mix, mix
from llmtune.errors import InvalidData, LlmtuneError


def chat_row(question: str, answer: str = "so it is") -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]}


def write_rows(path: Path, rows: list[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


@pytest.fixture
def task(tmp_path: Path) -> str:
    return write_rows(tmp_path / "task.jsonl", [chat_row(f"task {number}") for number in range(80)])


@pytest.fixture
def general(tmp_path: Path) -> str:
    return write_rows(tmp_path / "general.jsonl", [chat_row(f"general {number}") for number in range(100)])


def read_questions(done: Mix) -> list[str]:
    with Path(done.written.path).open() as file:
        return [json.loads(line)["messages"][0]["content"] for line in file]


def test_each_file_is_in_the_mix_as_often_as_its_weight_says(task: str, general: str, tmp_path: Path) -> None:
    done = mix([(task, 2.25), (general, 0.2)], tmp_path / "mixed.jsonl")
    questions = Counter(read_questions(done))
    assert [(file.rows, file.mixed) for file in done.files] == [(80, 180), (100, 20)]
    assert done.written.rows == 200
    counts = [questions[f"task {number}"] for number in range(80)]
    assert Counter(counts) == {2: 60, 3: 20}
    assert sum(count for question, count in questions.items() if question.startswith("general")) == 20


def test_rows_keep_their_order_and_are_spread_evenly(task: str, general: str, tmp_path: Path) -> None:
    questions = read_questions(mix([(task, 1), (general, 0.2)], tmp_path / "mixed.jsonl"))
    assert [text for text in questions if text.startswith("task")] == [f"task {number}" for number in range(80)]
    places = [place for place, text in enumerate(questions) if text.startswith("general")]
    assert {after - before for before, after in pairwise(places)} == {5}


def test_the_same_call_writes_the_same_file_and_a_higher_weight_only_adds(
    task: str, general: str, tmp_path: Path
) -> None:
    first, again, more = (
        mix([(task, 1), (general, weight)], tmp_path / f"mixed-{number}.jsonl")
        for number, weight in enumerate((0.2, 0.2, 0.5))
    )
    assert first.written.sha256 == again.written.sha256
    assert set(read_questions(first)) < set(read_questions(more))


def test_files_of_other_formats_are_read_and_written_as_the_first_one(task: str, tmp_path: Path) -> None:
    table = tmp_path / "more.csv"
    table.write_text("prompt,completion\nWhere?,Here\nWhen?,Now\n")
    done = mix([(task, 1), (str(table), 1)], tmp_path / "mixed.jsonl")
    assert done.written.format == "chat"
    assert {"Where?", "When?"} < set(read_questions(done))
    other = mix([(task, 1), (str(table), 1)], tmp_path / "mixed.csv", to="prompt_completion")
    assert other.written.rows == 82


@pytest.mark.parametrize("weight", [0, -1, 1001, float("nan"), float("inf")])
def test_a_weight_out_of_range_is_refused(task: str, tmp_path: Path, weight: float) -> None:
    with pytest.raises(LlmtuneError, match="not above 0 and at most"):
        mix([(task, weight)], tmp_path / "mixed.jsonl")


def test_a_share_that_is_no_row_is_refused(task: str, tmp_path: Path) -> None:
    with pytest.raises(LlmtuneError, match="is no row"):
        mix([(task, 0.001)], tmp_path / "mixed.jsonl")


def test_pairs_and_conversations_are_not_mixed(task: str, tmp_path: Path) -> None:
    pairs = write_rows(tmp_path / "pairs.jsonl", [{"prompt": "a?", "chosen": "b", "rejected": "c"}])
    with pytest.raises(InvalidData, match=r"conversations \(.*task.*\) and preference pairs \(.*pairs"):
        mix([(task, 1), (pairs, 1)], tmp_path / "mixed.jsonl")


def test_faults_of_every_file_are_named_and_nothing_is_written(task: str, tmp_path: Path) -> None:
    first = write_rows(tmp_path / "first.jsonl", [chat_row("a"), {"messages": []}])
    second = write_rows(tmp_path / "second.jsonl", [chat_row("b", "")])
    with pytest.raises(InvalidData) as caught:
        mix([(task, 1), (first, 1), (second, 1)], tmp_path / "mixed.jsonl")
    assert [(finding.code, Path(str(finding.file)).name, finding.line) for finding in caught.value.findings] == [
        ("empty-messages", "first.jsonl", 2),
        ("empty-content", "second.jsonl", 1),
    ]
    assert not (tmp_path / "mixed.jsonl").exists()


def test_a_file_that_is_there_stays(task: str, tmp_path: Path) -> None:
    target = tmp_path / "mixed.jsonl"
    target.write_text("mine")
    with pytest.raises(LlmtuneError, match="already there"):
        mix([(task, 1)], target)
    assert target.read_text() == "mine"
    assert mix([(task, 1)], target, overwrite=True).written.rows == 80
    assert mix([(task, 1)], Path(task), overwrite=True).written.rows == 80
