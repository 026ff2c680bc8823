"""What stands ready here, and which tuned models are running out of time. Looks only: nothing is sent but lists read.

Each backend is asked by itself: one that cannot answer is a line with its reason, never the end of the look.
"""

from __future__ import annotations

import importlib.metadata
import re
from collections.abc import Iterable, Iterator
from datetime import date
from functools import partial
from pathlib import Path

from llmtune import _clock
from llmtune._models import FrozenModel
from llmtune.config import redact_url, settings, store_url
from llmtune.errors import LlmtuneError, StoreError, UnknownName
from llmtune.planning import support_matrix
from llmtune.provider.abilities import Equipped
from llmtune.provider.intake import list_models
from llmtune.provider.protocol import Provider
from llmtune.provider.registry import get_provider, known_kinds, provider_names
from llmtune.provider.types import Readiness, RemoteModel
from llmtune.redaction.secrets import scrub
from llmtune.runs.store.database import Database
from llmtune.runs.store.records import RunRecord
from llmtune.runs.store.store import UNFINISHED, open_store


class Backend(FrozenModel):
    """Whether one backend could be used from here."""

    name: str
    service: str = ""
    """Whether it takes jobs, and until when, in words."""

    ready: bool = False
    extra: str = ""
    versions: dict[str, str] = {}
    """The installed distributions its extra asks for."""

    credentials: str = ""
    missing_settings: tuple[str, ...] = ()
    machine: dict[str, str] = {}
    """What it would run on, where that is this machine."""

    online: str = "not asked"
    """`answers`, `not asked`, or why it did not answer."""

    hint: str | None = None
    error: str | None = None


class StoreHealth(FrozenModel):
    """Whether the run store can be trusted."""

    url: str
    """Without its password."""

    sound: bool
    runs: int = 0
    unfinished: int = 0
    bytes: int | None = None
    """Size of the file, where it is one."""

    error: str | None = None


class OwnedModel(FrozenModel):
    """A tuned model, and how long it will answer."""

    model: str
    provider: str
    base: str | None = None
    job: str | None = None
    run: str | None = None
    """The run that made it, where the store knows it."""

    answers_until: date | None = None
    """The day on which it stops answering; None: no such day is known."""

    days_left: int | None = None
    """Days from today to that day; 0 or less: it has stopped."""

    unverified: bool = False
    """Whether no page of the vendor's confirms that day."""

    source: str = ""
    """Who says so."""

    checkpoint_of: str | None = None
    """The model whose training left it, where it is a checkpoint."""


class Unseen(FrozenModel):
    """A backend whose tuned models could not be listed."""

    provider: str
    reason: str


def backends(names: Iterable[str] | None = None, *, online: bool = False) -> list[Backend]:
    """Every backend (or those named), ready or not. `online` reads one list from each that has credentials.

    Raises `UnknownName` for a name that is none.
    """
    return [_backend(name, online=online) for name in _asked(names)]


def _asked(names: Iterable[str] | None) -> list[str]:
    known = provider_names()
    asked = list(names) if names else known
    for name in asked:
        if name not in known:
            raise UnknownName("provider", name, known)
    return asked


def _backend(name: str, *, online: bool) -> Backend:
    found = support_matrix.summary(name)
    if "error" in found:
        return Backend(name=name, error=found["error"])
    provider = get_provider(name)
    ready = provider.ready()
    lacking = _lacking(ready)
    said = _reach(provider) if online and lacking is None else "not asked"
    return Backend(
        name=name,
        service=found["status"],
        ready=found["open"] and lacking is None and said in ("not asked", "answers"),
        extra=ready.extra,
        versions=versions(provider.kind),
        credentials=ready.credentials,
        missing_settings=ready.missing_settings,
        machine=dict(provider.machine()) if isinstance(provider, Equipped) and ready.extra != "missing" else {},
        online=said,
        hint=ready.hint,
    )


def _reach(provider: Provider) -> str:
    try:
        next(list_models(provider), None)
    except Exception as error:  # noqa: BLE001 - whatever a backend breaks on, the others are looked at
        return _reason(error)
    return "answers"


def _reason(error: Exception) -> str:
    """Why a backend could not be asked; an error that is none of llmtune's is named by its kind."""
    if isinstance(error, LlmtuneError):
        return scrub(error.message)
    return scrub(f"{type(error).__name__}: {error}".splitlines()[0])


def versions(kind: str) -> dict[str, str]:
    """The distributions that an adapter's extra names and that are installed, with their versions."""
    entry = known_kinds().get(kind)
    if entry is None or entry.dist is None:
        return {}
    found: dict[str, str] = {entry.dist.name: entry.dist.version}
    for requirement in entry.dist.requires or ():
        extra = re.search(r"extra\s*==\s*['\"]([^'\"]+)['\"]", requirement)
        if extra is None or extra[1] != kind:
            continue
        name = re.split(r"[\s\[<>=!~;(]", requirement, maxsplit=1)[0]
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def store_health() -> StoreHealth:
    """Open the store as any command would, and have the database look through itself."""
    url = store_url()
    shown = redact_url(url)
    try:
        store = open_store(url)
        _look_through(store)
        records = store.runs()
    except LlmtuneError as error:
        return StoreHealth(url=shown, sound=False, error=error.message)
    path = Path(url.removeprefix("sqlite:///")) if store.sqlite else None
    return StoreHealth(
        url=shown,
        sound=True,
        runs=len(records),
        unfinished=sum(record.state in UNFINISHED for record in records),
        bytes=path.stat().st_size if path and path.is_file() else None,
    )


def _look_through(store: Database) -> None:
    if not store.sqlite:
        return
    with store.read() as connection:
        said = [str(row[0]) for row in connection.exec_driver_sql("PRAGMA quick_check")]
    if said != ["ok"]:
        raise StoreError(
            f"the store {store.shown} is damaged: {said[0]}", hint="restore it from a backup, or move it away"
        )


def owned_models(names: Iterable[str] | None = None) -> tuple[list[OwnedModel], list[Unseen], list[str]]:
    """Every tuned model that the configured accounts own or the store knows, those with the least time first.

    Second, the backends that could not be asked, or not to their end, each with its reason; of those that nobody named,
    used or configured there is no word. Third, the backends that answered.
    Raises `StoreError` when the store is broken.
    """
    asked = _asked(names)
    meant = set(asked) if names else {*settings().providers}
    store = open_store()
    runs: dict[tuple[str, str], RunRecord] = {}
    for record, ref in store.tuned():
        if record.provider in asked:
            runs[record.provider, ref.id] = record
            meant.add(record.provider)
    models: dict[tuple[str, str], OwnedModel] = {}
    unseen: list[Unseen] = []
    answered: list[str] = []
    for name in asked:
        shown = name in meant
        try:
            provider = get_provider(name)
            ready = provider.ready()
            shown = shown or ready.credentials == "found"
            if lacking := _lacking(ready):
                if shown:
                    unseen.append(Unseen(provider=name, reason=f"not asked: {lacking}"))
                continue
            shown = shown or ready.credentials == "not checked"
            # One by one: what was listed before a list broke is not lost.
            for owned in _owned(provider, runs):
                models[name, owned.model] = owned
            answered.append(name)
        except Exception as error:  # noqa: BLE001 - whatever a backend breaks on, the others are asked
            if shown:  # a service that is gone for all, or was never set up here, is no news
                unseen.append(Unseen(provider=name, reason=_reason(error).removeprefix(f"{name}: ")))
    for (name, model), record in runs.items():
        if (name, model) not in models:
            models[name, model] = _dated(name, RemoteModel(id=model, base=record.model), record)
    return sorted(models.values(), key=partial(_order, models)), unseen, answered


def _order(models: dict[tuple[str, str], OwnedModel], each: OwnedModel) -> tuple[date, str, str, bool, str]:
    """Those with the least time first; a checkpoint stands under its model."""
    head = models.get((each.provider, each.checkpoint_of or each.model), each)
    return (head.answers_until or date.max, head.provider, head.model, head is not each, each.model)


def _owned(provider: Provider, runs: dict[tuple[str, str], RunRecord]) -> Iterator[OwnedModel]:
    for model in list_models(provider):
        yield _dated(provider.name, model, runs.get((provider.name, model.id)))


def _lacking(ready: Readiness) -> str | None:
    if ready.extra == "missing":
        return "its extra is not installed"
    if ready.credentials == "not found":
        return "no credentials found"
    if ready.missing_settings:
        return f"settings missing: {', '.join(ready.missing_settings)}"
    return None


def _dated(provider: str, model: RemoteModel, run: RunRecord | None) -> OwnedModel:
    until, source, unverified = _answers_until(provider, model)
    return OwnedModel(
        model=model.id,
        provider=provider,
        base=model.base,
        job=model.job,
        run=run.id if run else None,
        answers_until=until,
        days_left=None if until is None else (until - _clock.today()).days,
        unverified=unverified,
        source=source,
        checkpoint_of=model.checkpoint_of,
    )


def _answers_until(provider: str, model: RemoteModel) -> tuple[date | None, str, bool]:
    """The day on which a model stops answering (None: not known), who says so, and whether that is unverified."""
    try:
        return date.fromisoformat((model.shutdown or "")[:10]), f"{provider}'s list of models", False
    except ValueError:  # the vendor tells no day, or one that is none
        pass
    try:
        life = support_matrix.ask(get_provider(provider), model.base or model.id).lifecycle
    except LlmtuneError:  # configured no longer
        return None, "", False
    if life.answers_until is None:
        return None, "", False
    return life.answers_until, life.unverified or life.source, bool(life.unverified)
