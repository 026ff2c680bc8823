"""Answers that are labels, and prompts that never name them: a base model cannot know what is asked."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from llmtune.data.checks.check import check


def codes(tmp_path: Path, system: str | None, *, rows: int = 30, labels: int = 3, **more: Any) -> list[str]:
    path = tmp_path / "rows.jsonl"
    lines = []
    for number in range(rows):
        turns = [{"role": "system", "content": system}] if system else []
        turns += [
            {"role": "user", "content": f"case {number} is about {'abcdefgh'[number % 8] * 5}"},
            {"role": "assistant", "content": f"team-{number % labels}"},
        ]
        lines.append(json.dumps({"messages": turns}) + "\n")
    path.write_text("".join(lines))
    return [each.code for each in check(path, **more).findings]


def test_labels_that_no_prompt_names_are_warned_of(tmp_path: Path) -> None:
    assert "no-instruction" in codes(tmp_path, None)
    assert "no-instruction" in codes(tmp_path, "Classify.")
    assert "no-instruction" not in codes(tmp_path, "Answer with team-0, team-1 or team-2.")


@pytest.mark.parametrize("more", [{"rows": 10}, {"labels": 30}, {"method": "classification"}, {"checks": ("tokens",)}])
def test_where_answers_are_no_labels_or_need_no_naming_there_is_no_word(tmp_path: Path, more: dict[str, Any]) -> None:
    assert "no-instruction" not in codes(tmp_path, None, **more)
