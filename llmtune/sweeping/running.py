"""`sweep`: trials of one job, each an ordinary run, chosen by a study, under one budget."""

from __future__ import annotations

import hashlib
import json
import logging
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from llmtune import matrix
from llmtune.errors import InvalidData, InvalidJob, LlmtuneError, NotTranslatable, OverBudget, RunFailed
from llmtune.job import TuningJob
from llmtune.metrics.points import NotReported, Series
from llmtune.planning import plan, read_dataset
from llmtune.provider import Provider, RunState
from llmtune.registry import get_provider
from llmtune.runs import Pace, Run, Update, open_store, start
from llmtune.runs.leases import Lease
from llmtune.sweeping import study as studies
from llmtune.sweeping.finals import judge
from llmtune.sweeping.model import Sweep, TrialRow
from llmtune.sweeping.space import Space, read_space
from llmtune.sweeping.study import Method
from llmtune.sweeping.trialjob import with_params, without_test

if TYPE_CHECKING:
    import optuna


log = logging.getLogger("llmtune")

#: Trials at one hosted backend at once, where it declares no limit of its own.
AT_ONCE = 4

OnTrial = Callable[[TrialRow], None]


@dataclass(frozen=True)
class _Search:
    """Everything that stays the same over a sweep."""

    job: TuningJob
    backend: Provider
    space: Space
    method: Method
    metric: str
    direction: Literal["minimize", "maximize"]
    group: str
    budget: float | None
    pruning: bool
    pace: Pace | None


def sweep(
    job: TuningJob,
    provider: str | Provider = "local",
    space: Mapping[str, Any] | None = None,
    *,
    method: Method = "bayesian",
    trials: int = 20,
    metric: str = "validation/loss",
    direction: Literal["minimize", "maximize"] | None = None,
    budget: float | None = None,
    yes: bool = True,
    allow_unknown_cost: bool = False,
    pruning: bool = True,
    parallel: int | None = None,
    finalists: int = 1,
    seeds: int = 1,
    seed: int = 0,
    on_trial: OnTrial | None = None,
    pace: Pace | None = None,
) -> Sweep:
    """Search hyperparameters by training: every trial is an ordinary run of this backend.

    Trials are ranked on the validation rows alone; the test rows are scored once, for the finalists. The same call
    again goes on where it was: finished trials are kept, a trial that was under way is joined.

    Args:
        job: the job; its split says which rows are validation and test.
        provider: where the trials run.
        space: what is searched: {"learning_rate": (1e-5, 1e-3), "lora_rank": [4, 8, 16]}; a tuple is a range, a list
            a choice.
        method: random, grid, or bayesian (TPE, Bergstra et al. 2011, as Optuna has it).
        trials: how many trials in all; a grid has at most its own number of points.
        metric: a series that the backend reports on validation rows.
        direction: None minimises a loss and maximises anything else.
        budget: the most that all trials may cost, in USD: what was billed and the estimates of what runs.
        yes: whether spending money is agreed to.
        allow_unknown_cost: let unknown prices pass under a budget.
        pruning: cancel trials whose validation loss is worse than the median of the others at the same step.
        parallel: trials at once; None is what the backend allows (one on this machine).
        finalists: how many of the best configurations are scored on the test rows; 0 for none.
        seeds: how often each finalist is trained, with different seeds.
        seed: of the search.
        on_trial: called with each trial that ends.
        pace: how often the backend is asked.

    Raises:
        InvalidJob: nothing to search, a field or value that does not exist, a metric nobody reports.
        OverBudget: not even one trial fits, or nobody agreed to spend money.
        MissingExtra: Optuna is not installed.
        LlmtuneError: no trial came to a result; the message has the first reason.
    """
    backend = get_provider(provider)
    if space is None:
        raise InvalidJob("there is nothing to search", where="space", hint="give space={'learning_rate': (1e-5, 1e-3)}")
    parts = read_space(space)
    dataset = read_dataset(job)
    if isinstance(dataset, InvalidData):
        raise dataset
    if not dataset.validation:
        raise InvalidJob("a sweep ranks trials on validation rows, and there are none", where="dataset.split")
    wanted = direction or ("minimize" if metric.endswith("loss") else "maximize")
    group = _group(job, backend.name, parts, method, metric)
    search = _Search(
        job=without_test(job, dataset, group),
        backend=backend,
        space=parts,
        method=method,
        metric=metric,
        direction=wanted,
        group=group,
        budget=budget,
        pruning=pruning,
        pace=pace,
    )
    _check_money(search, yes=yes, allow_unknown=allow_unknown_cost)
    count = min(trials, studies.grid_size(parts)) if method == "grid" else trials
    crew = _Trials(search, count, seed=seed, parallel=parallel, on_trial=on_trial)
    stopped = crew.run()
    rows = crew.rows()
    if not any(each.state == "complete" for each in rows):
        first = next((each.note for each in rows if each.note), stopped or "no trial ended")
        raise LlmtuneError(f"no trial of the sweep came to a result: {first}")
    found = Sweep(
        name=job.name,
        provider=backend.name,
        group=group,
        method=method,
        metric=metric,
        direction=wanted,
        trials=rows,
        importance=studies.importance(crew.study),
        spent=crew.spent(),
        budget=budget,
        stopped=stopped,
        job=job,
    )
    best = found.best
    assert best is not None
    found = found.model_copy(update={"job": with_params(job, best.params, backend.name)})
    if finalists and dataset.test:
        best_ones = found.ranked()[:finalists]
        judged = judge(job, backend, best_ones, group=group, seeds=seeds, pace=pace)
        found = found.model_copy(update={"finalists": judged})
    return found


def _group(job: TuningJob, provider: str, space: Space, method: str, metric: str) -> str:
    told = [job.to_dict(), provider, {name: part.model_dump(mode="json") for name, part in space.items()}]
    text = json.dumps([*told, method, metric], sort_keys=True, default=str)
    return f"sweep {hashlib.sha256(text.encode()).hexdigest()[:12]}"


def _check_money(search: _Search, *, yes: bool, allow_unknown: bool) -> None:
    if not search.backend.hosted:
        return
    if search.budget is None and not yes:
        raise OverBudget(
            f"{search.backend.name} bills every trial and it was not confirmed",
            hint="pass --budget USD or --yes (Python: budget= or yes=True)",
        )
    if search.budget is not None and not allow_unknown:
        cost = plan(with_params(search.job, {}, search.backend.name), search.backend).cost
        if cost.total is None:
            raise OverBudget(
                f"what a trial costs is not known ({cost.unknown}), which counts as over the budget",
                hint="pass --allow-unknown-cost (Python: allow_unknown_cost=True) to run them all the same",
            )


class _Trials:
    """Asks the study for trials, runs them, tells it what came out."""

    def __init__(
        self, search: _Search, count: int, *, seed: int, parallel: int | None, on_trial: OnTrial | None
    ) -> None:
        self._search = search
        self._count = count
        self._on_trial = on_trial
        self._store = open_store()
        self._lock = threading.Lock()
        self._running: dict[int, float] = {}
        """Estimates of the trials under way, by number."""
        self._at_once = parallel or self._allowed()
        self.study = studies.open_study(
            search.group,
            search.space,
            method=search.method,
            direction=search.direction,
            seed=seed,
            pruning=search.pruning,
        )

    def _allowed(self) -> int:
        if not self._search.backend.hosted:
            return 1
        try:
            return matrix.ask(self._search.backend).concurrency or AT_ONCE
        except LlmtuneError:
            return AT_ONCE

    # --- the loop --------------------------------------------------------------------------------------------------
    def run(self) -> str | None:
        """Run the trials that are missing. Returns why it stopped early, if it did."""
        import optuna

        left = [each for each in self.study.get_trials(deepcopy=False) if each.state is optuna.trial.TrialState.RUNNING]
        taken = []
        for each in left:  # of a worker that died; one that lives holds its lease
            lease = self._lease(each.number)
            if lease.acquire(wait=0):
                taken.append((optuna.trial.Trial(self.study, each._trial_id), lease))
        stopped: str | None = None
        with ThreadPoolExecutor(self._at_once, thread_name_prefix="llmtune-sweep") as pool:
            futures: set[Future[None]] = {pool.submit(self._finish, trial, lease) for trial, lease in taken}
            while True:
                while len(futures) < self._at_once and stopped is None and self._missing() > 0:
                    trial = self.study.ask()
                    lease = self._lease(trial.number)
                    lease.acquire(wait=5)
                    stopped = self._afford(trial)
                    if stopped is None:
                        futures.add(pool.submit(self._finish, trial, lease))
                    else:
                        lease.release()
                if not futures:
                    return stopped
                done, futures = wait(futures, return_when=FIRST_COMPLETED)
                for future in done:
                    future.result()

    def _missing(self) -> int:
        """Trials still to be asked for: those that the budget kept from starting do not count."""
        every = self.study.get_trials(deepcopy=False)
        begun = [each for each in every if not each.user_attrs.get("note", "").startswith("not started")]
        return self._count - len(begun)

    def _afford(self, trial: optuna.Trial) -> str | None:
        """Reserve what a trial may cost; the reason when the budget does not allow it."""
        import optuna

        params = self._params(trial)
        estimate = self._estimate(params)
        budget = self._search.budget
        with self._lock:
            spent = self._spent() + sum(self._running.values())
            if budget is not None and estimate is not None and spent + estimate > budget + 1e-9:
                held = f"{spent:,.2f} are spent or under way, and the next trial costs {estimate:,.2f}"
                reason = f"the budget of {budget:,.2f} USD: {held}"
                trial.set_user_attr("note", f"not started: {reason}")
                self.study.tell(trial, state=optuna.trial.TrialState.FAIL)
                return reason
            self._running[trial.number] = estimate or 0.0
        return None

    def _estimate(self, params: Mapping[str, Any]) -> float | None:
        if not self._search.backend.hosted:
            return 0.0
        try:
            return plan(
                with_params(self._search.job, params, self._search.backend.name), self._search.backend
            ).cost.total
        except LlmtuneError:
            return None

    def _params(self, trial: optuna.Trial) -> dict[str, Any]:
        return {name: part.suggest(trial, name) for name, part in self._search.space.items()}

    def _lease(self, number: int) -> Lease:
        return Lease(self._store, f"{self._search.group}:{number}")

    def _finish(self, trial: optuna.Trial, lease: Lease) -> None:
        """One trial, from start (or wherever it was) to its end."""
        with lease:
            self._end(trial)
        with self._lock:
            self._running.pop(trial.number, None)
        if self._on_trial is not None:
            self._on_trial(next(each for each in self.rows() if each.number == trial.number))

    def _end(self, trial: optuna.Trial) -> None:
        import optuna

        states = optuna.trial.TrialState
        try:
            value, pruned = self._follow(trial)
            if pruned:
                self.study.tell(trial, state=states.PRUNED)
            elif value is None:
                trial.set_user_attr("note", f"{self._search.backend.name} reported no {self._search.metric}")
                self.study.tell(trial, state=states.FAIL)
            else:
                self.study.tell(trial, value)
        except (RunFailed, NotTranslatable, InvalidJob) as error:
            trial.set_user_attr("note", error.message)
            self.study.tell(trial, state=states.FAIL)

    def _follow(self, trial: optuna.Trial) -> tuple[float | None, bool]:
        search = self._search
        group = f"{search.group}/{trial.number}"
        known = next(iter(self._store.runs(group=group)), None)
        if known is not None and known.state is not RunState.PLANNED:
            run = Run(known.id, store=self._store, provider=search.backend)
            if known.state is RunState.CANCELLED:
                return None, True
        else:
            mine = with_params(search.job, self._params(trial), search.backend.name)
            run = start(mine, search.backend, yes=True, reuse=True, group=group)
        trial.set_user_attr("run", run.id)
        watch = _Pruning(trial, run, search) if search.pruning else None
        try:
            run.wait(on_update=watch, pace=search.pace)
        except RunFailed:
            if watch is not None and watch.pruned:
                return None, True
            raise
        return _value(run, search), False

    # --- what came out ---------------------------------------------------------------------------------------------
    def rows(self) -> tuple[TrialRow, ...]:
        """Every trial, in order."""
        import optuna

        words: dict[Any, Literal["complete", "pruned", "failed", "running"]] = {
            optuna.trial.TrialState.COMPLETE: "complete",
            optuna.trial.TrialState.PRUNED: "pruned",
            optuna.trial.TrialState.FAIL: "failed",
        }
        found = []
        for each in self.study.get_trials(deepcopy=False):
            run = each.user_attrs.get("run")
            record = self._store.get(run) if run else None
            state = words.get(each.state, "running")
            found.append(
                TrialRow(
                    number=each.number,
                    params=dict(each.params),
                    state=state,
                    value=each.value if state == "complete" else None,
                    run=run,
                    steps=record.progress.step if record is not None else None,
                    cost=_cost(record) if record is not None else NotReported("it was not started"),
                    note=each.user_attrs.get("note", ""),
                    curve=self._curve(run),
                )
            )
        return tuple(found)

    def _curve(self, run: str | None) -> Series | None:
        points = () if run is None else self._store.points(run)
        mine = tuple(point for point in points if point.series == self._search.metric)
        return Series(name=self._search.metric, points=mine) if mine else None

    def _spent(self) -> float:
        """Of the trials that are not under way."""
        return sum(
            float(each.cost)
            for each in self.rows()
            if not isinstance(each.cost, NotReported) and each.number not in self._running
        )

    def spent(self) -> float | NotReported:
        """USD over all trials that were started; not known when one trial's is not."""
        costs = [each.cost for each in self.rows() if each.run is not None]
        for each in costs:
            if isinstance(each, NotReported):
                return each
        return float(sum(float(each) for each in costs if not isinstance(each, NotReported)))


def _cost(record: Any) -> float | NotReported:
    """What a run was billed, or is estimated to cost."""
    if not record.hosted:
        return 0.0
    if record.billed is not None and record.billed.amount is not None:
        return float(record.billed.amount)
    total = record.plan.cost.total
    return NotReported(record.plan.cost.unknown or "not known") if total is None else float(total)


def _value(run: Run, search: _Search) -> float | None:
    """The metric where the run ended: of a loss the last value, which is what its model has."""
    values = [point.value for point in run.metrics() if point.series == search.metric]
    return float(values[-1]) if values else None


class _Pruning:
    """Tells the study how a trial is going, and cancels it when the study has seen enough."""

    def __init__(self, trial: optuna.Trial, run: Run, search: _Search) -> None:
        self._trial, self._run, self._search = trial, run, search
        self._seen: set[int] = set()
        self.pruned = False

    def __call__(self, update: Update) -> None:
        if self.pruned or update.record.state.final:
            return
        for point in update.points:
            if point.series != self._search.metric or point.step in self._seen or not point.step:
                continue
            self._seen.add(point.step)
            self._trial.report(float(point.value), point.step)
        total = update.record.progress.total_steps
        if not self._seen or (total and max(self._seen) >= total):
            return  # nothing is saved by cancelling what has ended
        if self._trial.should_prune():
            self.pruned = True
            of = f" of {total}" if total else ""
            self._trial.set_user_attr("note", f"pruned at step {max(self._seen)}{of}")
            self._run.cancel()
