"""Few-shot prompting: a base model with examples in its prompt, the alternative to tuning."""

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


#: Default number of examples in the prompt.
SHOTS = 3


def few_shot_identity(model: str, examples: Sequence[Example]) -> str:
    """Return the name under which answers of a model with these examples are cached; `model` is that without them."""
    return f"{model} few-shot {hashlib.sha256(repr(tuple(examples)).encode()).hexdigest()[:16]}"


def select_shots(train: Sequence[Example], count: int) -> tuple[Example, ...]:
    """Choose examples for the prompt, by a hash of their content; where rows have labels, one per label in turn."""
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
    """A generator that puts the examples before every request, as turns of the same conversation."""

    def __init__(self, generator: Generator, examples: Sequence[Example]) -> None:
        self._generator = generator
        self._examples = examples
        self.max_concurrency = generator.max_concurrency

    def _add_examples(self, requests: Sequence[GenerationRequest]) -> list[GenerationRequest]:
        return [replace(request, messages=self._prepend_examples(request.messages)) for request in requests]

    def _prepend_examples(self, messages: tuple[Message, ...]) -> tuple[Message, ...]:
        system = tuple(turn for turn in messages[:1] if turn.role == "system")
        turns: list[Message] = []
        for row in self._examples:
            answer = row.answer()  # turns after it, or that are not trained on, are not examples of an answer
            example_turns = (*row.prompt(), *(() if answer is None else (answer,)))
            turns += [turn for turn in example_turns if turn.role != "system"]
        return (*system, *turns, *messages[len(system) :])

    def generate(self, requests: Sequence[GenerationRequest]) -> Sequence[Generation]:
        """Generate one answer per request, with the examples in its prompt."""
        return self._generator.generate(self._add_examples(requests))

    def __enter__(self) -> Self:
        self._generator.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self._generator.__exit__(*error)


class ScoringFewShot(FewShot):
    """A `FewShot` for models that report the likelihood of given answers."""

    def score_labels(self, requests: Sequence[GenerationRequest], labels: Sequence[str]) -> list[list[float]]:
        """Return the log-likelihood in nats of each label after each request, with the examples in its prompt."""
        assert isinstance(self._generator, LabelScorer)
        return self._generator.score_labels(self._add_examples(requests), labels)


def few_shot(generator: Generator, examples: Sequence[Example]) -> FewShot:
    """Wrap a generator so that the examples are in the prompt of every request."""
    kind = ScoringFewShot if isinstance(generator, LabelScorer) else FewShot
    return kind(generator, examples)
