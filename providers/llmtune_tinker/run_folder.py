"""The folder of a run at Tinker: the local trainer's, with a program, a request and checkpoints of its own.

    request.json               what to train, and where the service is
    sessions.json              the run's sessions, oldest first; written before anything is billed
    checkpoints/step-N/state.json   the address of the state after step N, and the counters
    result.json                addresses of the tuned model, and the final figures

All other files are those of `llmtune_local.run_state.run_dir`.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from llmtune_local.run_state.damage import describe
from llmtune_local.run_state.process import WorkerProgram
from llmtune_local.run_state.run_dir import RunDir, write_atomically
from llmtune_local.run_state.schema import RunRequest

#: What `python -m` runs for a run at Tinker.
WORKER = "llmtune_tinker.worker"


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class Service(_Record):
    """Where the service is. The key itself is in no file."""

    base_url: str
    key_variable: str
    """Name of the environment variable that holds the key."""

    timeout: float
    project_id: str | None = None


class LoopRequest(RunRequest):
    """The task of the worker: the local trainer's request, and what the service is asked for."""

    tokenizer: str | None = None
    """None: that of the model."""

    train_mlp: bool = True
    train_attn: bool = True
    train_unembed: bool = True
    service: Service


class Session(_Record):
    """A session of the run at the service, with the number of models that were opened in it."""

    id: str
    models: int = 0


class Checkpoint(_Record):
    """The state after a step."""

    address: str
    best: str | None = None
    """The state after the best step, with early stopping."""

    progress: dict[str, Any]
    """The counters of `llmtune_local.training.progress.Progress`."""


class LoopResult(_Record):
    """What a finished run has left at the service, and its figures. Losses are in nats per token."""

    model: str
    """The weights that answer."""

    state: str
    """The state that training can continue from."""

    files: str | None = None
    """The weights as files to take home; None where the service could not write them."""

    steps: int
    epochs: float
    train_loss: float
    validation_loss: float | None = None
    base_validation_loss: float | None = None
    best_step: int | None = None
    tokens: int
    trained_tokens: int
    seconds: float


class LoopFolder(RunDir):
    """The folder of one run. `environment` holds what the worker needs besides: the key of the service."""

    request_type = LoopRequest

    def __init__(self, path: str | os.PathLike[str], environment: Mapping[str, str] | None = None) -> None:
        super().__init__(path)
        self.program = WorkerProgram(WORKER, dict(environment or {}))

    def read_loop_request(self) -> LoopRequest:
        """Read the request. Raises as `read_request` does."""
        request = self.read_request()
        assert isinstance(request, LoopRequest)
        return request

    # --- sessions ----------------------------------------------------------------------------------------------------
    def read_sessions(self) -> list[Session]:
        """Return the sessions of the run, oldest first."""
        try:
            return [Session.model_validate(entry) for entry in json.loads((self.path / "sessions.json").read_bytes())]
        except FileNotFoundError:
            return []
        except (OSError, ValueError):
            self.damage["sessions.json"] = describe(self.path / "sessions.json")
            return []

    def write_sessions(self, sessions: list[Session]) -> None:
        """Write the sessions, before anything is done in the last of them."""
        write_atomically(self.path / "sessions.json", json.dumps([entry.model_dump() for entry in sessions]))

    # --- checkpoints and the result ----------------------------------------------------------------------------------
    def read_checkpoint(self, step: int) -> Checkpoint | None:
        """Return the state after a step; None where there is none, or it cannot be read."""
        path = self.path / "checkpoints" / f"step-{step}" / "state.json"
        try:
            return Checkpoint.model_validate_json(path.read_bytes())
        except (OSError, ValidationError):
            return None

    def usable_checkpoints(self, *, best: bool) -> dict[int, Path]:
        """Return the checkpoints that can be continued from; with `best` the best step's state must be known too."""
        usable = {}
        for step, path in self.checkpoints().items():
            checkpoint = self.read_checkpoint(step)
            if checkpoint is not None and (
                checkpoint.best is not None or not best or not checkpoint.progress["best_step"]
            ):
                usable[step] = path
        return usable

    def read_loop_result(self) -> LoopResult | None:
        """Return the result; None before the end, and where it cannot be read."""
        return self._read("result.json", LoopResult)

    def read_result(self) -> None:
        """Return None: the figures are in `read_loop_result`, and a lost status is not made up from them."""
        return

    def write_loop_result(self, result: LoopResult) -> None:
        """Write the result."""
        write_atomically(self.path / "result.json", result.model_dump_json(indent=2))

    def artefact_fault(self) -> str | None:
        """Return why the result is missing; None where it is there."""
        return None if self.read_loop_result() is not None else describe(self.path / "result.json")
