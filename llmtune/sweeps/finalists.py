"""The finalists of a sweep: the best configurations, trained with several seeds and scored once on the test rows."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import NamedTuple

from llmtune.errors import QuotaExceeded, RunFailed
from llmtune.job.spec import TuningJob
from llmtune.metrics.intervals import LEVEL, Interval
from llmtune.metrics.points import NotReported
from llmtune.report.verdicts import cheap_baselines, not_asked
from llmtune.runs.api import start
from llmtune.runs.plans import plan
from llmtune.sweeps.results import Finalist, TrialRow
from llmtune.sweeps.sweep_plan import Place
from llmtune.sweeps.trial_job import with_params
from llmtune.sweeps.worker import Search, cost_of


class Judged(NamedTuple):
    """What came of the finalists: those with a score, what their runs cost in USD, and why others have none."""

    finalists: tuple[Finalist, ...]
    spent: float | NotReported
    notes: tuple[str, ...]


def judge(search: Search, job: TuningJob, best: Sequence[TrialRow], *, seeds: int, left: float | None = None) -> Judged:
    """Train each of these configurations of the whole job with several seeds, and score them on the test rows.

    `left` is what of the budget the trials have left over, in USD; a run that may cost more is not started.
    """
    purse = _Purse(left)
    found = [_final(search, job, each, seeds=seeds, purse=purse) for each in best]
    return Judged(tuple(each for each in found if each.values), purse.spent, tuple(purse.notes))


class _Purse:
    """What the finalists have cost and may cost."""

    def __init__(self, left: float | None) -> None:
        self._left = left
        self.spent: float | NotReported = 0.0
        self.notes: list[str] = []
        self._closed = False

    def affords(self, job: TuningJob, place: Place, trial: TrialRow) -> bool:
        """Whether a run may be started; once one may not, none may."""
        if not self._closed and self._left is not None and place.backend.hosted:
            estimate = plan(job, place.backend).cost.total
            if estimate is not None and estimate > self._left + 1e-9:
                self._closed = True
                self.notes.append(
                    f"trial {trial.number} was not trained as a finalist: it costs about {estimate:,.2f} USD and"
                    f" {self._left:,.2f} of the budget are left"
                )
        return not self._closed

    def pay(self, cost: float | NotReported) -> None:
        """Count a run that has ended."""
        if isinstance(cost, NotReported):
            self.spent = cost
            return
        if not isinstance(self.spent, NotReported):
            self.spent += cost
        if self._left is not None:
            self._left -= cost


def _final(search: Search, job: TuningJob, trial: TrialRow, *, seeds: int, purse: _Purse) -> Finalist:
    params = trial.params
    place = search.place(params)
    values: list[float] = []
    runs: list[str] = []
    intervals: list[Interval] = []
    metric = unit = ""
    baselines: tuple[str, ...] = ()
    for number in range(seeds):
        mine = with_params(place.job(job), params, place.backend.name)
        mine = mine.model_copy(update={"seed": (job.seed or 0) + number})
        if not purse.affords(mine, place, trial):
            break
        try:
            run = start(mine, place.backend, yes=True, reuse=True, group=f"{search.group}/final")
        except QuotaExceeded as error:
            purse.notes.append(f"trial {trial.number} was not trained as a finalist: {error.message}")
            break
        runs.append(run.id)
        try:
            report = run.wait(pace=search.pace)
        except RunFailed as error:
            purse.notes.append(f"trial {trial.number} as a finalist: {error.message}")
            continue
        finally:
            purse.pay(cost_of(run.record))
        if isinstance(report.evaluation, NotReported):
            purse.notes.append(f"trial {trial.number} as a finalist was not evaluated: {report.evaluation.reason}")
            continue
        tuned = report.evaluation.system("tuned")
        figure = tuned.get(report.evaluation.main) if tuned is not None else None
        if figure is None:  # another system's figure would not be this configuration's
            purse.notes.append(f"trial {trial.number} as a finalist: {not_asked(report.evaluation, 'tuned')}")
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
        from scipy.stats import t

        half = float(t.ppf((1 + LEVEL) / 2, len(values) - 1)) * statistics.stdev(values) / len(values) ** 0.5
        mean = statistics.fmean(values)
        low, high = mean - half, mean + half
        if unit == "share":
            low, high = max(0.0, low), min(1.0, high)
        spread = Interval(low=low, high=high, level=LEVEL, method="t over seeds")
    return Finalist(
        params=dict(params),
        metric=metric,
        values=tuple(values),
        mean=statistics.fmean(values) if values else 0.0,
        interval=spread,
        runs=tuple(runs),
        baselines=baselines,
    )
