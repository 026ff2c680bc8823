"""Rows of one question and one answer, and plain text: prompt/completion, Alpaca, ShareGPT, text with label, text."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar

import orjson

from llmtune.data.example import Example, Message, ToolCall
from llmtune.data.findings import Finding, error
from llmtune.data.formats import row_features as f
from llmtune.data.formats.base import RowFormat
from llmtune.data.formats.chat import (
    WEIGHT_KEYS,
    Calls,
    answered,
    arguments_text,
    dump_json,
    kind,
    load_json,
    lower_keys,
    read_tools,
    read_weight,
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


class ShareGPT(RowFormat):
    """`{"conversations": [{"from": "human", "value": ...}, {"from": "gpt", "value": ...}]}`."""

    name = "sharegpt"
    turns_key = "conversations"
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
            faults.append(error("row-shape", f"{key!r} is {kind(turns)}; expected a list of turns", "make it a list"))
            turns = []
        elif not turns:
            faults.append(
                error("empty-messages", f"{key} is an empty list", "give it at least a question and an answer")
            )
        messages = self.read_turns(turns, key, faults)
        system = find_text(row, SYSTEMS)
        known = [key, "tools"]
        if system is not None:
            known.append(system)
            if row[system]:
                messages.insert(0, Message("system", row[system]))
        tools = read_tools(row.get("tools") or None, None, faults)
        return Example(tuple(messages), tools, line=line, extra=rest(row, *known))

    def read_turns(self, turns: Sequence[Any], where: str, faults: list[Finding]) -> list[Message]:
        """Turns of from and value in canonical form; `where` names the list in faults."""
        messages: list[Message] = []
        calls = Calls()
        for index, turn in enumerate(turns):
            messages += self._turn(turn, f"{where}[{index}]", faults, calls)
        return messages

    def problems(self, example: Example) -> list[Finding]:
        found = super().problems(example)
        turns = answered(example)
        if any(message.tool_calls and message.content is not None for message in turns):
            found.append(error("lost-tools", "sharegpt rows hold no text beside a call", "cut the turn"))
        elif any(not _answers_in_order(turns, index) for index, turn in enumerate(turns) if len(turn.tool_calls) > 1):
            what = "sharegpt rows hold the answers to several calls of a turn in one observation, in their order"
            found.append(error("lost-tools", what, "answer each call, in the order of the calls"))
        return found

    def _turn(self, turn: Any, where: str, faults: list[Finding], calls: Calls) -> Iterator[Message]:
        if not isinstance(turn, dict):
            faults.append(error("row-shape", f"{where} is {kind(turn)}; expected an object with from and value", ""))
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
            what = f"{where}.{text} is {kind(value)}" if text in turn else f"{where} has no value"
            faults.append(error("content", f"{what}; expected a string", "quote it"))
            value = ""
        weight = read_weight(turn, role, where, faults)
        extra = rest(turn, "from", "role", "value", "content", *WEIGHT_KEYS)
        if speaker == "function_call":
            thought, made = self._calls(value, calls, where, faults)
            if thought:
                extra = {"reasoning_content": thought} | (extra or {})
            yield Message(role, None, made, weight=weight, extra=extra)
        elif role == "tool":
            yield from self._observation(value, calls, where, faults, weight, extra)
        else:
            yield Message(role, value, weight=weight, extra=extra)

    def _calls(self, value: str, calls: Calls, where: str, faults: list[Finding]) -> tuple[str, tuple[ToolCall, ...]]:
        """What was thought before a call, if anything, and the call or the calls of a turn."""
        thought = _THOUGHT.match(value)
        try:
            made = load_json(value[thought.end() :] if thought else value)
        except ValueError:
            made = None
        read = []
        for call in made if isinstance(made, list) and made else [made]:
            if isinstance(call, dict) and isinstance(call.get("function"), dict):
                call = call["function"]
            if not isinstance(call, dict) or not isinstance(call.get("name"), str):
                expected = 'write {"name": ..., "arguments": {...}} as text, or a list of such'
                faults.append(error("tool-call", f"{where}: the function_call holds no call", expected))
                continue
            arguments = call.get("arguments")
            text = dump_json(arguments) if isinstance(arguments, dict) else arguments_text(arguments, where, faults)
            read.append(ToolCall(calls.new(call["name"]), call["name"], text))
        return thought.group(1).strip() if thought else "", tuple(read)

    def _observation(
        self,
        value: str,
        calls: Calls,
        where: str,
        faults: list[Finding],
        weight: int | None,
        extra: dict[str, Any] | None,
    ) -> Iterator[Message]:
        """One answer, or one for each of several calls where the observation is a list of as many."""
        if not calls.waiting:
            what = f"{where} is an observation, and no function_call before it waits for one"
            faults.append(error("tool-call-id", what, "put the function_call before it, or make it a human turn"))
        if len(calls.waiting) > 1 and value.lstrip().startswith("["):
            try:
                results = load_json(value)
            except ValueError:
                results = None
            if isinstance(results, list) and len(results) == len(calls.waiting):
                for result in results:
                    text = result if isinstance(result, str) else dump_json(result)
                    yield Message("tool", text, (), calls.answered(None), weight=weight, extra=extra)
                return
        yield Message("tool", value, (), calls.answered(None), weight=weight, extra=extra)

    def write(self, example: Example) -> dict[str, Any]:
        row: dict[str, Any] = {"conversations": self.write_turns(answered(example))}
        if example.tools:
            row["tools"] = list(example.tools)
        if example.extra:
            row.update(example.extra)
        return row

    def write_turns(self, messages: Sequence[Message]) -> list[dict[str, Any]]:
        """Canonical turns as turns of from and value: several calls as one list, and so their answers."""
        turns: list[dict[str, Any]] = []
        waiting = 0
        for message in messages:
            turn: dict[str, Any] = {"from": self.NAMES[message.role], "value": message.words}
            if message.tool_calls:
                texts = [
                    f'{{"name": {_quoted(call.name)}, "arguments": {call.arguments}}}' for call in message.tool_calls
                ]
                turn = {"from": "function_call", "value": texts[0] if len(texts) == 1 else f"[{', '.join(texts)}]"}
                waiting = len(texts)
            elif message.role == "tool" and waiting > 1:
                turn["value"] = [message.words]
            if message.weight is not None:
                turn["weight"] = message.weight
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


#: A thought before a call, as rows of reasoning models have it.
_THOUGHT = re.compile(r"\s*<think>(.*?)</think>\s*", re.DOTALL)


def _answers_in_order(turns: Sequence[Message], index: int) -> bool:
    """Whether the calls of a turn are followed by one plain answer each, in their order."""
    calls = turns[index].tool_calls
    answers = turns[index + 1 : index + 1 + len(calls)]
    behind = turns[index + 1 + len(calls) : index + 2 + len(calls)]
    return (
        [(turn.role, turn.tool_call_id) for turn in answers] == [("tool", call.id) for call in calls]
        and not any(turn.extra or turn.weight is not None for turn in answers)
        and all(turn.role != "tool" for turn in behind)
    )


SHAREGPT = ShareGPT()


def _quoted(text: str) -> str:
    return orjson.dumps(text).decode()


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
FORMATS: tuple[RowFormat, ...] = (SHAREGPT, PromptCompletion(), Alpaca(), Labelled(), PlainText())
