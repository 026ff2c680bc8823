"""ShareGPT rows, `{"conversations": [{"from": "human", "value": ...}, ...]}`: speakers, calls and observations."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar

import orjson

from llmtune.data.example import Example, Message, ToolCall, unlisted
from llmtune.data.findings import Finding, error
from llmtune.data.formats import row_features as f
from llmtune.data.formats.base import RowFormat
from llmtune.data.formats.chat import (
    WEIGHT_KEYS,
    ToolCallIds,
    arguments_text,
    json_type,
    lower_keys,
    note_unread,
    read_tools,
    read_weight,
    with_preferred_answer,
)
from llmtune.data.formats.instruct import SYSTEMS, find_text, other_keys
from llmtune.data.formats.json_text import dump_json, load_json
from llmtune.data.formats.reasoning import take_reasoning


class ShareGPT(RowFormat):
    """`{"conversations": [{"from": "human", "value": ...}, {"from": "gpt", "value": ...}]}`."""

    name = "sharegpt"
    turns_key = "conversations"
    title = '{"conversations": [{"from": "human", "value": "..."}, {"from": "gpt", "value": "..."}]}'
    supports = (
        f.BASIC | f.TOOLS | f.WEIGHT_ZERO | f.PROMPT_WEIGHT | f.EXTRA | f.MESSAGE_EXTRA | f.LATE_SYSTEM | f.REASONING
    )

    KEYS = ("conversations", "conversation", "messages")
    ROLES: ClassVar[dict[str, str]] = {
        "human": "user",
        "user": "user",
        "gpt": "assistant",
        "assistant": "assistant",
        "chatgpt": "assistant",
        "bot": "assistant",
        "model": "assistant",
        "system": "system",
        "tool": "tool",
        "observation": "tool",
        "function_response": "tool",
        "function_call": "assistant",
    }
    NAMES: ClassVar[dict[str, str]] = {"user": "human", "assistant": "gpt", "system": "system", "tool": "observation"}

    def detect(self, row: Mapping[str, Any]) -> bool:
        for key in self.KEYS:
            if key != "messages" and key in row:
                return True
            turns = row.get(key)
            if isinstance(turns, list) and turns and isinstance(turns[0], dict) and "from" in turns[0]:
                return True
        return False

    def read(self, row: dict[str, Any], line: int | None, faults: list[Finding]) -> Example:
        key = next((key for key in self.KEYS if key in row), "conversations")
        turns = row.get(key)
        if not isinstance(turns, list):
            faults.append(
                error("row-shape", f"{key!r} is {json_type(turns)}; expected a list of turns", "make it a list")
            )
            turns = []
        elif not turns:
            faults.append(
                error("empty-messages", f"{key} is an empty list", "give it at least a question and an answer")
            )
        messages = self.read_turns(turns, key, faults)
        system = find_text(row, SYSTEMS)
        read_keys = [key, "tools"]
        if system is not None:
            read_keys.append(system)
            if row[system]:
                messages.insert(0, unlisted(Message("system", row[system])))
        tools = read_tools(row.get("tools") or None, None, faults)
        return Example(tuple(messages), tools, line=line, extra=other_keys(row, *read_keys))

    def read_turns(self, turns: Sequence[Any], where: str, faults: list[Finding]) -> list[Message]:
        """Read turns of from and value into canonical form; `where` names the list in faults."""
        messages: list[Message] = []
        calls = ToolCallIds()
        for index, turn in enumerate(turns):
            messages += self._read_turn(turn, f"{where}[{index}]", faults, calls)
        return messages

    def problems(self, example: Example) -> list[Finding]:
        findings = super().problems(example)
        turns = with_preferred_answer(example)
        if any(message.tool_calls and message.content is not None for message in turns):
            findings.append(error("lost-tools", "sharegpt rows hold no text beside a call", "cut the turn"))
        elif any(not _answers_in_order(turns, index) for index, turn in enumerate(turns) if len(turn.tool_calls) > 1):
            what = "sharegpt rows hold the answers to several calls of a turn in one observation, in their order"
            findings.append(error("lost-tools", what, "answer each call, in the order of the calls"))
        return findings

    def _read_turn(self, turn: Any, where: str, faults: list[Finding], calls: ToolCallIds) -> Iterator[Message]:
        if not isinstance(turn, dict):
            faults.append(
                error("row-shape", f"{where} is {json_type(turn)}; expected an object with from and value", "")
            )
            yield Message("user", "")
            return
        if "from" not in turn and "role" not in turn:
            turn = lower_keys(turn)
        name, text = "from" if "from" in turn else "role", "value" if "value" in turn else "content"
        speaker, value = turn.get(name), turn.get(text)
        role = self.ROLES.get(speaker) if isinstance(speaker, str) else None
        if role is None:
            what = f"{where}.{name} is {speaker!r}" if name in turn else f"{where} has neither from nor role"
            expected = "human, gpt, system, function_call or observation"
            faults.append(error("role", f"{what}; expected {expected}", "rename it"))
            role = "user"
        if not isinstance(value, str):
            what = f"{where}.{text} is {json_type(value)}" if text in turn else f"{where} has no value"
            faults.append(error("content", f"{what}; expected a string", "quote it"))
            value = ""
        weight = read_weight(turn, role, where, faults)
        extra = other_keys(turn, name, text, *WEIGHT_KEYS)
        if speaker == "function_call":
            unread: dict[str, Any] = {}
            thought, tool_calls = self._read_calls(value, calls, where, faults, unread)
            extra = unread | (extra or {}) or None
            yield take_reasoning(Message(role, None, tool_calls, weight=weight, extra=extra, reasoning=thought or None))
        elif role == "tool":
            yield from self._read_observation(value, calls, where, faults, weight, extra)
        else:
            yield take_reasoning(Message(role, value, weight=weight, extra=extra))

    def _read_calls(
        self, value: str, calls: ToolCallIds, where: str, faults: list[Finding], unread: dict[str, Any]
    ) -> tuple[str, tuple[ToolCall, ...]]:
        """Read the thought before a call, if there is any, and the calls of a turn."""
        thought = _THOUGHT.match(value)
        try:
            parsed = load_json(value[thought.end() :] if thought else value)
        except ValueError:
            parsed = None
        read = []
        for call in parsed if isinstance(parsed, list) and parsed else [parsed]:
            if isinstance(call, dict) and isinstance(call.get("function"), dict):
                call = call["function"]
            if not isinstance(call, dict) or not isinstance(call.get("name"), str):
                expected = 'write {"name": ..., "arguments": {...}} as text, or a list of such'
                faults.append(error("tool-call", f"{where}: the function_call holds no call", expected))
                continue
            note_unread(call, ("id", "type", "name", "arguments"), "function_call", unread)
            arguments = call.get("arguments")
            text = dump_json(arguments) if isinstance(arguments, dict) else arguments_text(arguments, where, faults)
            read.append(ToolCall(calls.new(call["name"]), call["name"], text))
        return thought.group(1).strip() if thought else "", tuple(read)

    def _read_observation(
        self,
        value: str,
        calls: ToolCallIds,
        where: str,
        faults: list[Finding],
        weight: int | None,
        extra: dict[str, Any] | None,
    ) -> Iterator[Message]:
        """Read an observation as one answer, or as one per waiting call where it is a list of as many."""
        if not calls.waiting:
            what = f"{where} is an observation, and no function_call before it waits for one"
            faults.append(error("tool-call-id", what, "put the function_call before it, or make it a human turn"))
        if len(calls.waiting) > 1 and value.lstrip().startswith("["):
            try:
                results = load_json(value)
            except ValueError:
                results = None
            if isinstance(results, list) and len(results) == len(calls.waiting):
                for index, result in enumerate(results):
                    text = result if isinstance(result, str) else dump_json(result)
                    answer = Message("tool", text, (), calls.answer(None), weight=weight, extra=extra)
                    yield unlisted(answer) if index else answer
                return
        yield Message("tool", value, (), calls.answer(None), weight=weight, extra=extra)

    def write(self, example: Example) -> dict[str, Any]:
        row: dict[str, Any] = {"conversations": self.write_turns(with_preferred_answer(example))}
        if example.tools:
            row["tools"] = list(example.tools)
        if example.extra:
            row.update(example.extra)
        return row

    def write_turns(self, messages: Sequence[Message]) -> list[dict[str, Any]]:
        """Return canonical turns as turns of from and value; several calls are one list, and so are their answers."""
        turns: list[dict[str, Any]] = []
        waiting = 0
        for message in messages:
            turn: dict[str, Any] = {"from": self.NAMES[message.role], "value": message.words}
            if message.tool_calls:
                texts = [
                    f'{{"name": {_quote(call.name)}, "arguments": {call.arguments}}}' for call in message.tool_calls
                ]
                turn = {"from": "function_call", "value": texts[0] if len(texts) == 1 else f"[{', '.join(texts)}]"}
                waiting = len(texts)
            elif message.role == "tool" and waiting > 1:
                turn["value"] = [message.words]
            if message.weight is not None:
                turn["weight"] = message.weight
            if message.reasoning is not None:
                turn["reasoning_content"] = message.reasoning
            if message.extra:
                turn.update(message.extra)
            joins = isinstance(turn["value"], list) and turns and isinstance(turns[-1]["value"], list)
            if joins:
                turns[-1]["value"] += turn["value"]
            else:
                turns.append(turn)
            waiting = waiting if message.tool_calls or message.role == "tool" else 0
        for turn in turns:
            if isinstance(turn["value"], list):
                turn["value"] = dump_json(turn["value"])
        return turns


#: A thought before a call, as in rows of reasoning models.
_THOUGHT = re.compile(r"\s*<think>(.*?)</think>\s*", re.DOTALL)


def _answers_in_order(turns: Sequence[Message], index: int) -> bool:
    """Return whether the calls of a turn are followed by one plain answer each, in their order."""
    calls = turns[index].tool_calls
    answers = turns[index + 1 : index + 1 + len(calls)]
    behind = turns[index + 1 + len(calls) : index + 2 + len(calls)]
    return (
        [(turn.role, turn.tool_call_id) for turn in answers] == [("tool", call.id) for call in calls]
        and not any(turn.extra or turn.weight is not None for turn in answers)
        and all(turn.role != "tool" for turn in behind)
    )


SHAREGPT = ShareGPT()


def _quote(text: str) -> str:
    return orjson.dumps(text).decode()
