"""Settings of the local trainer alone: of a job (`LocalOptions`), or of a machine (`LocalSettings`)."""

from __future__ import annotations

from pydantic import model_validator

from llmtune.provider import Options, ProviderSettings
from llmtune_local.run_state.schema import WorkerOptions


class LocalOptions(WorkerOptions, Options):
    """Options of the local trainer: where and how fast it runs, and what has no field in the common job."""

    revision: str | None = None
    """Branch, tag or commit of a hub model."""

    @model_validator(mode="after")
    def _one_worker(self) -> LocalOptions:
        if self.launcher == "worker" and self.processes > 1:
            raise ValueError(
                f"launcher worker starts one process, not {self.processes}: leave launcher out, or set it to torchrun"
                " or ray"
            )
        return self


class LocalSettings(ProviderSettings):
    """The folder of local runs."""

    runs: str | None = None
    """Folder of the run folders; None: `local` in llmtune's home."""
