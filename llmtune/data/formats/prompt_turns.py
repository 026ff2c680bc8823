"""Prompt and completion as lists of messages, or of the parts of one: TRL's conversational form, and Together's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from llmtune.data.example import Example, Message, OtherPart, unlisted
from llmtune.data.findings import Finding, error
from llmtune.data.formats import row_features as f
from llmtune.data.formats.base import RowFormat
from llmtune.data.formats.chat import (
    json_type,
    place_images,
    read_parts,
    read_tools,
    take_messages,
    with_preferred_answer,
    write_messages,
)
from llmtune.data.formats.instruct import find_pair, other_keys
from llmtune.data.formats.reasoning import take_reasoning


class PromptTurns(RowFormat):
    """`{"prompt": [...], "completion": [...]}`. Only the completion is learned, so assistant turns of the prompt have
    weight 0 unless they have one of their own."""

    name = "prompt_completion_turns"
    title = '{"prompt": [{"role": "user", "content": "..."}], "completion": [{"role": "assistant", "content": "..."}]}'
    supports = (1 << 20) - 1 & ~(f.PREFERENCE | f.TEXT | f.LABELS | f.OTHER_PARTS)
    turns_key = "turns"

    def detect(self, row: Mapping[str, Any]) -> bool:
        keys = find_pair(row) or ("prompt",)
        return any(isinstance(row.get(key), list) for key in keys)

    def takes_part(self, part: OtherPart) -> bool:
        return "type" in part.raw

    def read(self, row: dict[str, Any], line: int | None, faults: list[Finding]) -> Example:
        first, second = find_pair(row) or ("prompt", "completion")
        row = place_images(row, first, second)
        prompt = tuple(
            turn.replace(weight=0) if turn.role == "assistant" and turn.weight is None else turn
            for turn in self._read_turns(row, first, "user", faults)
        )
        completion = self._read_turns(row, second, "assistant", faults)
        system = row.get("system")
        read_keys = [first, second, "tools", "functions"]
        if isinstance(system, str):
            read_keys.append("system")
            prompt = (unlisted(Message("system", system)), *prompt)
        if completion and not any(turn.role == "assistant" for turn in completion):
            faults.append(error("role", f"{second} holds no assistant turn", "give it the answer"))
        tools = read_tools(row.get("tools"), row.get("functions"), faults)
        return Example((*prompt, *completion), tools, line=line, extra=other_keys(row, *read_keys))

    def _read_turns(self, row: Mapping[str, Any], key: str, role: str, faults: list[Finding]) -> tuple[Message, ...]:
        value = row.get(key)
        if isinstance(value, str):
            return (Message(role, value),)
        if isinstance(value, list) and value and not any(isinstance(part, dict) and _is_turn(part) for part in value):
            unread: dict[str, Any] = {}
            parts = read_parts(value, key, faults, unread)
            return (take_reasoning(Message(role, parts, extra=unread or None)),)
        if key in row and not isinstance(value, list):
            what = f"{key!r} is {json_type(value)}; expected a text, a list of messages or a list of parts"
            faults.append(error("row-shape", what, "give it that shape"))
            return ()
        return take_messages(row, key, faults)

    def write(self, example: Example) -> dict[str, Any]:
        turns = with_preferred_answer(example)
        cut = next((index for index, turn in enumerate(turns) if turn.trained), len(turns))
        prompt = [turn.replace(weight=None) if _is_untrained_answer(turn) else turn for turn in turns[:cut]]
        row: dict[str, Any] = {"prompt": write_messages(prompt), "completion": write_messages(turns[cut:])}
        if example.tools:
            row["tools"] = list(example.tools)
        if example.extra:
            row.update(example.extra)
        return row

    def problems(self, example: Example) -> list[Finding]:
        findings = super().problems(example)
        turns: Sequence[Message] = with_preferred_answer(example)
        trained = [index for index, turn in enumerate(turns) if turn.trained]
        if example.messages and (not trained or trained[0] == 0):
            what = f"{self.name} rows need a prompt, and an answer that is learned behind it"
            findings.append(error("cannot-unanswered", what, "write such rows as chat"))
        return findings


def _is_turn(part: Mapping[str, Any]) -> bool:
    return any(str(key).lower() == "role" for key in part)


def _is_untrained_answer(turn: Message) -> bool:
    return turn.role == "assistant" and turn.weight == 0


PROMPT_TURNS = PromptTurns()
