"""Weights of a run in another provider's account: exported, uploaded, imported, and recorded before they cost money."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from llmtune.errors import LlmtuneError
from llmtune.provider.abilities import ImportsWeights, WeightImport
from llmtune.provider.types import Ref

if TYPE_CHECKING:
    from llmtune.provider.protocol import Provider
    from llmtune.runs.store.records import RunRecord
    from llmtune.runs.store.store import Store


def require_importer(provider: Provider) -> ImportsWeights:
    """Return the provider as one that takes weights in. Raises `LlmtuneError` for another."""
    if not isinstance(provider, ImportsWeights):
        raise LlmtuneError(
            f"{provider.name} takes in no weights that were trained elsewhere",
            hint="export them to a folder instead: llmtune export RUN --format merged",
        )
    return provider


def find(record: RunRecord, provider: Provider) -> WeightImport | None:
    """Return the import of this run's weights, as the provider reports it; None for none."""
    return require_importer(provider).find_import(record.key)


def start(
    store: Store, record: RunRecord, provider: Provider, folder: Path, export: Callable[[Path], object]
) -> WeightImport:
    """Export, upload and import a run's weights; an import that runs or has succeeded is returned as it is.

    `export` writes the merged weights to a folder, which happens where they are not in `folder` yet.

    That an import was begun, and its cost, is written to the store first; the import's id as soon as
    the provider returns it.
    """
    importer = require_importer(provider)
    current = importer.find_import(record.key)
    if current is None or current.state == "failed":
        if not (folder / "config.json").is_file():
            export(folder)
        name = f"import:{provider.name}"
        store.set_ref(record.id, name, Ref(id="meant", data={"folder": str(folder.absolute())}))
        store.warn(record.id, f"its weights were imported into {provider.name}: {importer.import_cost()}")
        current = importer.import_weights(folder, record.name, record.key)
        store.set_ref(record.id, name, Ref(id=current.id, data={"name": current.name}))
    return current
