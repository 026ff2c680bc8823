"""Few-shot prompting: a base model with examples in its prompt, the alternative to tuning."""

from __future__ import annotations

import hashlib
from array import array
from bisect import insort
from collections.abc import Sequence
from dataclasses import replace
from itertools import islice
from typing import TYPE_CHECKING

from llmtune.data.example import Example, Message
from llmtune.data.stored_rows import select_rows
from llmtune.evaluation.sampling import hash_rows
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

    usable = select_rows(train, array("Q", (number for number, row in enumerate(train) if _is_usable(row))))
    first_rows: dict[str | None, list[tuple[int, int]]] = {}
    for number, (key, row) in enumerate(zip(hash_rows(usable), usable, strict=True)):
        group = first_rows.setdefault(label_of(row), [])
        insort(group, (int(key), number))
        del group[count:]
        if len(first_rows) > 8 * count:  # only the first of so many labels is chosen: those of the first hashes stay
            first_rows = {label: first_rows[label] for label in sorted(first_rows, key=first_rows.__getitem__)[:count]}
    groups = sorted(first_rows.values())
    turns = (group[turn] for turn in range(count) for group in groups if turn < len(group))
    return tuple(usable[number] for _, number in islice(turns, count))


def _is_usable(row: Example) -> bool:
    return bool(row.messages) and row.preference is None and row.answer() is not None


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
