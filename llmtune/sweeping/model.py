"""What a sweep found: the best configuration, every trial, what mattered, what it cost."""

from __future__ import annotations

import os
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from llmtune.job import TuningJob
from llmtune.metrics.intervals import Interval
from llmtune.metrics.points import NotReported, Number

TrialState = Literal["complete", "pruned", "failed", "running"]


class _Value(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class TrialRow(_Value):
    """One trial."""

    number: int
    params: dict[str, Any]
    state: TrialState
    value: Number | None = None
    """The metric at its end; None when it did not come to one."""

    run: str | None = None
    steps: int | None = None
    cost: float | NotReported = NotReported("not known")
    """Billed, or estimated where the backend does not tell."""

    note: str = ""


class Finalist(_Value):
    """One of the best configurations, trained again with several seeds and scored on the test split."""

    params: dict[str, Any]
    metric: str
    values: tuple[Number, ...]
    """One a seed."""

    mean: Number
    interval: Interval | NotReported
    runs: tuple[str, ...] = ()


class Sweep(_Value):
    """The result of `sweep`."""

    schema_version: Literal[1] = 1
    name: str
    provider: str
    group: str
    method: str
    metric: str
    direction: Literal["minimize", "maximize"]
    trials: tuple[TrialRow, ...]
    importance: dict[str, float] = {}
    """Share of the metric's variation that each searched field explains (fANOVA); empty with too few trials."""

    finalists: tuple[Finalist, ...] = ()
    spent: float | NotReported = NotReported("not known")
    """USD, billed or estimated."""

    budget: float | None = None
    stopped: str | None = None
    """Why it ended before all trials were run, if it did."""

    job: TuningJob
    """The best configuration as a job, ready to run."""

    @property
    def best(self) -> TrialRow | None:
        """The trial with the best value on the validation rows."""
        done = [each for each in self.trials if each.state == "complete" and each.value is not None]
        if not done:
            return None
        sign = 1 if self.direction == "minimize" else -1
        return min(done, key=lambda each: sign * float(each.value or 0.0))

    def save_job(self, path: str | os.PathLike[str]) -> None:
        """Write the best configuration as a job file."""
        self.job.save(path)

    def to_json(self) -> str:
        """As JSON; `Sweep.model_validate_json` reads it back."""
        return self.model_dump_json(indent=2)
