"""How many of the answers that are learned have reasoning before them."""

from __future__ import annotations

import re
from collections.abc import Iterator

from llmtune.data.example import Example, Message
from llmtune.data.findings import Finding, info, warning

#: Reasoning that stands in the text itself, with something in it.
_IN_TEXT = re.compile(r"\s*<think>(?!\s*</think>)")


class ReasoningCount:
    """The learned answers of the rows of one file, and those of them that have reasoning."""

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

    def merge(self, other: ReasoningCount) -> None:
        """Add what another part of the file has."""
        self.answers += other.answers
        self.reasoned += other.reasoned

    def findings(self, model: str, remedy: str) -> Iterator[Finding]:
        """A warning where no answer has reasoning, information where some have none; `model` is one that reasons."""
        if self.answers and not self.reasoned:
            what = f"none of the {self.answers:,} answers has reasoning, and {model} is a model that reasons"
            yield warning("no-reasoning", f"{what}: tuned on them it may stop to think before it answers", remedy)
        elif self.reasoned < self.answers:
            what = f"{self.answers - self.reasoned:,} of {self.answers:,} answers have no reasoning"
            yield info("some-without-reasoning", f"{what}, and {model} is a model that reasons", remedy)


def has_reasoning(message: Message) -> bool:
    """Whether a turn holds what was thought before it."""
    return message.reasoning is not None or _IN_TEXT.match(message.words) is not None
