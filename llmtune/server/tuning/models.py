"""Model names: base models are resolved by the model map, tuned models and their checkpoints by their own names."""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmtune.errors import InvalidSettings, LlmtuneError
from llmtune.job.files import read_mapping
from llmtune.provider.protocol import Provider
from llmtune.provider.registry import get_provider
from llmtune.provider.types import AnyRef, ModelRef
from llmtune.runs.api import attach
from llmtune.runs.ids import run_key
from llmtune.runs.run import Run
from llmtune.runs.store.store import Store
from llmtune.server.protocol import RequestError
from llmtune.server.tuning.state import JobRecord, TuningState

log = logging.getLogger("llmtune")

#: Seconds that a local worker gets to exit before its model counts as in use.
ENDING_SECONDS = 20.0
#: The entry of a model map for all names without an entry of their own.
DEFAULT = "default"
_CHECKPOINT = ":ckpt-step-"


@dataclass(frozen=True)
class Target:
    """The target of a model name: a base model at a backend, or (provider "run") the model of a run.

    `model` is the backend's name of the model, or the run's id, followed by `@CHECKPOINT` for a checkpoint.
    """

    provider: str
    model: str

    @classmethod
    def parse(cls, text: str, where: str) -> Target:
        """Read PROVIDER:MODEL or run:ID. Raises `InvalidSettings`."""
        provider, colon, model = text.partition(":")
        if not (provider and colon and model):
            raise InvalidSettings(f"{where}: {text!r} is neither PROVIDER:MODEL nor run:ID", hint="write local:tiny")
        return cls(provider, model)

    def __str__(self) -> str:
        return f"{self.provider}:{self.model}"

    @property
    def run_id(self) -> str | None:
        """Id of the run whose model this is; None for a base model."""
        return self.model.partition("@")[0] if self.provider == "run" else None

    @property
    def checkpoint(self) -> str | None:
        """Checkpoint of that run; None for its final model."""
        return self.model.partition("@")[2] or None if self.provider == "run" else None

    def backend(self) -> Provider:
        """Return the backend of the model. Raises `UnknownName`, `InvalidSettings`, or `RunNotFound`."""
        if self.run_id is not None:
            return attach(self.run_id).provider
        return get_provider(self.provider)


class ModelMap:
    """The base models that clients may name, each with its target."""

    def __init__(self, entries: Mapping[str, str], source: str = "the model map") -> None:
        if not entries:
            raise InvalidSettings(f"{source} is empty", hint="write default: local:tiny")
        self._targets: dict[str, Target] = {}
        for name, text in entries.items():
            if not isinstance(name, str) or not isinstance(text, str):
                raise InvalidSettings(f"{source}: {name!r} must stand for a text such as local:tiny, not {text!r}")
            self._targets[name] = Target.parse(text, f"{source}, {name}")
        for target in self._targets.values():
            target.backend()  # an unknown provider is an error at the start, not at the first request

    @classmethod
    def load(cls, path: Path) -> ModelMap:
        """Read a YAML or JSON file of names and targets."""
        return cls(read_mapping(path), str(path))

    @property
    def names(self) -> list[str]:
        """Names of the entries, without the default."""
        return sorted(set(self._targets) - {DEFAULT})

    @property
    def targets(self) -> list[Target]:
        """Targets of all entries."""
        return list(self._targets.values())

    def get(self, name: str) -> Target | None:
        """Return the target of a base model's name; None when the map has neither it nor a default."""
        if name == DEFAULT:
            return None
        target = self._targets.get(name)
        return target if target is not None or name.startswith("ft:") else self._targets.get(DEFAULT)


@dataclass(frozen=True)
class Resolved:
    """A model with its target, its creation time in Unix seconds, and the job that trained it."""

    name: str
    target: Target
    created: float
    job: JobRecord | None = None

    def describe(self, owner: str) -> dict[str, Any]:
        """Build the model object of the API."""
        owned_by = owner if self.job is not None else "llmtune"
        return {"id": self.name, "object": "model", "created": int(self.created), "owned_by": owned_by}


class Models:
    """The models of the endpoint: those of the map for everybody, and each owner's tuned ones."""

    def __init__(self, models: ModelMap, state: TuningState, store: Store, *, organization: str, since: float) -> None:
        self.map = models
        self.organization = organization
        self._state, self._store, self._since = state, store, since

    def list(self, owner: str) -> Iterator[Resolved]:
        """Yield the models that an owner may ask, those of the map first."""
        for name in self.map.names:
            yield self.find(name, owner)
        for job in self._state.jobs(owner):
            if self._tuned(job) is not None:
                yield Resolved(job.tuned_name, Target("run", job.run_id), job.ended or job.created, job)

    def find(self, name: str, owner: str) -> Resolved:
        """Return the model of that name, if the owner may ask it. Raises `RequestError` (404)."""
        target = self.map.get(name)
        if target is not None:
            return Resolved(name, target, self._since)
        tuned, _, step = name.partition(_CHECKPOINT)
        job = self._state.find_tuned(tuned, owner)
        model = None if job is None else self._tuned(job)
        if job is None or model is None:
            raise self._missing(name, owner)
        run_id = job.run_id
        if step:
            steps = {str(ref.data.get("step")): ref.id for ref in Run(run_id, store=self._store).checkpoints}
            if step not in steps:
                raise self._missing(name, owner)
            run_id = f"{run_id}@{steps[step]}"
        return Resolved(name, Target("run", run_id), job.ended or job.created, job)

    def delete(self, name: str, owner: str) -> None:
        """Delete an owner's tuned model at its backend. Raises `RequestError`."""
        resolved = self.find(name, owner)
        if resolved.job is None or resolved.target.checkpoint is not None:
            raise RequestError(
                403, f"{name} is not a tuned model of this endpoint, so it cannot be deleted", param="model"
            )
        run = Run(resolved.job.run_id, store=self._store)
        for resource in self._store.resources(run.id):
            if resource.type in ("deployment", "model"):
                _delete(run.provider, resource.ref, name)
                self._store.mark_removed(resource)
        self._state.change_job(resolved.job.id, model_deleted=True)

    def _tuned(self, job: JobRecord) -> ModelRef | None:
        """Return the tuned model of a job; None if it has none."""
        if not job.settled or job.model_deleted or job.error is not None:
            return None
        return self._store.ref(job.run_id, "model", ModelRef)

    def _missing(self, name: str, owner: str) -> RequestError:
        jobs = self._state.jobs(owner)[:20]
        names = [*self.map.names, *(job.tuned_name for job in jobs if self._tuned(job) is not None)]
        return RequestError(
            404,
            f"The model '{name}' does not exist; there are {', '.join(names) or 'none yet'}",
            param="model",
            code="model_not_found",
        )


def _delete(provider: Provider, ref: AnyRef, name: str) -> None:
    """Delete a model at its backend. Retried for a while: a local worker that just reported its model may still run."""
    deadline = time.monotonic() + ENDING_SECONDS
    while True:
        try:
            provider.delete(ref)
            return
        except LlmtuneError as error:
            if type(error) is not LlmtuneError:  # a vendor's error, a missing key, ...
                raise RequestError.of(error) from error
            if time.monotonic() > deadline:
                log.warning("%s could not be deleted: %s", name, error.message)
                raise RequestError(409, f"The model '{name}' is in use: try again later", param="model") from error
            time.sleep(0.2)


def tuned_name(model: str, organization: str, suffix: str | None, run_id: str) -> str:
    """Build the name of a tuned model, ft:BASE:ORGANIZATION:SUFFIX:RUN_KEY: clients split it into these five parts."""
    base = model.split(":")[1] if model.startswith("ft:") and model.count(":") >= 4 else model.replace(":", "-")
    return f"ft:{base}:{organization}:{normalize_suffix(suffix)}:{run_key(run_id)}"


def normalize_suffix(suffix: str | None) -> str:
    """Normalise a suffix for a model's name: lower case; everything but letters, digits, _ and - becomes -."""
    return re.sub(r"[^a-z0-9_-]+", "-", (suffix or "").lower()).strip("-")


def checkpoint_name(job: JobRecord, step: int) -> str:
    """Build the name of a checkpoint of a job's model."""
    return f"{job.tuned_name}{_CHECKPOINT}{step}"
