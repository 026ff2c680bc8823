"""Train one job with several seeds, and store in each run's report how far its main metric differs between them."""

from __future__ import annotations

import statistics
from collections import deque
from collections.abc import Callable, Collection
from typing import TYPE_CHECKING, Any

from llmtune.errors import InvalidJob, OverBudget, QuotaExceeded, RunFailed
from llmtune.metrics.intervals import interval_over_seeds
from llmtune.metrics.points import NotReported
from llmtune.provider.registry import get_provider
from llmtune.runs import evaluation, seed_spread
from llmtune.runs.planned import StartOptions
from llmtune.runs.plans import plan
from llmtune.runs.start import start_run

if TYPE_CHECKING:
    from llmtune.job.spec import TuningJob
    from llmtune.provider.protocol import Provider
    from llmtune.provider.receipt import Receipt
    from llmtune.report.schema import Report
    from llmtune.runs.run import Run

#: The most seeds of one call: a typing error must not start a thousand runs.
MAX_SEEDS = 100

#: The highest seed that a job may have (`TuningJob.seed`).
HIGHEST_SEED = 2**31 - 1


def tune_seeds(
    job: TuningJob,
    provider: str | Provider,
    seeds: int,
    *,
    follow: Callable[[Run], Report],
    on_start: Callable[[Run], None] = lambda run: None,
    budget: float | None = None,
    new: bool = False,
    sinks: Collection[str] = (),
    **options: Any,
) -> Report:
    """Train a job with several seeds, and return the report of the first that made a model, with the spread.

    The seeds are the job's (0 where it has none) and those after it; the rows of each part stay the same. A run that
    has finished with one of these seeds is reused, so that the same call continues after an interruption. At a hosted
    backend all are started at once, as far as it accepts them; others train one after another.

    Args:
        job: the job.
        provider: a backend's name, or a provider.
        seeds: how many, 2 to 100.
        follow: waits for a run and returns its report.
        on_start: called with each run that was started or joined.
        budget: the most that all runs together may cost, in USD.
        new: train again although there are finished runs.
        sinks: as for `llmtune.start`.
        options: as for `llmtune.start`.

    Raises:
        InvalidJob: fewer than two seeds, more than 100, or one that is above the highest.
        OverBudget: all runs together may cost more than the budget; nothing was started.
        RunFailed: no run made a model; the first one's error.
    """
    if not 2 <= seeds <= MAX_SEEDS:
        raise InvalidJob(f"seeds is 2 to {MAX_SEEDS}, not {seeds}", where="seeds")
    first = job.seed or 0
    if first + seeds - 1 > HIGHEST_SEED:  # found now, not when the first runs are paid for
        raise InvalidJob(
            f"{seeds} seeds from {first} on would pass the highest, {HIGHEST_SEED}",
            where="seed",
            hint=f"a seed of at most {HIGHEST_SEED - seeds + 1}",
        )
    backend = get_provider(provider)
    receipt = plan(job, backend)
    _check_budget(receipt, seeds, budget)
    start_options = StartOptions(
        budget=None if budget is None else budget / seeds, new=new, reuse=not new, **{"group": job.name, **options}
    )
    waiting = deque(job.model_copy(update={"seed": first + number}) for number in range(seeds))
    started: deque[Run] = deque()
    ended: list[tuple[Run, Report | RunFailed]] = []
    while waiting or started:
        while waiting and (backend.hosted or not started):
            try:
                run = start_run(waiting[0], backend, start_options, sinks=sinks)
            except QuotaExceeded as error:
                if error.limit != "active_jobs" or not started:
                    raise
                break  # there is room once the oldest of ours has ended
            on_start(run)
            started.append(run)
            waiting.popleft()
        run = started.popleft()
        try:
            ended.append((run, follow(run)))
        except RunFailed as failure:
            ended.append((run, failure))
    reports = [(run, result) for run, result in ended if not isinstance(result, RunFailed)]
    if not reports:
        raise next(result for _, result in ended if isinstance(result, RunFailed))
    _store_spread(ended, first, seed_sent=receipt["seed"].is_sent)
    return reports[0][0].report()


def _check_budget(receipt: Receipt, seeds: int, budget: float | None) -> None:
    """Refuse before the first run when all together would cost more than the budget."""
    cost = receipt.cost.total
    if budget is not None and cost is not None and cost * seeds > budget:
        raise OverBudget(
            f"{seeds} seeds cost about {cost * seeds:,.2f} USD ({cost:,.2f} each), over the budget of {budget:,.2f};"
            " nothing was started",
            hint="fewer seeds, fewer rows or epochs, or a higher budget",
        )


def _store_spread(ended: list[tuple[Run, Report | RunFailed]], first: int, *, seed_sent: bool) -> None:
    """Store the spread with every run that has a report, and write those reports again."""
    from llmtune.report.schema import SeedResult, SeedSpread

    results = []
    metric = unit = ""
    for number, (run, result) in enumerate(ended):
        value: float | NotReported
        if isinstance(result, RunFailed):
            value = NotReported(result.message)
        else:
            metric, unit, value = _read_figure(result, metric, unit)
        results.append(SeedResult(seed=first + number, run=run.id, value=value))
    values = [result.value for result in results if not isinstance(result.value, NotReported)]
    spread = SeedSpread(
        metric=metric,
        unit=unit,
        results=tuple(results),
        mean=statistics.fmean(values) if values else NotReported("no run has a figure"),
        interval=interval_over_seeds(values, unit=unit)
        if len(values) > 1
        else NotReported("fewer than two runs have a figure"),
        seed_sent=seed_sent,
    )
    if not metric:
        return
    for run, result in ended:
        if not isinstance(result, RunFailed):
            seed_spread.keep(run._store, run.id, spread)
            evaluation.write_report(run._store, run.record, run.provider)


def _read_figure(report: Report, metric: str, unit: str) -> tuple[str, str, float | NotReported]:
    """Return metric, unit and figure of a report's tuned model; the metric is that of the first run that has one."""
    result = report.evaluation
    if isinstance(result, NotReported):
        return metric, unit, result
    metric = metric or result.main
    tuned = result.system("tuned")
    figure = tuned.get(metric) if tuned is not None else None
    if figure is None:
        return metric, unit, NotReported(f"the tuned model has no {metric}")
    return metric, figure.unit, float(figure.value)
