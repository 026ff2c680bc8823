"""Which backends are ready, and which tuned models stop answering soon. Read-only: nothing but lists is requested.

Each backend is asked by itself: one that cannot answer is a line with its reason, and the others are still asked.
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
from llmtune.provider.abilities import DescribesHardware, ListsStrays
from llmtune.provider.intake import list_models
from llmtune.provider.protocol import Provider
from llmtune.provider.registry import get_provider, known_kinds, provider_names
from llmtune.provider.types import Readiness, RemoteModel
from llmtune.redaction.secrets import scrub
from llmtune.runs.standing import StandingDeployment, list_standing_deployments
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

    strays: tuple[str, ...] = ()
    """Jobs of llmtune's that run there and cost money, a sentence each; only asked online."""

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


class UnreachableBackend(FrozenModel):
    """A backend whose tuned models could not be listed."""

    provider: str
    reason: str


def backends(names: Iterable[str] | None = None, *, online: bool = False) -> list[Backend]:
    """Check every backend, or those named. With `online`, list the models of each that has credentials.

    Raises `UnknownName` for a name that is no backend's.
    """
    return [_check_backend(name, online=online) for name in _choose_backends(names)]


def _choose_backends(names: Iterable[str] | None) -> list[str]:
    configured = provider_names()
    chosen = list(names) if names else configured
    for name in chosen:
        if name not in configured:
            raise UnknownName("provider", name, configured)
    return chosen


def _check_backend(name: str, *, online: bool) -> Backend:
    summary = support_matrix.summary(name)
    if "error" in summary:
        return Backend(name=name, error=summary["error"])
    provider = get_provider(name)
    ready = provider.ready()
    missing = _describe_missing(ready)
    answer = _try_listing(provider) if online and missing is None else "not asked"
    return Backend(
        name=name,
        service=summary["status"],
        ready=summary["open"] and missing is None and answer in ("not asked", "answers"),
        extra=ready.extra,
        versions=versions(provider.kind),
        credentials=ready.credentials,
        missing_settings=ready.missing_settings,
        machine=dict(provider.describe_hardware())
        if isinstance(provider, DescribesHardware) and ready.extra != "missing"
        else {},
        online=answer,
        strays=tuple(map(scrub, provider.list_strays()))
        if answer == "answers" and isinstance(provider, ListsStrays)
        else (),
        hint=ready.hint,
    )


def _try_listing(provider: Provider) -> str:
    try:
        next(list_models(provider), None)
    except Exception as error:  # noqa: BLE001 - whatever one backend fails on, the others are checked
        return _describe_error(error)
    return "answers"


def _describe_error(error: Exception) -> str:
    """Return why a backend could not be asked; an error that is not llmtune's own is named by its class."""
    if isinstance(error, LlmtuneError):
        return scrub(error.message)
    return scrub(f"{type(error).__name__}: {error}".splitlines()[0])


def versions(kind: str) -> dict[str, str]:
    """Return the installed distributions that a provider's extra names, with their versions."""
    entry = known_kinds().get(kind)
    if entry is None or entry.dist is None:
        return {}
    installed: dict[str, str] = {entry.dist.name: entry.dist.version}
    for requirement in entry.dist.requires or ():
        extra = re.search(r"extra\s*==\s*['\"]([^'\"]+)['\"]", requirement)
        if extra is None or extra[1] != kind:
            continue
        name = re.split(r"[\s\[<>=!~;(]", requirement, maxsplit=1)[0]
        try:
            installed[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return installed


def store_health() -> StoreHealth:
    """Open the store as any command would, and run the database's integrity check."""
    url = store_url()
    safe_url = redact_url(url)
    try:
        store = open_store(url)
        _check_integrity(store)
        records = store.runs()
    except LlmtuneError as error:
        return StoreHealth(url=safe_url, sound=False, error=error.message)
    path = Path(url.removeprefix("sqlite:///")) if store.sqlite else None
    return StoreHealth(
        url=safe_url,
        sound=True,
        runs=len(records),
        unfinished=sum(record.state in UNFINISHED for record in records),
        bytes=path.stat().st_size if path and path.is_file() else None,
    )


def standing_deployments() -> list[StandingDeployment]:
    """Return the deployments that llmtune made and has not removed, each with what a day of it costs."""
    return list_standing_deployments(open_store())


def _check_integrity(store: Database) -> None:
    if not store.sqlite:
        return
    with store.read() as connection:
        problems = [str(row[0]) for row in connection.exec_driver_sql("PRAGMA quick_check")]
    if problems != ["ok"]:
        raise StoreError(
            f"the store {store.shown} is damaged: {problems[0]}", hint="restore it from a backup, or move it away"
        )


def owned_models(names: Iterable[str] | None = None) -> tuple[list[OwnedModel], list[UnreachableBackend], list[str]]:
    """List every tuned model that the configured accounts own or the store knows.

    Returns:
        The models, those that stop answering first coming first; the backends whose list could not be read, or not
        completely, each with its reason (backends that were never named, used or configured are left out); and the
        names of the backends that answered.

    Raises:
        StoreError: the store is broken.
    """
    chosen = _choose_backends(names)
    expected = set(chosen) if names else {*settings().providers}
    store = open_store()
    runs: dict[tuple[str, str], RunRecord] = {}
    for record, ref in store.tuned_models():
        if record.provider in chosen:
            runs[record.provider, ref.id] = record
            expected.add(record.provider)
    models: dict[tuple[str, str], OwnedModel] = {}
    unseen: list[UnreachableBackend] = []
    answered: list[str] = []
    for name in chosen:
        is_expected = name in expected
        try:
            provider = get_provider(name)
            ready = provider.ready()
            is_expected = is_expected or ready.credentials == "found"
            if missing := _describe_missing(ready):
                if is_expected:
                    unseen.append(UnreachableBackend(provider=name, reason=f"not asked: {missing}"))
                continue
            is_expected = is_expected or ready.credentials == "not checked"
            # One by one: what was listed before a list broke is not lost.
            for owned in _list_owned(provider, runs):
                models[name, owned.model] = owned
            answered.append(name)
        except Exception as error:  # noqa: BLE001 - whatever one backend fails on, the others are asked
            if is_expected:  # a service that is gone for all, or was never set up here, is no news
                unseen.append(
                    UnreachableBackend(provider=name, reason=_describe_error(error).removeprefix(f"{name}: "))
                )
    for (name, model), record in runs.items():
        if (name, model) not in models:
            models[name, model] = _build_owned_model(name, RemoteModel(id=model, base=record.model), record)
    return sorted(models.values(), key=partial(_sort_key, models)), unseen, answered


def _sort_key(models: dict[tuple[str, str], OwnedModel], model: OwnedModel) -> tuple[date, str, str, bool, str]:
    """Return the sort key: models that stop answering first come first; a checkpoint follows its model."""
    head = models.get((model.provider, model.checkpoint_of or model.model), model)
    return (head.answers_until or date.max, head.provider, head.model, head is not model, model.model)


def _list_owned(provider: Provider, runs: dict[tuple[str, str], RunRecord]) -> Iterator[OwnedModel]:
    for model in list_models(provider):
        yield _build_owned_model(provider.name, model, runs.get((provider.name, model.id)))


def _describe_missing(ready: Readiness) -> str | None:
    if ready.extra == "missing":
        return "its extra is not installed"
    if ready.credentials == "not found":
        return "no credentials found"
    if ready.missing_settings:
        return f"settings missing: {', '.join(ready.missing_settings)}"
    return None


def _build_owned_model(provider: str, model: RemoteModel, run: RunRecord | None) -> OwnedModel:
    until, source, unverified = _find_end_date(provider, model)
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


def _find_end_date(provider: str, model: RemoteModel) -> tuple[date | None, str, bool]:
    """Return the day on which a model stops answering (None: not known), its source, and whether it is unverified."""
    try:
        return date.fromisoformat((model.shutdown or "")[:10]), f"{provider}'s list of models", False
    except ValueError:  # the vendor tells no day, or one that is none
        pass
    try:
        life = support_matrix.get_capabilities(get_provider(provider), model.base or model.id).lifecycle
    except LlmtuneError:  # configured no longer
        return None, "", False
    if life.answers_until is None:
        return None, "", False
    return life.answers_until, life.unverified or life.source, bool(life.unverified)
