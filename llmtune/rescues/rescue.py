"""`rescue`: move one tuned model to another backend. Each step is saved before the next, for a call after a kill."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from llmtune._retry import RetryPolicy
from llmtune.errors import LlmtuneError
from llmtune.job.spec import DatasetSpec, EvaluationSpec, Hyperparameters, TuningJob
from llmtune.metrics.points import NotReported
from llmtune.provider.protocol import Provider
from llmtune.provider.registry import get_provider
from llmtune.provider.types import RunState
from llmtune.rescues import evaluate, golden_set, recording, source
from llmtune.rescues.folder import Folder, check_not_held, hold_folder
from llmtune.rescues.options import RescueOptions, log_progress
from llmtune.rescues.results import Rescue, RescueReport, RescueSource
from llmtune.rescues.verify import verify_server
from llmtune.runs.api import start
from llmtune.runs.backend import provider_of
from llmtune.runs.failpoints import failpoint
from llmtune.runs.options import check_keywords
from llmtune.runs.run import Run
from llmtune.runs.store.store import open_store
from llmtune.verifications.endpoint import Endpoint

if TYPE_CHECKING:
    from llmtune.provider.receipt import Receipt
    from llmtune.report.schema import Report

log = logging.getLogger("llmtune")


class PlannedJob(NamedTuple):
    """The job for the new backend."""

    job: TuningJob
    receipt: Receipt
    dropped: dict[str, str]
    """Hyperparameters that the new backend refused, with the reason."""


@check_keywords()
def rescue(  # noqa: PLR0913 - users pass keywords
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
    endpoint: str | None = None,
    served_model: str | None = None,
    key_from: str | None = None,
    deploy: bool = False,
    yes: bool = True,
    budget: float | None = None,
    allow_unknown_cost: bool = False,
    confirm: golden_set.Confirm | None = None,
    confirm_run: Callable[[Receipt], None] | None = None,
    follow: Callable[[Run], Report] | None = None,
    say: Callable[[str], None] | None = None,
    patience: RetryPolicy | None = None,
) -> Rescue:
    """Move a tuned model to another backend: fetch what made it, record what it answers, train it again, compare.

    Everything is saved in one folder that can be read without the vendor. Calling it again continues where it was:
    no answer is asked for twice and no job is submitted twice.

    Args:
        model_or_run: a tuned model's id or its job's id at a vendor, or a run of the store (id, its beginning, name).
        to: where it is trained again.
        model: the new base model; None takes the one that the run's job names for `to`.
        source_provider: where the old model is; None asks the store and then every backend with credentials.
        out: the folder; None is `rescue-NAME` in the working folder.
        prompts: a file of prompts (any format llmtune reads) for the golden set, instead of the held-out rows.
        data: a training file of your own, for when the vendor has none any more.
        max_rows: the most prompts the old model is asked.
        snapshot_only: stop before training, once the old model's job, data and answers are saved.
        endpoint: the address of a server that speaks chat completions: it is verified against the old model's answers,
            and nothing is trained.
        served_model: the name to ask that server for; None takes its only model.
        key_from: the environment variable that holds that server's key; None sends none.
        deploy: allow a deployment of the old model, which costs money while it stands, if it answers from nothing
            else; it is removed afterwards.
        yes: whether what is billed (answers of the old model, the new run) is agreed to.
        budget: the most that answers and training may cost together, in USD; an unknown price counts as over it.
        allow_unknown_cost: let an unknown price pass under a budget.
        confirm: called before the old model is asked, with the cost in USD (None: unknown), its formula, and the
            sampling settings; raises to stop.
        confirm_run: called with the plan before the new run is started; raises to stop.
        follow: waits for the new run (a progress display); None waits quietly.
        say: receives progress messages; None logs them.
        patience: the retry policy for the old model's vendor when it is unavailable.

    Raises:
        LlmtuneError: the model was not found, its training rows are gone (and no `data` was given), the new
            backend does not take the job; what was fetched and recorded so far stays in the folder.
        NotJudged: with `endpoint`, there are no answers to verify it against, or nothing answers there.
    """
    options = RescueOptions(
        model=model,
        max_rows=max_rows,
        snapshot_only=snapshot_only,
        server=None if endpoint is None else Endpoint(endpoint, model=served_model, key_from=key_from),
        deploy=deploy,
        yes=yes,
        budget=budget,
        allow_unknown_cost=allow_unknown_cost,
        confirm=confirm,
        confirm_run=confirm_run,
        follow=follow,
        say=say or log_progress,
        patience=patience,
    )
    path = Path(out) if out is not None else Path(f"rescue-{source.short_name(model_or_run)}")
    check_not_held(path.resolve().parent)  # the folder of an account, whose models are asked one after the other
    with hold_folder(path):
        return rescue_in(path, model_or_run, to, options, source_provider=source_provider, prompts=prompts, data=data)


def rescue_in(
    path: Path,
    model_or_run: str,
    to: str | Provider,
    options: RescueOptions,
    *,
    source_provider: str | None,
    prompts: str | os.PathLike[str] | None = None,
    data: str | os.PathLike[str] | None = None,
) -> Rescue:
    """Rescue one model into a folder that the caller holds; the arguments are those of `rescue`."""
    say = options.say
    folder = Folder(path, model_or_run)
    old_model = source.find(model_or_run, source_provider, open_store())
    backend = get_provider(to)
    if not options.snapshot_only and options.server is None:
        choose_base(old_model, backend, options.model)
    old_job = fetch_rows(folder, old_model, None if data is None else str(data), say)
    questions = recording.build_questions(folder, old_job, prompts, options.max_rows)
    if not folder.done("golden"):
        _record_golden_set(folder, old_model, questions, options)
    recording.remove_leftover(folder, old_model, say)
    evaluation_spec = questions.resolved_spec if questions is not None else evaluate.evaluation_spec(options.max_rows)
    planned = write_job(folder, old_model, backend, options.model, evaluation_spec, say)
    if options.server is not None:
        verify_server(folder, questions, options.server, say)
        return folder.state
    if options.snapshot_only:
        say(f"the snapshot is in {folder.path}{_describe_next_step(folder, backend, planned is not None)}")
        return folder.state
    if planned is None:
        why = old_job.gone.get("train", "its job names no file")
        raise LlmtuneError(
            f"the training rows of {old_job.model} cannot be fetched any more: {why}",
            hint=f"pass the file you still have, with the same command: llmtune rescue {model_or_run} --data FILE",
        )
    spent = recording.estimate_answers_cost(folder, old_model, old_job, questions)
    remaining = None if options.budget is None else max(0.0, options.budget - spent)
    run = _start_run(folder, backend, planned, replace(options, budget=remaining))
    say(f"run {run.id} at {backend.name}")
    (options.follow or _wait)(run)
    folder.keep(done="train")
    report = _build_report(folder, questions, run, planned)
    folder.write("report.json", report.to_json())
    folder.write("report.md", report.to_markdown())
    folder.write("report.html", report.to_html())
    folder.keep(report=report, done="report")
    return folder.state


def _record_golden_set(
    folder: Folder,
    old_model: source.OldModel,
    questions: golden_set.Questions | None,
    options: RescueOptions,
) -> None:
    """Ask the old model, once its cost is agreed to, and save its answers."""
    outcome = recording.prepare(folder, old_model, questions, deploy=options.deploy)
    if isinstance(outcome, recording.PreparedQuestions):
        old_job = folder.state.source
        assert old_job is not None
        spent = recording.estimate_answers_cost(folder, old_model, old_job, questions)
        options.check_answers_cost(outcome.cost, outcome.formula, outcome.questions.sampling, spent)
        outcome = recording.record(folder, old_model, outcome, options.say, options.patience)
    recording.save_golden_set(folder, outcome, options.say)


def fetch_rows(folder: Folder, old_model: source.OldModel, data: str | None, say: source.Say) -> RescueSource:
    """Fetch the job and its rows into the folder, once. `data` is a file in place of rows that are gone."""
    if not folder.done("fetch"):
        folder.keep()  # the folder is known as this rescue's from here on, whatever is killed
        failpoint("rescue-fetching")
        fetched = source.fetch(old_model, folder, data=data, store=open_store(), say=say)
        folder.keep(source=fetched, done="fetch")
        for role, reason in fetched.gone.items():
            folder.keep(note=f"the {role} file could not be fetched: {reason}")
        failpoint("rescue-fetched")
    elif folder.state.source is not None and "train" not in folder.state.source.files:
        # Given later, or put where job.yaml names it: what the old model answered stays and is not paid for again.
        by_hand = folder.data / "train.jsonl"
        if data is None and by_hand.is_file():
            data = str(by_hand)
        if data is not None:
            folder.keep(source=source.replace_training_rows(folder.state.source, folder, data))
    assert folder.state.source is not None
    return folder.state.source


def _describe_next_step(folder: Folder, backend: Provider, planned: bool) -> str:
    """Return how the model is trained again from a snapshot, as the end of a sentence."""
    if planned:
        return f"; train it again with: llmtune tune {folder.job} -p {backend.name}"
    old_job = folder.state.source
    if old_job is not None and "train" not in old_job.files:
        return f"; its training rows are gone: put yours at {folder.data / 'train.jsonl'}, or pass --data FILE"
    return "; train it again with the same command, --to PROVIDER and --model MODEL_ID instead of --snapshot-only"


def _wait(run: Run) -> Report:
    return run.wait()


# --- the new run -----------------------------------------------------------------------------------------------------
def choose_base(old_model: source.OldModel, backend: Provider, model: str | None) -> str:
    """Return the new base model. Raises `LlmtuneError` when none is named, before anything is paid for."""
    named = model or _get_named_model(old_model, backend)
    if named is None:
        raise LlmtuneError(
            f"which model shall {backend.name} train?", hint="name it: --model MODEL_ID (Python: model=)"
        )
    return named


def write_job(
    folder: Folder,
    old_model: source.OldModel,
    backend: Provider,
    model: str | None,
    evaluation_spec: EvaluationSpec,
    say: source.Say,
) -> PlannedJob | None:
    """Write job.yaml, and the receipt where the job can be planned.

    Returns None where it cannot: its rows are gone, or no new model is named. job.yaml is the old job then, as far as
    llmtune has names for its settings.
    """
    old_job = folder.state.source
    assert old_job is not None
    if old_job.method not in source.METHODS:
        folder.keep(note=f"no job is written: llmtune does not repeat a {old_job.method} job")
        say(folder.state.notes[-1])
        return None
    named = model or _get_named_model(old_model, backend)
    if named is not None and "train" in old_job.files:
        planned = _plan_job(folder, old_job, backend, named, evaluation_spec)
        failpoint("rescue-job-written")
        return planned
    where, base = (old_job.provider, old_job.base) if named is None else (backend.name, named)
    hyperparameters, dropped = source.valid_hyperparameters(old_job.hyperparameters)
    folder.write_job(_build_job(old_job, {"train": "data/train.jsonl"}, where, base, hyperparameters, evaluation_spec))
    for field, reason in dropped.items():
        folder.keep(note=f"{field} was left out: {reason}")
    if "train" not in old_job.files:
        folder.keep(note="job.yaml names data/train.jsonl, which is gone: put your own copy of the rows there")
    failpoint("rescue-job-written")
    return None


def _build_job(
    old_job: RescueSource,
    paths: dict[str, str],
    provider: str,
    model: str,
    hyperparameters: dict[str, Any],
    evaluation_spec: EvaluationSpec,
) -> TuningJob:
    paths = {role: file.path for role, file in old_job.files.items()} | paths
    share = 0.1 if "validation" not in paths else 0.0
    return TuningJob(
        name=source.short_name(old_job.model),
        dataset=DatasetSpec(
            train=paths["train"],
            validation=paths.get("validation"),
            test=paths.get("test"),
            split=(1.0 - share, share, 0.0),
        ),
        model={provider: model},
        method=old_job.method,  # type: ignore[arg-type]
        hyperparameters=Hyperparameters.model_validate(hyperparameters),
        evaluation=evaluation_spec.model_copy(update={"baselines": None}),
        seed=old_job.seed,
        tags={"rescued": old_job.model[:64]},
    )


def _plan_job(
    folder: Folder, old_job: RescueSource, backend: Provider, model: str, evaluation_spec: EvaluationSpec
) -> PlannedJob:
    """Plan the job at the new backend. A value that it refuses is left out, with the reason."""
    from llmtune.runs.plans import plan

    hyperparameters, dropped = source.valid_hyperparameters(old_job.hyperparameters)
    paths = {role: str(folder.path / file.path) for role, file in old_job.files.items()}
    while True:
        job = _build_job(old_job, paths, backend.name, model, hyperparameters, evaluation_spec)
        receipt = plan(job, backend)
        refused = [row for row in receipt.fields if row.support == "invalid" and row.field in hyperparameters]
        if not refused:
            break
        for row in refused:
            dropped[row.field] = row.reason or "not allowed there"
            del hyperparameters[row.field]
    relative = {role: file.path for role, file in old_job.files.items()}
    saved = job.model_copy(update={"dataset": job.dataset.model_copy(update=relative)})
    folder.write_job(saved)
    folder.write("receipt.json", receipt.model_dump_json(indent=2) + "\n")
    for field, reason in dropped.items():
        folder.keep(note=f"{field} was left to {backend.name}: {reason}")
    for name, value in old_job.chosen.items():
        folder.keep(note=f"{name} = {value} was chosen by {old_job.provider} itself and is left to {backend.name}")
    folder.keep(to=backend.name, done="plan")
    return PlannedJob(job, receipt, dropped)


def _get_named_model(old_model: source.OldModel, backend: Provider) -> str | None:
    if old_model.record is None:
        return None
    try:
        models = old_model.record.tuning_job.model
        return models.get(backend.name) if isinstance(models, dict) else None
    except LlmtuneError:
        return None


def _start_run(folder: Folder, backend: Provider, planned: PlannedJob, options: RescueOptions) -> Run:
    """Start the new run, or return the one that this rescue has started before."""
    if folder.state.run is not None:
        run = Run(folder.state.run)
        same = run.record.provider == backend.name and run.record.model == planned.job.model_for(backend.name)
        # A run that ended without a model is replaced, with consent asked again; a lost one may still be running.
        if same and run.record.state not in (RunState.FAILED, RunState.CANCELLED):
            return run
    yes = options.yes
    if options.confirm_run is not None and backend.hosted and options.budget is None and not yes:
        options.confirm_run(planned.receipt)
        yes = True
    group = f"rescue {folder.state.asked}"[:120]
    run = start(
        planned.job,
        backend,
        yes=yes,
        budget=options.budget,
        allow_unknown_cost=options.allow_unknown_cost,
        reuse=True,
        group=group,
    )
    folder.keep(run=run.id)
    return run


def _build_report(
    folder: Folder, questions: golden_set.Questions | None, run: Run, planned: PlannedJob
) -> RescueReport:
    """Evaluate the new model against the old one, and build the report."""
    from llmtune.evaluation.cache import FileCache
    from llmtune.runs.evaluation import answers_folder, load_same_dataset

    old_job = folder.state.source
    assert old_job is not None
    golden = folder.state.golden or NotReported("it was not recorded")
    answers = golden_set.GoldenFile(folder.golden, questions).answers(questions) if questions is not None else {}
    tuned = run.model_ref
    assert tuned is not None
    provider = provider_of(run.record)
    labels, agreement = evaluate.evaluate_answers(
        questions,
        answers,
        load_same_dataset(run.record).labels,
        provider=provider,
        target=lambda: provider.generator(tuned),
        tuned=tuned,
        cache=FileCache(answers_folder(run.record)),
        why_not=golden.reason if isinstance(golden, NotReported) else "",
    )
    return RescueReport(
        source=old_job,
        provider=run.record.provider,
        model=run.record.model,
        run=run.id,
        golden=golden,
        labels=labels,
        agreement=agreement,
        dropped=planned.dropped,
        lost={row.field: row.reason or "no such setting there" for row in planned.receipt.unsupported()},
        cost=planned.receipt.cost.sentence(),
    )
