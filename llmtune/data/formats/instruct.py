"""Rows of one question and one answer, and plain text: prompt/completion, Alpaca, ShareGPT, text with label, text."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import orjson

from llmtune.data.example import Example, Message, ToolCall
from llmtune.data.findings import Finding, error, warning
from llmtune.data.formats import row_features as f
from llmtune.data.formats.base import RowFormat
from llmtune.data.formats.chat import WEIGHT_KEYS, Calls, answered, arguments_text, kind, read_tools, read_weight

_new = tuple.__new__


def take_text(row: Mapping[str, Any], key: str, faults: list[Finding], *, empty_ok: bool = False) -> str:
    """The string under a key; a fault when it is missing or something else."""
    value = row.get(key)
    if isinstance(value, str):
        return value
    if value is None and key not in row:
        faults.append(
            error("row-shape", f"the row has no {key!r}", f"add it; this row has {', '.join(map(repr, row))}")
        )
    elif not (value is None and empty_ok):
        faults.append(error("row-shape", f"{key!r} is {kind(value)}; expected a string", "quote it"))
    return ""


def pair(question: str, answer: str, system: str | None = None) -> tuple[Message, ...]:
    """A user turn and an assistant turn, with a system turn before them when there is one."""
    turns = (Message("user", question), Message("assistant", answer))
    return (Message("system", system), *turns) if system else turns


def question_of(example: Example) -> str:
    """The prompt as one text: every turn before the answer, an empty line between two."""
    return "\n\n".join(message.words for message in example.prompt() if message.words)


def rest(row: Mapping[str, Any], *known: str) -> dict[str, Any] | None:
    """The keys of a row that are not among the known ones."""
    return {key: value for key, value in row.items() if key not in known} or None


class PromptCompletion(RowFormat):
    """`{"prompt": ..., "completion": ...}`, and the same under the names other sets use."""

    name = "prompt_completion"
    title = '{"prompt": "...", "completion": "..."} (or question/answer, prompt/response, text/ground_truth)'
    carries = f.CHAT | f.EXTRA
    folds = f.SYSTEM

    PAIRS = (
        ("prompt", "completion"),
        ("question", "answer"),
        ("prompt", "response"),
        ("input_text", "output_text"),
        ("inputs", "targets"),
        ("text", "ground_truth"),
    )

    def _keys(self, row: Mapping[str, Any]) -> tuple[str, str] | None:
        return next(((first, second) for first, second in self.PAIRS if first in row and second in row), None)

    def detect(self, row: Mapping[str, Any]) -> bool:
        if self._keys(row) is not None:
            return True
        return "instruction" not in row and ("prompt" in row or "completion" in row)

    def read(self, row: dict[str, Any], line: int | None, faults: list[Finding]) -> Example:
        first, second = self._keys(row) or ("prompt", "completion")
        prompt, completion = row.get(first), row.get(second)
        if prompt.__class__ is not str:
            prompt = take_text(row, first, faults)
        if completion.__class__ is not str:
            completion = take_text(row, second, faults)
        if len(row) == 2:
            return Example(pair(prompt, completion), line=line)
        system = row.get("system")
        known = (first, second, "system") if isinstance(system, str) else (first, second)
        turns = pair(prompt, completion, system if isinstance(system, str) else None)
        return Example(turns, line=line, extra=rest(row, *known))

    def write(self, example: Example) -> dict[str, Any]:
        row: dict[str, Any] = {"prompt": question_of(example), "completion": example.completion()}
        if example.extra:
            row.update(example.extra)
        return row


class Alpaca(RowFormat):
    """`{"instruction": ..., "input": ..., "output": ...}`, with `system` and `history` where a row has them."""

    name = "alpaca"
    title = '{"instruction": "...", "input": "...", "output": "..."}'
    carries = (f.BASIC | f.EXTRA) & ~f.UNANSWERED

    def detect(self, row: Mapping[str, Any]) -> bool:
        return "instruction" in row and ("output" in row or "input" in row)

    def read(self, row: dict[str, Any], line: int | None, faults: list[Finding]) -> Example:
        instruction = take_text(row, "instruction", faults)
        output = take_text(row, "output", faults)
        given = row.get("input")
        if given is not None and not isinstance(given, str):
            faults.append(error("row-shape", f"'input' is {kind(given)}; expected a string", "quote it"))
            given = ""
        messages = list(pair(f"{instruction}\n\n{given}" if given else instruction, output))
        history = row.get("history")
        known = ["instruction", "input", "output"]
        if isinstance(history, list) and all(isinstance(turn, list) and len(turn) == 2 for turn in history):
            known.append("history")
            before = [message for turn in history for message in pair(str(turn[0]), str(turn[1]))]
            messages = before + messages
        system = row.get("system")
        if isinstance(system, str):
            known.append("system")
            if system:
                messages.insert(0, Message("system", system))
        return Example(tuple(messages), line=line, extra=rest(row, *known))

    def write(self, example: Example) -> dict[str, Any]:
        messages = list(answered(example))
        row: dict[str, Any] = {"instruction": "", "input": "", "output": example.completion()}
        if messages and messages[0].role == "system":
            row["system"] = messages.pop(0).words
        turns = [message.words for message in messages if message.role in ("user", "assistant")]
        if len(turns) >= 2:
            row["instruction"] = turns[-2]
        if len(turns) > 2:
            row["history"] = [turns[index : index + 2] for index in range(0, len(turns) - 2, 2)]
        if example.extra:
            row.update(example.extra)
        return row

    def problems(self, example: Example) -> list[Finding]:
        found = super().problems(example)
        roles = [message.role for message in answered(example) if message.role != "system"]
        if not found and (len(roles) % 2 or roles != ["user", "assistant"] * (len(roles) // 2)):
            found.append(error("lost-turns", "alpaca rows hold user and assistant in turn, and nothing else", ""))
        return found


class ShareGPT(RowFormat):
    """`{"conversations": [{"from": "human", "value": ...}, {"from": "gpt", "value": ...}]}`."""

    name = "sharegpt"
    title = '{"conversations": [{"from": "human", "value": "..."}, {"from": "gpt", "value": "..."}]}'
    carries = f.BASIC | f.TOOLS | f.WEIGHT_ZERO | f.PROMPT_WEIGHT | f.EXTRA | f.MESSAGE_EXTRA | f.LATE_SYSTEM

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
            turns = row.get(key)
            if isinstance(turns, list) and turns and isinstance(turns[0], dict):
                return "from" in turns[0] or (key != "messages" and "role" in turns[0])
            if key in row and key != "messages":
                return True
        return False

    def read(self, row: dict[str, Any], line: int | None, faults: list[Finding]) -> Example:
        key = next((key for key in self.KEYS if key in row), "conversations")
        turns = row.get(key)
        if not isinstance(turns, list):
            faults.append(error("row-shape", f"{key!r} is {kind(turns)}; expected a list of turns", "make it a list"))
            turns = []
        elif not turns:
            faults.append(
                error("empty-messages", f"{key} is an empty list", "give it at least a question and an answer")
            )
        messages: list[Message] = []
        calls = Calls()
        for index, turn in enumerate(turns):
            messages.append(self._turn(turn, f"{key}[{index}]", faults, calls))
        system = row.get("system")
        known = [key, "tools"]
        if isinstance(system, str):
            known.append("system")
            if system:
                messages.insert(0, Message("system", system))
        tools = read_tools(row.get("tools") or None, None, faults)
        return Example(tuple(messages), tools, line=line, extra=rest(row, *known))

    def problems(self, example: Example) -> list[Finding]:
        found = super().problems(example)
        for message in answered(example):
            if len(message.tool_calls) > 1 or (message.tool_calls and message.content is not None):
                found.append(error("lost-tools", "sharegpt rows hold one call a turn, without text", "cut the turn"))
                break
        return found

    def _turn(self, turn: Any, where: str, faults: list[Finding], calls: Calls) -> Message:
        if not isinstance(turn, dict):
            faults.append(error("row-shape", f"{where} is {kind(turn)}; expected an object with from and value", ""))
            return Message("user", "")
        speaker = turn.get("from", turn.get("role"))
        value = turn.get("value", turn.get("content"))
        role = self.ROLES.get(speaker) if isinstance(speaker, str) else None
        if role is None:
            expected = "human, gpt, system, function_call or observation"
            faults.append(error("role", f"{where}.from is {speaker!r}; expected {expected}", "rename it"))
            role = "user"
        if not isinstance(value, str):
            faults.append(error("content", f"{where}.value is {kind(value)}; expected a string", "quote it"))
            value = ""
        weight = read_weight(turn, role, where, faults)
        extra = rest(turn, "from", "role", "value", "content", *WEIGHT_KEYS)
        if speaker == "function_call":
            return Message(role, None, (self._call(value, calls, where, faults),), weight=weight, extra=extra)
        if role == "tool":
            return Message(role, value, (), calls.answered(None), weight=weight, extra=extra)
        return Message(role, value, weight=weight, extra=extra)

    def _call(self, value: str, calls: Calls, where: str, faults: list[Finding]) -> ToolCall:
        try:
            call = orjson.loads(value)
        except orjson.JSONDecodeError:
            call = None
        if not isinstance(call, dict) or not isinstance(call.get("name"), str):
            faults.append(
                error("tool-call", f"{where} holds no call", 'write {"name": ..., "arguments": {...}} as text')
            )
            return ToolCall("", "", "{}")
        return ToolCall(calls.new(call["name"]), call["name"], arguments_text(call.get("arguments"), where, faults))

    def write(self, example: Example) -> dict[str, Any]:
        turns: list[dict[str, Any]] = []
        for message in answered(example):
            before = len(turns)
            for call in message.tool_calls:
                text = f'{{"name": {_quoted(call.name)}, "arguments": {call.arguments}}}'
                turns.append({"from": "function_call", "value": text})
            if message.content is not None or not message.tool_calls:
                turns.append({"from": self.NAMES[message.role], "value": message.words})
            for turn in turns[before:]:
                if message.weight is not None:
                    turn["weight"] = message.weight
                if message.extra:
                    turn.update(message.extra)
        row: dict[str, Any] = {"conversations": turns}
        if example.tools:
            row["tools"] = list(example.tools)
        if example.extra:
            row.update(example.extra)
        return row


def _quoted(text: str) -> str:
    return orjson.dumps(text).decode()


#: How tables write a cell that is empty. In small letters "none" may well be a label.
_EMPTY_CELLS = ("nan", "NaN", "NaT", "<NA>", "None", "null", "NULL")


class Labelled(RowFormat):
    """`{"text": ..., "label": ...}`: classification. Labels are strings; numbers become strings; a list is several."""

    name = "labelled"
    title = '{"text": "...", "label": "..."}'
    carries = f.CHAT | f.LABELS | f.EXTRA
    folds = f.SYSTEM

    TEXTS = ("text", "sentence", "utterance", "review", "tweet", "query", "message", "content", "body", "title")
    LABELS = ("label", "labels", "category", "intent", "class", "sentiment", "topic", "emotion", "target")

    def _keys(self, row: Mapping[str, Any]) -> tuple[str, str] | None:
        text = next((key for key in self.TEXTS if isinstance(row.get(key), str)), None)
        label = next((key for key in self.LABELS if key in row), None)
        return (text, label) if text is not None and label is not None else None

    def detect(self, row: Mapping[str, Any]) -> bool:
        return self._keys(row) is not None and "messages" not in row

    def read(self, row: dict[str, Any], line: int | None, faults: list[Finding]) -> Example:
        text_key, label_key = self._keys(row) or ("text", "label")
        text = take_text(row, text_key, faults)
        found = row.get(label_key)
        label: str | tuple[str, ...] = ""
        if isinstance(found, (str, int)):  # bool is an int: "True", "False"
            label = str(found)
        elif isinstance(found, float) and found.is_integer():
            label = str(int(found))
        elif isinstance(found, list) and all(isinstance(one, (str, int)) for one in found):
            label = tuple(str(one) for one in found)
        elif label_key not in row:
            faults.append(error("label", f"the row has no {label_key!r}", "add the label"))
        else:
            faults.append(error("label", f"{label_key!r} is {kind(found)}; expected a string or a whole number", ""))
        if found == "":
            faults.append(error("label", f"{label_key!r} is empty", "give every row a label"))
        elif found in _EMPTY_CELLS:
            faults.append(
                warning(
                    "label-empty-cell",
                    f"{label_key!r} is {found!r}, which tables write for an empty cell; it is learned as a label",
                    "give the row its label, or remove it",
                )
            )
        answer = label if isinstance(label, str) else ", ".join(label)
        turns = (Message("user", text), Message("assistant", answer))
        extra = rest(row, text_key, label_key) if len(row) > 2 else None
        return _new(Example, (turns, (), label, None, None, line, None, extra))

    def write(self, example: Example) -> dict[str, Any]:
        label: Any = example.label if example.label is not None else example.completion()
        row = {"text": question_of(example), "label": list(label) if isinstance(label, tuple) else label}
        if example.extra:
            row.update(example.extra)
        return row


class PlainText(RowFormat):
    """`{"text": ...}`: text to continue, without turns; all of it is learned."""

    name = "text"
    title = '{"text": "..."}'
    carries = f.TEXT | f.EXTRA

    def detect(self, row: Mapping[str, Any]) -> bool:
        return "text" in row

    def read(self, row: dict[str, Any], line: int | None, faults: list[Finding]) -> Example:
        return Example(text=take_text(row, "text", faults), line=line, extra=rest(row, "text"))

    def write(self, example: Example) -> dict[str, Any]:
        row: dict[str, Any] = {"text": example.text or ""}
        if example.extra:
            row.update(example.extra)
        return row


#: In the order in which they are asked whether a row is theirs.
FORMATS: tuple[RowFormat, ...] = (ShareGPT(), PromptCompletion(), Alpaca(), Labelled(), PlainText())
