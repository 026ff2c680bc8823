"""The panel that is shipped, and panels of one's own."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from llmtune.errors import InvalidData, UnknownName
from llmtune.evaluation.panel.questions import MOST_QUESTIONS, load_panel
from llmtune.evaluation.panel.rules import PanelAnswer
from llmtune.evaluation.predictions import normalise_calls

SKILLS = {
    "arithmetic", "reading", "instructions", "JSON", "languages", "refusal of harm", "harmless requests",
    "tool calls", "system prompt",
}  # fmt: skip

QUESTION: dict[str, Any] = {
    "id": "a-1",
    "skill": "sums",
    "messages": [{"role": "user", "content": "1 + 1?"}, {"role": "assistant", "content": "2"}],
    "rules": [{"rule": "number", "value": 2}],
}


def write(path: Path, *entries: Any) -> str:
    path.write_text("\n".join(json.dumps(entry) for entry in entries) + "\n", encoding="utf-8")
    return str(path)


def test_the_shipped_panel_is_small_has_every_skill_and_says_where_it_is_from() -> None:
    panel = load_panel(True)
    assert panel == load_panel("general")
    assert 250 <= len(panel.questions) <= 300
    assert {question.skill for question in panel.questions} == SKILLS
    assert {question.licence for question in panel.questions} == {"Apache-2.0"}
    assert all("written for llmtune" in question.source for question in panel.questions)
    prompts = [tuple(question.row.prompt()) for question in panel.questions]
    assert len(set(prompts)) == len(prompts)


def test_each_reference_answer_keeps_its_rules_and_no_empty_answer_does() -> None:
    for question in load_panel(True).questions:
        answer = question.row.answer()
        assert answer is not None
        assert question.is_right(PanelAnswer(answer.words, normalise_calls(answer.tool_calls))), question.id
        assert not question.is_right(PanelAnswer("")), question.id


def test_a_panel_of_ones_own(tmp_path: Path) -> None:
    panel = load_panel(write(tmp_path / "own.jsonl", QUESTION, QUESTION | {"id": "a-2", "licence": "MIT"}))
    assert [question.id for question in panel.questions] == ["a-1", "a-2"]
    assert panel.questions[1].licence == "MIT"
    assert panel.name == str(tmp_path / "own.jsonl")
    assert len(panel.sha256) == 64


@pytest.mark.parametrize(
    ("entry", "sentence"),
    [
        ([1], "line 2: a question is an object with id, skill, messages and rules"),
        (QUESTION, "line 2: the id 'a-1' stands in line 1 too"),
        (QUESTION | {"id": ""}, "line 2: id must be a text"),
        (QUESTION | {"id": "b", "skill": 3}, "line 2: skill must be a text"),
        (QUESTION | {"id": "b", "label": "x"}, "line 2: a question has no key 'label'"),
        (QUESTION | {"id": "b", "rules": []}, "line 2: rules must be a list of at least one rule"),
        (QUESTION | {"id": "b", "messages": QUESTION["messages"][:1]}, "line 2: messages must begin with the question"),
        (QUESTION | {"id": "b", "messages": QUESTION["messages"][1:]}, "line 2: messages must begin with the question"),
        (QUESTION | {"id": "b", "messages": "hello"}, "line 2: "),
        (QUESTION | {"id": "b", "rules": [{"rule": "nmber"}]}, "line 2: there is no rule 'nmber'; did you mean"),
    ],
)
def test_a_wrong_question_is_named_with_its_line(tmp_path: Path, entry: Any, sentence: str) -> None:
    with pytest.raises(InvalidData) as raised:
        load_panel(write(tmp_path / "own.jsonl", QUESTION, entry))
    assert sentence in raised.value.message


def test_files_that_are_no_panels_are_refused_in_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty.jsonl").write_bytes(b"\n\n")
    (tmp_path / "broken.jsonl").write_bytes(b"\xff\xfe{\n")
    os.mkfifo(tmp_path / "pipe.jsonl")
    write(tmp_path / "many.jsonl", *({**QUESTION, "id": str(number)} for number in range(MOST_QUESTIONS + 1)))
    for name, sentence in (
        ("none.jsonl", "none.jsonl does not exist"),
        ("empty.jsonl", "has no questions"),
        ("broken.jsonl", "broken.jsonl line 1: not JSON"),
        ("pipe.jsonl", "pipe.jsonl is not a regular file"),
        ("./", "./ is not a regular file"),
        ("many.jsonl", "at most 2,000 are asked"),
    ):
        with pytest.raises(InvalidData) as raised:
            load_panel(name)
        assert sentence in raised.value.message


def test_a_name_that_is_no_panel_is_refused_with_the_nearest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UnknownName, match="did you mean 'general'"):
        load_panel("genral")
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "own.jsonl", QUESTION)
    with pytest.raises(UnknownName, match=r"did you mean '\./own.jsonl'"):
        load_panel("own")
