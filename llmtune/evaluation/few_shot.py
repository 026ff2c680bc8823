"""A base model with some examples in its prompt: what one would do instead of tuning."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from llmtune.data.example import Example, Message
from llmtune.evaluation.sampling import row_ids
from llmtune.provider.generation import Generation, GenerationRequest, Generator, LabelScorer

if TYPE_CHECKING:
    from typing import Self


#: Examples in the prompt, unless a number is given.
SHOTS = 3


def model_with(model: str, examples: Sequence[Example]) -> str:
    """Return the name under which answers of a model with these examples are cached, of the model's own name."""
    return f"{model} few-shot {hashlib.sha256(repr(tuple(examples)).encode()).hexdigest()[:16]}"


def shots(train: Sequence[Example], count: int) -> tuple[Example, ...]:
    """Examples for the prompt, by a hash of their content; one a label in turn, where rows have labels."""
    from llmtune.data.hashing import label_of

    usable = [row for row in train if row.messages and row.preference is None and row.answer() is not None]
    by_hash = [row for _, row in sorted(zip(row_ids(usable), usable, strict=True), key=lambda pair: pair[0])]
    groups: dict[str | None, list[Example]] = {}
    for row in by_hash:
        groups.setdefault(label_of(row), []).append(row)
    chosen: list[Example] = []
    while len(chosen) < count and any(groups.values()):
        for rows in groups.values():
            if rows and len(chosen) < count:
                chosen.append(rows.pop(0))
    return tuple(chosen)


class FewShot:
    """A generator whose every question begins with the examples, as turns of the same conversation."""

    def __init__(self, generator: Generator, examples: Sequence[Example]) -> None:
        self._generator = generator
        self._examples = examples
        self.max_concurrency = generator.max_concurrency

    def _shown(self, requests: Sequence[GenerationRequest]) -> list[GenerationRequest]:
        return [replace(request, messages=self._with(request.messages)) for request in requests]

    def _with(self, messages: tuple[Message, ...]) -> tuple[Message, ...]:
        system = tuple(turn for turn in messages[:1] if turn.role == "system")
        turns: list[Message] = []
        for row in self._examples:
            answer = row.answer()  # what stands behind it, or is not learned from, is no example of an answer
            shown = (*row.prompt(), *(() if answer is None else (answer,)))
            turns += [turn for turn in shown if turn.role != "system"]
        return (*system, *turns, *messages[len(system) :])

    def generate(self, requests: Sequence[GenerationRequest]) -> Sequence[Generation]:
        """One answer a request, the examples in front."""
        return self._generator.generate(self._shown(requests))

    def __enter__(self) -> Self:
        self._generator.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self._generator.__exit__(*error)


class ScoringFewShot(FewShot):
    """The same for a model that knows how likely it finds given answers."""

    def score_labels(self, requests: Sequence[GenerationRequest], labels: Sequence[str]) -> list[list[float]]:
        """Log-likelihood in nats of each label, the examples in front."""
        assert isinstance(self._generator, LabelScorer)
        return self._generator.score_labels(self._shown(requests), labels)


def few_shot(generator: Generator, examples: Sequence[Example]) -> FewShot:
    """A base model with examples in front of every question."""
    kind = ScoringFewShot if isinstance(generator, LabelScorer) else FewShot
    return kind(generator, examples)
