"""The finalists of a sweep: the best configurations, trained with several seeds and scored once on the test rows."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

from llmtune.errors import QuotaExceeded, RunFailed
from llmtune.job.spec import TuningJob
from llmtune.metrics.intervals import Interval, interval_over_seeds
from llmtune.metrics.points import NotReported
from llmtune.report.verdicts import cheap_baselines, explain_missing_figure
from llmtune.runs.api import start
from llmtune.runs.job_room import JobRoom
from llmtune.runs.plans import plan
from llmtune.sweeps.results import Finalist, TrialRow
from llmtune.sweeps.sweep_plan import SweepTarget
from llmtune.sweeps.trial_job import with_params
from llmtune.sweeps.worker import SweepConfig, cost_of


class FinalistResults(NamedTuple):
    """The finalists that have a score, the cost of their runs in USD, and notes on those that have none."""

    finalists: tuple[Finalist, ...]
    spent: float | NotReported
    notes: tuple[str, ...]


def evaluate_finalists(
    config: SweepConfig, job: TuningJob, best: Sequence[TrialRow], *, seeds: int, remaining: float | None = None
) -> FinalistResults:
    """Train each of the best configurations with several seeds, and score them on the test rows.

    `remaining` is the part of the budget that the trials have not used, in USD; a run that may cost more is not
    started.
    """
    budget = FinalistBudget(remaining)
    results = [_train_finalist(config, job, trial, seeds=seeds, budget=budget) for trial in best]
    return FinalistResults(
        tuple(finalist for finalist in results if finalist.values), budget.spent, tuple(budget.notes)
    )


class FinalistBudget:
    """The budget of the finalists: the cost so far and the amount that remains, in USD."""

    def __init__(self, remaining: float | None) -> None:
        self._remaining = remaining
        self.spent: float | NotReported = 0.0
        self.notes: list[str] = []
        self._closed = False

    def can_afford(self, job: TuningJob, target: SweepTarget, trial: TrialRow) -> bool:
        """Return whether a run may be started. After the first refusal, no further run may."""
        bills = target.backend.hosted or job.evaluation.judge is not None
        if not self._closed and self._remaining is not None and bills:
            estimate = plan(job, target.backend).cost.total
            if estimate is not None and estimate > self._remaining + 1e-9:
                self._closed = True
                self.notes.append(
                    f"trial {trial.number} was not trained as a finalist: it costs about {estimate:,.2f} USD and"
                    f" {self._remaining:,.2f} of the budget are left"
                )
        return not self._closed

    def charge(self, cost: float | NotReported) -> None:
        """Add the cost of a run that has ended."""
        if isinstance(cost, NotReported):
            self.spent = cost
            return
        if not isinstance(self.spent, NotReported):
            self.spent += cost
        if self._remaining is not None:
            self._remaining -= cost


def _train_finalist(
    config: SweepConfig, job: TuningJob, trial: TrialRow, *, seeds: int, budget: FinalistBudget
) -> Finalist:
    params = trial.params
    target = config.find_target(params)
    values: list[float] = []
    runs: list[str] = []
    intervals: list[Interval] = []
    metric = unit = ""
    baselines: tuple[str, ...] = ()
    for number in range(seeds):
        seeded_job = with_params(target.job(job), params, target.backend.name)
        seeded_job = seeded_job.model_copy(update={"seed": (job.seed or 0) + number})
        if not budget.can_afford(seeded_job, target, trial):
            break
        try:
            begin = partial(start, seeded_job, target.backend, yes=True, reuse=True, group=f"{config.group}/final")
            run = JobRoom().start(target.backend.name, begin)  # jobs of others may take the last room
        except QuotaExceeded as error:
            budget.notes.append(f"trial {trial.number} was not trained as a finalist: {error.message}")
            break
        runs.append(run.id)
        try:
            report = run.wait(pace=config.pace)
        except RunFailed as error:
            budget.notes.append(f"trial {trial.number} as a finalist: {error.message}")
            continue
        finally:
            budget.charge(cost_of(run.record))
        if isinstance(report.evaluation, NotReported):
            budget.notes.append(f"trial {trial.number} as a finalist was not evaluated: {report.evaluation.reason}")
            continue
        tuned = report.evaluation.system("tuned")
        figure = tuned.get(report.evaluation.main) if tuned is not None else None
        if figure is None:  # another system's figure would not be this configuration's
            budget.notes.append(
                f"trial {trial.number} as a finalist: {explain_missing_figure(report.evaluation, 'tuned')}"
            )
            continue
        if not values:
            baselines = tuple(cheap_baselines(report.evaluation))
        values.append(float(figure.value))
        intervals.append(figure.interval)
        metric, unit = report.evaluation.main, figure.unit
    spread: Interval | NotReported = NotReported("it was not evaluated")
    if len(values) == 1:
        spread = intervals[0]
    elif len(values) > 1:
        spread = interval_over_seeds(values, unit=unit)
    return Finalist(
        params=dict(params),
        metric=metric,
        values=tuple(values),
        mean=statistics.fmean(values) if values else 0.0,
        interval=spread,
        runs=tuple(runs),
        baselines=baselines,
    )
