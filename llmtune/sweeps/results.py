"""What a sweep found: the best configuration, every trial, what mattered, what it cost."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal

from llmtune._models import DocumentedModel
from llmtune.errors import InvalidData
from llmtune.job.spec import TuningJob
from llmtune.metrics.intervals import Interval
from llmtune.metrics.points import NotReported, Number, Series
from llmtune.redaction.documents import dump_json
from llmtune.report.render import Renderable

TrialState = Literal["complete", "pruned", "failed", "running"]


class TrialRow(DocumentedModel):
    """One trial."""

    number: int
    params: dict[str, Any]
    state: TrialState
    value: Number | None = None
    """The metric at its end; None when it did not come to one."""

    run: str | None = None
    steps: int | None = None
    total_steps: int | None = None
    """Steps it would have taken to its end, where the backend tells."""

    cost: float | NotReported = NotReported("not known")
    """Billed, or estimated where the backend does not tell."""

    note: str = ""
    curve: Series | None = None
    """The metric over the steps."""


class Finalist(DocumentedModel):
    """One of the best configurations, trained again with several seeds and scored on the test split."""

    params: dict[str, Any]
    metric: str
    values: tuple[Number, ...]
    """One a seed."""

    mean: Number
    interval: Interval | NotReported
    runs: tuple[str, ...] = ()
    baselines: tuple[str, ...] = ()
    """What models that cost next to nothing reach on the same rows, beside its first seed: a sentence each."""


class Prescreened(DocumentedModel):
    """A search on another backend, whose best configurations were carried over."""

    provider: str
    model: str
    """Base model that was explored with."""

    trials: tuple[TrialRow, ...]
    kept: tuple[dict[str, Any], ...]
    """Values of the best, in order."""

    spent: float | NotReported = 0.0
    """USD, billed or estimated; part of what the sweep spent."""


class Sweep(Renderable, DocumentedModel):
    """The result of `sweep`.

    `schema_version` changes when a field changes its meaning. `provider` ran the trials, and `group` is what finds
    their runs in the store. `method` is how points were chosen (random, grid, bayesian), `metric` what was
    optimised in which `direction`. `trials` come in the order of their start; `finalists` are those that were
    scored on the test rows. `budget` is the bound in USD.
    """

    _renderers: ClassVar[Mapping[str, str]] = {
        "markdown": "llmtune.sweeps.text:to_markdown",
        "html": "llmtune.sweeps.html:render",
    }

    schema_version: Literal[1] = 1
    name: str
    provider: str
    group: str
    method: str
    metric: str
    direction: Literal["minimize", "maximize"]
    trials: tuple[TrialRow, ...]
    sources: dict[str, str] = {}
    """Where each range comes from that was suggested and not given."""

    notes: tuple[str, ...] = ()
    """What should be known of the search: fields that some backends have no knob for, what a pre-screening left out,
    finalists that the budget did not allow."""

    prescreened: Prescreened | None = None
    """What was explored elsewhere before; None without a pre-screening."""

    importance: dict[str, float] = {}
    """Share of the metric's variation that each searched field explains (fANOVA); empty with too few trials."""

    finalists: tuple[Finalist, ...] = ()
    spent: float | NotReported = NotReported("not known")
    """USD over all trials, finalists and the pre-screening, billed or estimated."""

    budget: float | None = None
    stopped: str | None = None
    """Why it ended before all trials were run, if it did."""

    job: TuningJob
    """The best configuration as a job, ready to run."""

    @property
    def best(self) -> TrialRow | None:
        """The trial with the best value on the validation rows."""
        return next(iter(self.ranked()), None)

    def ranked(self, *, every: bool = False) -> list[TrialRow]:
        """The trials that came to a value, best first; with `every`, the others behind them.

        Trials with the same values share one run, and stand here once.
        """
        sign = 1 if self.direction == "minimize" else -1
        kept = [each for each in self.distinct if every or (each.state == "complete" and each.value is not None)]
        return sorted(kept, key=lambda each: (each.value is None, sign * float(each.value or 0.0), each.number))

    @property
    def distinct(self) -> list[TrialRow]:
        """The trials in the order of their start, each run once."""
        by_run: dict[str, TrialRow] = {}
        for each in self.trials:
            by_run.setdefault(each.run or f"trial {each.number}", each)
        return list(by_run.values())

    def save_job(self, path: str | os.PathLike[str]) -> None:
        """Write the best configuration as a job file."""
        self.job.save(path)

    def to_json(self) -> str:
        """As JSON; `Sweep.model_validate_json` reads it back."""
        return dump_json(self.model_dump(mode="json"))

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write it as .json, .md or .html, by the ending. Raises `InvalidData` for another."""
        place = Path(path)
        made = {".json": self.to_json, ".md": self.to_markdown, ".html": self.to_html}.get(place.suffix)
        if made is None:
            raise InvalidData(f"{place}: a sweep is written as .json, .md or .html")
        place.write_text(made(), encoding="utf-8")
