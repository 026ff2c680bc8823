"""The result of a sweep: the best configuration, every trial, the importance of each field, and the cost."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal

from llmtune._models import DocumentedModel
from llmtune.errors import InvalidData
from llmtune.job.spec import TuningJob
from llmtune.metrics.intervals import Interval
from llmtune.metrics.points import NotReported, Number, Series
from llmtune.redaction.control_chars import replace_controls
from llmtune.redaction.documents import dump_json
from llmtune.redaction.rendering import Renderable
from llmtune.sweeps.trial_job import settle_provider

#: How far a trial is.
TrialState = Literal["complete", "pruned", "failed", "running"]


class TrialRow(DocumentedModel):
    """One trial: one configuration, trained once. `number` counts them from 0."""

    number: int
    params: dict[str, Any]
    """The configuration: values by field of the space."""

    state: TrialState
    """A "pruned" trial was cancelled early by the median rule; a "failed" one says why in `note`."""

    value: Number | None = None
    """The metric at the end; None for a trial that did not complete."""

    run: str | None = None
    """Id of its run in the store."""

    steps: int | None = None
    """Training steps that were taken."""

    total_steps: int | None = None
    """Steps of a complete run, where the backend reports them."""

    cost: float | NotReported = NotReported("not known")
    """USD: as billed, or estimated where the backend reports no bill."""

    note: str = ""
    curve: Series | None = None
    """The metric over the steps."""


class Finalist(DocumentedModel):
    """One of the best configurations (`params`), trained again with one or more seeds and scored on the test rows.

    `mean` is that of `values`.
    """

    params: dict[str, Any]
    metric: str
    """Main metric of the evaluation, such as accuracy; not that of the search."""

    values: tuple[Number, ...]
    """The metric on the test rows, one value per seed."""

    mean: Number
    interval: Interval | NotReported
    """95 % interval: over the test rows for one seed, over the seeds (Student's t) for several."""

    runs: tuple[str, ...] = ()
    """Ids of its runs in the store."""

    baselines: tuple[str, ...] = ()
    """One sentence per cheap model (linear, nearest row): its score on the same rows, against the first seed's."""


class Prescreened(DocumentedModel):
    """The exploration at another backend (`provider`), whose best configurations were carried over.

    `trials` are all of its trials.
    """

    provider: str
    model: str
    """Base model of its trials."""

    trials: tuple[TrialRow, ...]
    kept: tuple[dict[str, Any], ...]
    """The configurations carried over, best first."""

    spent: float | NotReported = 0.0
    """USD, billed or estimated; included in `Sweep.spent`."""


class Sweep(Renderable, DocumentedModel):
    """The result of `sweep`.

    `schema_version` changes when a field changes its meaning. `provider` names the backends of the trials, `group` is
    the store's name for their runs. `method` is how configurations were chosen (random, grid, bayesian); `metric` was
    optimised in `direction`. `trials` are in the order in which they were started; `finalists` were scored on the test
    rows. `budget` is the limit in USD.
    """

    _renderers: ClassVar[Mapping[str, str]] = {"document": "llmtune.sweeps.document:document"}

    schema_version: Literal[1] = 1
    name: str
    provider: str
    group: str
    method: str
    metric: str
    direction: Literal["minimize", "maximize"]
    trials: tuple[TrialRow, ...]
    sources: dict[str, str] = {}
    """By field, the source of a suggested range; empty where the caller gave the space."""

    notes: tuple[str, ...] = ()
    """Remarks on the search: fields that some backends do not support, fields that a pre-screening left out, finalists
    that the budget did not allow."""

    prescreened: Prescreened | None = None
    """The pre-screening; None without one."""

    importance: dict[str, float] = {}
    """By field, the share of the metric's variance that it explains (fANOVA); empty with too few trials."""

    finalists: tuple[Finalist, ...] = ()
    spent: float | NotReported = NotReported("not known")
    """USD over all trials, finalists and the pre-screening, billed or estimated."""

    budget: float | None = None
    stopped: str | None = None
    """Why the sweep ended before all trials were run; None if it did not."""

    job: TuningJob
    """The job with the best configuration, ready to run."""

    def __repr_args__(self) -> Iterator[tuple[str | None, Any]]:
        yield from {"name": self.name, "provider": self.provider, "trials": len(self.trials)}.items()
        if (best := self.best) is not None:
            yield from {"best": best.params, self.metric: best.value}.items()

    @property
    def best(self) -> TrialRow | None:
        """The trial with the best value on the validation rows; None where no trial completed."""
        return next(iter(self.ranked()), None)

    def ranked(self, *, every: bool = False) -> list[TrialRow]:
        """Return the completed trials, best first; with `every`, followed by the others.

        Trials with the same configuration share one run; only the first of them is returned.
        """
        sign = 1 if self.direction == "minimize" else -1
        trials = [trial for trial in self.distinct if every or (trial.state == "complete" and trial.value is not None)]
        return sorted(trials, key=lambda trial: (trial.value is None, sign * float(trial.value or 0.0), trial.number))

    @property
    def distinct(self) -> list[TrialRow]:
        """The trials in the order in which they were started, without those that share the run of an earlier one."""
        by_run: dict[str, TrialRow] = {}
        for trial in self.trials:
            by_run.setdefault(trial.run or f"trial {trial.number}", trial)
        return list(by_run.values())

    def save_job(self, path: str | os.PathLike[str]) -> None:
        """Write the best configuration as a job file, as one would write it by hand.

        The values stand in `hyperparameters`, the dataset's path is relative to the file, and in YAML a comment says
        where the values come from.
        """
        file = Path(path)
        best = self.best
        provider = str(best.params.get("provider", self.provider) if best else self.provider).partition(":")[0]
        job = settle_provider(self.job, provider)
        dataset = job.dataset.model_copy(
            update={role: _relative(name, file.parent) for role, name in job.dataset.paths.items()}
        )
        job.model_copy(update={"dataset": dataset}).save(file)
        if best is not None and file.suffix != ".json":
            count = len(self.distinct)
            lines = [
                f"# The best of {count} trial{'s' if count != 1 else ''} of {self.name} by {self.metric}"
                f"{'' if best.value is None else f' ({float(best.value):.4g})'}: {', '.join(best.params)}",
                f"# llmtune tune {shlex.quote(file.name)} --provider {provider}",
            ]
            text = file.read_text(encoding="utf-8")
            file.write_text("\n".join(replace_controls(line, lambda _: " ") for line in lines) + f"\n{text}", "utf-8")

    def to_json(self) -> str:
        """Return the result as JSON; `Sweep.model_validate_json` reads it back."""
        return dump_json(self.model_dump(mode="json"))

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the result as .json, .md or .html, by the suffix of `path`. Raises `InvalidData` for any other."""
        file = Path(path)
        serialise = {".json": self.to_json, ".md": self.to_markdown, ".html": self.to_html}.get(file.suffix)
        if serialise is None:
            raise InvalidData(f"{file}: a sweep is written as .json, .md or .html")
        file.write_text(serialise(), encoding="utf-8")


def _relative(name: str, folder: Path) -> str:
    return name if "://" in name or Path(name).is_absolute() else os.path.relpath(name, folder)
