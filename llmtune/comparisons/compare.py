"""`compare`: one dataset, one held-out split, several backends at once, one board."""

from __future__ import annotations

import hashlib
import json
import logging
import queue
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from llmtune.comparisons.members import Member
from llmtune.errors import InvalidJob, LlmtuneError, OverBudget, RunFailed
from llmtune.evaluation.few_shot import SHOTS, model_with, shots
from llmtune.evaluation.few_shot import few_shot as with_examples
from llmtune.job.spec import TuningJob
from llmtune.planning import support_matrix
from llmtune.planning.plan import read_dataset
from llmtune.provider.generation import Unavailable
from llmtune.provider.protocol import Provider
from llmtune.provider.receipt import Receipt
from llmtune.provider.registry import get_provider
from llmtune.provider.types import RunState
from llmtune.redaction.secrets import scrub_error
from llmtune.report.leaderboard.board import Board, Entry, build_board
from llmtune.report.schema import Report
from llmtune.runs.api import start
from llmtune.runs.budget import ALLOW_UNKNOWN, Bill, check_bill
from llmtune.runs.plans import plan
from llmtune.runs.poller import Pace, Update
from llmtune.runs.run import Run
from llmtune.runs.store.store import open_store

if TYPE_CHECKING:
    from llmtune.data.dataset import Dataset
    from llmtune.evaluation.results import EvaluationResult

log = logging.getLogger("llmtune")

#: Runs at one hosted backend at once, where it declares no limit of its own.
AT_ONCE = 4

OnUpdate = Callable[[str, Update], None]

#: A backend's name and a base model's id.
_Place = tuple[str, str]


@dataclass(frozen=True)
class _Broken:
    """What ends the whole comparison."""

    error: BaseException


@dataclass
class Plans:
    """What every member would do, told before anything is sent."""

    group: str
    members: list[Member]
    receipts: dict[str, Receipt | LlmtuneError]
    jobs: dict[str, TuningJob]
    providers: dict[str, Provider]
    total: float | None
    """USD, all members together; None when a price is not known."""

    known: float = 0.0
    """USD, of the members whose price is known."""

    unknown: tuple[str, ...] = ()
    billed: tuple[str, ...] = ()
    """Members that would run at a backend that bills."""

    few_shot: int = 0

    @property
    def price(self) -> str:
        """What all members cost together, in words."""
        if self.total is not None:
            return f"about {self.total:,.2f} USD"
        return f"about {self.known:,.2f} USD and an unknown amount" if self.known else "an unknown amount"


def plan_members(job: TuningJob, provider: Sequence[str | Member], *, few_shot: int = SHOTS) -> Plans:
    """The plans of all members, and what they cost together. Sends nothing.

    Raises:
        InvalidJob: no member, two members alike, or words that are no member.
    """
    members = [each if isinstance(each, Member) else Member.parse(each) for each in provider]
    if not members:
        raise InvalidJob("a comparison needs members", where="provider", hint="llmtune compare JOB --provider a,b,c")
    labels = [each.label for each in members]
    for label in labels:
        if labels.count(label) > 1:
            raise InvalidJob(f"{label!r} takes part twice", where="provider")
    dataset = read_dataset(job)
    jobs = {each.label: each.job(job) for each in members}
    providers = {each.label: get_provider(each.provider) for each in members}
    receipts: dict[str, Receipt | LlmtuneError] = {}
    total, unknown = 0.0, []
    billed, seen = [], set()
    for each in members:
        try:
            receipt = plan(jobs[each.label], providers[each.label], dataset=dataset)
        except LlmtuneError as error:
            receipts[each.label] = error
            continue
        receipts[each.label] = receipt
        if not providers[each.label].hosted or receipt.refusals or not receipt.lifecycle.open:
            continue
        billed.append(each.label)
        if receipt.cost.total is None:
            unknown.append(f"{each.label}: {receipt.cost.unknown}")
            continue
        total += receipt.cost.total
        place = (each.provider, receipt.target.model)
        if place not in seen:  # each base model answers once more, with the examples in front of every question
            total += few_shot * (receipt.cost.evaluation or 0.0)
        seen.add(place)
    return Plans(
        group=_group(job, members),
        members=members,
        receipts=receipts,
        jobs=jobs,
        providers=providers,
        total=None if unknown else total,
        known=total,
        unknown=tuple(unknown),
        billed=tuple(billed),
        few_shot=few_shot,
    )


def compare(
    job: TuningJob,
    provider: Sequence[str | Member],
    *,
    few_shot: int = SHOTS,
    budget: float | None = None,
    yes: bool = True,
    allow_unknown_cost: bool = False,
    allow_lossy_data: bool = False,
    retry_failed: bool = False,
    on_update: OnUpdate | None = None,
    pace: Pace | None = None,
    plans: Plans | None = None,
) -> Board:
    """Train at several backends on one dataset and put them side by side on one held-out split.

    Members run at once, as far as each backend allows; those that share this machine run one after the other. One
    that fails does not stop the others. The same call again goes on where it was: finished members are not run again.

    Args:
        job: the job; its split holds the same rows away from every member.
        provider: members: names ("vendor"), with a model ("vendor:MODEL"), with hyperparameters
            of their own ("local:tiny[lora_rank=4]"), or `Member`s.
        few_shot: also show what each base model does with so many examples in its prompt; 0 for none.
        budget: the most that all members may cost together, in USD; an unknown price counts as over it.
        yes: whether spending money is agreed to.
        allow_unknown_cost: let unknown prices pass under a budget.
        allow_lossy_data: leave out what a row format cannot carry.
        retry_failed: run members that failed in an earlier call once more.
        on_update: called with a member's label and each `Update`, from several threads.
        pace: how often backends are asked.
        plans: what `plan_members` gave, when it was asked before.

    Raises:
        InvalidJob: see `plan_members`.
        OverBudget: the members together; nothing was started.
        LlmtuneError: no member could be run; the message has every reason.
    """
    told = plans or plan_members(job, provider, few_shot=few_shot)
    _check_budget(told, budget=budget, yes=yes, allow_unknown=allow_unknown_cost)
    crew = _Crew(told, allow_lossy_data=allow_lossy_data, retry_failed=retry_failed, on_update=on_update, pace=pace)
    results = crew.run()
    if not any(isinstance(each, Report) for each in results.values()):
        reasons = "; ".join(f"{label}: {error}" for label, error in results.items())
        raise LlmtuneError(f"no member of the comparison has a result: {reasons}")
    shown = dict(crew.shown)  # once for each base model, at its first member
    entries = [
        _entry(told, member, results[member.label], shown.pop(_place(told, member), None)) for member in told.members
    ]
    return build_board(job.name, told.group, entries, warnings=crew.notes)


def _group(job: TuningJob, members: Sequence[Member]) -> str:
    text = json.dumps([job.to_dict(), [each.model_dump(mode="json") for each in members]], sort_keys=True, default=str)
    return f"compare {hashlib.sha256(text.encode()).hexdigest()[:12]}"


def _check_budget(plans: Plans, *, budget: float | None, yes: bool, allow_unknown: bool) -> None:
    if not plans.billed:
        return

    def bill(budget: float) -> Bill:
        over = OverBudget(
            f"the members would cost {plans.price} together, over the budget of {budget:,.2f} USD",
            hint="leave a member out, or raise the budget",
        )
        unknown = OverBudget(
            f"what the members cost is not known ({'; '.join(plans.unknown)}), which counts as over the budget",
            hint=ALLOW_UNKNOWN,
        )
        return Bill(plans.known, over, unknown if plans.total is None else None)

    check_bill(
        bill,
        budget=budget,
        confirmed=yes,
        allow_unknown_cost=allow_unknown,
        unconfirmed=OverBudget(
            f"these members are billed {plans.price} and it was not confirmed", hint="pass --budget USD or --yes"
        ),
    )


class _Left(Exception):
    """The comparison is not waited for any more."""


class _Crew:
    """Runs the members, each backend's at most as many at once as it allows."""

    def __init__(
        self,
        told: Plans,
        *,
        allow_lossy_data: bool,
        retry_failed: bool,
        on_update: OnUpdate | None,
        pace: Pace | None,
    ) -> None:
        self._told = told
        self._lossy, self._retry = allow_lossy_data, retry_failed
        self._on_update, self._pace = on_update, pace
        self._store = open_store()
        self._gates: dict[str, threading.Semaphore] = {}
        self.shown: dict[_Place, tuple[str, EvaluationResult]] = {}
        """By backend and base model, what that does with examples in its prompt."""

        self.notes: list[str] = []
        """What the board should say beside its numbers."""

        self._asked: set[_Place] = set()
        self._lock = threading.Lock()
        self._stop = threading.Event()
        for member in told.members:
            backend = told.providers[member.label]
            # What runs here shares the device, whatever it is called.
            place = backend.name if backend.hosted else "here"
            self._gates.setdefault(place, threading.Semaphore(self._at_once(member)))

    def _at_once(self, member: Member) -> int:
        backend, receipt = self._told.providers[member.label], self._told.receipts[member.label]
        if not backend.hosted:
            return 1
        model = receipt.target.model if isinstance(receipt, Receipt) else ""
        try:
            return support_matrix.ask(backend, model).concurrency or AT_ONCE
        except LlmtuneError:
            return AT_ONCE

    def run(self) -> dict[str, Report | LlmtuneError]:
        """Each member's report, or why there is none.

        Leaving early (Ctrl-C, a callback that raises) leaves at once: threads that nobody joins, because what they
        wait for goes on without them and is found again.
        """
        ended: queue.SimpleQueue[tuple[str, Report | LlmtuneError | _Broken]] = queue.SimpleQueue()
        for member in self._told.members:
            name = f"llmtune-compare {member.label}"
            threading.Thread(target=self._guarded, args=(member, ended), name=name, daemon=True).start()
        results: dict[str, Report | LlmtuneError] = {}
        try:
            while len(results) < len(self._told.members):
                label, result = ended.get()
                if isinstance(result, _Broken):
                    raise result.error
                results[label] = result
        finally:
            self._stop.set()
        return results

    def _guarded(self, member: Member, ended: queue.SimpleQueue[tuple[str, Report | LlmtuneError | _Broken]]) -> None:
        try:
            result: Report | LlmtuneError | _Broken = self._one(member)
        except _Left as left:
            result = _Broken(left.__cause__ or left)
        except Exception as error:  # an adapter's slip is that member's failure, not the others'
            log.debug("%s broke", member.label, exc_info=True)
            scrub_error(error)
            result = LlmtuneError(f"{type(error).__name__}: {error}")
        ended.put((member.label, result))

    def _one(self, member: Member) -> Report | LlmtuneError:
        label = member.label
        receipt, backend = self._told.receipts[label], self._told.providers[label]
        if isinstance(receipt, LlmtuneError):
            return receipt
        with self._gates[backend.name if backend.hosted else "here"]:
            if self._stop.is_set():
                raise _Left
            try:
                report = self._wait(label, self._start(label, backend))
            except RunFailed as failure:
                log.info("%s failed: %s", label, failure.message)
                return failure.report if isinstance(failure.report, Report) else failure
            except LlmtuneError as error:
                log.info("%s has no result: %s", label, error.message)
                return error
            if self._told.few_shot and self._first(place := _place(self._told, member)):
                try:
                    self.shown[place] = self._show(member, receipt, report)
                except LlmtuneError as error:
                    self.notes.append(f"{place[0]}:{place[1]} was not asked with examples: {error.message}")
            return report

    def _first(self, place: _Place) -> bool:
        """Whether nobody has asked this base model with examples yet."""
        with self._lock:
            first = place not in self._asked
            self._asked.add(place)
        return first

    def _show(self, member: Member, receipt: Receipt, report: Report) -> tuple[str, EvaluationResult]:
        """Ask the base model once more, with examples in front of every question."""
        dataset = read_dataset(self._told.jobs[member.label])
        if isinstance(dataset, LlmtuneError):
            raise dataset
        examples = shots(dataset.train, self._told.few_shot)
        if not examples:
            raise LlmtuneError("no training row has an answer to show")
        found = _shown(self._told, member, receipt, dataset, examples, report)
        return f"{member.provider}:{receipt.target.model} with {len(examples)} examples", found

    def _start(self, label: str, backend: Provider) -> Run:
        job = self._told.jobs[label]
        failed = None if self._retry else self._failed_before(label, backend)
        if failed is not None:
            return Run(failed, store=self._store, provider=backend)
        return start(
            job,
            backend,
            yes=True,
            allow_lossy_data=self._lossy,
            reuse=True,
            group=self._told.group,
        )

    def _failed_before(self, label: str, backend: Provider) -> str | None:
        """The member's run, when the last one over these rows failed."""
        job, receipt = self._told.jobs[label], self._told.receipts[label]
        assert isinstance(receipt, Receipt)

        def asked(of: TuningJob, sha256: str | None) -> tuple[object, ...]:
            return of.model_for(backend.name), of.hyperparameters_for(backend.name), sha256

        wanted = asked(job, receipt.data.sha256)
        for record in self._store.runs(group=self._told.group, provider=backend.name):  # newest first
            if asked(record.tuning_job, record.receipt.get("data", {}).get("sha256")) == wanted:
                return record.id if record.state is RunState.FAILED else None
        return None

    def _wait(self, label: str, run: Run) -> Report:
        def heard(update: Update) -> None:
            if self._stop.is_set():
                raise _Left
            if self._on_update is not None:
                try:
                    self._on_update(label, update)
                except Exception as error:
                    raise _Left from error

        return run.wait(on_update=heard, pace=self._pace)


# --- baselines -------------------------------------------------------------------------------------------------------
def _place(told: Plans, member: Member) -> _Place:
    """The backend and the base model."""
    receipt = told.receipts[member.label]
    return member.provider, receipt.target.model if isinstance(receipt, Receipt) else ""


def _shown(
    told: Plans, member: Member, receipt: Receipt, dataset: Dataset, examples: Any, result: Report
) -> EvaluationResult:
    from llmtune.evaluation.cache import FileCache
    from llmtune.evaluation.evaluate import evaluate, model_identity
    from llmtune.runs.evaluation import answers_folder

    backend = told.providers[member.label]
    base = backend.base_model(receipt)
    if isinstance(base, Unavailable):
        raise LlmtuneError(base.reason)
    generator = backend.generator(base)
    if isinstance(generator, Unavailable):
        raise LlmtuneError(generator.reason)
    record = open_store().get(result.identity.run_id)
    job = told.jobs[member.label]
    return evaluate(
        dataset.test,
        {"few-shot": with_examples(generator, examples)},
        job.evaluation,
        labels=dataset.labels,
        models={"few-shot": model_with(model_identity(backend.name, base), examples)},
        cache=FileCache(answers_folder(record)),
        rule="likelihood" if job.method == "classification" else None,
        seed=job.seed or 0,
    )


def _entry(
    told: Plans,
    member: Member,
    result: Report | LlmtuneError,
    shown: tuple[str, EvaluationResult] | None,
) -> Entry:
    receipt, backend = told.receipts[member.label], told.providers[member.label]
    model = receipt.target.model if isinstance(receipt, Receipt) else member.model or ""
    try:
        price = support_matrix.ask(backend, model).price
    except LlmtuneError:
        price = None
    return Entry(
        label=member.label,
        provider=member.provider,
        model=model,
        report=result if isinstance(result, Report) else None,
        error=None if isinstance(result, Report) else result.message,
        price=price,
        hosted=backend.hosted,
        lifecycle=receipt.lifecycle.sentence if isinstance(receipt, Receipt) else "",
        training=_training(receipt, result) if isinstance(receipt, Receipt) else None,
        few_shot=shown,
    )


def _training(receipt: Receipt, result: Report | LlmtuneError) -> float | None:
    """The estimate of the training, for the epochs that were used where the backend has said how many."""
    rows = result.receipt if isinstance(result, Report) else ()
    epochs = next((row.effective for row in rows if row.field == "epochs"), None)
    return receipt.cost.for_epochs(epochs).training
