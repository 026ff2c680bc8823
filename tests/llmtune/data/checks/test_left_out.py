"""Every key that nothing reads is named once a file, and what may be text of the prompt is a warning."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from llmtune.cli.data.app import app
from llmtune.data.checks.check import CheckReport, check
from llmtune.data.dataset import Dataset
from llmtune.data.formats.registry import general_formats
from llmtune.job.spec import DatasetSpec

TURNS = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]
LONG = "The ferry to Holm leaves from the northern pier."

#: A row of each general format.
ROWS: dict[str, dict[str, Any]] = {
    "chat": {"messages": TURNS},
    "prompt_completion": {"prompt": "q", "completion": "a"},
    "prompt_completion_turns": {"prompt": TURNS[:1], "completion": TURNS[1:]},
    "alpaca": {"instruction": "q", "input": "", "output": "a"},
    "sharegpt": {"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]},
    "labelled": {"text": "q", "label": "a"},
    "text": {"text": "q"},
    "preference": {"input": {"messages": TURNS[:1]}, "preferred_output": TURNS[1:], "non_preferred_output": TURNS[1:]},
    "preference_pair": {"prompt": "q", "chosen": "a", "rejected": "b"},
    "preference_messages": {"chosen_messages": TURNS, "rejected_messages": [*TURNS[:1], TURNS[1] | {"content": "b"}]},
}


def report_of(path: Path, rows: list[dict[str, Any]], **options: Any) -> CheckReport:
    path.write_bytes(b"".join(orjson.dumps(row) + b"\n" for row in rows))
    return check(path, checks=("structure",), **options)


def test_the_rows_are_of_every_general_format(tmp_path: Path) -> None:
    assert set(ROWS) == {fmt.name for fmt in general_formats()}
    for name, row in ROWS.items():
        assert report_of(tmp_path / "rows.jsonl", [row]).files[0].format == name


@pytest.mark.parametrize("name", ROWS)
def test_a_short_key_is_an_info_and_a_long_one_a_warning(tmp_path: Path, name: str) -> None:
    rows = [ROWS[name] | {"ts": 17, "note": LONG}, ROWS[name] | {"ts": 18, "note": ""}]
    report = report_of(tmp_path / "rows.jsonl", rows)
    unused = [finding for finding in report.findings if finding.code == "unused-key"]
    assert [(finding.severity, finding.line, finding.message) for finding in unused] == [
        ("info", None, "'ts' is not used: 2 rows, 2 characters on average"),
        (
            "warning",
            None,
            f"'note' is not used: 1 row, {len(LONG)} characters on average: does it belong to the prompt?",
        ),
    ]
    assert report.files[0].unused == ["ts", "note"]
    assert report.warnings == sum(finding.severity == "warning" for finding in report.findings)


def test_keys_of_messages_are_named_as_such(tmp_path: Path) -> None:
    ask, say = TURNS
    marked = [ask | {"mood": LONG}, say | {"mood": LONG, "reasoning_content": LONG}]
    report = report_of(tmp_path / "rows.jsonl", [{"messages": marked}])
    assert report.files[0].unused == ["messages[].mood"]
    report = report_of(tmp_path / "rows.jsonl", [{"messages": [ask | {"reasoning_content": LONG}, say]}])
    assert report.files[0].unused == ["messages[].reasoning_content"]  # only what an answer is preceded by is learned
    turns = [{"from": "human", "value": "q", "mood": "x"}, {"from": "gpt", "value": "a"}]
    assert report_of(tmp_path / "rows.jsonl", [{"conversations": turns}]).files[0].unused == ["conversations[].mood"]


def test_what_a_backend_is_not_sent_is_not_said_twice(tmp_path: Path) -> None:
    report = report_of(tmp_path / "rows.jsonl", [{"messages": TURNS, "id": "7"}], provider="together")
    assert [finding.code for finding in report.findings] == ["changed-extra"]
    report = report_of(tmp_path / "rows.jsonl", [{"messages": TURNS, "note": LONG}], provider="together")
    assert [finding.code for finding in report.findings] == ["changed-extra", "unused-key"]


def test_the_command_begins_with_the_columns(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    rows = [{"utterance": f"late {number}", "intent": "complaint", "id": number} for number in range(3)]
    path.write_bytes(b"".join(orjson.dumps(row) + b"\n" for row in rows))
    result = CliRunner().invoke(app, ["check", str(path)])
    assert result.stdout.splitlines()[0] == "columns: text = utterance, label = intent; not used: id"
    assert result.stdout.splitlines()[-1] == "0 errors, 0 warnings"
    assert CliRunner().invoke(app, ["check", str(path), "--strict"]).exit_code == 0
    report = json.loads(CliRunner().invoke(app, ["check", str(path), "--json"]).stdout)
    assert report["files"][0]["columns"] == {"text": "utterance", "label": "intent"}
    assert report["files"][0]["unused"] == ["id"]
    path.write_bytes(b"".join(orjson.dumps(row | {"note": LONG}) + b"\n" for row in rows))
    assert CliRunner().invoke(app, ["check", str(path)]).exit_code == 0
    assert CliRunner().invoke(app, ["check", str(path), "--strict"]).exit_code == 2


def test_a_job_is_told_of_text_that_is_not_used(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    rows = [{"prompt": f"q{number}", "completion": "a", "note": LONG, "id": number} for number in range(20)]
    path.write_bytes(b"".join(orjson.dumps(row) + b"\n" for row in rows))
    dataset = Dataset.from_spec(DatasetSpec(path=str(path)))
    assert [finding.message for finding in dataset.findings if finding.code == "unused-key"] == [
        f"'note' is not used: 20 rows, {len(LONG)} characters on average: does it belong to the prompt?"
    ]


KEYS = st.text("qjwz", min_size=3, max_size=6)


@pytest.mark.slow
@settings(max_examples=60)
@given(
    name=st.sampled_from(sorted(ROWS)), extra_keys=st.dictionaries(KEYS, st.text(min_size=1), min_size=1, max_size=4)
)
def test_every_extra_key_is_named(name: str, extra_keys: dict[str, str], tmp_path_factory: Any) -> None:
    path = tmp_path_factory.mktemp("rows") / "rows.jsonl"
    report = report_of(path, [ROWS[name] | extra_keys])
    named = {finding.message.split("'")[1] for finding in report.findings if finding.code == "unused-key"}
    assert named == set(extra_keys)
