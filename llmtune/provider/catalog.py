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

from llmtune.config import price_file
from llmtune.errors import InvalidSettings, UnknownName, did_you_mean
from llmtune.provider.limits import PRICE_UNITS, Lifecycle, Price
from llmtune.provider.live_prices import live_price_path, read_live_prices
from llmtune.provider.price_file import read_price_file


@dataclass(frozen=True, kw_only=True)
class ModelEntry:
    """The catalogue entry of one base model at one vendor. `facts` are the vendor's own extra columns.

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
        """Return the entry of a model id, and warnings: an unknown id gets the default entry and the nearest known
        ids."""
        if id in self.models:
            return self.models[id], ()
        suggestions = did_you_mean(id, self.models, limit=3)
        hint = f"; nearest known: {', '.join(suggestions)}" if suggestions else ""
        warning = f"model {id!r} is not in the catalogue of {self.provider}{hint}"
        return ModelEntry(**{**_field_values(self.default), "id": id}), (warning,)


def _field_values(entry: ModelEntry) -> dict[str, Any]:
    return {field.name: getattr(entry, field.name) for field in fields(entry)}


def overlay_path() -> Path:
    """Return the path of the user's own catalogue."""
    if path := os.environ.get("LLMTUNE_CATALOG"):
        return Path(path)
    from platformdirs import user_config_path

    return user_config_path("llmtune", appauthor=False) / "catalog.toml"


def load(provider: str, path: Path) -> Catalog:
    """Read a provider's `catalog.toml` and lay the user's catalogue and prices over it, and under them live prices.

    Raises `InvalidSettings` where a file of the user's is broken.
    """
    overlays = tuple((file, _stamp(file)) for file in (overlay_path(), price_file(), live_price_path()))
    return _load(provider, path, *overlays)


def _stamp(file: Path) -> int:
    """Return when a file was changed, so that a changed one is read again; 0 where there is none."""
    return file.stat().st_mtime_ns if file.is_file() else 0


@cache
def _load(
    provider: str,
    path: Path,
    overlay_stamp: tuple[Path, int],
    price_stamp: tuple[Path, int],
    live_stamp: tuple[Path, int],
) -> Catalog:
    data = tomllib.loads(path.read_text(encoding="utf-8"))
    overlay_file, stamp = overlay_stamp
    overlay = _read_overlay(overlay_file).get(provider, {}) if stamp else {}
    if live_stamp[1]:
        data = _add_live_prices(data, read_live_prices(live_stamp[0], provider))
    if price_stamp[1]:
        overlay = _add_prices(overlay, read_price_file(price_stamp[0]).get(provider, {}))
    try:
        lifecycle = _build_record(Lifecycle, data.get("lifecycle", {}) | overlay.get("lifecycle", {}))
        default = _build_entry("", data.get("default", {"family": provider}), {})
        ids = [
            *data.get("models", {}),
            *(id for id in overlay.get("models", {}) if id not in data.get("models", {})),
        ]
        models = {
            id: _build_entry(id, data.get("models", {}).get(id, {}), overlay.get("models", {}).get(id, {}), default)
            for id in ids
        }
    except UnknownName as error:
        source = overlay_file if overlay else path
        raise InvalidSettings(f"{source}: {error.message}") from None
    return Catalog(provider=provider, lifecycle=lifecycle, models=models, default=default)


def _add_live_prices(data: dict[str, Any], prices: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Lay the prices that the service answered over those of the shipped catalogue; only for models that it has."""
    models = dict(data.get("models", {}))
    for model in models.keys() & prices.keys():
        shipped, live = dict(models[model].get("price", {})), prices[model]
        sources = {**shipped.get("sources", {}), **live["sources"]}
        if "region" in live and any(name in shipped and name not in live for name in PRICE_UNITS):
            live = {**live, "region": f"{live['region']}; the others: {shipped.get('region') or 'no region named'}"}
        models[model] = {**models[model], "price": {**shipped, **live, "sources": sources}}
    return {**data, "models": models}


def _add_prices(overlay: dict[str, Any], prices: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Lay the prices of the user's price file over those of the user's catalogue."""
    models = dict(overlay.get("models", {}))
    for model, price in prices.items():
        row = dict(models.get(model, {}))
        models[model] = row | {"price": {**row.get("price", {}), **price}}
    return overlay | {"models": models}


def _read_overlay(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InvalidSettings(f"{path}: broken TOML: {error}") from None


def _build_entry(
    id: str, shipped: dict[str, Any], overlay: dict[str, Any], default: ModelEntry | None = None
) -> ModelEntry:
    row = dict(shipped)
    if set(overlay) - {"price"}:
        row |= {"source": f"your catalogue ({overlay.get('source', 'no source given')})"} | {
            key: value for key, value in overlay.items() if key not in ("price", "lifecycle", "source")
        }
    if overlay:
        for part in ("price", "lifecycle"):
            if part in overlay:
                row[part] = dict(shipped.get(part, {})) | overlay[part]
        if "price" in overlay:
            row["price"] = _keep_sources(shipped.get("price", {}), overlay["price"])
    field_names = {field.name for field in fields(ModelEntry)} - {"id", "facts", "overlaid"}
    facts = {key: value for key, value in row.items() if key not in field_names}
    values: dict[str, Any] = {key: value for key, value in row.items() if key in field_names}
    if "family" not in values:
        if default is None:
            raise UnknownName("catalogue key", "family", field_names)
        values["family"] = default.family
    for part in ("methods", "adapters"):
        if part in values:
            values[part] = tuple(values[part])
    if "price" in values:
        values["price"] = _build_record(Price, values["price"])
    if "lifecycle" in values:
        values["lifecycle"] = _build_record(Lifecycle, values["lifecycle"])
    return ModelEntry(id=id, facts=facts, overlaid=bool(overlay), **values)


def _keep_sources(shipped: Mapping[str, Any], overlay: Mapping[str, Any]) -> dict[str, Any]:
    """Lay prices over ours; a price that stays ours keeps its page."""
    own_sources = {
        name: shipped.get("sources", {}).get(name, shipped.get("source", ""))
        for name in PRICE_UNITS
        if name in shipped and name not in overlay
    }
    return {**shipped, **overlay, "sources": own_sources | dict(overlay.get("sources", {}))}


def _build_record(cls: type[Any], row: dict[str, Any]) -> Any:
    field_names = {field.name for field in fields(cls)}
    for key in row:
        if key not in field_names:
            raise UnknownName(f"{cls.__name__.lower()} key", key, field_names)
    return cls(**{key: tuple(value) if isinstance(value, list) else value for key, value in row.items()})
