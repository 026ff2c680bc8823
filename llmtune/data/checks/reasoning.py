"""The share of the learned answers that have reasoning before them."""

from __future__ import annotations

import re
from collections.abc import Iterator

from llmtune.data.example import Example, Message
from llmtune.data.findings import Finding, info, warning

#: Reasoning in the text itself that is not empty.
_IN_TEXT = re.compile(r"\s*<think>(?!\s*</think>)")


class ReasoningCount:
    """Counts of the learned answers of one file, and of those that have reasoning."""

    def __init__(self) -> None:
        self.answers = 0
        self.reasoned = 0

    def add(self, example: Example) -> None:
        """Count the answers of one row; of a preference row, those of the preferred answer."""
        turns = example.messages if example.preference is None else example.preference.preferred
        for message in turns:
            if message.trained:
                self.answers += 1
                self.reasoned += has_reasoning(message)

    def merge(self, part: ReasoningCount) -> None:
        """Add the counts of another part of the file."""
        self.answers += part.answers
        self.reasoned += part.reasoned

    def findings(self, model: str, remedy: str) -> Iterator[Finding]:
        """Yield a warning where no answer has reasoning, information where some have none; `model` reasons."""
        if self.answers and not self.reasoned:
            what = f"none of the {self.answers:,} answers has reasoning, and {model} is a model that reasons"
            yield warning("no-reasoning", f"{what}: tuned on them it may stop to think before it answers", remedy)
        elif self.reasoned < self.answers:
            what = f"{self.answers - self.reasoned:,} of {self.answers:,} answers have no reasoning"
            yield info("some-without-reasoning", f"{what}, and {model} is a model that reasons", remedy)


def has_reasoning(message: Message) -> bool:
    """Return whether a turn has reasoning: in its field, or in `<think>` marks at the beginning of its text."""
    return message.reasoning is not None or _IN_TEXT.match(message.words) is not None
