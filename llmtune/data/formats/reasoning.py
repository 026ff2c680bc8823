"""The assistant's reasoning before an answer, read from the keys and parts in which rows have it."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from llmtune.data.example import Content, Message, OtherPart, Part, TextPart

#: Keys of a message, and types of a part, that hold the reasoning before the answer.
REASONING_KEYS = ("reasoning_content", "reasoning", "thinking")
#: Keys of such a part: the text, and the signature that a vendor's API adds to it.
_REASONING_PART = frozenset(("type", "text", "signature", *REASONING_KEYS))


def take_reasoning(message: Message) -> Message:
    """Return the turn with the reasoning of its extra keys or its leading parts moved to `reasoning`.

    A `<think>` in the text stays where it is: it is text to every template that does not read it.
    """
    if message.role != "assistant":
        return message
    extra, content = dict(message.extra or {}), message.content
    thoughts = [] if message.reasoning is None else [message.reasoning]
    for key in REASONING_KEYS:
        value = extra.get(key)
        if value == "" or (isinstance(value, str) and value in thoughts):
            del extra[key]
        elif isinstance(value, str) and not thoughts:
            thoughts.append(extra.pop(key))
    if isinstance(content, tuple) and not thoughts:
        thoughts, parts = take_thoughts(content, _read_thought)
        if thoughts:
            content = plain_content(parts, calling=bool(message.tool_calls))
    reasoning = join_thoughts(thoughts)
    if reasoning == message.reasoning and len(extra) == len(message.extra or {}) and content is message.content:
        return message
    return message.replace(extra=extra or None, content=content, reasoning=reasoning)


def take_thoughts(
    parts: Sequence[Part], thought_of: Callable[[Part], str | None]
) -> tuple[list[str], tuple[Part, ...]]:
    """Split off the leading parts that `thought_of` reads as thoughts; later ones stay among the other parts."""
    thoughts: list[str] = []
    for part in parts:
        thought = thought_of(part)
        if thought is None:
            break
        thoughts.append(thought)
    return thoughts, tuple(parts[len(thoughts) :])


def join_thoughts(thoughts: Sequence[str]) -> str | None:
    """Join several thoughts into the reasoning of one turn; None where all are empty."""
    return "\n".join(filter(None, thoughts)) or None


def plain_content(parts: Sequence[Part], *, calling: bool) -> Content:
    """Return the content of a turn with these parts: the text itself where it is the only part.

    Without parts it is None for a turn that is `calling` tools, which needs none, and empty for others.
    """
    if len(parts) == 1 and isinstance(parts[0], TextPart):
        return parts[0].text
    if parts:
        return tuple(parts)
    return None if calling else ""


def _read_thought(part: Part) -> str | None:
    """Return the text of a reasoning part, as in rows of the vendors' own APIs; None for any other part."""
    if not isinstance(part, OtherPart) or part.kind not in REASONING_KEYS or not _REASONING_PART.issuperset(part.raw):
        return None
    value = next((part.raw[key] for key in (*REASONING_KEYS, "text") if key in part.raw), None)
    if isinstance(value, list):
        texts = [piece.get("text") if isinstance(piece, dict) else None for piece in value]
        value = "\n".join(map(str, texts)) if texts and all(isinstance(text, str) for text in texts) else None
    return value if isinstance(value, str) else None
