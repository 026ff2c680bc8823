"""The features an example uses, as bits, so that each format can declare what it supports and would lose."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

import orjson

from llmtune.data.example import ROLES, Example, ImagePart, Message, OtherPart
from llmtune.data.findings import Finding

SYSTEM = 1
"""A system turn."""
TURNS = 1 << 1
"""More than one assistant turn."""
TOOLS = 1 << 2
"""Tool definitions, tool calls or tool answers."""
IMAGES = 1 << 3
"""Images."""
WEIGHT_ZERO = 1 << 4
"""An assistant turn that must not be learned from."""
NAMES = 1 << 5
"""Names of speakers."""
PREFERENCE = 1 << 6
"""A preferred and a rejected answer."""
TEXT = 1 << 7
"""Plain text without turns."""
CHAT = 1 << 8
"""Turns."""
OTHER_PARTS = 1 << 9
"""Sound, video, documents."""
EXTRA = 1 << 10
"""Keys of the row that have no place in the canonical form."""
LATE_SYSTEM = 1 << 11
"""A system turn after the first turn."""
PROMPT_WEIGHT = 1 << 12
"""A weight on a turn that is not the assistant's."""
MESSAGE_EXTRA = 1 << 13
"""Keys of a message that have no place in the canonical form."""
LABELS = 1 << 14
"""Several labels on one row."""
PARTS = 1 << 15
"""Text in several parts."""
UNANSWERED = 1 << 16
"""No assistant turn at all, or a last turn that is not the assistant's."""
RAW_ROLE = 1 << 17
"""A role under another name (developer)."""

TOOL_IDS = 1 << 18
"""Ids of tool calls other than call_1, call_2, ..., which is how calls without an id are numbered."""

REASONING = 1 << 19
"""The assistant's reasoning before an answer."""

IRREGULAR = 1 << 20
"""Turns that are missing, out of order or without text: `check_example` looks at them. No format has it or lacks it."""

BASIC = CHAT | SYSTEM | TURNS | UNANSWERED
"""The features that every chat format supports."""

PLAIN = CHAT | SYSTEM | TURNS | EXTRA | LABELS
"""The features of a plain conversation: user and assistant alternate, text only, answer last. A row without any other
needs no further check."""


class _Loss(NamedTuple):
    code: str
    what: str
    remedy: str
    refuses: bool = True


_LOSSES: dict[int, _Loss] = {
    SYSTEM: _Loss("lost-system", "a system turn", "put it into the first user turn"),
    TURNS: _Loss("lost-turns", "a conversation of several answers", "cut it into one row per answer"),
    TOOLS: _Loss("lost-tools", "tools or tool calls", "leave such rows out, or choose a format with tools"),
    IMAGES: _Loss("lost-images", "images", "leave such rows out, or choose a format with images"),
    WEIGHT_ZERO: _Loss(
        "lost-weight", "weight 0 on an assistant turn, which would be learned from", "cut the row before that turn"
    ),
    PREFERENCE: _Loss("lost-preference", "a preference pair: only the preferred answer would stay", "tune with dpo"),
    OTHER_PARTS: _Loss("lost-part", "parts that are neither text nor image", "leave such rows out"),
    LATE_SYSTEM: _Loss("lost-system-order", "a system turn after the first turn", "move it to the front"),
    TEXT: _Loss("cannot-text", "plain text without turns", "write such rows as text, or give them a prompt"),
    UNANSWERED: _Loss("cannot-unanswered", "a row that does not end in an answer", "add the answer"),
    CHAT: _Loss("cannot-chat", "turns", "choose a chat format"),
    LABELS: _Loss("lost-labels", "several labels on one row", "write one label per row"),
    REASONING: _Loss(
        "lost-reasoning", "the reasoning before an answer", "leave it out, or choose a backend that trains on reasoning"
    ),
    NAMES: _Loss("changed-name", "names of speakers", "", refuses=False),
    EXTRA: _Loss("changed-extra", "keys beside the known ones", "", refuses=False),
    MESSAGE_EXTRA: _Loss("changed-extra", "keys of a message beside the known ones", "", refuses=False),
    PROMPT_WEIGHT: _Loss("changed-weight", "a weight on a turn that is not the assistant's", "", refuses=False),
    RAW_ROLE: _Loss("changed-role", "the role name the row used", "", refuses=False),
    TOOL_IDS: _Loss("changed-tool-ids", "the ids of tool calls", "", refuses=False),
    PARTS: _Loss("changed-parts", "where one text part ends and the next begins", "", refuses=False),
}


#: Bits that are set by a single message.
_BY_MESSAGE = frozenset(
    (TOOLS, IMAGES, WEIGHT_ZERO, NAMES, OTHER_PARTS, PROMPT_WEIGHT, MESSAGE_EXTRA, PARTS, RAW_ROLE, REASONING)
)


#: The bits of a turn's role, by the role before it ("" at the beginning).
_ROLE_BITS = {
    before: {
        "system": SYSTEM if before == "" else SYSTEM | LATE_SYSTEM,
        "user": IRREGULAR if before == "user" else 0,
        "assistant": 0 if before == "user" else IRREGULAR,
        "tool": TOOLS,
    }
    for before in ("", *ROLES)
}


def features(example: Example) -> int:
    """Return the bits of the features that the example uses."""
    messages = example.messages
    answers = calls = 0
    bits = (
        (TEXT if example.text is not None else 0)
        | (TOOLS if example.tools else 0)
        | (EXTRA if example.extra else 0)
        | (LABELS if example.label.__class__ is tuple else 0)
    )
    if example.preference is not None:
        bits |= PREFERENCE
        messages = messages + example.preference.preferred + example.preference.rejected
        answers = -1  # the two answers are alternatives: they count as one
    if not messages:
        return bits if bits & TEXT else bits | IRREGULAR
    role = ""
    for message in messages:
        before = role
        role, content, tool_calls, call_id, name, weight, raw_role, extra, reasoning = message
        bits |= _ROLE_BITS[before][role]
        if content.__class__ is not str or tool_calls or call_id is not None or weight is not None:
            bits |= _message_features(message)
            for call in tool_calls:
                calls += 1
                if call.id != f"call_{calls}":
                    bits |= TOOL_IDS
        elif name is not None or raw_role is not None or extra or reasoning is not None:
            bits |= _message_features(message)
        elif not content or content.isspace():
            bits |= IRREGULAR
        if role == "assistant":
            answers += 1
    return bits | CHAT | (TURNS if answers > 1 else 0) | (UNANSWERED if role != "assistant" else 0)


def _message_features(message: Message) -> int:
    role, content, tool_calls, call_id, name, weight, raw_role, extra, reasoning = message
    bits = (
        (TOOLS if tool_calls or role == "tool" or call_id is not None else 0)
        | (NAMES if name is not None and role != "tool" else 0)
        | (WEIGHT_ZERO if weight == 0 and role == "assistant" else 0)
        | (PROMPT_WEIGHT if weight and role != "assistant" else 0)
        | (RAW_ROLE if raw_role is not None else 0)
        | (MESSAGE_EXTRA if extra else 0)
        | (REASONING if reasoning is not None else 0)
        | (IRREGULAR if message.is_empty else 0)
    )
    if isinstance(content, tuple):
        bits |= PARTS if len(content) > 1 else 0
        for part in content:
            if isinstance(part, ImagePart):
                bits |= IMAGES
            elif isinstance(part, OtherPart):
                bits |= OTHER_PARTS
    return bits


def texts_of(example: Example) -> Iterator[tuple[str, str]]:
    """Yield (place, text) of every text that a tokenizer reads: turns, tool calls, tool definitions, plain text."""
    if example.text is not None:
        yield "text", example.text
    answers = (*example.preference.preferred, *example.preference.rejected) if example.preference else ()
    for index, message in enumerate((*example.messages, *answers)):
        yield f"messages[{index}]", message.words
        if message.reasoning:
            yield f"messages[{index}]", message.reasoning
        for call in message.tool_calls:
            yield f"messages[{index}]: {call.name}", call.arguments
    for index, tool in enumerate(example.tools):
        yield f"tools[{index}]", orjson.dumps(tool).decode()


def losses(
    example: Example, supports: int, relocates: int, name: str, takes: Callable[[OtherPart], bool]
) -> list[Finding]:
    """Return a finding for each feature of the example that a format with these bits would lose; those it relocates are
    warnings.

    `takes` returns whether a part that is neither text nor image is one of the format's own.
    """
    missing = features(example) & ~(supports | IRREGULAR)
    if not missing:
        return []
    if missing & TOOLS:
        missing &= ~TOOL_IDS  # the ids go with the calls
    if missing & OTHER_PARTS and all(takes(part) for part in _iterate_other_parts(example)):
        missing &= ~OTHER_PARTS
    return [
        _make_finding(loss, name, _locate(example, bit), relocated=bool(bit & relocates))
        for bit, loss in _LOSSES.items()
        if missing & bit
    ]


def _locate(example: Example, bit: int) -> str:
    """Return where the feature is, for the finding: the turn, or the keys."""
    if bit == EXTRA:
        return f": {_list_keys(example.extra or ())}"
    answers = (*example.preference.preferred, *example.preference.rejected) if example.preference else ()
    for index, message in enumerate((*example.messages, *answers)):
        if bit in _BY_MESSAGE and _message_features(message) & bit:
            keys = f": {_list_keys(message.extra or ())}" if bit == MESSAGE_EXTRA else ""
            return f" (messages[{index}]){keys}"
    return ""


def find_left_out_keys(example: Example, supports: int) -> list[str]:
    """Return the keys of the row ("id") and of its messages ("messages[].id") that a format with these bits omits."""
    keys = [] if supports & EXTRA else list(example.extra or ())
    if not supports & MESSAGE_EXTRA:
        answers = (*example.preference.preferred, *example.preference.rejected) if example.preference else ()
        keys += [f"messages[].{key}" for message in (*example.messages, *answers) for key in message.extra or ()]
    return list(dict.fromkeys(keys))


def _list_keys(keys: Iterable[str]) -> str:
    names = [repr(key) for key in keys]
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _iterate_other_parts(example: Example) -> Iterator[OtherPart]:
    answers = (*example.preference.preferred, *example.preference.rejected) if example.preference else ()
    for message in (*example.messages, *answers):
        if isinstance(message.content, tuple):
            yield from (part for part in message.content if isinstance(part, OtherPart))


def _make_finding(loss: _Loss, name: str, where: str, *, relocated: bool) -> Finding:
    if relocated:
        code = loss.code.replace("lost-", "changed-")
        return Finding(code, "warning", f"{name} rows hold {loss.what} in another place{where}", "ask the model alike")
    severity = "error" if loss.refuses else "warning"
    return Finding(loss.code, severity, f"{name} rows cannot carry {loss.what}{where}", loss.remedy)  # type: ignore[arg-type]
