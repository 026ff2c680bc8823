"""Completion of arguments in the shell: runs, providers, states, models and fields of a job.

A shell asks at every press of a key, so nothing here may fail, print, or reach a network: what cannot be read completes
to nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import wraps
from typing import Any

#: Runs that are offered, newest first.
RUNS = 50

Suggestions = list[tuple[str, str]]


def _quiet(complete: Callable[[str], Iterable[tuple[str, str]]]) -> Callable[[str], Suggestions]:
    @wraps(complete)
    def suggest(incomplete: str) -> Suggestions:
        try:
            return [entry for entry in complete(incomplete) if entry[0].startswith(incomplete)]
        except Exception:  # noqa: BLE001 - a shell that completes must not show a traceback
            return []

    return suggest


@_quiet
def complete_run(incomplete: str) -> Iterable[tuple[str, str]]:
    """Complete a run: names first, each once, then ids."""
    runs = _list_runs()
    for name in dict.fromkeys(run.name for run in runs):
        same = [run for run in runs if run.name == name]
        newest = f"{same[0].state} at {same[0].provider}"
        yield name, newest if len(same) == 1 else f"{len(same)} runs, the newest {newest}"
    for run in runs[:RUNS]:
        yield run.id, f"{run.name}, {run.state} at {run.provider}"


def _list_runs() -> list[Any]:
    """Return the stored runs, newest first; a store that is not there yet is not created for this."""
    from llmtune.config import home, store_url
    from llmtune.runs.store.store import open_store

    if store_url() == f"sqlite:///{home() / 'store.db'}" and not (home() / "store.db").exists():
        return []
    return open_store().run_names()


@_quiet
def complete_provider(incomplete: str) -> Iterable[tuple[str, str]]:
    """Complete the last of the providers in a list (`a,b`)."""
    from llmtune.provider.registry import provider_names

    before, comma, _ = incomplete.rpartition(",")
    listed = set(before.split(","))
    return [(f"{before}{comma}{name}", "") for name in provider_names() if name not in listed]


@_quiet
def complete_state(incomplete: str) -> Iterable[tuple[str, str]]:
    """Complete the state of a run."""
    from llmtune.provider.types import RunState

    return [(state.value, "") for state in RunState]


@_quiet
def complete_job_field(incomplete: str) -> Iterable[tuple[str, str]]:
    """Complete the field of `--set FIELD=VALUE`; hyperparameters by their bare name."""
    from llmtune.job.assignments import list_paths

    return [(f"{path}=", "") for path in list_paths()]


def complete_model(ctx: Any, incomplete: str) -> Suggestions:
    """Complete a base model: of the provider that the command line names, else of all that need no network."""
    named = (getattr(ctx, "params", None) or {}).get("provider") or "local"
    return _quiet(lambda _: [(model, name) for name in str(named).split(",") for model in list_models(name)])(
        incomplete
    )


def list_models(name: str) -> list[str]:
    """Return the base models that a provider's catalogue, this machine and earlier runs name."""
    from llmtune.provider import catalog
    from llmtune.provider.abilities import SuggestsModels
    from llmtune.provider.registry import get_provider

    provider = get_provider(name.strip())
    models: list[str] = []
    path = getattr(provider, "catalog", None)
    if path is not None:
        models += catalog.load(provider.kind, path).models
    if isinstance(provider, SuggestsModels):
        models += provider.list_local_models()
    return list(dict.fromkeys(models))
