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
    answered,
    kind,
)

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


#: Keys of a second text that belongs to the prompt, and of a system prompt beside it.
CONTEXTS = ("context", "passage", "article", "document", "background")
SYSTEMS = ("system", "system_prompt")


def find_text(row: Mapping[str, Any], names: Sequence[str], *taken: str) -> str | None:
    """The first of the keys, other than those that are taken, under which the row has a text."""
    return next((key for key in names if key not in taken and isinstance(row.get(key), str)), None)


def with_context(prompt: str, context: str) -> str:
    """The prompt with the text it is about behind it, if there is any."""
    return f"{prompt}\n\n{context}" if context.strip() else prompt


def read_history(row: Mapping[str, Any]) -> list[Message] | None:
    """The turns before the prompt: a list of questions with their answers; None where the row has no such list."""
    history = row.get("history")
    if not isinstance(history, list) or not all(isinstance(turn, list) and len(turn) == 2 for turn in history):
        return None
    return [message for turn in history for message in pair(str(turn[0]), str(turn[1]))]


def find_pair(row: Mapping[str, Any]) -> tuple[str, str] | None:
    """The keys of question and answer in a row, under the names that sets use."""
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
    """`{"prompt": ..., "completion": ...}`, and the same under the names other sets use."""

    name = "prompt_completion"
    title = '{"prompt": "...", "completion": "..."} (or question/answer, input/output, ..., with context and system)'
    carries = f.CHAT | f.EXTRA
    folds = f.SYSTEM

    def detect(self, row: Mapping[str, Any]) -> bool:
        if "instruction" in row:
            found = find_pair(row)
            return found is not None and found[0] != "input"
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
        known = [first, second]
        system, context = find_text(row, SYSTEMS), find_text(row, CONTEXTS, first, second)
        if context is not None:
            known.append(context)
            prompt = with_context(prompt, row[context])
        if system is not None:
            known.append(system)
        history = read_history(row)
        turns: tuple[Message, ...] = pair(prompt, completion, row[system] if system is not None else None)
        if history is not None:
            known.append("history")
            turns = (*turns[:-2], *history, *turns[-2:])
        return Example(turns, line=line, extra=rest(row, *known))

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
    carries = (f.BASIC | f.EXTRA) & ~f.UNANSWERED

    INSTRUCTIONS = ("instruction", "query")
    INPUTS = ("input", *CONTEXTS)
    OUTPUTS = ("output", "response", "answer", "completion")

    def _keys(self, row: Mapping[str, Any]) -> tuple[str, str | None, str]:
        instruction = next((key for key in self.INSTRUCTIONS if key in row), "instruction")
        given = next((key for key in self.INPUTS if key in row), None)
        return instruction, given, next((key for key in self.OUTPUTS if key in row), "output")

    def detect(self, row: Mapping[str, Any]) -> bool:
        if "instruction" in row:
            return "input" in row or any(key in row for key in self.OUTPUTS)
        return "query" in row and any(key in row for key in self.OUTPUTS)

    def read(self, row: dict[str, Any], line: int | None, faults: list[Finding]) -> Example:
        instruction_key, given_key, output_key = self._keys(row)
        instruction = take_text(row, instruction_key, faults)
        output = take_text(row, output_key, faults)
        known = [instruction_key, output_key]
        given = None
        if given_key is not None:
            known.append(given_key)
            given = row[given_key]
        if given is not None and not isinstance(given, str):
            faults.append(error("row-shape", f"{given_key!r} is {kind(given)}; expected a string", "quote it"))
            given = ""
        messages = list(pair(f"{instruction}\n\n{given}" if given else instruction, output))
        history = read_history(row)
        if history is not None:
            known.append("history")
            messages = history + messages
        system = find_text(row, SYSTEMS)
        if system is not None:
            known.append(system)
            if row[system]:
                messages.insert(0, Message("system", row[system]))
        return Example(tuple(messages), line=line, extra=rest(row, *known))

    def columns(self, row: Mapping[str, Any]) -> dict[str, str]:
        instruction, given, output = self._keys(row)
        system = find_text(row, SYSTEMS)
        named = {"instruction": instruction, "input": given, "output": output, "system": system}
        if read_history(row) is not None:
            named["history"] = "history"
        return {name: key for name, key in named.items() if key is not None}

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


#: How tables write a cell that is empty. In small letters "none" may well be a label.
_EMPTY_CELLS = ("nan", "NaN", "NaT", "<NA>", "None", "null", "NULL")


class Labelled(RowFormat):
    """`{"text": ..., "label": ...}`: classification. Labels are strings; numbers become strings; a list is several."""

    name = "labelled"
    title = '{"text": "...", "label": "..."}'
    carries = f.CHAT | f.LABELS | f.EXTRA
    folds = f.SYSTEM

    TEXTS = ("text", "sentence", "utterance", "review", "tweet", "query", "message", "content", "body", "description")
    #: A heading stands before one of these texts, and alone where there is none of them.
    HEADINGS = ("title", "headline", "subject")
    BODIES = ("content", "body", "description")
    LABELS = ("label", "labels", "category", "intent", "class", "sentiment", "topic", "emotion", "target")

    def _keys(self, row: Mapping[str, Any]) -> tuple[tuple[str, ...], str] | None:
        """The keys of the text (a heading and what is below it), and the key of the label."""
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
        found = row.get(label_key)
        label: str | tuple[str, ...] = ""
        if isinstance(found, str) and found.startswith("[") and found.endswith("]"):
            found = _list_in(found)
        if isinstance(found, (str, int)):  # bool is an int: "True", "False"
            label = str(found)
        elif isinstance(found, float) and found.is_integer() and abs(found) < 1 << 63:
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
        extra = rest(row, *text_keys, label_key) if len(row) > 2 else None
        return _new(Example, (turns, (), label, None, None, line, None, extra))

    def write(self, example: Example) -> dict[str, Any]:
        label: Any = example.label if example.label is not None else example.completion()
        row = {"text": question_of(example), "label": list(label) if isinstance(label, tuple) else label}
        if example.extra:
            row.update(example.extra)
        return row


def _list_in(text: str) -> Any:
    """The list that a table's cell spells, in JSON or as Python prints it; the text itself where it spells none."""
    try:
        found = orjson.loads(text)
    except orjson.JSONDecodeError:
        try:
            found = ast.literal_eval(text)
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            return text
    sound = isinstance(found, list) and all(isinstance(one, (str, int)) for one in found)
    return found if sound else text


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
FORMATS: tuple[RowFormat, ...] = (PromptCompletion(), Alpaca(), Labelled(), PlainText())
