"""`compare`: one dataset, one held-out split, several backends at once, one board."""

from __future__ import annotations

import hashlib
import json
import logging
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from llmtune import matrix
from llmtune.comparing.fewshot import few_shot as with_examples
from llmtune.comparing.fewshot import shots
from llmtune.comparing.members import Member
from llmtune.errors import InvalidJob, LlmtuneError, OverBudget, RunFailed
from llmtune.job import TuningJob
from llmtune.planning import plan, read_dataset
from llmtune.provider import Provider, RunState, Unavailable
from llmtune.registry import get_provider
from llmtune.report import Report
from llmtune.report.board import Board, Entry, build_board
from llmtune.runs import Pace, Run, Update, open_store, start
from llmtune.translation import Receipt

if TYPE_CHECKING:
    from llmtune.data.dataset import Dataset
    from llmtune.evaluation import EvaluationResult

log = logging.getLogger("llmtune")

#: Runs at one hosted backend at once, where it declares no limit of its own.
AT_ONCE = 4

OnUpdate = Callable[[str, Update], None]


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

    unknown: tuple[str, ...] = ()
    billed: tuple[str, ...] = ()
    """Members that would run at a backend that bills."""

    few_shot: int = 0


def plan_members(job: TuningJob, provider: Sequence[str | Member], *, few_shot: int = 3) -> Plans:
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
        unknown=tuple(unknown),
        billed=tuple(billed),
        few_shot=few_shot,
    )


def compare(
    job: TuningJob,
    provider: Sequence[str | Member],
    *,
    few_shot: int = 3,
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
    _check_money(told, budget=budget, yes=yes, allow_unknown=allow_unknown_cost)
    crew = _Crew(told, allow_lossy_data=allow_lossy_data, retry_failed=retry_failed, on_update=on_update, pace=pace)
    results = crew.run()
    shown = crew.shown
    if not any(isinstance(each, Report) for each in results.values()):
        reasons = "; ".join(f"{label}: {error}" for label, error in results.items())
        raise LlmtuneError(f"no member of the comparison has a result: {reasons}")
    entries = [_entry(told, member, results[member.label], shown) for member in told.members]
    return build_board(job.name, told.group, entries)


def _group(job: TuningJob, members: Sequence[Member]) -> str:
    text = json.dumps([job.to_dict(), [each.model_dump(mode="json") for each in members]], sort_keys=True, default=str)
    return f"compare {hashlib.sha256(text.encode()).hexdigest()[:12]}"


def _check_money(told: Plans, *, budget: float | None, yes: bool, allow_unknown: bool) -> None:
    if not told.billed:
        return
    if budget is None:
        if not yes:
            price = "an unknown amount" if told.total is None else f"about {told.total:,.2f} USD"
            raise OverBudget(
                f"these members are billed {price} and it was not confirmed", hint="pass --budget USD or --yes"
            )
        return
    if told.total is None and not allow_unknown:
        raise OverBudget(
            f"what the members cost is not known ({'; '.join(told.unknown)}), which counts as over the budget",
            hint="pass --allow-unknown-cost (Python: allow_unknown_cost=True) to run them all the same",
        )
    if told.total is not None and told.total > budget:
        raise OverBudget(
            f"the members would cost about {told.total:,.2f} USD together, over the budget of {budget:,.2f} USD",
            hint="leave a member out, or raise the budget",
        )


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
        self.shown: dict[str, tuple[str, EvaluationResult]] = {}
        """By member, what its base model does with examples in its prompt."""
        self._first_of = _first_of_each_base(told)
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
            return matrix.ask(backend, model).concurrency or AT_ONCE
        except LlmtuneError:
            return AT_ONCE

    def run(self) -> dict[str, Report | LlmtuneError]:
        """Each member's report, or why there is none."""
        with ThreadPoolExecutor(max(1, len(self._told.members)), thread_name_prefix="llmtune-compare") as pool:
            futures = {member.label: pool.submit(self._one, member) for member in self._told.members}
            return {label: future.result() for label, future in futures.items()}

    def _one(self, member: Member) -> Report | LlmtuneError:
        label = member.label
        receipt, backend = self._told.receipts[label], self._told.providers[label]
        if isinstance(receipt, LlmtuneError):
            return receipt
        with self._gates[backend.name if backend.hosted else "here"]:
            try:
                report = self._wait(label, self._start(label, backend))
            except RunFailed as failure:
                log.info("%s failed: %s", label, failure.message)
                return failure.report if isinstance(failure.report, Report) else failure
            except LlmtuneError as error:
                log.info("%s has no result: %s", label, error.message)
                return error
            if member.label in self._first_of and self._told.few_shot:
                try:
                    self._show(member, receipt, report)
                except LlmtuneError as error:
                    log.info("no few-shot baseline for %s: %s", label, error.message)
            return report

    def _show(self, member: Member, receipt: Receipt, report: Report) -> None:
        """Ask the base model once more, with examples in front of every question."""
        dataset = read_dataset(self._told.jobs[member.label])
        if isinstance(dataset, LlmtuneError):
            return
        examples = shots(dataset.train, self._told.few_shot)
        if not examples:
            return
        found = _shown(self._told, member, receipt, dataset, examples, report)
        if found is not None:
            self.shown[member.label] = (
                f"{member.provider}:{receipt.target.model} with {len(examples)} examples",
                found,
            )

    def _start(self, label: str, backend: Provider) -> Run:
        job = self._told.jobs[label]
        if not self._retry:
            wanted = {"model": job.model_for(backend.name), "hyper": job.hyperparameters_for(backend.name)}
            for record in self._store.runs(group=self._told.group, provider=backend.name):
                mine = record.tuning_job
                kept = {"model": mine.model_for(backend.name), "hyper": mine.hyperparameters_for(backend.name)}
                if kept == wanted and record.state is RunState.FAILED:
                    return Run(record.id, store=self._store, provider=backend)
        return start(
            job,
            backend,
            yes=True,
            allow_lossy_data=self._lossy,
            reuse=True,
            group=self._told.group,
        )

    def _wait(self, label: str, run: Run) -> Report:
        def heard(update: Update) -> None:
            if self._on_update is not None:
                self._on_update(label, update)

        return run.wait(on_update=heard, pace=self._pace)


# --- baselines -------------------------------------------------------------------------------------------------------
def _first_of_each_base(told: Plans) -> set[str]:
    """The first member of each base model at each backend."""
    first: dict[tuple[str, str], str] = {}
    for member in told.members:
        receipt = told.receipts[member.label]
        if isinstance(receipt, Receipt):
            first.setdefault((member.provider, receipt.target.model), member.label)
    return set(first.values())


def _shown(
    told: Plans, member: Member, receipt: Receipt, dataset: Dataset, examples: Any, result: Report
) -> EvaluationResult | None:
    from llmtune.evaluation import FileCache, evaluate, model_identity
    from llmtune.runs.assess import answers_folder

    backend = told.providers[member.label]
    base = backend.base_model(receipt)
    if isinstance(base, Unavailable):
        return None
    generator = backend.generator(base)
    if isinstance(generator, Unavailable):
        return None
    record = open_store().get(result.identity.run_id)
    ids = hashlib.sha256(repr(examples).encode()).hexdigest()[:16]
    job = told.jobs[member.label]
    return evaluate(
        dataset.test,
        {"few-shot": with_examples(generator, examples)},
        job.evaluation,
        labels=dataset.labels,
        models={"few-shot": f"{model_identity(backend.name, base)} few-shot {ids}"},
        cache=FileCache(answers_folder(record)),
        seed=job.seed or 0,
    )


def _entry(
    told: Plans,
    member: Member,
    result: Report | LlmtuneError,
    shown: dict[str, tuple[str, EvaluationResult]],
) -> Entry:
    receipt, backend = told.receipts[member.label], told.providers[member.label]
    known = isinstance(receipt, Receipt)
    model = receipt.target.model if isinstance(receipt, Receipt) else member.model or ""
    try:
        price = matrix.ask(backend, model).price
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
        lifecycle=receipt.lifecycle.sentence if known and isinstance(receipt, Receipt) else "",
        few_shot=shown.get(member.label),
    )
