"""Keys by which rows are the same: of the prompt, of the answer, and stable places on a line for splitting."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from hashlib import blake2b

from llmtune.data.example import Example, ImagePart, Message, OtherPart, TextPart

#: A set of labels is taken from answers when there are at most this many, each at most this long.
MAX_LABELS = 256
MAX_LABEL_LENGTH = 64
#: Prompts that are read to tell whether they name the labels.
PROMPTS_READ = 50


def turn_text(message: Message) -> str:
    """Everything in a turn that tells it from another: words, images, other parts, calls."""
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


def normal(text: str) -> str:
    """Text without regard to case and to how white space is laid out."""
    return " ".join(text.casefold().split())


def prompt_text(example: Example) -> str:
    """The prompt in normal form: what makes two rows the same question. For plain text, the text."""
    if example.text is not None:
        return normal(example.text)
    return normal("\n".join([turn_text(message) for message in example.prompt()]))


def answer_text(example: Example) -> str:
    """The answer in normal form, with the rejected one behind it in a preference row."""
    if example.preference is not None:
        turns = (*example.preference.preferred, *example.preference.rejected)
        return normal("\n".join([turn_text(message) for message in turns]))
    answer = example.answer()
    return normal(turn_text(answer)) if answer is not None else ""


def digest(text: str) -> int:
    """64 bits of BLAKE2b."""
    return int.from_bytes(blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "big")


def place(seed: int, key: int) -> int:
    """A key's place on a line of 2**64 points, different for each seed and the same on every machine."""
    return int.from_bytes(blake2b(b"%d/%d" % (seed, key), digest_size=8).digest(), "big")


def label_of(example: Example) -> str | None:
    """The row's label: its own, or its one answer when that is short enough to be one; otherwise None."""
    if example.label is not None:
        return example.label if isinstance(example.label, str) else " + ".join(sorted(example.label))
    if example.preference is not None or example.text is not None:
        return None
    found: Message | None = None
    for message in example.messages:
        if message[0] == "assistant":
            if found is not None:
                return None
            found = message
    if found is None or found.tool_calls:
        return None
    answer = found.words if found.content.__class__ is not str else found.content
    if len(answer) > 4 * MAX_LABEL_LENGTH:
        return None
    answer = answer.strip()
    return answer if 0 < len(answer) <= MAX_LABEL_LENGTH and "\n" not in answer else None


def label_set(examples: Sequence[Example] | Iterable[Example]) -> list[str] | None:
    """The labels of a classification set, sorted; None when it is not one.

    It is one when every row has a label column, or when every row has one answer of at most 64 characters on one
    line, there are 2 to 256 different ones, and each occurs twice or more on average.
    """
    labels: set[str] = set()
    count = 0
    given = True
    for example in examples:
        label = label_of(example)
        if label is None:
            return None
        given = given and example.label is not None
        labels.add(label)
        if not given and len(labels) > MAX_LABELS:
            return None
        count += 1
    if not count or (not given and (len(labels) < 2 or 2 * len(labels) > count)):
        return None
    return sorted(labels)


def names_labels(rows: Sequence[Example], labels: Sequence[str]) -> bool:
    """Whether the prompts of most rows name most of the labels: a model that was not told them can only guess."""
    sample = rows[:: max(1, len(rows) // PROMPTS_READ)]
    names = [label.casefold() for label in labels]
    naming = 0
    for row in sample:
        text = prompt_text(row).casefold()
        naming += sum(name in text for name in names) > len(names) / 2
    return naming > len(sample) / 2
