"""What a caller may ask to be changed in every row as it is read: empty answers left out, system turns folded in."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, Literal

from llmtune.data.example import Example, Message, TextPart, folded
from llmtune.data.findings import Finding, error, info

OnEmpty = Literal["error", "drop"]
SystemTurns = Literal["keep", "fold"]
ON_EMPTY: tuple[str, ...] = ("error", "drop")
SYSTEM_TURNS: tuple[str, ...] = ("keep", "fold")

#: Faults of a row that has nothing where its turns, its text or its answer should be.
_EMPTY = frozenset(("empty-messages", "empty-content"))


def has_empty_answer(example: Example) -> bool:
    """Whether something that would be learned is empty: the text, an answer, or one of a pair."""
    if example.text is not None:
        return not example.text.strip()
    if example.preference is not None:
        answers = (*example.preference.preferred, *example.preference.rejected)
        return any(turn.role == "assistant" and turn.is_empty for turn in answers)
    return any(turn.trained and turn.is_empty for turn in example.messages)


def drop_empty(items: Iterable[Example | Finding]) -> Iterator[Example | Finding]:
    """The rows without those whose answer is empty, and at the end how many these were."""
    count = sound = 0
    first: Finding | Example | None = None
    for item in items:
        if isinstance(item, Finding):
            empty = item.code in _EMPTY or (item.code == "label" and item.message.endswith("is empty"))
            if not (item.is_error and empty):
                yield item
                continue
        elif not has_empty_answer(item):
            sound += 1
            yield item
            continue
        count += 1
        first = first or item
    if first is not None:
        rows = "1 row with an empty answer was" if count == 1 else f"{count:,} rows with an empty answer were"
        if not sound:
            yield error("empty-file", "every row has an empty answer, so none is left", "give rows with answers")
        yield info("dropped-empty", f"{rows} left out (on_empty: drop), the first here").at(None, first.line)


def fold_system(items: Iterable[Example | Finding]) -> Iterator[Example | Finding]:
    """The rows with their leading system turns at the beginning of the first user turn, and at the end how many."""
    count = 0
    for item in items:
        folded = item if isinstance(item, Finding) else _fold(item)
        count += folded is not item
        yield folded
    if count:
        rows = "1 row has" if count == 1 else f"{count:,} rows have"
        yield info(
            "folded-system",
            f"{rows} their system turn at the beginning of the first user turn (system: fold)",
            "ask the tuned model in the same way",
        )


def _fold(example: Example) -> Example:
    messages = example.messages
    leading = next((index for index, turn in enumerate(messages) if turn.role != "system"), len(messages))
    if leading == 0 or leading == len(messages) or messages[leading].role != "user":
        return example
    if any(not isinstance(part, TextPart) for turn in messages[:leading] for part in _parts(turn)):
        return example  # an image has no place in the text that is put before
    system = "\n\n".join(turn.words for turn in messages[:leading] if turn.words)
    first = _with_before(messages[leading], system) if system else messages[leading]
    beside: dict[str, Any] = {}
    for turn in messages[: leading + 1]:
        beside |= turn.extra or {}
    if beside:
        first = first.replace(extra=beside)
    return example.replace(messages=(folded(first, messages[:leading]), *messages[leading + 1 :]))


def _parts(turn: Message) -> tuple[Any, ...]:
    return turn.content if isinstance(turn.content, tuple) else ()


def _with_before(turn: Message, text: str) -> Message:
    if isinstance(turn.content, tuple):
        return turn.replace(content=(TextPart(text), *turn.content))
    return turn.replace(content=f"{text}\n\n{turn.content}" if turn.content else text)


def change_rows(
    items: Iterable[Example | Finding], on_empty: str, system: str, file: str
) -> Iterator[Example | Finding]:
    """Rows as the caller wants them; findings about what was changed are of `file`."""
    if system == "fold":
        items = fold_system(items)
    if on_empty == "drop":
        items = drop_empty(items)
    for item in items:
        yield item.at(file, item.line) if isinstance(item, Finding) else item
