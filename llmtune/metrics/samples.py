"""Answers of a model in training: what is to be looked at beside the curves."""

from __future__ import annotations

from llmtune._models import FrozenModel


class Sample(FrozenModel):
    """The answer of a model in training to one validation row.

    `step` is the optimizer step after which it was asked, `number` counts the rows that are asked, from 1; `prompt`,
    `expected` (the reference answer) and `answer` are their texts, shortened.
    """

    step: int
    number: int
    prompt: str
    expected: str = ""
    answer: str
