"""Near-duplicates between the files of a dataset: held-out rows are kept as sketches, training rows are streamed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

from llmtune.data.checks.minhash import SIZE, NearIndex, Sketcher
from llmtune.data.example import Example
from llmtune.data.findings import Finding, warning
from llmtune.data.hashing import prompt_text

if TYPE_CHECKING:
    from llmtune.data.checks.block_worker import Sketches

#: Held-out rows that are kept (about 400 bytes each); of more, only the first ones are compared, which is reported.
MAX_HELD = 200_000


class NearDuplicateLeaks:
    """A search for training prompts that are nearly a validation or test prompt. Held-out files must be added first."""

    def __init__(self, files: Sequence[str]) -> None:
        self._files = list(files)
        self.sketcher = Sketcher()
        self._held: list[tuple[int, Sketches]] = []
        self._rows = 0
        self._index: NearIndex | None = None
        self._places: list[tuple[int, int, int]] = []
        self._best: dict[int, tuple[int, int, int]] = {}
        self._left_out = 0

    def learn(self, sample: Iterable[Example]) -> None:
        """Learn from a sample what most rows have in common; it does not count as similarity."""
        self.sketcher = Sketcher([prompt_text(example) for example in sample])

    def add(self, part: int, sketches: Sketches, *, held_out: bool) -> None:
        """Compare the sketches of one block with the held-out rows of other files; held-out ones are kept."""
        if held_out:
            if self._held and self._held[-1][0] != part:
                self._compare(part, sketches)
            if self._rows >= MAX_HELD:
                self._left_out += len(sketches.lines)
                return
            self._held.append((part, sketches))
            self._rows += len(sketches.lines)
            return
        self._compare(part, sketches)

    def _compare(self, part: int, sketches: Sketches) -> None:
        index = self._index_without(part)
        if index is None:
            return
        for row, held, agree in index.matches(sketches.sketches, sketches.has):
            where = self._places[held]
            if where[2] == sketches.keys[row]:
                continue  # exactly the same: reported as a leak
            best = self._best.get(held)
            if best is None or agree > best[0]:
                self._best[held] = (agree, part, sketches.lines[row])

    def _index_without(self, part: int) -> NearIndex | None:
        """Return the index over the held-out rows of other files; built again when one was added."""
        import numpy as np

        held = [(number, sketches) for number, sketches in self._held if number != part]
        rows = sum(len(sketches.lines) for _, sketches in held)
        if not rows:
            return None
        if self._index is None or len(self._places) != rows:
            self._places = [
                (number, line, key)
                for number, sketches in held
                for line, key in zip(sketches.lines, sketches.keys, strict=True)
            ]
            stacked = np.concatenate([sketches.sketches for _, sketches in held])
            self._index = NearIndex(stacked, np.concatenate([sketches.has for _, sketches in held]))
        return self._index

    def findings(self) -> Iterator[Finding]:
        """Yield a warning for each held-out row that is nearly one of another file."""
        for held, (agree, part, line) in sorted(self._best.items()):
            number, where, _ = self._places[held]
            share = round(100 * agree / SIZE)
            yield warning(
                "near-leakage",
                f"the prompt is about {share} % that of {self._files[part]}:{line}",
                "take it out of one of them, or split again with llmtune data split",
            ).at(self._files[number], where)
        if self._left_out:
            yield warning(
                "near-leakage",
                f"{self._left_out:,} held-out rows were not compared: only {MAX_HELD:,} are kept in memory",
                "check the held-out files in parts",
            )
