"""How often a run validates, and on how many rows, where the job does not say: for at most a fifth of training time.

A pass over the validation rows costs a third of training on as many tokens: it has no backward pass, which takes about
twice as long as the forward pass. So everything is known from token counts before the first step, and is the same
after a resume.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from hashlib import blake2b
from typing import TYPE_CHECKING, Any

import numpy as np

from llmtune_local.training.time_left import PASSES_PER_STEP

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

#: The share of training time that validation may take.
SHARE = 0.2
#: Evaluations of a run, beside the one before its first step: at most, and as many as are worth a smaller sample.
MOST, FEWEST = 10, 5
#: Rows that a sample has at least.
LEAST_ROWS = 20


@dataclass(frozen=True, kw_only=True)
class TrainingWork:
    """What a run trains, and how it validates beside its evaluations."""

    steps: int
    steps_per_epoch: int
    tokens_per_epoch: int
    other_passes: int = 1
    """Passes over the validation rows beside the evaluations: the one before the first step, and what a method adds."""

    processes: int = 1
    """Processes that share the training; one of them validates alone."""

    patience: int | None = None
    """Evaluations without improvement after which the run stops; together they cover an epoch at least."""

    @property
    def allowed_tokens(self) -> float:
        """Return the validation tokens that the run can afford."""
        epochs = self.steps / self.steps_per_epoch
        return SHARE * PASSES_PER_STEP * epochs * self.tokens_per_epoch / self.processes


@dataclass(frozen=True)
class ValidationPlan:
    """Steps between two evaluations, and the number of validation rows that are asked."""

    eval_every: int
    rows: int


def plan_validation(work: TrainingWork, row_tokens: Sequence[int] | NDArray[np.integer[Any]]) -> ValidationPlan:
    """Return how often to validate, and on how many of the rows of these lengths.

    As often as is affordable with all rows, up to `MOST` evaluations; where that would be fewer than `FEWEST`, a sample
    of the rows instead, of at least `LEAST_ROWS`.
    """
    count, per_row = len(row_tokens), max(1.0, int(np.sum(row_tokens, dtype=np.int64)) / max(1, len(row_tokens)))

    def affordable(rows: int) -> int:
        return math.floor(work.allowed_tokens / (rows * per_row)) - work.other_passes

    if affordable(count) >= FEWEST:
        return ValidationPlan(_spacing(work, min(MOST, affordable(count))), count)
    sample = math.floor(work.allowed_tokens / ((FEWEST + work.other_passes) * per_row))
    rows = min(count, max(LEAST_ROWS, sample))
    return ValidationPlan(_spacing(work, max(1, min(FEWEST, affordable(rows)))), rows)


def _spacing(work: TrainingWork, evaluations: int) -> int:
    """Return the steps between evaluations; a loss that is noisy within an epoch must not stop the run there."""
    spacing = math.ceil(work.steps / evaluations)
    return spacing if work.patience is None else max(spacing, math.ceil(work.steps_per_epoch / work.patience))


def choose_rows(rows: Sequence[tuple[Any, ...]], count: int) -> list[int]:
    """Return the indices of `count` of the rows, ascending, chosen by a hash of their tokens: the same in every run."""
    occurrences: Counter[bytes] = Counter()
    keys = []
    for row in rows:
        content = b"\0".join(np.asarray(piece.ids, dtype=np.int32).tobytes() for piece in row)
        same = blake2b(content, digest_size=16).digest()  # long texts are not held
        keys.append(blake2b(content + b"\0%d" % occurrences[same], digest_size=8).digest())
        occurrences[same] += 1
    return sorted(sorted(range(len(rows)), key=lambda index: (keys[index], index))[:count])
