"""Rows whose turns are lists of parts, each of which names its kind by its key: the half that such formats share.

An answer to a call is a part of a user's turn there and a turn of its own here, so reading takes turns apart and
writing joins them again.
"""

from __future__ import annotations

import mimetypes
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from llmtune.data.example import ImagePart, Message, Part, TextPart, ToolCall, UnlistedMessage, unlisted
from llmtune.data.findings import Finding, error
from llmtune.data.formats.chat import WEIGHT_KEYS, kind, read_weight
from llmtune.data.formats.instruct import rest
from llmtune.data.formats.reasoning import join_thoughts, plain_content, take_thoughts


class TurnParts:
    """The parts of one turn as they are read: its content, the calls it makes, and the answers to calls in it.

    `beside` is for what the parts hold under keys that are not read (`note_beside`): it becomes extra keys of the turn.
    """

    def __init__(self, faults: list[Finding]) -> None:
        self.content: list[Part] = []
        self.calls: list[ToolCall] = []
        self.answers: list[Message] = []
        self.beside: dict[str, Any] = {}
        self.faults = faults

    def fault(self, code: str, message: str, remedy: str) -> None:
        """Note what is wrong with the row."""
        self.faults.append(error(code, message, remedy))

    def add_text(self, text: Any, where: str) -> None:
        """Add a text part; anything but a string is a fault."""
        if isinstance(text, str):
            self.content.append(TextPart(text))
        else:
            self.fault("content", f"{where}.text is {kind(text)}; expected a string", "quote it")

    def messages(
        self, role: str, turn: Mapping[str, Any], key: str, where: str, thought_of: Callable[[Part], str | None]
    ) -> list[Message]:
        """Return the turn, whose parts stand under `key`, behind the answers to calls in it; a turn that holds answers
        alone is nothing beside them. All but the first are unlisted: the row has one turn there.

        The parts of an assistant's turn that `thought_of` reads, and that it begins with, are its reasoning.
        """
        weight = read_weight(turn, role, where, self.faults)
        extra = {**(rest(turn, "role", key, *WEIGHT_KEYS) or {}), **self.beside}
        messages = list(self.answers)
        if messages and not self.content and not self.calls:
            messages[0] = messages[0].replace(extra={**(messages[0].extra or {}), **extra} or None)
        else:
            content, reasoning = tuple(self.content), None
            if role == "assistant":
                thoughts, content = take_thoughts(content, thought_of)
                reasoning = join_thoughts(thoughts)
            body = plain_content(content, calling=bool(self.calls))
            calls = tuple(self.calls)
            messages.append(Message(role, body, calls, weight=weight, extra=extra or None, reasoning=reasoning))
        return [messages[0], *map(unlisted, messages[1:])]


def read_list(value: Any, code: str, where: str, expected: str, remedy: str, faults: list[Finding]) -> list[Any]:
    """Return a list that holds something; anything else is a fault, and the list is empty."""
    if isinstance(value, list) and value:
        return value
    found = "an empty list" if value == [] else kind(value)
    faults.append(error(code, f"{where} is {found}; expected {expected}", remedy))
    return []


def system_message(texts: Sequence[Any]) -> UnlistedMessage:
    """Return the system's turn, which stands beside the list of turns; its content is the text where there is one
    alone."""
    content = texts[0] if len(texts) == 1 else tuple(TextPart(str(text)) for text in texts)
    return unlisted(Message("system", content))


def write_turns(
    messages: Iterable[Message],
    key: str,
    roles: Mapping[str, str],
    write_parts: Callable[[Message], list[dict[str, Any]]],
    write_answer: Callable[[Message], dict[str, Any]],
) -> list[dict[str, Any]]:
    """Return turns without the system's, their parts under `key`; answers to calls made in one turn stand in one."""
    turns: list[dict[str, Any]] = []
    answering = False
    for message in messages:
        role = message.role
        if role == "tool":
            answer = write_answer(message)
            if answering:
                turns[-1][key].append(answer)
            else:
                turns.append({"role": "user", key: [answer]})
        elif role != "system":
            turns.append({"role": roles[role], key: write_parts(message)})
        answering = role == "tool"
    return turns


def write_content(message: Message, write_image: Callable[[ImagePart], dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the parts of a turn but its calls. An empty text beside a call says nothing and is left out."""
    content = message.content
    if isinstance(content, str):
        return [{"text": content}] if content or not message.tool_calls else []
    return [
        {"text": part.text}
        if isinstance(part, TextPart)
        else write_image(part)
        if isinstance(part, ImagePart)
        else dict(part.raw)
        for part in content or ()
    ]


def image_source(image: ImagePart) -> tuple[str, str | None]:
    """Return the media type of an image, and its content in base64 where its address is a `data:` one."""
    if image.url.startswith("data:") and ";base64," in image.url:
        head, data = image.url.split(";base64,", 1)
        return head.removeprefix("data:"), data
    return image.media_type or mimetypes.guess_type(image.url, strict=False)[0] or "image/jpeg", None
