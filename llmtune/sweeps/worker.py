"""A worker of a sweep: gets trials from the study, runs them, and reports their results. Several may share a study."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from llmtune.errors import InvalidJob, LlmtuneError, NotTranslatable, QuotaExceeded, RunFailed
from llmtune.job.spec import TuningJob
from llmtune.metrics.points import NotReported, Series
from llmtune.planning import support_matrix
from llmtune.provider.abilities import SupportsWarmStart
from llmtune.provider.protocol import Provider
from llmtune.provider.types import JobRef, RunState
from llmtune.runs.api import start
from llmtune.runs.job_room import JobRoom
from llmtune.runs.plans import plan
from llmtune.runs.poller import PollInterval, Update
from llmtune.runs.run import Run
from llmtune.runs.store.leases import Lease
from llmtune.runs.store.records import RunRecord
from llmtune.runs.store.store import open_store
from llmtune.sweeps import study as studies
from llmtune.sweeps.results import TrialRow
from llmtune.sweeps.space import Space
from llmtune.sweeps.study import SearchMethod
from llmtune.sweeps.sweep_plan import SweepTarget
from llmtune.sweeps.trial_job import with_params

if TYPE_CHECKING:
    import optuna

#: Trials at once at a hosted backend that declares no limit.
MAX_PARALLEL_RUNS = 4

#: Seconds between two checks of the trials of other workers.
OTHERS_SECONDS = 0.5

#: Prefix of the note of a trial that was never started. It is not counted: a later call runs another one instead.
NOT_STARTED = "not started: "

#: Called with each trial that ends in this process.
OnTrial = Callable[[TrialRow], None]


@dataclass(frozen=True)
class SweepConfig:
    """The settings that all trials of a sweep share."""

    job: TuningJob
    targets: tuple[SweepTarget, ...]
    space: Space
    method: SearchMethod
    metric: str
    direction: Literal["minimize", "maximize"]
    group: str
    budget: float | None
    pruning: bool
    pace: PollInterval | None

    def find_target(self, params: Mapping[str, Any]) -> SweepTarget:
        """Return the backend of a trial with these values."""
        name = params.get("provider", self.targets[0].name)
        return next(target for target in self.targets if target.name == name)

    def trial_job(self, params: Mapping[str, Any]) -> TuningJob:
        """Return the job of a trial."""
        target = self.find_target(params)
        return with_params(target.job(self.job), params, target.backend.name)


@contextlib.contextmanager
def keep_model_loaded(targets: Sequence[SweepTarget]) -> Iterator[None]:
    """Keep backends that support it warm, so that many runs start faster."""
    with contextlib.ExitStack() as stack:
        for target in targets:
            if isinstance(target.backend, SupportsWarmStart):
                stack.enter_context(target.backend.warm())
        yield


def parallel_runs(backend: Provider) -> int:
    """Return how many runs a backend accepts at the same time; one for this machine."""
    if not backend.hosted:
        return 1
    try:
        return support_matrix.get_capabilities(backend).concurrency or MAX_PARALLEL_RUNS
    except LlmtuneError:
        return MAX_PARALLEL_RUNS


class SweepWorker:
    """Gets trials from the study, runs them, and reports their results to it."""

    def __init__(
        self, config: SweepConfig, count: int, *, seed: int, parallel: int | None, on_trial: OnTrial | None
    ) -> None:
        self._config = config
        self._count = count
        self._on_trial = on_trial
        self._store = open_store()
        self.claimed: set[int] = set()
        """Numbers of the trials that this worker has run or is running."""
        self._watched: dict[int, Lease] = {}
        self._stopped: str | None = None
        limits = {target.backend.name: parallel or parallel_runs(target.backend) for target in config.targets}
        self._slots = {name: threading.Semaphore(limit) for name, limit in limits.items()}
        self._at_once = parallel or sum(limits.values())
        self._room = JobRoom()

        self.study = studies.open_study(
            config.group,
            config.space,
            method=config.method,
            direction=config.direction,
            seed=seed,
            pruning=config.pruning,
        )

    # --- the loop --------------------------------------------------------------------------------------------------
    def run(self) -> str | None:
        """Run the trials that no other worker runs. Returns why it stopped before all were started, if it did."""
        with ThreadPoolExecutor(self._at_once, thread_name_prefix="llmtune-sweep") as pool:
            futures: set[Future[None]] = set()
            while True:
                while len(futures) < self._at_once and (claim := self._claim_next()) is not None:
                    futures.add(pool.submit(self._run_trial, *claim))
                if not futures:
                    return self._stopped
                done, futures = wait(futures, return_when=FIRST_COMPLETED)
                for future in done:
                    future.result()

    def wait_for_others(self) -> None:
        """Wait until the trials of other workers have ended; those of a worker that died are finished here."""
        while self._list_running():
            if (claim := self._claim_orphaned_trial()) is not None:
                self._run_trial(*claim)
            else:
                time.sleep(OTHERS_SECONDS)

    def _claim_next(self) -> tuple[optuna.Trial, Lease] | None:
        """Return a trial to run, with its lease: one that a dead worker left, else a new one that the budget allows."""
        orphan = self._claim_orphaned_trial()
        if orphan is not None and "estimate" in orphan[0].user_attrs:
            return orphan
        if self._stopped is not None and orphan is None:
            return None
        # One worker chooses at a time, on all machines: two that count at the same time would start one too many.
        choosing = Lease(self._store, f"{self._config.group}:choosing")
        choosing.acquire(wait=None)
        with choosing:
            if orphan is None and self._count_missing() <= 0:
                return None
            trial, lease = orphan or self._ask_study()
            self._stopped = self._check_budget(trial)
        if self._stopped is None:
            return trial, lease
        lease.release()
        return None

    def _ask_study(self) -> tuple[optuna.Trial, Lease]:
        while True:
            trial = self.study.ask()
            lease = self._trial_lease(trial.number)
            if lease.acquire(wait=0):
                return trial, lease
            # Another worker found the trial before it was leased, took it for orphaned, and will run it.

    def _claim_orphaned_trial(self) -> tuple[optuna.Trial, Lease] | None:
        """Claim a running trial whose worker died: a worker that is alive holds the lease of its trial."""
        import optuna

        for trial in self._list_running():
            if trial.number in self.claimed:
                continue
            # Kept between calls: a `Lease` object measures how long its holder has been silent.
            lease = self._watched.setdefault(trial.number, self._trial_lease(trial.number))
            if lease.acquire(wait=0):
                # The trial may have ended, and its lease been released, since the list was read.
                if self.study.get_trials(deepcopy=False)[trial.number].state is optuna.trial.TrialState.RUNNING:
                    self.claimed.add(trial.number)
                    return optuna.trial.Trial(self.study, trial._trial_id), lease
                lease.release()
        return None

    def _list_running(self) -> list[optuna.trial.FrozenTrial]:
        import optuna

        running = optuna.trial.TrialState.RUNNING
        return [trial for trial in self.study.get_trials(deepcopy=False) if trial.state is running]

    def _count_missing(self) -> int:
        """Return how many trials are still to be created; those that were never started do not count."""
        import optuna

        trials = self.study.get_trials(deepcopy=False)
        counted = [trial for trial in trials if not trial.user_attrs.get("note", "").startswith(NOT_STARTED)]
        waiting = sum(trial.state is optuna.trial.TrialState.WAITING for trial in counted)
        return self._count - len(counted) + waiting

    def _check_budget(self, trial: optuna.Trial) -> str | None:
        """Reserve the estimated cost of a trial. Returns the reason when the budget does not allow it."""
        import optuna

        self.claimed.add(trial.number)
        estimate = self._estimate(self._params(trial))
        budget = self._config.budget
        spent = self.committed_cost()
        if budget is not None and estimate is not None and spent + estimate > budget + 1e-9:
            held = f"{spent:,.2f} are spent or committed, and the next trial costs {estimate:,.2f}"
            reason = f"the budget of {budget:,.2f} USD: {held}"
            trial.set_user_attr("note", f"{NOT_STARTED}{reason}")
            self.study.tell(trial, state=optuna.trial.TrialState.FAIL)
            return reason
        trial.set_user_attr("estimate", estimate or 0.0)
        return None

    def _estimate(self, params: Mapping[str, Any]) -> float | None:
        backend = self._config.find_target(params).backend
        if not backend.hosted:
            return 0.0
        try:
            return plan(self._config.trial_job(params), backend).cost.total
        except LlmtuneError:
            return None

    def _params(self, trial: optuna.Trial) -> dict[str, Any]:
        """Sample the values of a trial: its backend first, then the fields which that backend supports."""
        space = self._config.space
        values = {"provider": space["provider"].suggest(trial, "provider")} if "provider" in space else {}
        fields = self._config.find_target(values).fields
        return values | {name: part.suggest(trial, name) for name, part in space.items() if name in fields}

    def _trial_lease(self, number: int) -> Lease:
        return Lease(self._store, f"{self._config.group}:{number}")

    def _run_trial(self, trial: optuna.Trial, lease: Lease) -> None:
        """Run a trial to its end, from its start or from where a dead worker left it."""
        with lease:
            self._run_and_tell(trial)
        if self._on_trial is not None:
            self._on_trial(next(row for row in self.trial_rows() if row.number == trial.number))

    def _run_and_tell(self, trial: optuna.Trial) -> None:
        import optuna

        states = optuna.trial.TrialState
        try:
            value, pruned = self._follow_trial(trial)
            if pruned:
                self.study.tell(trial, state=states.PRUNED)
            elif value is None:
                backend = self._config.find_target(trial.params).backend
                trial.set_user_attr("note", f"{backend.name} reported no {self._config.metric}")
                self.study.tell(trial, state=states.FAIL)
            else:
                self.study.tell(trial, value)
        except QuotaExceeded as error:  # no other trial would be accepted either; results so far are kept
            trial.set_user_attr("note", f"{NOT_STARTED}{error.message}")
            self.study.tell(trial, state=states.FAIL)
            self._stopped = self._stopped or error.message
        except (RunFailed, NotTranslatable, InvalidJob) as error:
            trial.set_user_attr("note", error.message)
            self.study.tell(trial, state=states.FAIL)

    def _follow_trial(self, trial: optuna.Trial) -> tuple[float | None, bool]:
        config = self._config
        params = self._params(trial)
        backend = config.find_target(params).backend
        with self._slots[backend.name]:
            return self._follow_run(trial, backend, config.trial_job(params))

    def _follow_run(self, trial: optuna.Trial, backend: Provider, job: TuningJob) -> tuple[float | None, bool]:
        config = self._config
        group = f"{config.group}/{trial.number}"
        record = next(iter(self._store.runs(group=group)), None)
        if record is not None and record.state is not RunState.PLANNED and not self._was_refused(record):
            run = Run(record.id, store=self._store, provider=backend)
            if record.state is RunState.CANCELLED:
                return None, True
        else:
            run = self._start(job, backend, group)
        trial.set_user_attr("run", run.id)
        watch = _Pruning(trial, run, config) if config.pruning else None
        with self._room.count(backend.name):
            try:
                run.wait(on_update=watch, pace=config.pace)
            except RunFailed:
                if watch is not None and watch.pruned:
                    return None, True
                raise
        return _final_value(run, config), False

    def _was_refused(self, record: RunRecord) -> bool:
        """Return whether the vendor never accepted this run, so that another is to be started instead."""
        return record.state is RunState.FAILED and self._store.ref(record.id, "job", JobRef) is None

    def _start(self, job: TuningJob, backend: Provider, group: str) -> Run:
        """Start the run of a trial; where the vendor accepts no further job, once one of ours has ended."""
        return self._room.start(backend.name, lambda: start(job, backend, yes=True, reuse=True, group=group))

    # --- results ---------------------------------------------------------------------------------------------------
    def trial_rows(self) -> tuple[TrialRow, ...]:
        """Return every trial of every worker, in the order in which they were created."""
        import optuna

        state_names: dict[Any, Literal["complete", "pruned", "failed", "running"]] = {
            optuna.trial.TrialState.COMPLETE: "complete",
            optuna.trial.TrialState.PRUNED: "pruned",
            optuna.trial.TrialState.FAIL: "failed",
        }
        rows = []
        for trial in self.study.get_trials(deepcopy=False):
            run = trial.user_attrs.get("run")
            record = self._store.get(run) if run else None
            state = state_names.get(trial.state, "running")
            rows.append(
                TrialRow(
                    number=trial.number,
                    params=dict(trial.params),
                    state=state,
                    value=trial.value if state == "complete" else None,
                    run=run,
                    steps=record.progress.step if record is not None else None,
                    total_steps=record.progress.total_steps if record is not None else None,
                    cost=cost_of(record) if record is not None else NotReported("it was not started"),
                    note=trial.user_attrs.get("note", ""),
                    curve=self._curve(run),
                )
            )
        return tuple(rows)

    def _curve(self, run: str | None) -> Series | None:
        points = () if run is None else self._store.points(run)
        metric_points = tuple(point for point in points if point.series == self._config.metric)
        return Series(name=self._config.metric, points=metric_points) if metric_points else None

    def committed_cost(self) -> float:
        """Return the USD of all trials of all workers: billed for those that have ended, else estimated."""
        total = 0.0
        paid: set[str] = set()  # trials with the same values are one run
        for trial in self.study.get_trials(deepcopy=False):
            run = trial.user_attrs.get("run")
            if run in paid:
                continue
            if run:
                paid.add(run)
            cost = cost_of(self._store.get(run)) if run and trial.state.is_finished() else NotReported("under way")
            if not isinstance(cost, NotReported):
                total += cost
            elif run or not trial.state.is_finished():
                total += float(trial.user_attrs.get("estimate", 0.0))
        return total

    def total_cost(self) -> float | NotReported:
        """Return the USD of all trials that were started; `NotReported` when the cost of one is not known."""
        costs = {row.run: row.cost for row in self.trial_rows() if row.run is not None}
        for cost in costs.values():
            if isinstance(cost, NotReported):
                return cost
        return float(sum(float(cost) for cost in costs.values() if not isinstance(cost, NotReported)))


def cost_of(record: Any) -> float | NotReported:
    """Return the cost of a run in USD, as billed, else as estimated."""
    if not record.hosted:
        return 0.0
    if record.billed is not None and record.billed.amount is not None:
        return float(record.billed.amount)
    total = record.cost.total
    return NotReported(record.cost.unknown or "not known") if total is None else float(total)


def _final_value(run: Run, config: SweepConfig) -> float | None:
    """Return the last value of the metric, which is that of the final model; None where none was reported."""
    values = [point.value for point in run.metrics() if point.series == config.metric]
    return float(values[-1]) if values else None


class _Pruning:
    """Callback that reports the metric of a running trial to the study, and cancels the run when it is to be pruned."""

    def __init__(self, trial: optuna.Trial, run: Run, config: SweepConfig) -> None:
        self._trial, self._run, self._config = trial, run, config
        self._reported_steps: set[int] = set()
        self.pruned = False

    def __call__(self, update: Update) -> None:
        if self.pruned or update.record.state.final:
            return
        for point in update.points:
            if point.series != self._config.metric or point.step in self._reported_steps or not point.step:
                continue
            self._reported_steps.add(point.step)
            self._trial.report(float(point.value), point.step)
        total = update.record.progress.total_steps
        if not self._reported_steps or (total and max(self._reported_steps) >= total):
            return  # cancelling a run that has ended saves nothing
        if self._trial.should_prune():
            self.pruned = True
            of = f" of {total}" if total else ""
            self._trial.set_user_attr("note", f"pruned at step {max(self._reported_steps)}{of}")
            self._run.cancel()
