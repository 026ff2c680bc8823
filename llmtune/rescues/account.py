"""`rescue_all`: rescue every tuned model of an account, one step over all of them at a time.

So what may soon be lost is saved first. The folder of each model is that of an ordinary rescue, which can go on
by itself.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING

from llmtune._retry import RetryPolicy
from llmtune.errors import LlmtuneError, OverBudget, StoreError, TransientError
from llmtune.metrics.points import NotReported
from llmtune.provider.intake import list_models
from llmtune.provider.protocol import Provider
from llmtune.provider.registry import get_provider
from llmtune.provider.types import RemoteModel
from llmtune.redaction.secrets import scrub
from llmtune.report import markdown
from llmtune.report.format import count
from llmtune.rescues import evaluate, golden_set, recording, source
from llmtune.rescues.document import account_document
from llmtune.rescues.folder import Folder, check_not_held, hold_folder, write_file
from llmtune.rescues.options import RescueOptions, log_progress
from llmtune.rescues.rescue import fetch_rows, rescue_in, write_job
from llmtune.rescues.results import AccountRescue, GoldenSet, ModelRescue
from llmtune.runs.failpoints import failpoint
from llmtune.runs.options import check_keywords
from llmtune.runs.run import Run
from llmtune.runs.store.records import RunRecord
from llmtune.runs.store.store import Store, open_store

if TYPE_CHECKING:
    from llmtune.provider.receipt import Receipt
    from llmtune.report.schema import Report

log = logging.getLogger("llmtune")

#: The most models in a row that may fail because the vendor is unavailable, before the others are skipped.
MAX_UNAVAILABLE = 3


@dataclass(frozen=True, kw_only=True)
class Filters:
    """Which models of the account are rescued; None takes all.

    `since` is the first day on which they were made; `base` and `name` are patterns (`gpt-4.1*`, `*router*`) of the old
    base model and of the tuned model's id; `limit` takes the newest so many.
    """

    since: date | None = None
    base: str | None = None
    name: str | None = None
    limit: int | None = None

    def take(self, models: list[RemoteModel]) -> list[RemoteModel]:
        """Return the models that pass, newest first; those whose day is not known come last, and pass `since`."""
        passed = [model for model in models if self._passes(model)]
        passed.sort(key=lambda model: (-(model.created or 0.0), model.id))
        return passed[: self.limit]

    def _passes(self, model: RemoteModel) -> bool:
        created_on = None if model.created is None else datetime.fromtimestamp(model.created, UTC).date()
        if self.since is not None and created_on is not None and created_on < self.since:
            return False
        if self.base is not None and not fnmatchcase(model.base or "", self.base):
            return False
        return self.name is None or fnmatchcase(model.id, self.name)


@dataclass
class _Entry:
    """The state of one model while the account is rescued."""

    old_model: source.OldModel
    folder: Folder
    error: str | None = None
    prepared: recording.PreparedQuestions | None = None
    questions: golden_set.Questions | None = None
    is_unavailable: bool = False
    """Whether its vendor did not answer at the last step."""

    is_held: bool = False
    """Whether another process works on it."""


@check_keywords()
def rescue_all(  # noqa: PLR0913 - users pass keywords
    source_provider: str | Provider,
    to: str | Provider = "local",
    *,
    model: str | None = None,
    out: str | os.PathLike[str] | None = None,
    filters: Filters | None = None,
    max_rows: int = 200,
    snapshot_only: bool = False,
    deploy: bool = False,
    yes: bool = True,
    budget: float | None = None,
    allow_unknown_cost: bool = False,
    confirm: golden_set.Confirm | None = None,
    confirm_run: Callable[[Receipt], None] | None = None,
    follow: Callable[[Run], Report] | None = None,
    say: Callable[[str], None] | None = None,
    patience: RetryPolicy | None = None,
) -> AccountRescue:
    """Rescue every tuned model of an account into one folder, with one consent to the cost of all answers.

    Calling it again continues where it was: no answer on file is asked for again. An error with one model does not stop
    the others; it is listed in the summary.

    Args:
        source_provider: the vendor whose account it is.
        to: where the models are trained again.
        model: the new base model of all of them; None with `snapshot_only` keeps each job as it was.
        out: the folder; None is `rescue-VENDOR` in the working folder.
        filters: which models; None takes all.
        max_rows: the most prompts each old model is asked.
        snapshot_only: stop before training.
        deploy: allow a deployment of each old model that answers from nothing else, one after the other.
        yes: whether what is billed is agreed to.
        budget: the most that answers and training of all models may cost together, in USD.
        allow_unknown_cost: let an unknown price pass under a budget.
        confirm: called once before any model is asked, with the cost of all answers; raises to stop.
        confirm_run: called with the plan before each new run is started; raises to stop.
        follow: waits for a new run (a progress display); None waits quietly.
        say: receives progress messages; None logs them.
        patience: the retry policy for the vendor when it is unavailable.

    Raises:
        LlmtuneError: the account cannot be listed, no new base model is named, the budget does not hold, or another
            process works on the folder.
    """
    options = RescueOptions(
        model=model,
        max_rows=max_rows,
        snapshot_only=snapshot_only,
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
    provider = get_provider(source_provider)
    backend = get_provider(to)
    if not snapshot_only and model is None:
        raise LlmtuneError(
            f"which model shall {backend.name} train?",
            hint="name it with --model MODEL_ID (Python: model=), or save everything first with --snapshot-only",
        )
    listed, notes = _list_models(provider)
    models = [remote for remote in listed if remote.checkpoint_of is None]
    chosen = (filters or Filters()).take(models)
    root = Path(out) if out is not None else Path(f"rescue-{provider.name}")
    with hold_folder(root):
        entries = list(_open_entries(provider, chosen, root, open_store(), options.say))
        options.say(f"{count(len(entries), 'tuned model')} at {provider.name}")
        failpoint("rescue-listed")

        def summary() -> AccountRescue:
            return AccountRescue(
                provider=provider.name,
                folder=str(root),
                models=tuple(_summarize(entry, max_rows) for entry in entries),
                left_out=len(models) - len(chosen),
                checkpoints=len(listed) - len(models),
                notes=notes,
            )

        try:
            _rescue_entries(entries, backend, options)
        finally:
            if root.is_dir():
                saved = summary()
                saved = saved.model_copy(update={"models": (*saved.models, *_read_earlier_models(root, saved))})
                write_file(root, "summary.json", saved.model_dump_json(indent=2) + "\n")
                write_file(root, "summary.md", markdown.render(account_document(saved)))
        return summary()


def _rescue_entries(entries: list[_Entry], backend: Provider, options: RescueOptions) -> None:
    """Take each step for every model, before the next step is taken for any."""
    for entry in entries:
        _try_step(entry, lambda entry=entry: fetch_rows(entry.folder, entry.old_model, None, options.say))  # type: ignore[misc]
    spent = _prepare(entries, options)
    _confirm_costs(entries, spent, options)
    _ask_models(entries, options)
    for entry in entries:
        if entry.folder.state.source is not None:
            _try_step(entry, lambda entry=entry: _write_job(entry, backend, options))  # type: ignore[misc]
    if not options.snapshot_only:
        _train(entries, backend, spent, options)


def _read_earlier_models(root: Path, now: AccountRescue) -> list[ModelRescue]:
    """Read the models of an earlier call that are not in this one: left out by filters, or gone from the account."""
    try:
        before = AccountRescue.model_validate_json((root / "summary.json").read_bytes())
    except (OSError, ValueError):
        return []
    current_ids = {model.model for model in now.models}
    return (
        [model for model in before.models if model.model not in current_ids] if before.provider == now.provider else []
    )


def _list_models(provider: Provider) -> tuple[list[RemoteModel], tuple[str, ...]]:
    """List the account's models, with a note where the list is incomplete. Raises when none could be read."""
    ready = provider.ready()
    if ready.extra == "missing" or ready.credentials == "not found" or ready.missing_settings:
        missing = ", ".join(ready.missing_settings) or "its extra or its key"
        raise LlmtuneError(f"{provider.name} is not set up here: {missing}", hint=ready.hint)
    models: list[RemoteModel] = []
    try:
        for model in list_models(provider):
            models.append(model)  # noqa: PERF402 - what was listed before the list broke is kept
    except LlmtuneError as error:
        if not models:
            raise
        return models, (f"the list of models is not whole: {scrub(error.message)}",)
    return models, ()


def _open_entries(
    provider: Provider, models: list[RemoteModel], root: Path, store: Store, say: recording.Say
) -> Iterator[_Entry]:
    """Yield each model with its folder; a folder that another process holds is marked as an error."""
    records = _find_records(provider, store)
    taken: set[Path] = set()
    for model in models:
        folder = _folder_for(model, root, taken, say)
        taken.add(folder.path)
        old_model = source.OldModel(provider, None, records.get(model.id), model.id, model)
        entry = _Entry(old_model, folder)
        try:
            check_not_held(folder.path)
        except LlmtuneError as error:
            entry.error, entry.is_held = error.message, True
        yield entry


def _folder_for(model: RemoteModel, root: Path, taken: set[Path], say: recording.Say) -> Folder:
    """Return the folder that holds this model already, else a new one, whichever models are chosen.

    It is named by the model's short name; where that folder is another's, by the short name and a digest.
    """
    name = source.short_name(model.id)
    paths = (root / name, root / f"{name}-{source.digest(model.id)}")
    free = [path for path in paths if path not in taken]
    for path in sorted(free, key=lambda path: not (path / "rescue.json").exists()):
        try:
            return Folder(path, model.id)
        except LlmtuneError as error:
            unusable = error
            say(f"{error.message}: {model.id} goes into a folder beside it")
    raise unusable


def _find_records(provider: Provider, store: Store) -> dict[str, RunRecord]:
    """Return the runs that made models of the account, by model id: they know which rows were held out."""
    try:
        return {ref.id: record for record, ref in store.tuned_models() if record.provider == provider.name}
    except StoreError:
        return {}


def _try_step(entry: _Entry, step: Callable[[], object]) -> None:
    """Run one step for one model; an error is recorded with it, and the other models go on."""
    if entry.is_held:
        return
    try:
        step()
    except OverBudget:
        raise
    except Exception as error:  # noqa: BLE001 - whatever one model breaks on, the others are brought home
        text = error.message if isinstance(error, LlmtuneError) else f"{type(error).__name__}: {error}"
        entry.error = scrub(text)
        entry.is_unavailable = isinstance(error, TransientError)
    else:
        entry.is_unavailable = False


def _prepare(entries: list[_Entry], options: RescueOptions) -> float:
    """Find out whether each model answers, and at what cost. Returns the cost in USD of the answers on file."""
    spent = 0.0

    def prepare(entry: _Entry) -> None:
        nonlocal spent
        old_job = entry.folder.state.source
        if old_job is None:
            return
        entry.questions = recording.build_questions(entry.folder, old_job, None, options.max_rows)
        spent += recording.estimate_answers_cost(entry.folder, entry.old_model, old_job, entry.questions)
        if entry.folder.done("golden"):
            recording.remove_leftover(entry.folder, entry.old_model, options.say)
            return
        outcome = recording.prepare(entry.folder, entry.old_model, entry.questions, deploy=options.deploy)
        if isinstance(outcome, recording.PreparedQuestions):
            entry.prepared = outcome
        else:
            recording.save_golden_set(entry.folder, outcome, options.say)

    for entry in entries:
        _try_step(entry, lambda entry=entry: prepare(entry))  # type: ignore[misc]
    return spent


def _confirm_costs(entries: list[_Entry], spent: float, options: RescueOptions) -> None:
    """Ask once for consent to the cost of all answers. Raises `OverBudget`."""
    prepared = [entry.prepared for entry in entries if entry.prepared is not None]
    if not prepared:
        return
    total = sum(questions.cost or 0.0 for questions in prepared)
    unknown = [questions.formula for questions in prepared if questions.cost is None]
    formula = f"answers of {count(len(prepared), 'model')}, {golden_set.format_upper_bound(total)} USD"
    if unknown:
        formula += f" besides {len(unknown)} of unknown price ({unknown[0]})"
    options.check_answers_cost(None if unknown else total, formula, prepared[0].questions.sampling, spent)


def _ask_models(entries: list[_Entry], options: RescueOptions) -> None:
    """Ask each model its questions, until the vendor is unavailable for several in a row."""
    unavailable = 0
    for entry in entries:
        prepared = entry.prepared
        if prepared is None:
            continue
        if unavailable >= MAX_UNAVAILABLE:
            provider = entry.old_model.provider
            entry.error = f"not asked: {provider.name} did not answer for {unavailable} models in a row"
            continue

        def answer(entry: _Entry = entry, prepared: recording.PreparedQuestions = prepared) -> None:
            golden = recording.record(entry.folder, entry.old_model, prepared, options.say, options.patience)
            recording.save_golden_set(entry.folder, golden, options.say)

        _try_step(entry, answer)
        unavailable = unavailable + 1 if entry.is_unavailable else 0


def _write_job(entry: _Entry, backend: Provider, options: RescueOptions) -> None:
    questions = entry.questions
    spec = questions.resolved_spec if questions is not None else evaluate.evaluation_spec(options.max_rows)
    if not entry.folder.job.exists() or options.model is not None:
        write_job(entry.folder, entry.old_model, backend, options.model, spec, log_progress)


def _train(entries: list[_Entry], backend: Provider, spent: float, options: RescueOptions) -> None:
    """Train each model that has training rows, one after the other, by the ordinary rescue of its folder."""
    remaining = options.budget
    if remaining is not None:
        remaining = max(0.0, remaining - spent - sum(_get_cost(entry) for entry in entries))

    def train(entry: _Entry) -> None:
        nonlocal remaining
        old_job = entry.folder.state.source
        assert old_job is not None
        answers = recording.estimate_answers_cost(entry.folder, entry.old_model, old_job, entry.questions)
        budget = None if remaining is None else remaining + answers  # the rescue of one model deducts its answers again
        entry.folder.state = rescue_in(
            entry.folder.path,
            entry.old_model.model,
            backend,
            replace(options, budget=budget, deploy=False, confirm=None, patience=None),
            source_provider=entry.old_model.provider.name,
        )
        run = entry.folder.state.run
        if remaining is not None and run is not None:
            remaining = max(0.0, remaining - (open_store().get(run).cost.total or 0.0))

    for entry in entries:
        if entry.folder.state.source is not None and "train" in entry.folder.state.source.files:
            _try_step(entry, lambda entry=entry: train(entry))  # type: ignore[misc]


def _get_cost(entry: _Entry) -> float:
    return (entry.prepared.cost or 0.0) if entry.prepared is not None else 0.0


def _summarize(entry: _Entry, max_rows: int) -> ModelRescue:
    state = entry.folder.state
    old_job = state.source
    golden = state.golden
    answered = golden.answered if isinstance(golden, GoldenSet) else 0
    if golden is None or isinstance(golden, NotReported):
        total = min(max_rows, old_job.files["test"].rows) if old_job is not None and "test" in old_job.files else 0
    else:
        total = golden.rows
    rows = None
    if old_job is not None and "train" in old_job.files:
        rows = old_job.files["train"].rows
    return ModelRescue(
        model=entry.old_model.model,
        folder=entry.folder.path.name,
        base=old_job.base
        if old_job is not None
        else entry.old_model.remote.base or ""
        if entry.old_model.remote
        else "",
        job=entry.folder.job.exists(),
        train_rows=rows,
        questions=total,
        answered=answered,
        run=state.run,
        notes=state.notes,
        error=entry.error,
    )
