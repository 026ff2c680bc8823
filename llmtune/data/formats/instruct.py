"""Rows of one question and one answer, and plain text: prompt/completion, Alpaca, text with label, text."""

from __future__ import annotations

import ast
from collections.abc import Mapping, Sequence
from typing import Any

import orjson

from llmtune.data.example import Example, Message
from llmtune.data.findings import Finding, error, warning
from llmtune.data.formats import row_features as f
from llmtune.data.formats.base import RowFormat
from llmtune.data.formats.chat import (
    json_type,
    with_preferred_answer,
)

_new = tuple.__new__


def take_text(row: Mapping[str, Any], key: str, faults: list[Finding], *, empty_ok: bool = False) -> str:
    """Return the string under a key; a fault when it is missing or not a string."""
    value = row.get(key)
    if isinstance(value, str):
        return value
    if value is None and key not in row:
        faults.append(
            error("row-shape", f"the row has no {key!r}", f"add it; this row has {', '.join(map(repr, row))}")
        )
    elif not (value is None and empty_ok):
        faults.append(error("row-shape", f"{key!r} is {json_type(value)}; expected a string", "quote it"))
    return ""


def pair(question: str, answer: str, system: str | None = None) -> tuple[Message, ...]:
    """Return a user turn and an assistant turn, with a system turn before them when there is one."""
    turns = (Message("user", question), Message("assistant", answer))
    return (Message("system", system), *turns) if system else turns


def question_of(example: Example) -> str:
    """Return the prompt as one text: every turn before the answer, separated by empty lines."""
    return "\n\n".join(message.words for message in example.prompt() if message.words)


def other_keys(row: Mapping[str, Any], *read_keys: str) -> dict[str, Any] | None:
    """Return the row without `read_keys`, or None where nothing is left."""
    return {key: value for key, value in row.items() if key not in read_keys} or None


#: Keys of a second text that belongs to the prompt, and of a system prompt.
CONTEXTS = ("context", "passage", "article", "document", "background")
SYSTEMS = ("system", "system_prompt")


def find_text(row: Mapping[str, Any], names: Sequence[str], *taken: str) -> str | None:
    """Return the first of the keys, except those in `taken`, whose value is a text."""
    return next((key for key in names if key not in taken and isinstance(row.get(key), str)), None)


def with_context(prompt: str, context: str) -> str:
    """Return the prompt, followed by the text it is about where there is any."""
    return f"{prompt}\n\n{context}" if context.strip() else prompt


def read_history(row: Mapping[str, Any]) -> list[Message] | None:
    """Read the turns before the prompt from a list of questions and answers; None where the row has no such list."""
    history = row.get("history")
    if not isinstance(history, list) or not all(isinstance(turn, list) and len(turn) == 2 for turn in history):
        return None
    return [message for turn in history for message in pair(str(turn[0]), str(turn[1]))]


def find_pair(row: Mapping[str, Any]) -> tuple[str, str] | None:
    """Return the keys of question and answer in a row, by the names that datasets use."""
    return next(((first, second) for first, second in PAIRS if first in row and second in row), None)


PAIRS = (
    ("prompt", "completion"),
    ("question", "answer"),
    ("prompt", "response"),
    ("question", "response"),
    ("prompt", "generation"),
    ("prompt", "output"),
    ("prompt", "answer"),
    ("input_text", "output_text"),
    ("inputs", "targets"),
    ("input", "output"),
    ("message_1", "message_2"),
    ("article", "summary"),
    ("document", "summary"),
    ("dialogue", "summary"),
    ("text", "ground_truth"),
)


class PromptCompletion(RowFormat):
    """`{"prompt": ..., "completion": ...}`, and the same under the names that other datasets use."""

    name = "prompt_completion"
    title = '{"prompt": "...", "completion": "..."} (or question/answer, input/output, ..., with context and system)'
    supports = f.CHAT | f.EXTRA
    relocates = f.SYSTEM

    def detect(self, row: Mapping[str, Any]) -> bool:
        if "instruction" in row:
            keys = find_pair(row)
            return keys is not None and keys[0] != "input"
        return find_pair(row) is not None or "prompt" in row or "completion" in row

    def read(self, row: dict[str, Any], line: int | None, faults: list[Finding]) -> Example:
        first, second = find_pair(row) or ("prompt", "completion")
        if second not in row and isinstance(row.get("completions"), list):
            what = "rows of several completions with a label each (stepwise supervision) are supported by no method"
            faults.append(error("reinforcement-row", what, "give each row one completion to learn from"))
            return Example(line=line)
        prompt, completion = row.get(first), row.get(second)
        if prompt.__class__ is not str:
            prompt = take_text(row, first, faults)
        if completion.__class__ is not str:
            completion = take_text(row, second, faults)
        if len(row) == 2:
            return Example(pair(prompt, completion), line=line)
        read_keys = [first, second]
        system, context = find_text(row, SYSTEMS), find_text(row, CONTEXTS, first, second)
        if context is not None:
            read_keys.append(context)
            prompt = with_context(prompt, row[context])
        if system is not None:
            read_keys.append(system)
        history = read_history(row)
        turns: tuple[Message, ...] = pair(prompt, completion, row[system] if system is not None else None)
        if history is not None:
            read_keys.append("history")
            turns = (*turns[:-2], *history, *turns[-2:])
        return Example(turns, line=line, extra=other_keys(row, *read_keys))

    def columns(self, row: Mapping[str, Any]) -> dict[str, str]:
        first, second = find_pair(row) or ("prompt", "completion")
        context, system = find_text(row, CONTEXTS, first, second), find_text(row, SYSTEMS)
        named = {"prompt": f"{first} + {context}" if context else first, "completion": second}
        if system is not None:
            named["system"] = system
        return named | ({"history": "history"} if read_history(row) is not None else {})

    def write(self, example: Example) -> dict[str, Any]:
        row: dict[str, Any] = {"prompt": question_of(example), "completion": example.completion()}
        if example.extra:
            row.update(example.extra)
        return row


class Alpaca(RowFormat):
    """`{"instruction": ..., "input": ..., "output": ...}`, with `system` and `history` where a row has them, and the
    same under other names (`context` and `response`, as dolly has them; `query`)."""

    name = "alpaca"
    title = '{"instruction": "...", "input": "...", "output": "..."} (or instruction/context/response, query/response)'
    supports = (f.BASIC | f.EXTRA) & ~f.UNANSWERED

    INSTRUCTIONS = ("instruction", "query")
    INPUTS = ("input", *CONTEXTS)
    OUTPUTS = ("output", "response", "answer", "completion")

    def _keys(self, row: Mapping[str, Any]) -> tuple[str, str | None, str]:
        instruction = next((key for key in self.INSTRUCTIONS if key in row), "instruction")
        input_key = next((key for key in self.INPUTS if key in row), None)
        return instruction, input_key, next((key for key in self.OUTPUTS if key in row), "output")

    def detect(self, row: Mapping[str, Any]) -> bool:
        if "instruction" in row:
            return "input" in row or any(key in row for key in self.OUTPUTS)
        return "query" in row and any(key in row for key in self.OUTPUTS)

    def read(self, row: dict[str, Any], line: int | None, faults: list[Finding]) -> Example:
        instruction_key, input_key, output_key = self._keys(row)
        instruction = take_text(row, instruction_key, faults)
        output = take_text(row, output_key, faults)
        read_keys = [instruction_key, output_key]
        input_text = None
        if input_key is not None:
            read_keys.append(input_key)
            input_text = row[input_key]
        if input_text is not None and not isinstance(input_text, str):
            faults.append(
                error("row-shape", f"{input_key!r} is {json_type(input_text)}; expected a string", "quote it")
            )
            input_text = ""
        messages = list(pair(f"{instruction}\n\n{input_text}" if input_text else instruction, output))
        history = read_history(row)
        if history is not None:
            read_keys.append("history")
            messages = history + messages
        system = find_text(row, SYSTEMS)
        if system is not None:
            read_keys.append(system)
            if row[system]:
                messages.insert(0, Message("system", row[system]))
        return Example(tuple(messages), line=line, extra=other_keys(row, *read_keys))

    def columns(self, row: Mapping[str, Any]) -> dict[str, str]:
        instruction, input_key, output = self._keys(row)
        system = find_text(row, SYSTEMS)
        named = {"instruction": instruction, "input": input_key, "output": output, "system": system}
        if read_history(row) is not None:
            named["history"] = "history"
        return {name: key for name, key in named.items() if key is not None}

    def write(self, example: Example) -> dict[str, Any]:
        messages = list(with_preferred_answer(example))
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
        findings = super().problems(example)
        roles = [message.role for message in with_preferred_answer(example) if message.role != "system"]
        if not findings and (len(roles) % 2 or roles != ["user", "assistant"] * (len(roles) // 2)):
            findings.append(error("lost-turns", "alpaca rows hold user and assistant in turn, and nothing else", ""))
        return findings


#: How tables write an empty cell. "none" in lower case may well be a label.
_EMPTY_CELLS = ("nan", "NaN", "NaT", "<NA>", "None", "null", "NULL")


class Labelled(RowFormat):
    """`{"text": ..., "label": ...}`: classification. Labels are strings; numbers become strings; a list is several."""

    name = "labelled"
    title = '{"text": "...", "label": "..."}'
    supports = f.CHAT | f.LABELS | f.EXTRA
    relocates = f.SYSTEM

    TEXTS = ("text", "sentence", "utterance", "review", "tweet", "query", "message", "content", "body", "description")
    #: A heading is put before one of these texts, and is the text where there is none of them.
    HEADINGS = ("title", "headline", "subject")
    BODIES = ("content", "body", "description")
    LABELS = ("label", "labels", "category", "intent", "class", "sentiment", "topic", "emotion", "target")

    def _keys(self, row: Mapping[str, Any]) -> tuple[tuple[str, ...], str] | None:
        """Return the keys of the text (a heading and the body), and the key of the label."""
        label = next((key for key in self.LABELS if key in row), None)
        if label is None:
            return None
        text = find_text(row, self.TEXTS)
        heading = find_text(row, self.HEADINGS)
        if heading is not None and (text is None or text in self.BODIES):
            return ((heading,) if text is None else (heading, text)), label
        return None if text is None else ((text,), label)

    def detect(self, row: Mapping[str, Any]) -> bool:
        return self._keys(row) is not None and "messages" not in row

    def columns(self, row: Mapping[str, Any]) -> dict[str, str]:
        texts, label = self._keys(row) or (("text",), "label")
        return {"text": " + ".join(texts), "label": label}

    def read(self, row: dict[str, Any], line: int | None, faults: list[Finding]) -> Example:
        text_keys, label_key = self._keys(row) or (("text",), "label")
        text = take_text(row, text_keys[0], faults)
        for key in text_keys[1:]:
            text = with_context(text, row[key])
        value = row.get(label_key)
        label: str | tuple[str, ...] = ""
        if isinstance(value, str) and value.startswith("[") and value.endswith("]"):
            value = _parse_list(value)
        if isinstance(value, (str, int)):  # bool is an int: "True", "False"
            label = str(value)
        elif isinstance(value, float) and value.is_integer() and abs(value) < 1 << 63:
            label = str(int(value))
        elif isinstance(value, list) and all(isinstance(one, (str, int)) for one in value):
            label = tuple(str(one) for one in value)
        elif label_key not in row:
            faults.append(error("label", f"the row has no {label_key!r}", "add the label"))
        else:
            faults.append(
                error("label", f"{label_key!r} is {json_type(value)}; expected a string or a whole number", "")
            )
        if value == "":
            faults.append(error("label", f"{label_key!r} is empty", "give every row a label"))
        elif value in _EMPTY_CELLS:
            faults.append(
                warning(
                    "label-empty-cell",
                    f"{label_key!r} is {value!r}, which tables write for an empty cell; it is learned as a label",
                    "give the row its label, or remove it",
                )
            )
        answer = label if isinstance(label, str) else ", ".join(label)
        turns = (Message("user", text), Message("assistant", answer))
        extra = other_keys(row, *text_keys, label_key) if len(row) > 2 else None
        return _new(Example, (turns, (), label, None, None, line, None, extra))

    def write(self, example: Example) -> dict[str, Any]:
        label: Any = example.label if example.label is not None else example.completion()
        row = {"text": question_of(example), "label": list(label) if isinstance(label, tuple) else label}
        if example.extra:
            row.update(example.extra)
        return row


def _parse_list(text: str) -> Any:
    """Parse a table's cell as a list, in JSON or Python syntax; the text itself where it is none."""
    try:
        value = orjson.loads(text)
    except orjson.JSONDecodeError:
        try:
            value = ast.literal_eval(text)
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            return text
    sound = isinstance(value, list) and all(isinstance(one, (str, int)) for one in value)
    return value if sound else text


class PlainText(RowFormat):
    """`{"text": ...}`: text to continue, without turns; all of it is learned."""

    name = "text"
    title = '{"text": "..."}'
    supports = f.TEXT | f.EXTRA

    def detect(self, row: Mapping[str, Any]) -> bool:
        return "text" in row

    def read(self, row: dict[str, Any], line: int | None, faults: list[Finding]) -> Example:
        return Example(text=take_text(row, "text", faults), line=line, extra=other_keys(row, "text"))

    def write(self, example: Example) -> dict[str, Any]:
        row: dict[str, Any] = {"text": example.text or ""}
        if example.extra:
            row.update(example.extra)
        return row


#: In the order of detection.
FORMATS: tuple[RowFormat, ...] = (PromptCompletion(), Alpaca(), Labelled(), PlainText())
