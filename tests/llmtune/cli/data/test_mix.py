"""`llmtune data mix`: weights on the command line, the shares it prints, and sentences for what cannot be."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from llmtune.cli.app import app
from llmtune.errors import LlmtuneError


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name, count in (("task.jsonl", 8), ("general.jsonl", 10), ("a=b.jsonl", 4)):
        rows = [
            {"messages": [{"role": "user", "content": f"{name} {n}"}, {"role": "assistant", "content": "yes"}]}
            for n in range(count)
        ]
        Path(name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path


def run(*arguments: str) -> Any:
    return CliRunner().invoke(app, ["data", "mix", *arguments], env={"COLUMNS": "200"}, catch_exceptions=False)


def test_it_prints_the_share_of_each_file(folder: Path) -> None:
    result = run("task.jsonl", "general.jsonl=0.2", "--out", "mixed.jsonl")
    assert result.exit_code == 0
    assert result.output.splitlines() == [
        "        8 rows  80.0 %  task.jsonl (8 rows x 1)",
        "        2 rows  20.0 %  general.jsonl (10 rows x 0.2)",
        "       10 rows as chat: mixed.jsonl",
    ]
    assert len(Path("mixed.jsonl").read_text().splitlines()) == 10


def test_as_json(folder: Path) -> None:
    document = json.loads(run("task.jsonl=2", "--out", "mixed.jsonl", "--json").output)
    assert (document["schema"], document["rows"]) == (1, 16)
    assert document["files"] == [{"path": "task.jsonl", "weight": 2.0, "rows": 8, "mixed": 16}]


def test_a_file_whose_name_has_an_equals_sign(folder: Path) -> None:
    assert "a=b.jsonl (4 rows x 1)" in run("a=b.jsonl", "--out", "first.jsonl").output
    assert "a=b.jsonl (4 rows x 3)" in run("a=b.jsonl=3", "--out", "second.jsonl").output


def test_a_weight_that_is_no_number(folder: Path) -> None:
    with pytest.raises(LlmtuneError, match="'half' is no weight"):
        run("task.jsonl=half", "--out", "mixed.jsonl")


def test_wrong_rows_are_listed_and_nothing_is_written(folder: Path) -> None:
    Path("bad.jsonl").write_text('{"messages": []}\n')
    result = CliRunner().invoke(app, ["data", "mix", "task.jsonl", "bad.jsonl", "--out", "mixed.jsonl"])
    assert result.exit_code == 2
    assert "bad.jsonl:1: error messages is an empty list" in result.output
    assert not Path("mixed.jsonl").exists()
