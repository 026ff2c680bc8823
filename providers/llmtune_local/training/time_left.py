"""The time that a run still takes: its steps, validations and checkpoints, its result, and the evaluation after it.

Each part is expected to cost what it has cost so far in this run. What has not happened yet is estimated from what
has: a validation pass from the steps, the evaluation from a validation pass.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

#: Steps whose mean time is expected of the next ones.
RECENT = 20
#: Forward passes in a training step; and what answering a row costs, in passes over a validation row: an answer is
#: generated token by token, and its loss is measured too.
PASSES_PER_STEP = 3.0
ANSWER_COST = {"sft": 8.0, "dpo": 3.0, "classification": 1.0, "reinforcement": 8.0}
#: Seconds in which an evaluation loads its libraries and models.
EVALUATION_START = 5.0


@dataclass(frozen=True, kw_only=True)
class Ahead:
    """What a run still has to do."""

    steps: int
    validations: int
    checkpoints: int
    samples: int = 0
    """Times that validation rows are answered, to look at."""

    results: int = 1
    """Writings of the result."""

    answers: int = 0
    """Rows that models are asked in the evaluation after the run."""


@dataclass
class TimeLeft:
    """The estimate of one run. `rows` trained in a step, and rows validated; the evaluation is that of `method`."""

    step_rows: int
    validation_rows: int
    method: str
    steps: deque[tuple[int, float]] = field(default_factory=lambda: deque(maxlen=RECENT))
    """Tokens and seconds of the last steps."""

    validation: float | None = None
    """Seconds of the last pass over the validation rows."""

    samples: float = 0.0
    """Seconds of the last answers to validation rows."""

    saving: float | None = None
    """Seconds of the last checkpoint."""

    @property
    def tokens_per_second(self) -> float:
        """Return the training speed over the last steps."""
        return sum(tokens for tokens, _ in self.steps) / max(1e-9, sum(seconds for _, seconds in self.steps))

    def seconds(self, ahead: Ahead) -> float | None:
        """Estimate the seconds for what is ahead; None before anything was measured."""
        row = self._row_seconds()
        if row is None:
            return None
        validation = self.validation if self.validation is not None else row * self.validation_rows
        step = self._step_seconds()
        if step is None:
            step = PASSES_PER_STEP * row * self.step_rows
        return (
            ahead.steps * step
            + ahead.validations * validation
            + ahead.samples * self.samples
            + (ahead.checkpoints + ahead.results) * (self.saving or 0.0)
            + ahead.answers * row * ANSWER_COST.get(self.method, 1.0)
            + (EVALUATION_START if ahead.answers else 0.0)
        )

    def _step_seconds(self) -> float | None:
        return sum(seconds for _, seconds in self.steps) / len(self.steps) if self.steps else None

    def _row_seconds(self) -> float | None:
        """Return the seconds of one row in a forward pass: measured in a validation, else a third of one in a step."""
        if self.validation is not None and self.validation_rows:
            return self.validation / self.validation_rows
        step = self._step_seconds()
        return None if step is None else step / PASSES_PER_STEP / self.step_rows
