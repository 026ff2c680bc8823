"""Hashes of prompts and answers, by which rows are compared and split; and labels."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from hashlib import blake2b

from llmtune.data.example import Example, ImagePart, Message, OtherPart, TextPart

#: Answers are taken for labels when there are at most this many different ones, each of at most this many characters.
MAX_LABELS = 256
MAX_LABEL_LENGTH = 64
#: Prompts that are read to decide whether prompts name the labels.
PROMPTS_READ = 50


def turn_text(message: Message) -> str:
    """Return all content of a turn as one text: text, images, other parts, tool calls."""
    content = message.content
    if content.__class__ is str and not message.tool_calls:
        return content
    pieces: list[str] = []
    if isinstance(content, str):
        pieces.append(content)
    else:
        for part in content or ():
            if isinstance(part, TextPart):
                pieces.append(part.text)
            elif isinstance(part, ImagePart):
                pieces.append(part.url)
            elif isinstance(part, OtherPart):
                pieces.append(repr(part.raw))
    pieces += [f"{call.name}({call.arguments})" for call in message.tool_calls]
    return "\n".join(pieces)


def shown_text(message: Message) -> str:
    """Return the content of a turn for people: as `turn_text`, but of an image that is written out only its size."""
    content = message.content
    if isinstance(content, tuple):
        parts = tuple(
            TextPart(f"[image of {len(part.url) * 3 // 4000 + 1:,} kB]")
            if isinstance(part, ImagePart) and part.url.startswith("data:")
            else part
            for part in content
        )
        message = message.replace(content=parts)
    return turn_text(message)


def normal(text: str) -> str:
    """Normalise case and white space."""
    return " ".join(text.casefold().split())


def prompt_text(example: Example) -> str:
    """Return the normalised prompt, by which two rows are the same question; of plain text, the whole text."""
    if example.text is not None:
        return normal(example.text)
    return normal("\n".join([turn_text(message) for message in example.prompt()]))


def answer_text(example: Example) -> str:
    """Return the normalised answer; of a preference row, both answers."""
    if example.preference is not None:
        turns = (*example.preference.preferred, *example.preference.rejected)
        return normal("\n".join([turn_text(message) for message in turns]))
    answer = example.answer()
    return normal(turn_text(answer)) if answer is not None else ""


def digest(text: str) -> int:
    """Return the 64-bit BLAKE2b hash of a text."""
    return int.from_bytes(blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "big")


def split_position(seed: int, key: int) -> int:
    """Return a key's pseudo-random position in 0..2**64-1, which depends on the seed and on nothing else."""
    return int.from_bytes(blake2b(b"%d/%d" % (seed, key), digest_size=8).digest(), "big")


def label_of(example: Example) -> str | None:
    """Return the row's label: its own, or its one answer when that is short enough to be one; otherwise None."""
    if example.label is not None:
        return example.label if isinstance(example.label, str) else " + ".join(sorted(example.label))
    if example.preference is not None or example.text is not None:
        return None
    turn: Message | None = None
    for message in example.messages:
        if message[0] == "assistant":
            if turn is not None:
                return None
            turn = message
    if turn is None or turn.tool_calls:
        return None
    answer = turn.words if turn.content.__class__ is not str else turn.content
    if len(answer) > 4 * MAX_LABEL_LENGTH:
        return None
    answer = answer.strip()
    return answer if 0 < len(answer) <= MAX_LABEL_LENGTH and "\n" not in answer else None


def label_set(examples: Sequence[Example] | Iterable[Example]) -> list[str] | None:
    """Return the labels of a classification dataset, sorted; None when it is not one.

    It is one when every row has a label column, or when every row has one answer of at most 64 characters on one
    line, there are 2 to 256 different ones, and each occurs twice or more on average.
    """
    labels: set[str] = set()
    count = 0
    has_column = True
    for example in examples:
        label = label_of(example)
        if label is None:
            return None
        has_column = has_column and example.label is not None
        labels.add(label)
        if not has_column and len(labels) > MAX_LABELS:
            return None
        count += 1
    if not count or (not has_column and (len(labels) < 2 or 2 * len(labels) > count)):
        return None
    return sorted(labels)


def names_labels(rows: Sequence[Example], labels: Sequence[str]) -> bool:
    """Return whether most prompts name most of the labels: a model that does not know them can only guess."""
    sample = rows[:: max(1, len(rows) // PROMPTS_READ)]
    names = [label.casefold() for label in labels]
    naming = 0
    for row in sample:
        text = prompt_text(row).casefold()
        naming += sum(name in text for name in names) > len(names) / 2
    return naming > len(sample) / 2
