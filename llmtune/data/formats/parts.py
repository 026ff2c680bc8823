"""Helpers for formats whose turns are lists of parts, each of which names its kind by its key.

In these formats the answer to a tool call is a part of a user turn; in the canonical form it is a turn of its own. So
reading splits turns, and writing joins them again.
"""

from __future__ import annotations

import mimetypes
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from llmtune.data.example import ImagePart, Message, Part, TextPart, ToolCall, UnlistedMessage, unlisted
from llmtune.data.findings import Finding, error
from llmtune.data.formats.chat import WEIGHT_KEYS, json_type, read_weight
from llmtune.data.formats.instruct import other_keys
from llmtune.data.formats.reasoning import join_thoughts, plain_content, take_thoughts


class TurnParts:
    """The parts of one turn as they are read: its content, its tool calls, and the answers to tool calls in it.

    `unread` collects the keys of parts that are not read (`note_unread`): they become extra keys of the turn.
    """

    def __init__(self, faults: list[Finding]) -> None:
        self.content: list[Part] = []
        self.calls: list[ToolCall] = []
        self.answers: list[Message] = []
        self.unread: dict[str, Any] = {}
        self.faults = faults

    def fault(self, code: str, message: str, remedy: str) -> None:
        """Add an error about the row."""
        self.faults.append(error(code, message, remedy))

    def add_text(self, text: Any, where: str) -> None:
        """Add a text part; anything but a string is a fault."""
        if isinstance(text, str):
            self.content.append(TextPart(text))
        else:
            self.fault("content", f"{where}.text is {json_type(text)}; expected a string", "quote it")

    def messages(
        self, role: str, turn: Mapping[str, Any], key: str, where: str, thought_of: Callable[[Part], str | None]
    ) -> list[Message]:
        """Return the answers to tool calls in the turn, and the turn itself unless it has nothing else.

        The turn's parts are under `key`. All messages but the first are unlisted: the row has one turn for them. The
        leading parts of an assistant turn that `thought_of` can read are its reasoning.
        """
        weight = read_weight(turn, role, where, self.faults)
        extra = {**(other_keys(turn, "role", key, *WEIGHT_KEYS) or {}), **self.unread}
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
    """Return a list that is not empty; for anything else add a fault, and return an empty list."""
    if isinstance(value, list) and value:
        return value
    description = "an empty list" if value == [] else json_type(value)
    faults.append(error(code, f"{where} is {description}; expected {expected}", remedy))
    return []


def system_message(texts: Sequence[Any]) -> UnlistedMessage:
    """Return the system turn, which is not in the list of turns; its content is the text where there is only one."""
    content = texts[0] if len(texts) == 1 else tuple(TextPart(str(text)) for text in texts)
    return unlisted(Message("system", content))


def write_turns(
    messages: Iterable[Message],
    key: str,
    roles: Mapping[str, str],
    write_parts: Callable[[Message], list[dict[str, Any]]],
    write_answer: Callable[[Message], dict[str, Any]],
) -> list[dict[str, Any]]:
    """Return turns, without system turns, with their parts under `key`; adjacent answers to calls share one turn."""
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
    """Return the parts of a turn without its calls. An empty text is left out where there are calls."""
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
    """Return the media type of an image, and its content in base64 where its URL is a `data:` one."""
    if image.url.startswith("data:") and ";base64," in image.url:
        head, data = image.url.split(";base64,", 1)
        return head.removeprefix("data:"), data
    return image.media_type or mimetypes.guess_type(image.url, strict=False)[0] or "image/jpeg", None
