"""One worker of a sweep: asks the study for trials, runs them, tells it what came out. There may be others."""

from __future__ import annotations

import contextlib
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from llmtune.errors import InvalidJob, LlmtuneError, NotTranslatable, QuotaExceeded, RunFailed
from llmtune.job.spec import TuningJob
from llmtune.metrics.points import NotReported, Series
from llmtune.planning import support_matrix
from llmtune.provider.abilities import Warming
from llmtune.provider.protocol import Provider
from llmtune.provider.types import JobRef, RunState
from llmtune.runs.api import start
from llmtune.runs.plans import plan
from llmtune.runs.poller import Pace, Update
from llmtune.runs.run import Run
from llmtune.runs.store.leases import Lease
from llmtune.runs.store.records import RunRecord
from llmtune.runs.store.store import open_store
from llmtune.sweeps import study as studies
from llmtune.sweeps.results import TrialRow
from llmtune.sweeps.space import Space
from llmtune.sweeps.study import Method
from llmtune.sweeps.sweep_plan import Place
from llmtune.sweeps.trial_job import with_params

if TYPE_CHECKING:
    import optuna

#: Trials at one hosted backend at once, where it declares no limit of its own.
AT_ONCE = 4

#: Where a vendor takes no further job and none of ours is under way there: seconds until it is asked again, and how
#: often, before the sweep ends with what it has.
FULL_SECONDS = 60.0
FULL_TRIES = 20

#: Seconds between two looks at the trials of other workers.
OTHERS_SECONDS = 0.5

#: How the note of a trial begins that is not counted: a later call asks for another in its place.
NOT_STARTED = "not started: "

OnTrial = Callable[[TrialRow], None]


@dataclass(frozen=True)
class Search:
    """Everything that stays the same over a sweep."""

    job: TuningJob
    places: tuple[Place, ...]
    space: Space
    method: Method
    metric: str
    direction: Literal["minimize", "maximize"]
    group: str
    budget: float | None
    pruning: bool
    pace: Pace | None

    def place(self, params: Mapping[str, Any]) -> Place:
        """Where a trial with these values runs."""
        wanted = params.get("provider", self.places[0].name)
        return next(place for place in self.places if place.name == wanted)

    def trial_job(self, params: Mapping[str, Any]) -> TuningJob:
        """The job of a trial."""
        place = self.place(params)
        return with_params(place.job(self.job), params, place.backend.name)


@contextlib.contextmanager
def kept_warm(places: Sequence[Place]) -> Iterator[None]:
    """Have the backends that can start many runs faster together do so."""
    with contextlib.ExitStack() as stack:
        for place in places:
            if isinstance(place.backend, Warming):
                stack.enter_context(place.backend.warm())
        yield


def at_once(backend: Provider) -> int:
    """Runs that a backend takes at one time; one where it is this machine."""
    if not backend.hosted:
        return 1
    try:
        return support_matrix.ask(backend).concurrency or AT_ONCE
    except LlmtuneError:
        return AT_ONCE


class Crew:
    """Asks the study for trials, runs them, tells it what came out."""

    def __init__(
        self, search: Search, count: int, *, seed: int, parallel: int | None, on_trial: OnTrial | None
    ) -> None:
        self._search = search
        self._count = count
        self._on_trial = on_trial
        self._store = open_store()
        self.mine: set[int] = set()
        """Numbers of the trials that this worker has run or runs."""
        self._watched: dict[int, Lease] = {}
        self._stopped: str | None = None
        limits = {place.backend.name: parallel or at_once(place.backend) for place in search.places}
        self._room = {name: threading.Semaphore(limit) for name, limit in limits.items()}
        self._at_once = parallel or sum(limits.values())
        self._change = threading.Condition()
        self._under_way_at: Counter[str] = Counter()
        self._ended_at: Counter[str] = Counter()
        self._full: dict[str, threading.Lock] = {}
        """The backends that have refused a job for how many there were; they are asked for one trial at a time."""

        self.study = studies.open_study(
            search.group,
            search.space,
            method=search.method,
            direction=search.direction,
            seed=seed,
            pruning=search.pruning,
        )

    # --- the loop --------------------------------------------------------------------------------------------------
    def run(self) -> str | None:
        """Run the trials that nobody runs yet. Returns why it stopped before all were started, if it did."""
        with ThreadPoolExecutor(self._at_once, thread_name_prefix="llmtune-sweep") as pool:
            futures: set[Future[None]] = set()
            while True:
                while len(futures) < self._at_once and (mine := self._next()) is not None:
                    futures.add(pool.submit(self._finish, *mine))
                if not futures:
                    return self._stopped
                done, futures = wait(futures, return_when=FIRST_COMPLETED)
                for future in done:
                    future.result()

    def wait_for_others(self) -> None:
        """Until the trials of other workers have ended; those of a worker that died are finished here."""
        while self._under_way():
            if (mine := self._left_behind()) is not None:
                self._finish(*mine)
            else:
                time.sleep(OTHERS_SECONDS)

    def _next(self) -> tuple[optuna.Trial, Lease] | None:
        """A trial to run, with its lease: one that a dead worker left, else a new one that the budget allows."""
        left = self._left_behind()
        if left is not None and "estimate" in left[0].user_attrs:
            return left
        if self._stopped is not None and left is None:
            return None
        # One worker chooses at a time, wherever it runs: two that count at once would start one too many.
        choosing = Lease(self._store, f"{self._search.group}:choosing")
        choosing.acquire(wait=None)
        with choosing:
            if left is None and self._missing() <= 0:
                return None
            trial, lease = left or self._ask()
            self._stopped = self._afford(trial)
        if self._stopped is None:
            return trial, lease
        lease.release()
        return None

    def _ask(self) -> tuple[optuna.Trial, Lease]:
        while True:
            trial = self.study.ask()
            lease = self._lease(trial.number)
            if lease.acquire(wait=0):
                return trial, lease
            # Another worker saw it before it was leased, took us for dead, and runs it once it may choose.

    def _left_behind(self) -> tuple[optuna.Trial, Lease] | None:
        """A trial that was under way with a worker that died; one that lives holds its lease."""
        import optuna

        for each in self._under_way():
            if each.number in self.mine:
                continue
            # Kept from one look to the next, since a lease counts how long its holder has been silent.
            lease = self._watched.setdefault(each.number, self._lease(each.number))
            if lease.acquire(wait=0):
                # It may have ended, and its lease been given back, since we looked.
                if self.study.get_trials(deepcopy=False)[each.number].state is optuna.trial.TrialState.RUNNING:
                    self.mine.add(each.number)
                    return optuna.trial.Trial(self.study, each._trial_id), lease
                lease.release()
        return None

    def _under_way(self) -> list[optuna.trial.FrozenTrial]:
        import optuna

        running = optuna.trial.TrialState.RUNNING
        return [each for each in self.study.get_trials(deepcopy=False) if each.state is running]

    def _missing(self) -> int:
        """Trials still to be asked for: those that the budget kept from starting do not count."""
        import optuna

        every = self.study.get_trials(deepcopy=False)
        begun = [each for each in every if not each.user_attrs.get("note", "").startswith(NOT_STARTED)]
        waiting = sum(each.state is optuna.trial.TrialState.WAITING for each in begun)
        return self._count - len(begun) + waiting

    def _afford(self, trial: optuna.Trial) -> str | None:
        """Reserve what a trial may cost; the reason when the budget does not allow it."""
        import optuna

        self.mine.add(trial.number)
        estimate = self._estimate(self._params(trial))
        budget = self._search.budget
        spent = self.committed()
        if budget is not None and estimate is not None and spent + estimate > budget + 1e-9:
            held = f"{spent:,.2f} are spent or under way, and the next trial costs {estimate:,.2f}"
            reason = f"the budget of {budget:,.2f} USD: {held}"
            trial.set_user_attr("note", f"{NOT_STARTED}{reason}")
            self.study.tell(trial, state=optuna.trial.TrialState.FAIL)
            return reason
        trial.set_user_attr("estimate", estimate or 0.0)
        return None

    def _estimate(self, params: Mapping[str, Any]) -> float | None:
        backend = self._search.place(params).backend
        if not backend.hosted:
            return 0.0
        try:
            return plan(self._search.trial_job(params), backend).cost.total
        except LlmtuneError:
            return None

    def _params(self, trial: optuna.Trial) -> dict[str, Any]:
        """The values of a trial: its backend first, then what that backend has a knob for."""
        space = self._search.space
        found = {"provider": space["provider"].suggest(trial, "provider")} if "provider" in space else {}
        takes = self._search.place(found).takes
        return found | {name: part.suggest(trial, name) for name, part in space.items() if name in takes}

    def _lease(self, number: int) -> Lease:
        return Lease(self._store, f"{self._search.group}:{number}")

    def _finish(self, trial: optuna.Trial, lease: Lease) -> None:
        """One trial, from start (or wherever it was) to its end."""
        with lease:
            self._end(trial)
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
                backend = self._search.place(trial.params).backend
                trial.set_user_attr("note", f"{backend.name} reported no {self._search.metric}")
                self.study.tell(trial, state=states.FAIL)
            else:
                self.study.tell(trial, value)
        except QuotaExceeded as error:  # no other trial would be taken either; what there is, is kept
            trial.set_user_attr("note", f"{NOT_STARTED}{error.message}")
            self.study.tell(trial, state=states.FAIL)
            self._stopped = self._stopped or error.message
        except (RunFailed, NotTranslatable, InvalidJob) as error:
            trial.set_user_attr("note", error.message)
            self.study.tell(trial, state=states.FAIL)

    def _follow(self, trial: optuna.Trial) -> tuple[float | None, bool]:
        search = self._search
        params = self._params(trial)
        backend = search.place(params).backend
        with self._room[backend.name]:
            return self._followed(trial, backend, search.trial_job(params))

    def _followed(self, trial: optuna.Trial, backend: Provider, job: TuningJob) -> tuple[float | None, bool]:
        search = self._search
        group = f"{search.group}/{trial.number}"
        known = next(iter(self._store.runs(group=group)), None)
        if known is not None and known.state is not RunState.PLANNED and not self._was_refused(known):
            run = Run(known.id, store=self._store, provider=backend)
            if known.state is RunState.CANCELLED:
                return None, True
        else:
            run = self._start(job, backend, group)
        trial.set_user_attr("run", run.id)
        watch = _Pruning(trial, run, search) if search.pruning else None
        with self._counted(backend.name):
            try:
                run.wait(on_update=watch, pace=search.pace)
            except RunFailed:
                if watch is not None and watch.pruned:
                    return None, True
                raise
        return _value(run, search), False

    # --- a vendor that takes only so many jobs at once -------------------------------------------------------------
    def _was_refused(self, record: RunRecord) -> bool:
        """Whether the vendor never took this run: another is started in its place."""
        return record.state is RunState.FAILED and self._store.ref(record.id, "job", JobRef) is None

    def _start(self, job: TuningJob, backend: Provider, group: str) -> Run:
        """Start a trial's run; where the vendor takes no further job, as soon as one of ours has ended."""
        idle = 0
        while True:
            ended = self._ended_at[backend.name]
            with self._full.get(backend.name, contextlib.nullcontext()):
                try:
                    return start(job, backend, yes=True, reuse=True, group=group)
                except QuotaExceeded as error:
                    if not error.jobs or idle >= FULL_TRIES:
                        raise
                    self._full.setdefault(backend.name, threading.Lock())
                    idle = 0 if self._job_ended(backend.name, ended) else idle + 1

    def _job_ended(self, name: str, ended: int) -> bool:
        """Wait until one of our jobs at a backend has ended, or for a while where none is under way there."""
        with self._change:
            while self._ended_at[name] == ended and self._under_way_at[name]:
                self._change.wait(FULL_SECONDS)
            return self._ended_at[name] != ended or self._change.wait(FULL_SECONDS)

    @contextlib.contextmanager
    def _counted(self, name: str) -> Iterator[None]:
        with self._change:
            self._under_way_at[name] += 1
            self._change.notify_all()
        try:
            yield
        finally:
            with self._change:
                self._under_way_at[name] -= 1
                self._ended_at[name] += 1
                self._change.notify_all()

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
                    total_steps=record.progress.total_steps if record is not None else None,
                    cost=cost_of(record) if record is not None else NotReported("it was not started"),
                    note=each.user_attrs.get("note", ""),
                    curve=self._curve(run),
                )
            )
        return tuple(found)

    def _curve(self, run: str | None) -> Series | None:
        points = () if run is None else self._store.points(run)
        mine = tuple(point for point in points if point.series == self._search.metric)
        return Series(name=self._search.metric, points=mine) if mine else None

    def committed(self) -> float:
        """USD of all trials of all workers: billed where one has ended, else as estimated when it was chosen."""
        total = 0.0
        paid: set[str] = set()  # trials with the same values are one run
        for each in self.study.get_trials(deepcopy=False):
            run = each.user_attrs.get("run")
            if run in paid:
                continue
            if run:
                paid.add(run)
            cost = cost_of(self._store.get(run)) if run and each.state.is_finished() else NotReported("under way")
            if not isinstance(cost, NotReported):
                total += cost
            elif run or not each.state.is_finished():
                total += float(each.user_attrs.get("estimate", 0.0))
        return total

    def spent(self) -> float | NotReported:
        """USD over all trials that were started; not known when one trial's is not."""
        costs = {each.run: each.cost for each in self.rows() if each.run is not None}
        for each in costs.values():
            if isinstance(each, NotReported):
                return each
        return float(sum(float(each) for each in costs.values() if not isinstance(each, NotReported)))


def cost_of(record: Any) -> float | NotReported:
    """What a run was billed, or is estimated to cost."""
    if not record.hosted:
        return 0.0
    if record.billed is not None and record.billed.amount is not None:
        return float(record.billed.amount)
    total = record.cost.total
    return NotReported(record.cost.unknown or "not known") if total is None else float(total)


def _value(run: Run, search: Search) -> float | None:
    """The metric where the run ended: of a loss the last value, which is what its model has."""
    values = [point.value for point in run.metrics() if point.series == search.metric]
    return float(values[-1]) if values else None


class _Pruning:
    """Tells the study how a trial is going, and cancels it when the study has seen enough."""

    def __init__(self, trial: optuna.Trial, run: Run, search: Search) -> None:
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
