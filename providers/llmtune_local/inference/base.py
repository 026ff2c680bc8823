"""The base of local models in use: their folders and options, and that their memory is freed."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

from llmtune_local.libraries import prepare_libraries
from llmtune_local.run_state.schema import WorkerOptions


class LocalModel(ABC):
    """Base or tuned model on this machine, loaded at its first use. Use as a context manager.

    `model` is the base (an id, a folder or `tiny`), `artefact` the folder of an adapter or of a whole tuned model,
    `options` those of the worker (device, dtype, chat template, ...).
    """

    max_concurrency = 1

    def __init__(
        self,
        *,
        model: str,
        artefact: Path | None = None,
        revision: str | None = None,
        options: Mapping[str, Any] | WorkerOptions | None = None,
    ) -> None:
        self.model = model
        self.artefact = artefact
        self.revision = revision
        self.options = options if isinstance(options, WorkerOptions) else WorkerOptions.model_validate(options or {})
        prepare_libraries()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @abstractmethod
    def close(self) -> None:
        """Free the model."""
