"""Preference rows: one prompt, a preferred and a rejected answer, in the three shapes that are about."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from llmtune.data.example import Example, ImagePart, Message, OtherPart, Preference, TextPart, unlisted
from llmtune.data.findings import Finding, error
from llmtune.data.formats import row_features as f
from llmtune.data.formats.base import RowFormat
from llmtune.data.formats.chat import (
    kind,
    read_messages,
    read_tools,
    read_truth,
    shape,
    take_messages,
    write_messages,
)
from llmtune.data.formats.instruct import CONTEXTS, SYSTEMS, find_text, read_history, rest, with_context
from llmtune.data.formats.sharegpt import SHAREGPT

_PLAIN = Message("user", "")[2:]
_CARRIES = (1 << 20) - 1 & ~(f.TEXT | f.LABELS | f.OTHER_PARTS)


class _PreferenceRows(RowFormat):
    carries = _CARRIES
    pairs = True

    def takes_part(self, part: OtherPart) -> bool:
        return "type" in part.raw

    def problems(self, example: Example) -> list[Finding]:
        found = super().problems(example)
        if example.preference is None:
            found.insert(0, cannot_prefer(self.name))
        return found


def cannot_prefer(name: str) -> Finding:
    """The refusal of an example without a pair where the format is one of pairs."""
    return error("cannot-prefer", f"{name} rows need a preferred and a rejected answer", "give preference rows")


#: Keys that hold an answer, wherever a label stands beside a text that is no answer.
_ANSWERS = ("completion", "response", "answer", "output")


def check_unpaired(row: Mapping[str, Any], example: Example, names_classes: Callable[[], bool]) -> Finding | None:
    """The refusal of a row that marks its one answer as right or wrong (KTO), which no method here learns from.

    A label true or false always does. As 1 and 0, or as text, it does unless the labels of the file name classes.
    """
    extra = example.extra or {}
    key = next((key for key in ("label", "kto_tag") if key in extra), None)
    if key is None:  # a label that was read as a class of the text, though an answer stands beside it
        value = row.get("label")
        spelled = value.lower() if isinstance(value, str) else value
        marked = spelled in ("true", "false") or isinstance(value, bool)
        if not (marked and example.label is not None and any(isinstance(extra.get(name), str) for name in _ANSWERS)):
            return None
        key = "label"
    elif example.preference is None and all(message.role != "assistant" for message in example.messages):
        return None
    value = row.get(key)
    if read_truth(value) is None or (key == "label" and not isinstance(value, bool) and names_classes()):
        return None
    if example.preference is not None:
        what = f"the row is a preference pair, and {key!r} is {value!r}, as in unpaired preference rows (KTO)"
        return error("unpaired-preference", what, f"remove {key!r} where the pair is sound; rename it if it is a class")
    return error(
        "unpaired-preference",
        f"unpaired preference rows (KTO) are supported by no method: {key!r} is {value!r} beside an answer, which would"
        " be learned either way",
        f"for sft keep the rows where it is true and remove {key!r}; for dpo pair a true and a false answer to the same"
        f" prompt; if {key!r} names a class, rename it",
    )


def check_answers(preference: Preference, names: tuple[str, str], faults: list[Finding]) -> None:
    """Each answer must hold an assistant turn, and end in one."""
    for answer, name in zip(preference, names, strict=True):
        if answer and answer[-1].role != "assistant":
            role = answer[-1].raw_role or answer[-1].role
            faults.append(error("role", f"{name} ends in a {role} turn; expected the assistant's", "fix the role"))


class InputPreferred(_PreferenceRows):
    """`{"input": {"messages": ..., "tools": ...}, "preferred_output": [...], "non_preferred_output": [...]}`."""

    name = "preference"
    title = '{"input": {"messages": [...]}, "preferred_output": [...], "non_preferred_output": [...]}'

    def detect(self, row: Mapping[str, Any]) -> bool:
        return "preferred_output" in row or "non_preferred_output" in row

    def read(self, row: dict[str, Any], line: int | None, faults: list[Finding]) -> Example:
        given = row.get("input")
        messages: tuple[Message, ...] = ()
        tools: tuple[Mapping[str, Any], ...] = ()
        extra = rest(row, "input", "preferred_output", "non_preferred_output") or {}
        if not isinstance(given, dict):
            what = f"'input' is {kind(given)}" if "input" in row else "there is no 'input'"
            faults.append(error("row-shape", f"{what}; expected an object with messages", "add it"))
        else:
            messages = take_messages(given, "messages", faults, "input.messages")
            tools = read_tools(given.get("tools"), given.get("functions"), faults)
            beside = rest(given, "messages", "tools", "functions")
            if beside:
                extra["input"] = beside
        names = ("preferred_output", "non_preferred_output")
        preference = Preference(*(take_messages(row, name, faults) for name in names))
        check_answers(preference, names, faults)
        return Example(messages, tools, preference=preference, line=line, extra=extra or None)

    def write(self, example: Example) -> dict[str, Any]:
        extra = dict(example.extra or {})
        given: dict[str, Any] = {"messages": write_messages(example.messages)}
        if example.tools:
            given["tools"] = list(example.tools)
        beside = extra.pop("input", None)
        if isinstance(beside, dict):
            given.update(beside)
        preferred, rejected = example.preference or Preference((), ())
        return {
            "input": given,
            "preferred_output": write_messages(preferred),
            "non_preferred_output": write_messages(rejected),
            **extra,
        }


#: Where a turn of a transcript begins, as the rows of hh-rlhf are written.
_SPEAKER = re.compile(r"(?:^|\n\n)(Human|Assistant):[ \t]?")
_SPEAKERS = {"Human": "user", "Assistant": "assistant"}


def read_transcript(text: str) -> tuple[Message, ...]:
    """The turns of a text such as "\\n\\nHuman: Hi\\n\\nAssistant: Hello"; none where it is no such text."""
    text = text.strip()
    marks = list(_SPEAKER.finditer(text))
    if not marks or marks[0].start() > 0:
        return ()
    ends = [*(mark.start() for mark in marks[1:]), len(text)]
    return tuple(
        Message(_SPEAKERS[mark.group(1)], text[mark.end() : end].strip()) for mark, end in zip(marks, ends, strict=True)
    )


class PromptChosen(_PreferenceRows):
    """`{"prompt": ..., "chosen": ..., "rejected": ...}`, each a text or a list of messages; the prompt may also be
    the beginning that both answers share, and stand under the names of Alpaca, ShareGPT or chat rows."""

    name = "preference_pair"
    title = '{"prompt": "...", "chosen": "...", "rejected": "..."}'

    CHOSEN = ("chosen", "chosen_response")
    REJECTED = ("rejected", "rejected_response")
    PROMPTS = ("prompt", "question", "instruction", "query", "input")
    TURNS = ("conversations", "conversation", "messages")

    def _keys(self, row: Mapping[str, Any]) -> tuple[str | None, str | None, str, str]:
        """The keys of the prompt and of a text that belongs to it, of the chosen and of the rejected answer."""
        prompt = next((key for key in self.PROMPTS if key in row), None)
        if prompt is None:
            prompt = next((key for key in self.TURNS if isinstance(row.get(key), list)), None)
        context = None
        if prompt is not None and isinstance(row[prompt], str):
            context = find_text(row, ("input", *CONTEXTS), prompt)
        chosen = next((key for key in self.CHOSEN if key in row), "chosen")
        return prompt, context, chosen, next((key for key in self.REJECTED if key in row), "rejected")

    def detect(self, row: Mapping[str, Any]) -> bool:
        return any(key in row for key in (*self.CHOSEN, *self.REJECTED))

    def columns(self, row: Mapping[str, Any]) -> dict[str, str]:
        prompt, context, chosen, rejected = self._keys(row)
        named = {"prompt": f"{prompt} + {context}" if context else prompt or "what both answers begin with"}
        named |= {"chosen": chosen, "rejected": rejected}
        return named | {key: key for key in (*SYSTEMS, "tools", "history", "images") if key in row}

    def read(self, row: dict[str, Any], line: int | None, faults: list[Finding]) -> Example:
        prompt_key, context, *names = self._keys(row)
        known = [*names, "tools"]
        sides = [self._side(row, name, prompt_key is None, faults) for name in names]
        chosen, rejected = sides
        prompt: tuple[Message, ...] = ()
        if prompt_key is not None:
            known.append(prompt_key)
            value = row[prompt_key]
            if context is not None:
                known.append(context)
                value = with_context(value, row[context])
            prompt = self._turns(value, "user", prompt_key, faults)
            history = read_history(row)
            if history is not None:
                known.append("history")
                prompt = (*history, *prompt)
            prompt, chosen, rejected = without_prompt(prompt, chosen, rejected)
        elif chosen and rejected:
            prompt, chosen, rejected = shared_prompt(chosen, rejected)
            if not prompt:
                have = ", ".join(map(repr, list(row)[:8]))
                what = f"there is no 'prompt', and the answers begin with no turn that both share; there is {have}"
                faults.append(error("row-shape", what, "add the prompt, or name its key: --column prompt=KEY"))
        if row.get("messages") == row.get(names[0]):  # the same again, for sft
            known.append("messages")
        system = find_text(row, SYSTEMS)
        if system is not None:
            known.append(system)
            prompt = (unlisted(Message("system", row[system])), *prompt) if row[system] else prompt
        images = row.get("images")
        if isinstance(images, list) and images and all(isinstance(image, str) for image in images) and prompt:
            known.append("images")
            last = prompt[-1]
            parts = tuple(ImagePart(image) for image in images)
            prompt = (*prompt[:-1], last.replace(content=(*parts, TextPart(last.words))))
        pair = Preference(chosen, rejected)
        check_answers(pair, (names[0], names[1]), faults)
        tools = read_tools(row.get("tools") or None, None, faults)
        return Example(prompt, tools, preference=pair, line=line, extra=rest(row, *known))

    def _side(self, row: Mapping[str, Any], name: str, transcript: bool, faults: list[Finding]) -> tuple[Message, ...]:
        """One answer; a whole transcript is cut into its turns where no key holds the prompt."""
        if name not in row:
            return take_messages(row, name, faults)
        value = row[name]
        if transcript and isinstance(value, str):
            return read_transcript(value) or (Message("assistant", value),)
        return self._turns(value, "assistant", name, faults)

    def _turns(self, value: Any, role: str, where: str, faults: list[Finding]) -> tuple[Message, ...]:
        if isinstance(value, str):
            return (Message(role, value),)
        turns = [value] if isinstance(value, dict) else value
        if not isinstance(turns, list):
            faults.append(shape(value, "a text or a list of messages", where))
            return ()
        if any(isinstance(turn, dict) and "from" in turn for turn in turns):
            return tuple(SHAREGPT.read_turns(turns, where, faults))
        return read_messages(turns, faults, where)

    def write(self, example: Example) -> dict[str, Any]:
        preferred, rejected = example.preference or Preference((), ())
        images, prompt = self._beside(example.messages)
        row: dict[str, Any] = {
            "prompt": self._write(prompt, "user"),
            "chosen": self._write(preferred, "assistant"),
            "rejected": self._write(rejected, "assistant"),
        }
        if all(isinstance(row[key], str) for key in ("chosen", "rejected")) != isinstance(row["prompt"], str):
            row = {
                "prompt": write_messages(example.messages),
                "chosen": write_messages(preferred),
                "rejected": write_messages(rejected),
            }
        elif images:
            row["images"] = images
        if example.tools:
            row["tools"] = list(example.tools)
        if example.extra:
            row.update(example.extra)
        return row

    def _beside(self, turns: tuple[Message, ...]) -> tuple[list[str], tuple[Message, ...]]:
        """A lone question with its images before it, as images and a question of text alone."""
        if len(turns) != 1 or not isinstance(turns[0].content, tuple) or turns[0][2:] != _PLAIN:
            return [], turns
        *images, last = turns[0].content
        if not isinstance(last, TextPart) or not images or turns[0].role != "user":
            return [], turns
        urls = [image.url for image in images if isinstance(image, ImagePart) and image == ImagePart(image.url)]
        return (urls, (Message("user", last.text),)) if len(urls) == len(images) else ([], turns)

    def _write(self, turns: tuple[Message, ...], role: str) -> str | list[dict[str, Any]]:
        if len(turns) == 1 and turns[0] == Message(role, turns[0].content) and isinstance(turns[0].content, str):
            return turns[0].content
        return write_messages(turns)


class ChosenMessages(_PreferenceRows):
    """`{"chosen_messages": [...], "rejected_messages": [...]}`: two whole conversations that begin alike."""

    name = "preference_messages"
    title = '{"chosen_messages": [...], "rejected_messages": [...]}'

    def detect(self, row: Mapping[str, Any]) -> bool:
        return "chosen_messages" in row or "rejected_messages" in row

    def read(self, row: dict[str, Any], line: int | None, faults: list[Finding]) -> Example:
        chosen = take_messages(row, "chosen_messages", faults)
        rejected = take_messages(row, "rejected_messages", faults)
        prompt, chosen, rejected = shared_prompt(chosen, rejected)
        if not prompt and not faults:
            faults.append(error("row-shape", "the two conversations share no first turn", "give both the same prompt"))
        check_answers(Preference(chosen, rejected), ("chosen_messages", "rejected_messages"), faults)
        tools = read_tools(row.get("tools"), None, faults)
        extra = rest(row, "chosen_messages", "rejected_messages", "tools")
        return Example(prompt, tools, preference=Preference(chosen, rejected), line=line, extra=extra)

    def write(self, example: Example) -> dict[str, Any]:
        preferred, rejected = example.preference or Preference((), ())
        row: dict[str, Any] = {
            "chosen_messages": write_messages(example.messages + preferred),
            "rejected_messages": write_messages(example.messages + rejected),
        }
        if example.tools:
            row["tools"] = list(example.tools)
        if example.extra:
            row.update(example.extra)
        return row


def shared_prompt(
    chosen: tuple[Message, ...], rejected: tuple[Message, ...]
) -> tuple[tuple[Message, ...], tuple[Message, ...], tuple[Message, ...]]:
    """Two conversations cut into their common beginning and the two answers, each of which keeps a turn."""
    cut = 0
    for first, second in zip(chosen[:-1], rejected[:-1], strict=False):
        if first != second:
            break
        cut += 1
    return chosen[:cut], chosen[cut:], rejected[cut:]


def without_prompt(
    prompt: tuple[Message, ...], chosen: tuple[Message, ...], rejected: tuple[Message, ...]
) -> tuple[tuple[Message, ...], tuple[Message, ...], tuple[Message, ...]]:
    """The prompt and two answers, where answers may be whole conversations that have the prompt in them already."""
    shared, first, second = shared_prompt(chosen, rejected)
    if shared and _spoken(shared)[-len(prompt) :] == _spoken(prompt):  # a system turn may stand before the prompt
        return shared, first, second
    sides = [
        side[len(prompt) :] if len(side) > len(prompt) and _spoken(side)[: len(prompt)] == _spoken(prompt) else side
        for side in (chosen, rejected)
    ]
    return prompt, sides[0], sides[1]


def _spoken(turns: tuple[Message, ...]) -> list[tuple[str, str]]:
    return [(turn.role, turn.words.strip()) for turn in turns]


FORMATS: tuple[RowFormat, ...] = (InputPreferred(), ChosenMessages(), PromptChosen())
