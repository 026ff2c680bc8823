"""`rescue_all`: every tuned model of an account, step by step over all of them, so that what may be lost is had first.

The folder of each model is that of an ordinary rescue: any of them can be gone on with by itself.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
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
from llmtune.report.format import count
from llmtune.rescues import evaluate, golden_set, recording, source
from llmtune.rescues.folder import Folder, check_not_held, hold_folder, write_file
from llmtune.rescues.rescue import fetch_rows, rescue_in, write_job
from llmtune.rescues.results import AccountRescue, GoldenSet, ModelRescue
from llmtune.rescues.text import account_page
from llmtune.runs.failpoints import checkpoint
from llmtune.runs.run import Run
from llmtune.runs.store.records import RunRecord
from llmtune.runs.store.store import Store, open_store

if TYPE_CHECKING:
    from llmtune.provider.receipt import Receipt
    from llmtune.report.schema import Report

log = logging.getLogger("llmtune")

#: So many models in a row that a vendor is too unwell to answer for: the others are not tried.
MOST_UNWELL = 3


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
        """The models that pass, newest first; those whose day is not known come last, and pass `since`."""
        passed = [model for model in models if self._passes(model)]
        passed.sort(key=lambda model: (-(model.created or 0.0), model.id))
        return passed[: self.limit]

    def _passes(self, model: RemoteModel) -> bool:
        made = None if model.created is None else datetime.fromtimestamp(model.created, UTC).date()
        if self.since is not None and made is not None and made < self.since:
            return False
        if self.base is not None and not fnmatchcase(model.base or "", self.base):
            return False
        return self.name is None or fnmatchcase(model.id, self.name)


@dataclass
class _Entry:
    """One model under way: where it is, and what there is of it."""

    found: source.Found
    folder: Folder
    error: str | None = None
    asking: recording.Asking | None = None
    questions: golden_set.Questions | None = None
    unwell: bool = field(default=False)
    elsewhere: bool = field(default=False)
    """Whether another process works on it."""


def rescue_all(
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
    """Bring every tuned model of an account home: job, rows and answers of each, in one folder, agreed to once.

    Calling it again goes on where it was: no answer on file is asked for again. A model of which something
    cannot be had stops none of the others; it is named in the summary.

    Args:
        source_provider: the vendor whose account it is.
        to: where the models are trained again.
        model: the new base model of all of them; None with `snapshot_only` keeps each job as it was.
        out: the folder; None is `rescue-VENDOR` in the working folder.
        filters: which models; None takes all.
        max_rows: the most prompts each old model is asked.
        snapshot_only: stop before training.
        deploy: allow a deployment of each old model that answers from none else, one after the other.
        yes: whether what is billed is agreed to.
        budget: the most that answers and training of all models may cost together, in USD.
        allow_unknown_cost: let an unknown price pass under a budget.
        confirm: called once before any model is asked, with the cost of all answers; raises to stop.
        confirm_run: called with the plan before each new run is started; raises to stop.
        follow: waits for a new run (a progress display); None waits quietly.
        say: told in words what is going on.
        patience: how long the vendor is waited for when it is unwell.

    Raises:
        LlmtuneError: the account cannot be listed, no new base model is named, the budget does not hold, or another
            process works on the folder.
    """
    tell = say or (lambda text: log.info("%s", text))
    provider = get_provider(source_provider)
    backend = get_provider(to)
    if not snapshot_only and model is None:
        raise LlmtuneError(
            f"which model shall {backend.name} train?",
            hint="name it with --model MODEL_ID (Python: model=), or save everything first with --snapshot-only",
        )
    listed, notes = _listed(provider)
    models = [each for each in listed if each.checkpoint_of is None]
    chosen = (filters or Filters()).take(models)
    root = Path(out) if out is not None else Path(f"rescue-{provider.name}")
    with hold_folder(root):
        entries = list(_entries(provider, chosen, root, open_store(), tell))
        tell(f"{count(len(entries), 'tuned model')} at {provider.name}")
        checkpoint("rescue-listed")

        def summary() -> AccountRescue:
            return AccountRescue(
                provider=provider.name,
                folder=str(root),
                models=tuple(_summed_up(entry, max_rows) for entry in entries),
                left_out=len(models) - len(chosen),
                checkpoints=len(listed) - len(models),
                notes=notes,
            )

        try:
            for entry in entries:
                _attempt(entry, lambda entry=entry: fetch_rows(entry.folder, entry.found, None, tell))  # type: ignore[misc]
            spent = _prepare(entries, max_rows, deploy, tell)
            _agree(entries, spent, recording.Consent(yes, budget, allow_unknown_cost, confirm))
            _ask(entries, tell, patience)
            for entry in entries:
                if entry.folder.state.source is not None:
                    _attempt(entry, lambda entry=entry: _write_job(entry, backend, model, max_rows))  # type: ignore[misc]
            if not snapshot_only:
                _train(
                    entries, backend, model, max_rows, budget, spent,
                    yes=yes, unknown=allow_unknown_cost, confirm_run=confirm_run, follow=follow, say=tell,
                )  # fmt: skip
        finally:
            if root.is_dir():
                done = summary()
                done = done.model_copy(update={"models": (*done.models, *_earlier(root, done))})
                write_file(root, "summary.json", done.model_dump_json(indent=2) + "\n")
                write_file(root, "summary.md", account_page(done))
        return summary()


def _earlier(root: Path, now: AccountRescue) -> list[ModelRescue]:
    """The models of an earlier call that are none of this one's: left out by filters, or gone from the account."""
    try:
        before = AccountRescue.model_validate_json((root / "summary.json").read_bytes())
    except (OSError, ValueError):
        return []
    known = {model.model for model in now.models}
    return [model for model in before.models if model.model not in known] if before.provider == now.provider else []


def _listed(provider: Provider) -> tuple[list[RemoteModel], tuple[str, ...]]:
    """The account's models, and what is wrong with the list; raises where nothing of it could be had."""
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


def _entries(
    provider: Provider, models: list[RemoteModel], root: Path, store: Store, say: recording.Say
) -> Iterator[_Entry]:
    """Each model with its folder; one that another process works on is left to it."""
    records = _records(provider, store)
    taken: set[Path] = set()
    for model in models:
        folder = _folder_for(model, root, taken, say)
        taken.add(folder.path)
        found = source.Found(provider, None, records.get(model.id), model.id, model)
        entry = _Entry(found, folder)
        try:
            check_not_held(folder.path)
        except LlmtuneError as error:
            entry.error, entry.elsewhere = error.message, True
        yield entry


def _folder_for(model: RemoteModel, root: Path, taken: set[Path], say: recording.Say) -> Folder:
    """The folder that holds this model already, else a new one: by its short name, and where that is another's (or
    something else lies there) by its short name and a digest. Which models are chosen makes no difference."""
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


def _records(provider: Provider, store: Store) -> dict[str, RunRecord]:
    """The runs that made models of the account, by the model: they know which rows were held out."""
    try:
        return {ref.id: record for record, ref in store.tuned() if record.provider == provider.name}
    except StoreError:
        return {}


def _attempt(entry: _Entry, step: Callable[[], object]) -> None:
    """Take a step of one model; what goes wrong with it stays with it."""
    if entry.elsewhere:
        return
    try:
        step()
    except OverBudget:
        raise
    except Exception as error:  # noqa: BLE001 - whatever one model breaks on, the others are brought home
        text = error.message if isinstance(error, LlmtuneError) else f"{type(error).__name__}: {error}"
        entry.error = scrub(text)
        entry.unwell = isinstance(error, TransientError)
    else:
        entry.unwell = False


def _prepare(entries: list[_Entry], max_rows: int, deploy: bool, say: recording.Say) -> float:
    """Find out of each model whether it answers and what that costs; what the answers on file have cost."""
    spent = 0.0

    def prepare(entry: _Entry) -> None:
        nonlocal spent
        kept = entry.folder.state.source
        if kept is None:
            return
        entry.questions = recording.questions_for(entry.folder, kept, None, max_rows)
        spent += recording.answers_cost(entry.folder, entry.found, kept, entry.questions)
        if entry.folder.done("golden"):
            recording.remove_leftover(entry.folder, entry.found, say)
            return
        asking = recording.prepare(entry.folder, entry.found, entry.questions, deploy=deploy)
        if isinstance(asking, recording.Asking):
            entry.asking = asking
        else:
            recording.keep_golden(entry.folder, asking, say)

    for entry in entries:
        _attempt(entry, lambda entry=entry: prepare(entry))  # type: ignore[misc]
    return spent


def _agree(entries: list[_Entry], spent: float, consent: recording.Consent) -> None:
    """Have the cost of all answers agreed to, once."""
    asking = [entry.asking for entry in entries if entry.asking is not None]
    if not asking:
        return
    costs = [each.cost for each in asking if each.cost is not None]
    unknown = len(asking) - len(costs)
    total = sum(costs)
    formula = f"answers of {count(len(asking), 'model')}, {golden_set.at_most(total)} USD"
    if unknown:
        formula += f" besides {unknown} of unknown price ({next(each.formula for each in asking if each.cost is None)})"
    consent.check(None if unknown else total, formula, asking[0].questions.sampling, spent)


def _ask(entries: list[_Entry], say: recording.Say, patience: RetryPolicy | None) -> None:
    unwell = 0
    for entry in entries:
        asking = entry.asking
        if asking is None:
            continue
        if unwell >= MOST_UNWELL:
            entry.error = f"not asked: {entry.found.provider.name} did not answer for {unwell} models in a row"
            continue

        def answer(entry: _Entry = entry, asking: recording.Asking = asking) -> None:
            told = recording.record(entry.folder, entry.found, asking, say, patience)
            recording.keep_golden(entry.folder, told, say)

        _attempt(entry, answer)
        unwell = unwell + 1 if entry.unwell else 0


def _write_job(entry: _Entry, backend: Provider, model: str | None, max_rows: int) -> None:
    judged = entry.questions.spec_alike if entry.questions is not None else evaluate.spec_for(max_rows)
    if not entry.folder.job.exists() or model is not None:
        write_job(entry.folder, entry.found, backend, model, judged, lambda text: log.info("%s", text))


def _train(
    entries: list[_Entry],
    backend: Provider,
    model: str | None,
    max_rows: int,
    budget: float | None,
    spent: float,
    *,
    yes: bool,
    unknown: bool,
    confirm_run: Callable[[Receipt], None] | None,
    follow: Callable[[Run], Report] | None,
    say: recording.Say,
) -> None:
    """Train each model that has its rows, one after the other, by the ordinary rescue of its folder."""
    left = None if budget is None else max(0.0, budget - spent - sum(_cost(entry) for entry in entries))

    def train(entry: _Entry) -> None:
        nonlocal left
        kept = entry.folder.state.source
        assert kept is not None
        answers = recording.answers_cost(entry.folder, entry.found, kept, entry.questions)
        state = rescue_in(
            entry.folder.path, entry.found.model, backend, model=model, source_provider=entry.found.provider.name,
            max_rows=max_rows, yes=yes, budget=None if left is None else left + answers, allow_unknown_cost=unknown,
            confirm_run=confirm_run, follow=follow, say=say,
        )  # fmt: skip
        entry.folder.state = state
        if left is not None and state.run is not None:
            left = max(0.0, left - (open_store().get(state.run).cost.total or 0.0))

    for entry in entries:
        if entry.folder.state.source is not None and "train" in entry.folder.state.source.files:
            _attempt(entry, lambda entry=entry: train(entry))  # type: ignore[misc]


def _cost(entry: _Entry) -> float:
    return (entry.asking.cost or 0.0) if entry.asking is not None else 0.0


def _summed_up(entry: _Entry, max_rows: int) -> ModelRescue:
    state = entry.folder.state
    kept = state.source
    told = state.golden
    answered = told.answered if isinstance(told, GoldenSet) else 0
    if told is None or isinstance(told, NotReported):
        total = min(max_rows, kept.files["test"].rows) if kept is not None and "test" in kept.files else 0
    else:
        total = told.rows
    rows = None
    if kept is not None and "train" in kept.files:
        rows = kept.files["train"].rows
    return ModelRescue(
        model=entry.found.model,
        folder=entry.folder.path.name,
        base=kept.base if kept is not None else entry.found.remote.base or "" if entry.found.remote else "",
        job=entry.folder.job.exists(),
        train_rows=rows,
        questions=total,
        answered=answered,
        run=state.run,
        notes=state.notes,
        error=entry.error,
    )
