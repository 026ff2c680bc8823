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
    def _processes_fit(self) -> LocalOptions:
        if self.launcher == "worker" and self.processes > 1:
            raise ValueError(
                f"launcher worker starts one process, not {self.processes}: leave launcher out, or set it to torchrun"
                " or ray"
            )
        if self.processes % self.nodes:
            raise ValueError(f"{self.processes} processes cannot be divided equally among {self.nodes} nodes")
        if self.nodes > 1 and self.launcher == "ray":
            raise ValueError("nodes goes with torchrun: a Ray cluster spreads the processes itself, leave nodes out")
        if self.nodes > 1 and not _is_address(self.rendezvous):
            raise ValueError(
                f"{self.nodes} nodes need rendezvous: HOST:PORT, the machine that the run is started on and a free port"
            )
        return self


def _is_address(text: str | None) -> bool:
    host, _, port = (text or "").rpartition(":")
    return bool(host) and port.isdigit() and 0 < int(port) < 1 << 16


class LocalSettings(ProviderSettings):
    """The folder of local runs."""

    runs: str | None = None
    """Folder of the run folders; None: `local` in llmtune's home."""
