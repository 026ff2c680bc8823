"""Optional changes to every row as it is read: empty answers left out, system turns folded into user turns."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, Literal

from llmtune.data.example import Example, Message, TextPart, folded
from llmtune.data.findings import Finding, error, info

OnEmpty = Literal["error", "drop"]
SystemTurns = Literal["keep", "fold"]
ON_EMPTY: tuple[str, ...] = ("error", "drop")
SYSTEM_TURNS: tuple[str, ...] = ("keep", "fold")

#: Findings of rows whose turns, text or answer are empty.
_EMPTY = frozenset(("empty-messages", "empty-content"))


def has_empty_answer(example: Example) -> bool:
    """Return whether something that would be learned is empty: the text, an answer, or one of a pair."""
    if example.text is not None:
        return not example.text.strip()
    if example.preference is not None:
        answers = (*example.preference.preferred, *example.preference.rejected)
        return any(turn.role == "assistant" and turn.is_empty for turn in answers)
    return any(turn.trained and turn.is_empty for turn in example.messages)


def drop_empty(examples: Iterable[Example | Finding]) -> Iterator[Example | Finding]:
    """Yield the rows whose answer is not empty, and at the end a finding with the number of the others."""
    count = sound = 0
    first: Finding | Example | None = None
    for row in examples:
        if isinstance(row, Finding):
            empty = row.code in _EMPTY or (row.code == "label" and row.message.endswith("is empty"))
            if not (row.is_error and empty):
                yield row
                continue
        elif not has_empty_answer(row):
            sound += 1
            yield row
            continue
        count += 1
        first = first or row
    if first is not None:
        rows = "1 row with an empty answer was" if count == 1 else f"{count:,} rows with an empty answer were"
        if not sound:
            yield error("empty-file", "every row has an empty answer, so none is left", "give rows with answers")
        yield info("dropped-empty", f"{rows} left out (on_empty: drop), the first here").at(None, first.line)


def fold_system(examples: Iterable[Example | Finding]) -> Iterator[Example | Finding]:
    """Yield the rows with leading system turns folded into the first user turn, and at the end their number."""
    count = 0
    for row in examples:
        folded = row if isinstance(row, Finding) else _fold(row)
        count += folded is not row
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
    if any(not isinstance(part, TextPart) for turn in messages[:leading] for part in _list_parts(turn)):
        return example  # an image cannot be put before a text
    system = "\n\n".join(turn.words for turn in messages[:leading] if turn.words)
    first = _prepend(messages[leading], system) if system else messages[leading]
    extra: dict[str, Any] = {}
    for turn in messages[: leading + 1]:
        extra |= turn.extra or {}
    if extra:
        first = first.replace(extra=extra)
    return example.replace(messages=(folded(first, messages[:leading]), *messages[leading + 1 :]))


def _list_parts(turn: Message) -> tuple[Any, ...]:
    return turn.content if isinstance(turn.content, tuple) else ()


def _prepend(turn: Message, text: str) -> Message:
    if isinstance(turn.content, tuple):
        return turn.replace(content=(TextPart(text), *turn.content))
    return turn.replace(content=f"{text}\n\n{turn.content}" if turn.content else text)


def change_rows(
    examples: Iterable[Example | Finding], on_empty: str, system: str, file: str
) -> Iterator[Example | Finding]:
    """Apply the changes that the caller has chosen; findings about them name `file`."""
    if system == "fold":
        examples = fold_system(examples)
    if on_empty == "drop":
        examples = drop_empty(examples)
    for row in examples:
        yield row.at(file, row.line) if isinstance(row, Finding) else row
