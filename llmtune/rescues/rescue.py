"""`rescue`: step after step, each written down before the next, so that the same call goes on after a kill."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmtune._retry import RetryPolicy
from llmtune.errors import LlmtuneError
from llmtune.job.spec import DatasetSpec, EvaluationSpec, Hyperparameters, TuningJob
from llmtune.metrics.points import NotReported
from llmtune.provider.protocol import Provider
from llmtune.provider.registry import get_provider
from llmtune.provider.types import RunState
from llmtune.rescues import evaluate, golden_set, html, recording, source
from llmtune.rescues.folder import Folder, check_not_held, hold_folder
from llmtune.rescues.results import Rescue, RescueReport, Source
from llmtune.rescues.text import to_markdown
from llmtune.runs.api import start
from llmtune.runs.failpoints import checkpoint
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
    deploy: bool = False,
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
        deploy: allow a deployment of the old model, which costs money while it stands, where it answers from none
            else; it is removed afterwards.
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
    path = Path(out) if out is not None else Path(f"rescue-{source.short_name(model_or_run)}")
    check_not_held(path.resolve().parent)  # the folder of an account, whose models are asked one after the other
    with hold_folder(path):
        return rescue_in(
            path, model_or_run, to, model=model, source_provider=source_provider, prompts=prompts, data=data,
            max_rows=max_rows, snapshot_only=snapshot_only, deploy=deploy, yes=yes, budget=budget,
            allow_unknown_cost=allow_unknown_cost, confirm=confirm, confirm_run=confirm_run, follow=follow, say=say,
            patience=patience,
        )  # fmt: skip


def rescue_in(
    path: Path,
    model_or_run: str,
    to: str | Provider,
    *,
    model: str | None,
    source_provider: str | None,
    prompts: str | os.PathLike[str] | None = None,
    data: str | os.PathLike[str] | None = None,
    max_rows: int,
    snapshot_only: bool = False,
    deploy: bool = False,
    yes: bool,
    budget: float | None,
    allow_unknown_cost: bool,
    confirm: golden_set.Confirm | None = None,
    confirm_run: Callable[[Receipt], None] | None,
    follow: Follow | None,
    say: Callable[[str], None] | None,
    patience: RetryPolicy | None = None,
) -> Rescue:
    """Rescue one model into a folder that the caller holds; the arguments are those of `rescue`."""
    tell = say or (lambda text: log.info("%s", text))
    folder = Folder(path, model_or_run)
    found = source.find(model_or_run, source_provider, open_store())
    backend = get_provider(to)
    if not snapshot_only:
        base_for(found, backend, model)
    kept = fetch_rows(folder, found, None if data is None else str(data), tell)
    questions = recording.questions_for(folder, kept, prompts, max_rows)
    if not folder.done("golden"):
        asking = recording.prepare(folder, found, questions, deploy=deploy)
        if isinstance(asking, recording.Asking):
            consent = recording.Consent(yes, budget, allow_unknown_cost, confirm)
            spent = recording.answers_cost(folder, found, kept, questions)
            consent.check(asking.cost, asking.formula, asking.questions.sampling, spent)
            asking = recording.record(folder, found, asking, tell, patience)
        recording.keep_golden(folder, asking, tell)
    recording.remove_leftover(folder, found, tell)
    judged = questions.spec_alike if questions is not None else evaluate.spec_for(max_rows)
    planned = write_job(folder, found, backend, model, judged, tell)
    if snapshot_only:
        tell(f"the snapshot is in {folder.path}{_next_step(folder, backend, planned is not None)}")
        return folder.state
    if planned is None:
        why = kept.gone.get("train", "its job names no file")
        raise LlmtuneError(
            f"the training rows of {kept.model} cannot be fetched any more: {why}",
            hint=f"pass the file you still have, with the same command: llmtune rescue {model_or_run} --data FILE",
        )
    job, receipt, dropped = planned
    spent = recording.answers_cost(folder, found, kept, questions)
    left = None if budget is None else max(0.0, budget - spent)
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


def fetch_rows(folder: Folder, found: source.Found, data: str | None, say: source.Say) -> Source:
    """The step that brings the job and its rows into the folder; done once. `data` takes the place of rows that are
    gone."""
    if not folder.done("fetch"):
        folder.keep()  # the folder is known as this rescue's from here on, whatever is killed
        checkpoint("rescue-fetching")
        fetched = source.fetch(found, folder, data=data, store=open_store(), say=say)
        folder.keep(source=fetched, done="fetch")
        for role, reason in fetched.gone.items():
            folder.keep(note=f"the {role} file could not be fetched: {reason}")
        checkpoint("rescue-fetched")
    elif folder.state.source is not None and "train" not in folder.state.source.files:
        # Given later, or put where job.yaml names it: what the old model answered stays and is not paid for again.
        by_hand = folder.data / "train.jsonl"
        if data is None and by_hand.is_file():
            data = str(by_hand)
        if data is not None:
            folder.keep(source=source.supply(folder.state.source, folder, data))
    assert folder.state.source is not None
    return folder.state.source


def _next_step(folder: Folder, backend: Provider, planned: bool) -> str:
    """How the model is trained again from a snapshot."""
    if planned:
        return f"; train it again with: llmtune tune {folder.job} -p {backend.name}"
    kept = folder.state.source
    if kept is not None and "train" not in kept.files:
        return f"; its training rows are gone: put yours at {folder.data / 'train.jsonl'}, or pass --data FILE"
    return "; train it again with the same command, --to PROVIDER and --model MODEL_ID instead of --snapshot-only"


def _wait(run: Run) -> Report:
    return run.wait()


# --- the new run -----------------------------------------------------------------------------------------------------
def base_for(found: source.Found, backend: Provider, model: str | None) -> str:
    """The new base model. Raises `LlmtuneError` where nobody has named one: before anything is paid for."""
    named = model or _named(found, backend)
    if named is None:
        raise LlmtuneError(
            f"which model shall {backend.name} train?", hint="name it: --model MODEL_ID (Python: model=)"
        )
    return named


def write_job(
    folder: Folder,
    found: source.Found,
    backend: Provider,
    model: str | None,
    judged: EvaluationSpec,
    say: source.Say,
) -> tuple[TuningJob, Receipt, dict[str, str]] | None:
    """The step that writes job.yaml, and the receipt where it can be planned.

    None where it cannot: its rows are gone, or no new model is named. The job is the old one then, word for word as
    far as there are words for it.
    """
    kept = folder.state.source
    assert kept is not None
    if kept.method not in source.METHODS:
        folder.keep(note=f"no job is written: no method of llmtune repeats a {kept.method} job")
        say(folder.state.notes[-1])
        return None
    named = model or _named(found, backend)
    if named is not None and "train" in kept.files:
        planned = _translated(folder, kept, backend, named, judged)
        checkpoint("rescue-job-written")
        return planned
    where, base = (kept.provider, kept.base) if named is None else (backend.name, named)
    known, dropped = source.valid_hyperparameters(kept.hyperparameters)
    folder.write_job(_job(kept, {"train": "data/train.jsonl"}, where, base, known, judged))
    for field, reason in dropped.items():
        folder.keep(note=f"{field} was left out: {reason}")
    if "train" not in kept.files:
        folder.keep(note="job.yaml names data/train.jsonl, which is gone: put your own copy of the rows there")
    checkpoint("rescue-job-written")
    return None


def _job(
    kept: Source, paths: dict[str, str], provider: str, model: str, known: dict[str, Any], judged: EvaluationSpec
) -> TuningJob:
    paths = {role: file.path for role, file in kept.files.items()} | paths
    share = 0.1 if "validation" not in paths else 0.0
    return TuningJob(
        name=source.short_name(kept.model),
        dataset=DatasetSpec(
            train=paths["train"],
            validation=paths.get("validation"),
            test=paths.get("test"),
            split=(1.0 - share, share, 0.0),
        ),
        model={provider: model},
        method=kept.method,  # type: ignore[arg-type]
        hyperparameters=Hyperparameters.model_validate(known),
        evaluation=judged.model_copy(update={"baselines": None}),
        seed=kept.seed,
        tags={"rescued": kept.model[:64]},
    )


def _translated(
    folder: Folder, kept: Source, backend: Provider, model: str, judged: EvaluationSpec
) -> tuple[TuningJob, Receipt, dict[str, str]]:
    """The job for the new backend; a value it refuses is left to it, with the reason, since the old service took it."""
    from llmtune.runs.plans import plan

    known, dropped = source.valid_hyperparameters(kept.hyperparameters)
    paths = {role: str(folder.path / file.path) for role, file in kept.files.items()}
    while True:
        job = _job(kept, paths, backend.name, model, known, judged)
        receipt = plan(job, backend)
        refused = [row for row in receipt.fields if row.support == "invalid" and row.field in known]
        if not refused:
            break
        for row in refused:
            dropped[row.field] = row.reason or "not allowed there"
            del known[row.field]
    relative = {role: file.path for role, file in kept.files.items()}
    saved = job.model_copy(update={"dataset": job.dataset.model_copy(update=relative)})
    folder.write_job(saved)
    folder.write("receipt.json", receipt.model_dump_json(indent=2) + "\n")
    for field, reason in dropped.items():
        folder.keep(note=f"{field} was left to {backend.name}: {reason}")
    for name, value in kept.chosen.items():
        folder.keep(note=f"{name} = {value} was chosen by {kept.provider} itself and is left to {backend.name}")
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
