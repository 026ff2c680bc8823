"""`rescue`: step after step, each written down before the next, so that the same call goes on after a kill."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmtune import _clock
from llmtune._retry import RetryPolicy
from llmtune.data.example import Example
from llmtune.errors import LlmtuneError, OverBudget, TransientError, VendorError
from llmtune.job.spec import DatasetSpec, EvaluationSpec, Hyperparameters, TuningJob
from llmtune.metrics.points import NotReported
from llmtune.planning import support_matrix
from llmtune.provider.protocol import Provider
from llmtune.provider.registry import get_provider
from llmtune.provider.types import ModelRef, RunState
from llmtune.redaction.secrets import scrub
from llmtune.rescues import evaluate, golden_set, html, source
from llmtune.rescues.folder import Folder
from llmtune.rescues.results import GoldenSet, Rescue, RescueReport, Source
from llmtune.rescues.text import to_markdown
from llmtune.runs.api import start
from llmtune.runs.budget import CONFIRM, Bill, check_bill
from llmtune.runs.run import Run, provider_of
from llmtune.runs.store.store import open_store

if TYPE_CHECKING:
    from llmtune.provider.receipt import Receipt
    from llmtune.report.schema import Report

log = logging.getLogger("llmtune")

Follow = Callable[[Run], "Report"]


def rescue(
    model_or_run: str,
    to: str | Provider = "local",
    *,
    model: str | None = None,
    source_provider: str | None = None,
    out: str | os.PathLike[str] | None = None,
    prompts: str | os.PathLike[str] | None = None,
    data: str | os.PathLike[str] | None = None,
    max_rows: int = 200,
    snapshot_only: bool = False,
    yes: bool = True,
    budget: float | None = None,
    allow_unknown_cost: bool = False,
    confirm: golden_set.Confirm | None = None,
    confirm_run: Callable[[Receipt], None] | None = None,
    follow: Follow | None = None,
    say: Callable[[str], None] | None = None,
    patience: RetryPolicy | None = None,
) -> Rescue:
    """Move a tuned model to another backend: fetch what made it, record what it answers, train it again, compare.

    Everything lands in one folder that needs no vendor to be read. Calling it again goes on where it was: no answer
    is asked for twice and no job is submitted twice.

    Args:
        model_or_run: a tuned model's id or its job's id at a vendor, or a run of the store (id, its beginning, name).
        to: where it is trained again.
        model: the new base model; None takes the one that the run's job names for `to`.
        source_provider: where the old model is; None asks the store and then every backend with credentials.
        out: the folder; None is `rescue-NAME` in the working folder.
        prompts: a file of prompts (any format llmtune reads) for the golden set, instead of the held-out rows.
        data: a training file of your own, for when the vendor has none any more.
        max_rows: the most prompts the old model is asked.
        snapshot_only: stop before training: the old model's job, data and answers are safe then.
        yes: whether what is billed (answers of the old model, the new run) is agreed to.
        budget: the most that answers and training may cost together, in USD; an unknown price counts as over it.
        allow_unknown_cost: let an unknown price pass under a budget.
        confirm: called before the old model is asked, with the cost (None: unknown), how it was reckoned, and the
            sampling settings; raises to stop.
        confirm_run: called with the plan before the new run is started; raises to stop.
        follow: waits for the new run (a progress display); None waits quietly.
        say: told in words what is going on.
        patience: how long the old model's vendor is waited for when it is unwell.

    Raises:
        LlmtuneError: the model is known to nobody, its training rows are gone (and no `data` was given), the new
            backend does not take the job; what was fetched and recorded so far stays in the folder.
    """
    tell = say or (lambda text: log.info("%s", text))
    folder = Folder(Path(out) if out is not None else Path(f"rescue-{_slug(model_or_run)}"), model_or_run)
    found = source.find(model_or_run, source_provider, open_store())
    if not folder.done("fetch"):
        folder.keep()  # the folder is known as this rescue's from here on, whatever is killed
        given = None if data is None else str(data)
        fetched = source.fetch(found, folder, data=given, store=open_store(), say=tell)
        folder.keep(source=fetched, done="fetch")
        for role, reason in fetched.gone.items():
            folder.keep(note=f"the {role} file could not be fetched: {reason}")
    elif data is not None and folder.state.source is not None and "train" not in folder.state.source.files:
        # Given later, in the same folder: what the old model answered already stays and is not paid for again.
        folder.keep(source=source.supply(folder.state.source, folder, str(data)))
    kept = folder.state.source
    assert kept is not None
    rows = _rows_to_ask(folder, kept, prompts)
    questions = (
        golden_set.Questions(rows, f"{kept.provider} {kept.model}", evaluate.spec_for(max_rows)) if rows else None
    )

    if not folder.done("golden"):
        told = _record(folder, found, questions, _Consent(yes, budget, allow_unknown_cost, confirm), tell, patience)
        # Without an answer the step stays open: the same call tries again, should the model become reachable.
        notes = tuple(note for note in folder.state.notes if not note.startswith("no golden set: "))
        folder.keep(golden=told, notes=notes, done=None if isinstance(told, NotReported) else "golden")
        if isinstance(told, NotReported):
            folder.keep(note=f"no golden set: {told.reason}")
            tell(f"no golden set: {told.reason}")
    if "train" not in kept.files:
        why = kept.gone.get("train", "its job names no file")
        raise LlmtuneError(
            f"the training rows of {kept.model} cannot be fetched any more: {why}",
            hint=f"pass the file you still have, with the same command: llmtune rescue {model_or_run} --data FILE",
        )
    backend = get_provider(to)
    judged = questions.spec_alike if questions is not None else evaluate.spec_for(max_rows)
    job, receipt, dropped = _translated(folder, kept, backend, model, found, judged)
    if snapshot_only:
        tell(f"the snapshot is in {folder.path}; train it again with: llmtune tune {folder.job} -p {backend.name}")
        return folder.state
    left = None if budget is None else max(0.0, budget - _answers_cost(folder, found, kept, questions))
    run = _run(folder, job, backend, receipt, confirm_run, yes, left, allow_unknown_cost)
    tell(f"run {run.id} at {backend.name}")
    (follow or _wait)(run)
    folder.keep(done="train")
    report = _report(folder, kept, questions, run, receipt, dropped)
    folder.write("report.json", report.to_json())
    folder.write("report.md", to_markdown(report))
    folder.write("report.html", html.render(report))
    folder.keep(report=report, done="report")
    return folder.state


def _slug(text: str) -> str:
    plain = re.sub(r"[^A-Za-z0-9-]+", "-", text).strip("-").lower()
    return plain if len(plain) <= 48 else f"{plain[:40]}-{source.digest(text)}"


def _wait(run: Run) -> Report:
    return run.wait()


# --- the old model's answers -----------------------------------------------------------------------------------------
def _rows_to_ask(folder: Folder, kept: Source, prompts: str | os.PathLike[str] | None) -> Sequence[Example]:
    from llmtune.data.io.reading import load

    # Kept in the folder, so that the golden set stays the same one whatever becomes of the file that was given.
    kept_prompts = folder.data / "prompts.jsonl"
    if prompts is not None:
        given = load(str(prompts))
        if kept_prompts.exists() and folder.golden.exists() and list(load(str(kept_prompts))) != list(given):
            raise LlmtuneError(
                f"the golden set in {folder.path} was begun with other prompts than {prompts}",
                hint="leave --prompts out to go on with those, or name another folder with --out",
            )
        if folder.done("golden") and not kept_prompts.exists():
            raise LlmtuneError(
                f"the golden set in {folder.path} was recorded on the held-out rows, without {prompts}",
                hint="leave --prompts out, or name another folder with --out",
            )
        source.keep_rows(given, kept_prompts)
    if kept_prompts.exists():
        return load(str(kept_prompts))
    held_out = kept.files.get("test")
    return load(str(folder.path / held_out.path)) if held_out is not None else ()


def _answers_cost(folder: Folder, found: source.Found, kept: Source, questions: golden_set.Questions | None) -> float:
    """What the answers on file cost at most, in this call or before a kill; 0 where the price is not published."""
    if questions is None:
        return 0.0
    file = golden_set.GoldenFile(folder.golden, questions)
    return golden_set.estimate(questions, found.provider, kept.base, file, answered=True)[0] or 0.0


@dataclass(frozen=True)
class _Consent:
    """Whether money may be spent on answers, and how much."""

    yes: bool
    budget: float | None
    allow_unknown_cost: bool
    confirm: golden_set.Confirm | None

    def check(self, cost: float | None, formula: str, sampling: dict[str, Any], spent: float) -> None:
        """Raise `OverBudget` if the answers may not be paid for, besides what was spent before."""
        if cost == 0:
            return
        if self.budget is None and not self.yes and self.confirm is not None:
            self.confirm(cost, formula, sampling)
            return

        def bill(budget: float) -> Bill:
            if cost is None:
                unknown = OverBudget(
                    f"what the old model's answers cost is not known ({formula})",
                    hint="pass --allow-unknown-cost, or --max-rows 0 to go without a golden set",
                )
                return Bill(0.0, unknown, unknown)
            before = f" besides {spent:,.2f} USD for those on file" if spent else ""
            over = OverBudget(f"the old model's answers may cost {cost:,.2f} USD{before}, over the budget ({formula})")
            return Bill(cost + spent, over)

        check_bill(
            bill,
            budget=self.budget,
            confirmed=self.yes,
            allow_unknown_cost=self.allow_unknown_cost,
            unconfirmed=OverBudget(
                f"the old model's answers are billed ({formula}) and it was not confirmed", hint=CONFIRM
            ),
        )


def _record(
    folder: Folder,
    found: source.Found,
    questions: golden_set.Questions | None,
    consent: _Consent,
    tell: Callable[[str], None],
    patience: RetryPolicy | None,
) -> GoldenSet | NotReported:
    kept = folder.state.source
    assert kept is not None
    if questions is None or not questions.rows:
        return NotReported("there are no rows to ask: neither held-out rows nor --prompts")
    file = golden_set.GoldenFile(folder.golden, questions)
    ended = golden_set.stopped(_answers_until(found.provider, kept.base), _clock.today())
    if ended is not None:
        return _so_far(NotReported(f"{kept.model}: {ended}"), questions, file)
    cost, formula = golden_set.estimate(questions, found.provider, kept.base, file)
    consent.check(cost, formula, questions.sampling, _answers_cost(folder, found, kept, questions))
    tell(f"asking {kept.model} ({formula}; {', '.join(f'{k} {v}' for k, v in questions.sampling.items())})")
    ref = _old_model(found, kept)
    try:
        told = golden_set.record(
            questions,
            file,
            found.provider,
            ref,
            patience=patience,
            progress=lambda done, wanted: tell(f"golden set: {done}/{wanted}") if done == wanted else None,
        )
    except TransientError:
        raise
    except VendorError as error:
        told = NotReported(f"{kept.model} does not answer any more: {scrub(error.message)}")
    return _so_far(told, questions, file)


def _so_far(
    told: GoldenSet | NotReported, questions: golden_set.Questions, file: golden_set.GoldenFile
) -> GoldenSet | NotReported:
    """A model that died half-way leaves the answers it gave."""
    got = file.answers(questions)
    if isinstance(told, NotReported) and got:
        return GoldenSet(
            rows=len(questions.rows),
            answered=len(got),
            refused=len(questions.rows) - len(got),
            sampling=questions.sampling,
        )
    return told


def _old_model(found: source.Found, kept: Source) -> ModelRef:
    if found.record is not None:
        ref = open_store().ref(found.record.id, "model", ModelRef)
        if ref is not None:
            return ref
    return ModelRef(id=kept.model, base=kept.base)


def _answers_until(provider: Provider, base: str) -> Any:
    try:
        return support_matrix.ask(provider, base).lifecycle.answers_until
    except LlmtuneError:
        return None


# --- the new run -----------------------------------------------------------------------------------------------------
def _translated(
    folder: Folder, kept: Source, backend: Provider, model: str | None, found: source.Found, judged: EvaluationSpec
) -> tuple[TuningJob, Receipt, dict[str, str]]:
    """The job for the new backend; a value it refuses is left to it, with the reason, since the old service took it."""
    from llmtune.runs.plans import plan

    named = model or _named(found, backend)
    if named is None:
        raise LlmtuneError(
            f"which model shall {backend.name} train?", hint="name it: --model MODEL_ID (Python: model=)"
        )
    known = {name: value for name, value in kept.hyperparameters.items() if name in Hyperparameters.model_fields}
    paths = {role: str(folder.path / file.path) for role, file in kept.files.items()}
    share = 0.1 if "validation" not in paths else 0.0
    spec = DatasetSpec(
        train=paths["train"],
        validation=paths.get("validation"),
        test=paths.get("test"),
        split=(1.0 - share, share, 0.0),
    )
    dropped: dict[str, str] = {}
    while True:
        job = TuningJob(
            name=_slug(kept.model)[:60] or "rescued",
            dataset=spec,
            model={backend.name: named},
            method=kept.method,  # type: ignore[arg-type]
            hyperparameters=Hyperparameters.model_validate(known),
            evaluation=judged.model_copy(update={"baselines": None}),
            seed=kept.seed,
            tags={"rescued": kept.model[:64]},
        )
        receipt = plan(job, backend)
        refused = [row for row in receipt.fields if row.support == "invalid" and row.field in known]
        if not refused:
            break
        for row in refused:
            dropped[row.field] = row.reason or "not allowed there"
            del known[row.field]
    relative = {role: file.path for role, file in kept.files.items()}
    saved = job.model_copy(update={"dataset": spec.model_copy(update=relative)})
    folder.write_job(saved)
    folder.write("receipt.json", receipt.model_dump_json(indent=2) + "\n")
    for field, reason in dropped.items():
        folder.keep(note=f"{field} was left to {backend.name}: {reason}")
    folder.keep(to=backend.name, done="plan")
    return job, receipt, dropped


def _named(found: source.Found, backend: Provider) -> str | None:
    if found.record is None:
        return None
    try:
        models = found.record.tuning_job.model
        return models.get(backend.name) if isinstance(models, dict) else None
    except LlmtuneError:
        return None


def _run(
    folder: Folder,
    job: TuningJob,
    backend: Provider,
    receipt: Receipt,
    confirm_run: Callable[[Receipt], None] | None,
    yes: bool,
    budget: float | None,
    unknown: bool,
) -> Run:
    if folder.state.run is not None:
        run = Run(folder.state.run)
        same = run.record.provider == backend.name and run.record.model == job.model_for(backend.name)
        # One that ended without a model is left behind, with consent asked anew; a lost one may still be running.
        if same and run.record.state not in (RunState.FAILED, RunState.CANCELLED):
            return run
    if confirm_run is not None and backend.hosted and budget is None and not yes:
        confirm_run(receipt)
        yes = True
    group = f"rescue {folder.state.asked}"[:120]
    run = start(job, backend, yes=yes, budget=budget, allow_unknown_cost=unknown, reuse=True, group=group)
    folder.keep(run=run.id)
    return run


def _report(
    folder: Folder,
    kept: Source,
    questions: golden_set.Questions | None,
    run: Run,
    receipt: Receipt,
    dropped: dict[str, str],
) -> RescueReport:
    from llmtune.evaluation.cache import FileCache
    from llmtune.runs.evaluation import answers_folder, the_same_dataset

    told = folder.state.golden or NotReported("it was not recorded")
    answers = golden_set.GoldenFile(folder.golden, questions).answers(questions) if questions is not None else {}
    tuned = run.model_ref
    assert tuned is not None
    provider = provider_of(run.record)
    labels, agreement = evaluate.judge(
        questions,
        answers,
        the_same_dataset(run.record).labels,
        provider=provider,
        target=lambda: provider.generator(tuned),
        tuned=tuned,
        cache=FileCache(answers_folder(run.record)),
        why_not=told.reason if isinstance(told, NotReported) else "",
    )
    return RescueReport(
        source=kept,
        provider=run.record.provider,
        model=run.record.model,
        run=run.id,
        golden=told,
        labels=labels,
        agreement=agreement,
        dropped=dropped,
        lost={row.field: row.reason or "no knob there" for row in receipt.unsupported()},
        cost=receipt.cost.sentence(),
    )
