"""Preference rows: one prompt, a preferred and a rejected answer, in the three formats in use."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from llmtune.data.example import Example, ImagePart, Message, OtherPart, Preference, TextPart, unlisted
from llmtune.data.findings import Finding, error
from llmtune.data.formats import row_features as f
from llmtune.data.formats.base import RowFormat
from llmtune.data.formats.chat import (
    json_type,
    read_messages,
    read_tools,
    read_truth,
    take_messages,
    write_messages,
    wrong_type,
)
from llmtune.data.formats.instruct import CONTEXTS, SYSTEMS, find_text, other_keys, read_history, with_context
from llmtune.data.formats.sharegpt import SHAREGPT

_PLAIN = Message("user", "")[2:]
_SUPPORTED = (1 << 20) - 1 & ~(f.TEXT | f.LABELS | f.OTHER_PARTS)


class _PreferenceRows(RowFormat):
    supports = _SUPPORTED
    pairs = True

    def takes_part(self, part: OtherPart) -> bool:
        return "type" in part.raw

    def problems(self, example: Example) -> list[Finding]:
        findings = super().problems(example)
        if example.preference is None:
            findings.insert(0, preference_problem(self.name))
        return findings


def preference_problem(name: str) -> Finding:
    """Build the error for an example without a pair in a format of pairs."""
    return error("cannot-prefer", f"{name} rows need a preferred and a rejected answer", "give preference rows")


#: Keys of an answer in rows that are read as a text with a label.
_ANSWERS = ("completion", "response", "answer", "output")


def check_unpaired(row: Mapping[str, Any], example: Example, names_classes: Callable[[], bool]) -> Finding | None:
    """Return an error for a row that marks its one answer as right or wrong (KTO), which no method here learns from.

    A label true or false always does; 1 and 0, or a text, do unless the labels of the file name classes.
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
    """Add an error for each answer that does not end in an assistant turn."""
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
        prompt = row.get("input")
        messages: tuple[Message, ...] = ()
        tools: tuple[Mapping[str, Any], ...] = ()
        extra = other_keys(row, "input", "preferred_output", "non_preferred_output") or {}
        if not isinstance(prompt, dict):
            what = f"'input' is {json_type(prompt)}" if "input" in row else "there is no 'input'"
            faults.append(error("row-shape", f"{what}; expected an object with messages", "add it"))
        else:
            messages = take_messages(prompt, "messages", faults, "input.messages")
            tools = read_tools(prompt.get("tools"), prompt.get("functions"), faults)
            prompt_extra = other_keys(prompt, "messages", "tools", "functions")
            if prompt_extra:
                extra["input"] = prompt_extra
        names = ("preferred_output", "non_preferred_output")
        preference = Preference(*(take_messages(row, name, faults) for name in names))
        check_answers(preference, names, faults)
        return Example(messages, tools, preference=preference, line=line, extra=extra or None)

    def write(self, example: Example) -> dict[str, Any]:
        extra = dict(example.extra or {})
        prompt: dict[str, Any] = {"messages": write_messages(example.messages)}
        if example.tools:
            prompt["tools"] = list(example.tools)
        prompt_extra = extra.pop("input", None)
        if isinstance(prompt_extra, dict):
            prompt.update(prompt_extra)
        preferred, rejected = example.preference or Preference((), ())
        return {
            "input": prompt,
            "preferred_output": write_messages(preferred),
            "non_preferred_output": write_messages(rejected),
            **extra,
        }


#: The beginning of a turn in a transcript, as in the rows of hh-rlhf.
_SPEAKER = re.compile(r"(?:^|\n\n)(Human|Assistant):[ \t]?")
_SPEAKERS = {"Human": "user", "Assistant": "assistant"}


def read_transcript(text: str) -> tuple[Message, ...]:
    """Read the turns of a text such as "\\n\\nHuman: Hi\\n\\nAssistant: Hello"; none where it is no transcript."""
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
        """Return the keys of the prompt, of a text that belongs to it, of the chosen and of the rejected answer."""
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
        read_keys = [*names, "tools"]
        sides = [self._read_answer(row, name, prompt_key is None, faults) for name in names]
        chosen, rejected = sides
        prompt: tuple[Message, ...] = ()
        if prompt_key is not None:
            read_keys.append(prompt_key)
            value = row[prompt_key]
            if context is not None:
                read_keys.append(context)
                value = with_context(value, row[context])
            prompt = self._read_turns(value, "user", prompt_key, faults)
            history = read_history(row)
            if history is not None:
                read_keys.append("history")
                prompt = (*history, *prompt)
            prompt, chosen, rejected = split_prompt(prompt, chosen, rejected)
        elif chosen and rejected:
            prompt, chosen, rejected = split_shared_prompt(chosen, rejected)
            if not prompt:
                have = ", ".join(map(repr, list(row)[:8]))
                what = f"there is no 'prompt', and the answers begin with no turn that both share; there is {have}"
                faults.append(error("row-shape", what, "add the prompt, or name its key: --column prompt=KEY"))
        if row.get("messages") == row.get(names[0]):  # a copy of the chosen conversation, for sft
            read_keys.append("messages")
        system = find_text(row, SYSTEMS)
        if system is not None:
            read_keys.append(system)
            prompt = (unlisted(Message("system", row[system])), *prompt) if row[system] else prompt
        images = row.get("images")
        if isinstance(images, list) and images and all(isinstance(image, str) for image in images) and prompt:
            read_keys.append("images")
            last = prompt[-1]
            parts = tuple(ImagePart(image) for image in images)
            prompt = (*prompt[:-1], last.replace(content=(*parts, TextPart(last.words))))
        pair = Preference(chosen, rejected)
        check_answers(pair, (names[0], names[1]), faults)
        tools = read_tools(row.get("tools") or None, None, faults)
        return Example(prompt, tools, preference=pair, line=line, extra=other_keys(row, *read_keys))

    def _read_answer(
        self, row: Mapping[str, Any], name: str, transcript: bool, faults: list[Finding]
    ) -> tuple[Message, ...]:
        """Read one answer; where the prompt has no key, a transcript is split into its turns."""
        if name not in row:
            return take_messages(row, name, faults)
        value = row[name]
        if transcript and isinstance(value, str):
            return read_transcript(value) or (Message("assistant", value),)
        return self._read_turns(value, "assistant", name, faults)

    def _read_turns(self, value: Any, role: str, where: str, faults: list[Finding]) -> tuple[Message, ...]:
        if isinstance(value, str):
            return (Message(role, value),)
        turns = [value] if isinstance(value, dict) else value
        if not isinstance(turns, list):
            faults.append(wrong_type(value, "a text or a list of messages", where))
            return ()
        if any(isinstance(turn, dict) and "from" in turn for turn in turns):
            return tuple(SHAREGPT.read_turns(turns, where, faults))
        return read_messages(turns, faults, where)

    def write(self, example: Example) -> dict[str, Any]:
        preferred, rejected = example.preference or Preference((), ())
        images, prompt = self._split_images(example.messages)
        row: dict[str, Any] = {
            "prompt": self._write_turns(prompt, "user"),
            "chosen": self._write_turns(preferred, "assistant"),
            "rejected": self._write_turns(rejected, "assistant"),
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

    def _split_images(self, turns: tuple[Message, ...]) -> tuple[list[str], tuple[Message, ...]]:
        """Split a single user turn of images and a text into the URLs and a turn of text alone."""
        if len(turns) != 1 or not isinstance(turns[0].content, tuple) or turns[0][2:] != _PLAIN:
            return [], turns
        *images, last = turns[0].content
        if not isinstance(last, TextPart) or not images or turns[0].role != "user":
            return [], turns
        urls = [image.url for image in images if isinstance(image, ImagePart) and image == ImagePart(image.url)]
        return (urls, (Message("user", last.text),)) if len(urls) == len(images) else ([], turns)

    def _write_turns(self, turns: tuple[Message, ...], role: str) -> str | list[dict[str, Any]]:
        if len(turns) == 1 and turns[0] == Message(role, turns[0].content) and isinstance(turns[0].content, str):
            return turns[0].content
        return write_messages(turns)


class ChosenMessages(_PreferenceRows):
    """`{"chosen_messages": [...], "rejected_messages": [...]}`: two whole conversations with the same beginning."""

    name = "preference_messages"
    title = '{"chosen_messages": [...], "rejected_messages": [...]}'

    def detect(self, row: Mapping[str, Any]) -> bool:
        return "chosen_messages" in row or "rejected_messages" in row

    def read(self, row: dict[str, Any], line: int | None, faults: list[Finding]) -> Example:
        chosen = take_messages(row, "chosen_messages", faults)
        rejected = take_messages(row, "rejected_messages", faults)
        prompt, chosen, rejected = split_shared_prompt(chosen, rejected)
        if not prompt and not faults:
            faults.append(error("row-shape", "the two conversations share no first turn", "give both the same prompt"))
        check_answers(Preference(chosen, rejected), ("chosen_messages", "rejected_messages"), faults)
        tools = read_tools(row.get("tools"), None, faults)
        extra = other_keys(row, "chosen_messages", "rejected_messages", "tools")
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


def split_shared_prompt(
    chosen: tuple[Message, ...], rejected: tuple[Message, ...]
) -> tuple[tuple[Message, ...], tuple[Message, ...], tuple[Message, ...]]:
    """Split two conversations into their common beginning and two answers, each of at least one turn."""
    cut = 0
    for first, second in zip(chosen[:-1], rejected[:-1], strict=False):
        if first != second:
            break
        cut += 1
    return chosen[:cut], chosen[cut:], rejected[cut:]


def split_prompt(
    prompt: tuple[Message, ...], chosen: tuple[Message, ...], rejected: tuple[Message, ...]
) -> tuple[tuple[Message, ...], tuple[Message, ...], tuple[Message, ...]]:
    """Return the prompt and two answers, where answers may be whole conversations that begin with the prompt."""
    shared, first, second = split_shared_prompt(chosen, rejected)
    if shared and _comparable(shared)[-len(prompt) :] == _comparable(
        prompt
    ):  # a system turn may stand before the prompt
        return shared, first, second
    sides = [
        side[len(prompt) :]
        if len(side) > len(prompt) and _comparable(side)[: len(prompt)] == _comparable(prompt)
        else side
        for side in (chosen, rejected)
    ]
    return prompt, sides[0], sides[1]


def _comparable(turns: tuple[Message, ...]) -> list[tuple[str, str]]:
    return [(turn.role, turn.words.strip()) for turn in turns]


FORMATS: tuple[RowFormat, ...] = (InputPreferred(), ChosenMessages(), PromptChosen())
