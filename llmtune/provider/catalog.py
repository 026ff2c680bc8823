"""Catalogues: model ids, limits, prices and lifecycle dates as data, each with a source and the day it was checked.

Catalogues age, so an unknown model id is a warning with the nearest known ids, never a refusal; and a catalogue of
the user's own (`catalog.toml` in the configuration folder, or `LLMTUNE_CATALOG`) is laid over ours.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from datetime import date
from functools import cache
from pathlib import Path
from typing import Any

from llmtune.errors import InvalidSettings, UnknownName, did_you_mean
from llmtune.provider.limits import Lifecycle, Price


@dataclass(frozen=True, kw_only=True)
class ModelEntry:
    """What is known of one base model at one vendor. `facts` are the vendor's own extra columns.

    `family` chooses the declarations that hold for it; `methods` and `adapters` are those it can be tuned with
    (empty: whatever the provider offers). `price` and `lifecycle` are its own (`lifecycle` None: the provider's);
    `max_tokens_per_row` is its longest row. `checked` is the day on which `source` said so.
    """

    id: str
    family: str
    methods: tuple[str, ...] = ("sft",)
    adapters: tuple[str, ...] = ()
    price: Price = field(default_factory=Price)
    lifecycle: Lifecycle | None = None
    max_tokens_per_row: int | None = None
    source: str = ""
    checked: date | None = None
    overlaid: bool = False
    """Whether the user's own catalogue changed it."""

    facts: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Catalog:
    """One provider's catalogue, the user's overlay included.

    `models` are the entries by id; `lifecycle` is that of the service as a whole.
    """

    provider: str
    lifecycle: Lifecycle
    models: Mapping[str, ModelEntry]
    default: ModelEntry
    """What holds for a model that is not listed: the default family."""

    def model(self, id: str) -> tuple[ModelEntry, tuple[str, ...]]:
        """The entry of a model id, and warnings: an unknown id answers the default family and names the nearest."""
        if id in self.models:
            return self.models[id], ()
        near = did_you_mean(id, self.models, limit=3)
        hint = f"; nearest known: {', '.join(near)}" if near else ""
        warning = f"model {id!r} is not in the catalogue of {self.provider}{hint}"
        return ModelEntry(**{**_shallow(self.default), "id": id}), (warning,)


def _shallow(entry: ModelEntry) -> dict[str, Any]:
    return {each.name: getattr(entry, each.name) for each in fields(entry)}


def overlay_path() -> Path:
    """Where the user's own catalogue is looked for."""
    if path := os.environ.get("LLMTUNE_CATALOG"):
        return Path(path)
    from platformdirs import user_config_path

    return user_config_path("llmtune", appauthor=False) / "catalog.toml"


def load(provider: str, path: Path) -> Catalog:
    """Read a provider's `catalog.toml` and lay the user's over it. Raises `InvalidSettings` for a broken overlay."""
    overlay_file = overlay_path()
    stamp = overlay_file.stat().st_mtime_ns if overlay_file.is_file() else 0
    return _load(provider, path, overlay_file, stamp)


@cache
def _load(provider: str, path: Path, overlay_file: Path, stamp: int) -> Catalog:
    data = tomllib.loads(path.read_text(encoding="utf-8"))
    overlay = _read_overlay(overlay_file).get(provider, {}) if stamp else {}
    try:
        lifecycle = _record(Lifecycle, data.get("lifecycle", {}) | overlay.get("lifecycle", {}))
        default = _entry("", data.get("default", {"family": provider}), {})
        ids = [
            *data.get("models", {}),
            *(id for id in overlay.get("models", {}) if id not in data.get("models", {})),
        ]
        models = {
            id: _entry(id, data.get("models", {}).get(id, {}), overlay.get("models", {}).get(id, {}), default)
            for id in ids
        }
    except UnknownName as error:
        source = overlay_file if overlay else path
        raise InvalidSettings(f"{source}: {error.message}") from None
    return Catalog(provider=provider, lifecycle=lifecycle, models=models, default=default)


def _read_overlay(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InvalidSettings(f"{path}: broken TOML: {error}") from None


def _entry(id: str, ours: dict[str, Any], theirs: dict[str, Any], default: ModelEntry | None = None) -> ModelEntry:
    row = dict(ours)
    if theirs:
        row |= {"source": f"your catalogue ({theirs.get('source', 'no source given')})"} | {
            key: value for key, value in theirs.items() if key not in ("price", "lifecycle", "source")
        }
        for part in ("price", "lifecycle"):
            if part in theirs:
                row[part] = dict(ours.get(part, {})) | theirs[part]
    own = {each.name for each in fields(ModelEntry)} - {"id", "facts", "overlaid"}
    facts = {key: value for key, value in row.items() if key not in own}
    values: dict[str, Any] = {key: value for key, value in row.items() if key in own}
    if "family" not in values:
        if default is None:
            raise UnknownName("catalogue key", "family", own)
        values["family"] = default.family
    for part in ("methods", "adapters"):
        if part in values:
            values[part] = tuple(values[part])
    if "price" in values:
        values["price"] = _record(Price, values["price"])
    if "lifecycle" in values:
        values["lifecycle"] = _record(Lifecycle, values["lifecycle"])
    return ModelEntry(id=id, facts=facts, overlaid=bool(theirs), **values)


def _record(cls: type[Any], row: dict[str, Any]) -> Any:
    known = {each.name for each in fields(cls)}
    for key in row:
        if key not in known:
            raise UnknownName(f"{cls.__name__.lower()} key", key, known)
    return cls(**{key: tuple(value) if isinstance(value, list) else value for key, value in row.items()})
