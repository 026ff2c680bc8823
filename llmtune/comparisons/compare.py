"""`compare`: train at several backends on one dataset, and rank the results on one held-out split."""

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
from llmtune.evaluation.few_shot import SHOTS, few_shot_identity, select_shots
from llmtune.evaluation.few_shot import few_shot as with_examples
from llmtune.job.spec import TuningJob
from llmtune.planning import support_matrix
from llmtune.planning.plan import read_dataset
from llmtune.planning.total_cost import parse_traffic
from llmtune.provider.generation import Unavailable
from llmtune.provider.protocol import Provider
from llmtune.provider.receipt import Receipt
from llmtune.provider.registry import get_provider
from llmtune.provider.types import JobRef, RunState
from llmtune.redaction.secrets import scrub_error
from llmtune.report.leaderboard.board import Board, Entry, build_board
from llmtune.report.leaderboard.in_use import add_use
from llmtune.report.schema import Report
from llmtune.runs.api import start
from llmtune.runs.budget import ALLOW_UNKNOWN, CostTotal, check_budget
from llmtune.runs.job_room import JobRoom
from llmtune.runs.options import check_keywords
from llmtune.runs.plans import plan
from llmtune.runs.poller import PollInterval, Update
from llmtune.runs.run import Run
from llmtune.runs.store.store import open_store

if TYPE_CHECKING:
    from llmtune.data.dataset import Dataset
    from llmtune.evaluation.results import EvaluationResult

log = logging.getLogger("llmtune")

#: Runs at once at a hosted backend that declares no limit.
MAX_PARALLEL_RUNS = 4

#: Hyperparameters that jobs did not have when comparisons were first stored. Unset, they are left out of a comparison's
#: id, so that a stored one keeps its own.
LATER_HYPERPARAMETERS = ("replay_share",)

#: Called with a member's label and an update of its run.
OnUpdate = Callable[[str, Update], None]

#: Name of a backend and id of a base model.
_BaseModelKey = tuple[str, str]


@dataclass(frozen=True)
class _ComparisonFailed:
    """An error that ends the whole comparison."""

    error: BaseException


@dataclass
class Plans:
    """The plans of all members, made before anything is sent.

    `group` is the store's name for their runs. By label of a member, `receipts` has its plan or why there is none,
    `jobs` its job and `providers` its backend. `unknown` names the members whose price is not known, `few_shot` is the
    number of examples in the prompt of the untuned baselines.
    """

    group: str
    members: list[Member]
    receipts: dict[str, Receipt | LlmtuneError]
    jobs: dict[str, TuningJob]
    providers: dict[str, Provider]
    total: float | None
    """USD of all members together; None when a price is not known."""

    known: float = 0.0
    """USD of the members whose price is known."""

    unknown: tuple[str, ...] = ()
    billed: tuple[str, ...] = ()
    """Members whose backend bills the run."""

    few_shot: int = 0

    @property
    def price(self) -> str:
        """The cost of all members together, in words."""
        if self.total is not None:
            return f"about {self.total:,.2f} USD"
        return f"about {self.known:,.2f} USD and an unknown amount" if self.known else "an unknown amount"


def plan_members(job: TuningJob, provider: Sequence[str | Member], *, few_shot: int = SHOTS) -> Plans:
    """Return the plans of all members, and their total cost. Sends nothing.

    Raises:
        InvalidJob: there is no member, two have the same label, or a text is not a valid member.
    """
    members = [entry if isinstance(entry, Member) else Member.parse(entry) for entry in provider]
    if not members:
        raise InvalidJob("a comparison needs members", where="provider", hint="llmtune compare JOB --provider a,b,c")
    labels = [member.label for member in members]
    for label in labels:
        if labels.count(label) > 1:
            raise InvalidJob(f"{label!r} takes part twice", where="provider")
    dataset = read_dataset(job)
    jobs = {member.label: member.job(job) for member in members}
    providers = {member.label: get_provider(member.provider) for member in members}
    receipts: dict[str, Receipt | LlmtuneError] = {}
    total, unknown = 0.0, []
    billed, few_shot_models = [], set()
    for member in members:
        try:
            receipt = plan(jobs[member.label], providers[member.label], dataset=dataset)
        except LlmtuneError as error:
            receipts[member.label] = error
            continue
        receipts[member.label] = receipt
        bills = providers[member.label].hosted or receipt.bills_judge
        if not bills or receipt.refusals or not receipt.lifecycle.open:
            continue
        billed.append(member.label)
        if (missing := receipt.cost.why_incomplete()) is not None:
            unknown.append(f"{member.label}: {missing}")
        if receipt.cost.total is None:
            continue
        total += receipt.cost.total
        base_model = (member.provider, receipt.target.model)
        # Each base model answers the test rows once more, with examples in the prompt.
        if base_model not in few_shot_models:
            total += few_shot * (receipt.cost.evaluation or 0.0)
        few_shot_models.add(base_model)
    return Plans(
        group=_build_group(job, members),
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


@check_keywords()
def compare(  # noqa: PLR0913
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
    pace: PollInterval | None = None,
    plans: Plans | None = None,
    traffic: str | None = None,
    months: float = 12.0,
) -> Board:
    """Train at several backends on one dataset and compare the results on one held-out split.

    Members run in parallel, as far as each backend allows; those that share this machine run one after the other. A
    member that fails does not stop the others. The same call made again continues: finished members are not run again.

    Args:
        job: the job; its split holds out the same rows from every member.
        provider: the members: names ("vendor"), with a model ("vendor:MODEL"), with hyperparameters of their own
            ("local:tiny[lora_rank=4]"), or `Member`s.
        few_shot: also evaluate each base model with this number of examples in its prompt; 0 for none.
        budget: the most that all members may cost together, in USD; an unknown price counts as over it.
        yes: whether you agree to spend money.
        allow_unknown_cost: accept unknown prices under a budget.
        allow_lossy_data: leave out what the row format of a backend cannot express.
        retry_failed: run members again that failed in an earlier call.
        on_update: called with a member's label and each `Update`, from several threads.
        pace: how often backends are polled.
        plans: the result of `plan_members`, if it has been called before.
        traffic: answers in a time ("100k/month", "500/day"), for the cost in use of each row; None for none.
        months: for how many months that traffic counts; above 0.

    Raises:
        InvalidJob: see `plan_members`; or `traffic` is none.
        OverBudget: the members together cost more than the budget, or spending was not confirmed. Nothing was started.
        LlmtuneError: no member has a result; the message gives every reason.
    """
    answers_per_month = None if traffic is None else parse_traffic(traffic)
    plans = plans or plan_members(job, provider, few_shot=few_shot)
    _check_budget(plans, budget=budget, yes=yes, allow_unknown=allow_unknown_cost)
    runner = _MemberRunner(
        plans, allow_lossy_data=allow_lossy_data, retry_failed=retry_failed, on_update=on_update, pace=pace
    )
    results = runner.run()
    if not any(isinstance(result, Report) for result in results.values()):
        reasons = "; ".join(f"{label}: {error}" for label, error in results.items())
        raise LlmtuneError(f"no member of the comparison has a result: {reasons}")
    few_shot_results = dict(runner.few_shot_results)  # shown once per base model, with its first member
    entries = [
        _build_entry(plans, member, results[member.label], few_shot_results.pop(_base_model_key(plans, member), None))
        for member in plans.members
    ]
    board = build_board(job.name, plans.group, entries, warnings=runner.notes)
    return board if answers_per_month is None else add_use(board, entries, answers_per_month, months)


def _build_group(job: TuningJob, members: Sequence[Member]) -> str:
    """Return the id of a comparison: the same job and members go on with what is stored, also of earlier versions."""
    documents = [member.model_dump(mode="json") for member in members]
    for document in documents:
        for name in LATER_HYPERPARAMETERS:
            if (document.get("hyperparameters") or {}).get(name, 0) is None:
                del document["hyperparameters"][name]
    text = json.dumps([job.to_dict(), documents], sort_keys=True, default=str)
    return f"compare {hashlib.sha256(text.encode()).hexdigest()[:12]}"


def _check_budget(plans: Plans, *, budget: float | None, yes: bool, allow_unknown: bool) -> None:
    if not plans.billed:
        return

    def describe_total(budget: float) -> CostTotal:
        over = OverBudget(
            f"the members would cost {plans.price} together, over the budget of {budget:,.2f} USD",
            hint="leave a member out, or raise the budget",
        )
        unknown = OverBudget(
            f"what the members cost is not known ({'; '.join(plans.unknown)}), which counts as over the budget",
            hint=ALLOW_UNKNOWN,
        )
        return CostTotal(plans.known, over, unknown if plans.total is None else None)

    check_budget(
        describe_total,
        budget=budget,
        confirmed=yes,
        allow_unknown_cost=allow_unknown,
        unconfirmed=OverBudget(
            f"these members are billed {plans.price} and it was not confirmed", hint="pass --budget USD or --yes"
        ),
    )


class _StoppedWaiting(Exception):
    """Raised in a member's thread when the caller no longer waits for the comparison."""


class _MemberRunner:
    """Runs the members in threads, at each backend at most as many at once as it allows."""

    def __init__(
        self,
        plans: Plans,
        *,
        allow_lossy_data: bool,
        retry_failed: bool,
        on_update: OnUpdate | None,
        pace: PollInterval | None,
    ) -> None:
        self._plans = plans
        self._lossy, self._retry = allow_lossy_data, retry_failed
        self._on_update, self._pace = on_update, pace
        self._store = open_store()
        self._gates: dict[str, threading.Semaphore] = {}
        self.few_shot_results: dict[_BaseModelKey, tuple[str, EvaluationResult]] = {}
        """By backend and base model, its evaluation with examples in the prompt."""

        self.notes: list[str] = []
        """Warnings for the board."""

        self._few_shot_claimed: set[_BaseModelKey] = set()
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._job_room = JobRoom()
        for member in plans.members:
            backend = plans.providers[member.label]
            # Members on this machine share its device, whatever their provider is called.
            gate = backend.name if backend.hosted else "here"
            self._gates.setdefault(gate, threading.Semaphore(self._parallel_limit(member)))

    def _parallel_limit(self, member: Member) -> int:
        backend, receipt = self._plans.providers[member.label], self._plans.receipts[member.label]
        if not backend.hosted:
            return 1
        model = receipt.target.model if isinstance(receipt, Receipt) else ""
        try:
            return support_matrix.get_capabilities(backend, model).concurrency or MAX_PARALLEL_RUNS
        except LlmtuneError:
            return MAX_PARALLEL_RUNS

    def run(self) -> dict[str, Report | LlmtuneError]:
        """Return each member's report, or the error that prevented it.

        On Ctrl-C, or when a callback raises, this ends at once and does not join the threads: the runs they wait for
        continue at the backends and are found again by the next call.
        """
        ended: queue.SimpleQueue[tuple[str, Report | LlmtuneError | _ComparisonFailed]] = queue.SimpleQueue()
        for member in self._plans.members:
            name = f"llmtune-compare {member.label}"
            threading.Thread(target=self._run_guarded, args=(member, ended), name=name, daemon=True).start()
        results: dict[str, Report | LlmtuneError] = {}
        try:
            while len(results) < len(self._plans.members):
                label, result = ended.get()
                if isinstance(result, _ComparisonFailed):
                    raise result.error
                results[label] = result
        finally:
            self._stop.set()
        return results

    def _run_guarded(
        self, member: Member, ended: queue.SimpleQueue[tuple[str, Report | LlmtuneError | _ComparisonFailed]]
    ) -> None:
        try:
            result: Report | LlmtuneError | _ComparisonFailed = self._run_member(member)
        except _StoppedWaiting as stopped:
            result = _ComparisonFailed(stopped.__cause__ or stopped)
        except Exception as error:  # a bug in one provider must not end the other members
            log.debug("%s broke", member.label, exc_info=True)
            scrub_error(error)
            result = LlmtuneError(f"{type(error).__name__}: {error}")
        ended.put((member.label, result))

    def _run_member(self, member: Member) -> Report | LlmtuneError:
        label = member.label
        receipt, backend = self._plans.receipts[label], self._plans.providers[label]
        if isinstance(receipt, LlmtuneError):
            return receipt
        with self._gates[backend.name if backend.hosted else "here"]:
            self._check_waited_for()
            try:
                run = self._start(label, backend)
                with self._job_room.count(backend.name):
                    report = self._wait(label, run)
            except RunFailed as failure:
                log.info("%s failed: %s", label, failure.message)
                return failure.report if isinstance(failure.report, Report) else failure
            except LlmtuneError as error:
                log.info("%s has no result: %s", label, error.message)
                return error
            if self._plans.few_shot and self._claim_few_shot(base_model := _base_model_key(self._plans, member)):
                try:
                    self.few_shot_results[base_model] = self._run_few_shot(member, receipt, report)
                except LlmtuneError as error:
                    self.notes.append(f"{base_model[0]}:{base_model[1]} was not asked with examples: {error.message}")
            return report

    def _claim_few_shot(self, base_model: _BaseModelKey) -> bool:
        """Return whether this thread is the first to ask the base model with examples."""
        with self._lock:
            first = base_model not in self._few_shot_claimed
            self._few_shot_claimed.add(base_model)
        return first

    def _run_few_shot(self, member: Member, receipt: Receipt, report: Report) -> tuple[str, EvaluationResult]:
        """Evaluate the base model with examples in the prompt."""
        dataset = read_dataset(self._plans.jobs[member.label])
        if isinstance(dataset, LlmtuneError):
            raise dataset
        examples = select_shots(dataset.train, self._plans.few_shot)
        if not examples:
            raise LlmtuneError("no training row has an answer to show")
        evaluation = _evaluate_few_shot(self._plans, member, receipt, dataset, examples, report)
        return f"{member.provider}:{receipt.target.model} with {len(examples)} examples", evaluation

    def _start(self, label: str, backend: Provider) -> Run:
        job = self._plans.jobs[label]
        failed = None if self._retry else self._find_failed_run(label, backend)
        if failed is not None:
            return Run(failed, store=self._store, provider=backend)

        def start_run() -> Run:
            return start(job, backend, yes=True, allow_lossy_data=self._lossy, reuse=True, group=self._plans.group)

        return self._job_room.start(backend.name, start_run, proceed=self._check_waited_for)

    def _check_waited_for(self) -> None:
        if self._stop.is_set():
            raise _StoppedWaiting

    def _find_failed_run(self, label: str, backend: Provider) -> str | None:
        """Return the id of the member's last run on these rows, if that run failed. A run that the vendor never
        accepted is none: it has cost nothing, and the limit that it met may be gone."""
        job, receipt = self._plans.jobs[label], self._plans.receipts[label]
        assert isinstance(receipt, Receipt)

        def fingerprint(job: TuningJob, sha256: str | None) -> tuple[object, ...]:
            return job.model_for(backend.name), job.hyperparameters_for(backend.name), sha256

        requested = fingerprint(job, receipt.data.sha256)
        for record in self._store.runs(group=self._plans.group, provider=backend.name):  # newest first
            if fingerprint(record.tuning_job, record.receipt.get("data", {}).get("sha256")) == requested:
                accepted = self._store.ref(record.id, "job", JobRef) is not None
                return record.id if record.state is RunState.FAILED and accepted else None
        return None

    def _wait(self, label: str, run: Run) -> Report:
        def pass_on_update(update: Update) -> None:
            self._check_waited_for()
            if self._on_update is not None:
                try:
                    self._on_update(label, update)
                except Exception as error:  # the caller's own: raised again, as what stopped the wait
                    raise _StoppedWaiting from error

        return run.wait(on_update=pass_on_update, pace=self._pace)


# --- baselines -------------------------------------------------------------------------------------------------------
def _base_model_key(plans: Plans, member: Member) -> _BaseModelKey:
    """Return the name of the backend and the id of the base model."""
    receipt = plans.receipts[member.label]
    return member.provider, receipt.target.model if isinstance(receipt, Receipt) else ""


def _evaluate_few_shot(
    plans: Plans, member: Member, receipt: Receipt, dataset: Dataset, examples: Any, report: Report
) -> EvaluationResult:
    from llmtune.evaluation.cache import FileCache
    from llmtune.evaluation.evaluate import AnswerOptions, evaluate, model_identity
    from llmtune.evaluation.task import ScoringOptions
    from llmtune.runs.evaluation import answers_folder

    backend = plans.providers[member.label]
    base = backend.base_model(receipt)
    if isinstance(base, Unavailable):
        raise LlmtuneError(base.reason)
    generator = backend.generator(base)
    if isinstance(generator, Unavailable):
        raise LlmtuneError(generator.reason)
    record = open_store().get(report.identity.run_id)
    job = plans.jobs[member.label]
    return evaluate(
        dataset.test,
        {"few-shot": with_examples(generator, examples)},
        job.evaluation,
        scoring=ScoringOptions(
            labels=dataset.labels, rule="likelihood" if job.method == "classification" else None, seed=job.seed or 0
        ),
        answering=AnswerOptions(
            models={"few-shot": few_shot_identity(model_identity(backend.name, base), examples)},
            cache=FileCache(answers_folder(record)),
        ),
    )


def _build_entry(
    plans: Plans,
    member: Member,
    result: Report | LlmtuneError,
    few_shot: tuple[str, EvaluationResult] | None,
) -> Entry:
    receipt, backend = plans.receipts[member.label], plans.providers[member.label]
    model = receipt.target.model if isinstance(receipt, Receipt) else member.model or ""
    try:
        price = support_matrix.get_capabilities(backend, model).price
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
        training=_estimate_training(receipt, result) if isinstance(receipt, Receipt) else None,
        few_shot=few_shot,
    )


def _estimate_training(receipt: Receipt, result: Report | LlmtuneError) -> float | None:
    """Return the estimated cost of training in USD, for the epochs used where the backend reports them."""
    rows = result.receipt if isinstance(result, Report) else ()
    epochs = next((row.effective for row in rows if row.field == "epochs"), None)
    return receipt.cost.for_epochs(epochs).training
