"""The finalists of a sweep: the best configurations, trained with several seeds and scored once on the test rows."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from llmtune.evaluation.model import EvaluationResult
from llmtune.job import TuningJob
from llmtune.metrics.intervals import LEVEL, Interval
from llmtune.metrics.points import NotReported
from llmtune.runs import start
from llmtune.sweeping.crew import Search
from llmtune.sweeping.model import Finalist, TrialRow
from llmtune.sweeping.trialjob import with_params


def judge(search: Search, job: TuningJob, best: Sequence[TrialRow], *, seeds: int) -> tuple[Finalist, ...]:
    """Train each of these configurations of the whole job with several seeds, and score them on the test rows."""
    found = [_final(search, job, each.params, seeds=seeds) for each in best]
    return tuple(each for each in found if each.values)


def _final(search: Search, job: TuningJob, params: Mapping[str, Any], *, seeds: int) -> Finalist:
    place = search.place(params)
    values, runs, metric, unit = [], [], "", ""
    intervals = []
    for number in range(seeds):
        mine = with_params(place.job(job), params, place.backend.name)
        mine = mine.model_copy(update={"seed": (job.seed or 0) + number})
        run = start(mine, place.backend, yes=True, reuse=True, group=f"{search.group}/final")
        report = run.wait(pace=search.pace)
        runs.append(run.id)
        if not isinstance(report.evaluation, EvaluationResult):
            continue
        tuned = report.evaluation.system("tuned")
        metric = report.evaluation.main
        figure = tuned.get(metric) if tuned is not None else None
        if figure is not None:
            values.append(float(figure.value))
            intervals.append(figure.interval)
            unit = figure.unit
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
    )
