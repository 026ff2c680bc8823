"""What an example uses, as bits, so that each format can say what it carries and what it would lose."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

import orjson

from llmtune.data.example import Example, ImagePart, Message, OtherPart
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
"""What the assistant thought before an answer."""

BASIC = CHAT | SYSTEM | TURNS | UNANSWERED
"""What every chat format carries."""


class _Loss(NamedTuple):
    code: str
    what: str
    remedy: str
    refuses: bool = True


_LOSSES: dict[int, _Loss] = {
    SYSTEM: _Loss("lost-system", "a system turn", "put it into the first user turn"),
    TURNS: _Loss("lost-turns", "a conversation of several answers", "cut it into one row an answer"),
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
    LABELS: _Loss("lost-labels", "several labels on one row", "write one label a row"),
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


#: Bits that one message or another brings in.
_BY_MESSAGE = frozenset(
    (TOOLS, IMAGES, WEIGHT_ZERO, NAMES, OTHER_PARTS, PROMPT_WEIGHT, MESSAGE_EXTRA, PARTS, RAW_ROLE, REASONING)
)


def features(example: Example) -> int:  # noqa: C901
    """The bits of what the example uses."""
    bits = 0
    messages = example.messages
    if example.preference is not None:
        bits = PREFERENCE
        messages = messages + example.preference.preferred + example.preference.rejected
    if example.text is not None:
        bits |= TEXT
    if example.tools:
        bits |= TOOLS
    if example.extra:
        bits |= EXTRA
    if example.label.__class__ is tuple:
        bits |= LABELS
    if not messages:
        return bits
    bits |= CHAT
    role = ""
    answers = calls = 0
    for message in messages:
        before = role
        role, content, made, call_id, name, weight, raw_role, extra, reasoning = message
        if content.__class__ is not str or made or call_id is not None or weight is not None:
            bits |= _message_features(message)
            for call in made:
                calls += 1
                if call.id != f"call_{calls}":
                    bits |= TOOL_IDS
        elif name is not None or raw_role is not None or extra or reasoning is not None:
            bits |= _message_features(message)
        if role == "assistant":
            answers += 1
        elif role == "system":
            bits |= SYSTEM if before == "" else SYSTEM | LATE_SYSTEM
        elif role == "tool":
            bits |= TOOLS
    if example.preference is not None:
        answers -= 1
    if answers > 1:
        bits |= TURNS
    if role != "assistant":
        bits |= UNANSWERED
    return bits


def plain_features(example: Example) -> int:
    """`features` of a plain conversation (`checks.is_simple`), told by its first turn and its length."""
    messages = example.messages
    leading = messages[0][0] == "system"
    bits = CHAT | SYSTEM if leading else CHAT
    if len(messages) > 2 + leading:
        bits |= TURNS
    if example.tools:
        bits |= TOOLS
    if example.extra:
        bits |= EXTRA
    return bits | LABELS if example.label.__class__ is tuple else bits


def _message_features(message: Message) -> int:  # noqa: C901
    bits = 0
    if message.tool_calls or message.role == "tool" or message.tool_call_id is not None:
        bits |= TOOLS
    if message.name is not None and message.role != "tool":
        bits |= NAMES
    if message.weight is not None:
        if message.role != "assistant":
            bits |= PROMPT_WEIGHT if message.weight else 0
        elif message.weight == 0:
            bits |= WEIGHT_ZERO
    if message.raw_role is not None:
        bits |= RAW_ROLE
    if message.extra:
        bits |= MESSAGE_EXTRA
    if message.reasoning is not None:
        bits |= REASONING
    if message.content.__class__ is tuple:
        parts = message.content or ()
        bits |= PARTS if len(parts) > 1 else 0
        for part in parts:
            if isinstance(part, ImagePart):
                bits |= IMAGES
            elif isinstance(part, OtherPart):
                bits |= OTHER_PARTS
    return bits


def texts_of(example: Example) -> Iterator[tuple[str, str]]:
    """Every text of a row that a tokenizer reads, and where it stands: turns, calls, tool definitions, plain text."""
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


def losses(example: Example, carries: int, folds: int, name: str, takes: Callable[[OtherPart], bool]) -> list[Finding]:
    """What a format that carries these bits would lose of the example; what it folds is a warning.

    `takes` says of a part that is neither text nor image whether it is one of the format's own.
    """
    missing = features(example) & ~carries
    if not missing:
        return []
    if missing & TOOLS:
        missing &= ~TOOL_IDS  # the ids go with the calls
    if missing & OTHER_PARTS and all(takes(part) for part in _other_parts(example)):
        missing &= ~OTHER_PARTS
    return [
        _finding(loss, name, _where(example, bit), folded=bool(bit & folds))
        for bit, loss in _LOSSES.items()
        if missing & bit
    ]


def _where(example: Example, bit: int) -> str:
    """Which of it, for the finding: the turn, or the keys."""
    if bit == EXTRA:
        return f": {_listed(example.extra or ())}"
    answers = (*example.preference.preferred, *example.preference.rejected) if example.preference else ()
    for index, message in enumerate((*example.messages, *answers)):
        if bit in _BY_MESSAGE and _message_features(message) & bit:
            keys = f": {_listed(message.extra or ())}" if bit == MESSAGE_EXTRA else ""
            return f" (messages[{index}]){keys}"
    return ""


def left_out_keys(example: Example, carries: int) -> list[str]:
    """The keys of the row ("id") and of its messages ("messages[].id") that a format with these bits leaves out."""
    keys = [] if carries & EXTRA else list(example.extra or ())
    if not carries & MESSAGE_EXTRA:
        answers = (*example.preference.preferred, *example.preference.rejected) if example.preference else ()
        keys += [f"messages[].{key}" for message in (*example.messages, *answers) for key in message.extra or ()]
    return list(dict.fromkeys(keys))


def _listed(keys: Iterable[str]) -> str:
    names = [repr(key) for key in keys]
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _other_parts(example: Example) -> Iterator[OtherPart]:
    answers = (*example.preference.preferred, *example.preference.rejected) if example.preference else ()
    for message in (*example.messages, *answers):
        if isinstance(message.content, tuple):
            yield from (part for part in message.content if isinstance(part, OtherPart))


def _finding(loss: _Loss, name: str, where: str, *, folded: bool) -> Finding:
    if folded:
        code = loss.code.replace("lost-", "changed-")
        return Finding(code, "warning", f"{name} rows hold {loss.what} in another place{where}", "ask the model alike")
    severity = "error" if loss.refuses else "warning"
    return Finding(loss.code, severity, f"{name} rows cannot carry {loss.what}{where}", loss.remedy)  # type: ignore[arg-type]
