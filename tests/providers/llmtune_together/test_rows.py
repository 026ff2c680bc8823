"""Together's own training files pass, and what its checker refuses is refused on the same line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from llmtune.data.checks.check import check
from llmtune.data.example import Example, Message, Preference
from llmtune.data.formats.chat import CHAT
from llmtune.data.formats.registry import get_format


def expected(shared: Path) -> dict[str, dict[str, Any]]:
    rows_by_file: dict[str, dict[str, Any]] = json.loads((shared / "data" / "expected.json").read_text())
    return {name: rule for name, rule in rows_by_file.items() if rule.get("provider") == "together"}


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


@pytest.mark.parametrize(
    ("model", "reasons"),
    [
        ("Qwen/Qwen3-8B", True),
        ("Qwen/Qwen3-235B-A22B", True),
        ("Qwen/Qwen3-Next-80B-A3B-Thinking", True),
        ("Qwen/Qwen3.5-397B-A17B", True),
        ("zai-org/GLM-4.7", True),
        ("openai/gpt-oss-20b", True),
        ("google/gemma-4-31B-it", True),
        ("Qwen/Qwen3-Coder-30B-A3B-Instruct", False),
        ("Qwen/Qwen2.5-7B-Instruct", False),
        ("meta-llama/Meta-Llama-3.1-8B-Instruct-Reference", False),
        (None, False),
    ],
)
def test_a_model_that_reasons_wants_reasoning_and_another_is_warned_of_it(
    model: str | None, reasons: bool, tmp_path: Path
) -> None:
    path = tmp_path / "rows.jsonl"
    turns = [{"role": "user", "content": "When?"}, {"role": "assistant", "content": "At eight."}]

    def codes() -> set[str]:
        path.write_text(json.dumps({"messages": turns}))
        report = check(path, provider="together", model=model, checks=("structure",))
        assert report.ok
        return set(report.counts)

    assert codes() == ({"no-reasoning"} if reasons else set())
    turns[1]["reasoning"] = "The table says so."
    assert codes() == ({"vendor-reasoning"} if model and not reasons else set())


@pytest.mark.parametrize(
    "answer",
    [
        {"content": [{"type": "thinking", "thinking": "t", "signature": "s"}, {"type": "text", "text": "a"}]},
        {"content": [{"type": "thinking", "thinking": [{"type": "text", "text": "t"}]}, {"type": "text", "text": "a"}]},
        {"content": [{"type": "reasoning", "text": "t"}, {"type": "text", "text": "a"}]},
        {"content": "a", "thinking": "t", "reasoning": "t", "reasoning_content": ""},
    ],
)
def test_reasoning_in_parts_is_read(answer: dict[str, Any]) -> None:
    example = CHAT.read({"messages": [{"role": "user", "content": "q"}, {"role": "assistant"} | answer]}, 1, [])
    assert example.messages[1] == Message("assistant", "a", reasoning="t")


def test_thoughts_in_other_vendors_rows_are_read() -> None:
    gemini = {
        "contents": [
            {"role": "user", "parts": [{"text": "q"}]},
            {"role": "model", "parts": [{"text": "t", "thought": True}, {"text": "a"}]},
        ]
    }
    example = get_format("gemini").read(gemini, 1, [])
    assert example.messages[1] == Message("assistant", "a", reasoning="t")
    assert get_format("gemini").write(example) == gemini
    assert [problem.code for problem in get_format("gemini").problems(example)] == ["changed-reasoning"]
    assert ROWS.write(example)["messages"][1] == {"role": "assistant", "content": "a", "reasoning_content": "t"}


def test_a_second_spelling_with_other_words_is_not_lost_without_a_word() -> None:
    turns = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a", "reasoning": "r", "thinking": "t"}]
    example = CHAT.read({"messages": turns}, 1, [])
    assert (example.messages[1].reasoning, example.messages[1].extra) == ("r", {"thinking": "t"})
    assert ROWS.left_out(example) == ["messages[].thinking"]
