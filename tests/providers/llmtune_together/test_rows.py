"""Together's own training files pass, and what its checker refuses is refused on the same line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from llmtune.data.checks.check import check
from llmtune.data.example import Example, Message, Preference
from llmtune.data.formats.registry import get_format


def expected(shared: Path) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = json.loads((shared / "data" / "expected.json").read_text())
    return {name: rule for name, rule in found.items() if rule.get("provider") == "together"}


def test_every_rule_that_names_together_holds(shared: Path) -> None:
    rules = expected(shared)
    assert len(rules) >= 28
    wrong = []
    for name, rule in rules.items():
        report = check(shared / "data" / name, provider="together", method=rule["method"])
        errors = [finding for finding in report.findings if finding.is_error]
        if bool(errors) != (rule["exit"] == 2):
            wrong.append(f"{name}: {len(errors)} errors")
        elif rule["line"] is not None and rule["line"] not in {finding.line for finding in errors}:
            wrong.append(f"{name}: expected line {rule['line']}, found {[finding.line for finding in errors]}")
    assert not wrong, "\n".join(wrong)


def test_its_own_files_pass(shared: Path) -> None:
    folder = shared / "data" / "vendor_training" / "other"
    files = sorted([*(folder / "together").glob("*.jsonl"), folder / "together_small_coqa_10.jsonl"])
    assert len(files) >= 7
    for file in files:
        method = "dpo" if "dpo" in file.name else "sft"
        report = check(file, provider="together", method=method)
        assert not [finding for finding in report.findings if finding.is_error], file.name


@pytest.mark.parametrize("name", ["together_valid_conversational_multiple_turns.jsonl", "together_dpo_valid.jsonl"])
def test_they_are_written_back_as_they_were(shared: Path, tmp_path: Path, name: str) -> None:
    from llmtune.data.convert import convert

    source = shared / "data" / "vendor_training" / "other" / "together" / name
    method = "dpo" if "dpo" in name else "sft"
    convert(source, tmp_path / "back.jsonl", "together", method=method)
    before = [json.loads(line) for line in source.read_text().splitlines() if line.strip()]
    after = [json.loads(line) for line in (tmp_path / "back.jsonl").read_text().splitlines()]
    assert after == before


ROWS = get_format("together")


@pytest.mark.parametrize("key", ["reasoning_content", "reasoning", "thinking"])
def test_reasoning_is_written_in_every_spelling(key: str) -> None:
    turns = [
        {"role": "user", "content": "When?"},
        {"role": "assistant", "content": "At eight.", key: "The table says so."},
    ]
    example = ROWS.read({"messages": turns}, 1, [])
    answer = example.messages[1]
    assert ROWS.problems(example) == []
    written = ROWS.write(example)["messages"][1]
    assert written == {"role": "assistant", "content": "At eight.", "reasoning_content": "The table says so."}
    pair = Example((Message("user", "When?"),), preference=Preference((answer,), (Message("assistant", "No idea."),)))
    assert ROWS.problems(pair) == []
    assert ROWS.write(pair)["preferred_output"] == [written]


@pytest.mark.parametrize(
    ("message", "left_out"),
    [
        (Message("assistant", "a", reasoning="r", extra={"mood": "x"}), ["messages[].mood"]),
        (Message("assistant", "a", extra={"reasoning": ["r"]}), ["messages[].reasoning"]),
    ],
)
def test_what_else_a_message_has_is_still_reported(message: Message, left_out: list[Any]) -> None:
    example = Example((Message("user", "q"), message))
    assert [problem.code for problem in ROWS.problems(example)] == ["changed-extra"]
    assert ROWS.left_out(example) == left_out


def test_reasoning_of_a_turn_that_is_no_answer_is_not_sent() -> None:
    example = Example((Message("user", "q", extra={"reasoning": "r"}), Message("assistant", "a")))
    assert ROWS.left_out(example) == ["messages[].reasoning"]
    assert ROWS.write(example)["messages"][0] == {"role": "user", "content": "q"}
