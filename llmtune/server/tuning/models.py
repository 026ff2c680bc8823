"""Which model a name stands for: base models by the model map, tuned ones and their checkpoints by their own names."""

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
from llmtune.server.protocol import Refused
from llmtune.server.tuning.state import JobRecord, TuningState

log = logging.getLogger("llmtune")

#: Seconds that a worker of this machine is given to end before its model counts as in use.
ENDING_SECONDS = 20.0
#: The entry of a model map that every name stands for which has none of its own.
DEFAULT = "default"
_CHECKPOINT = ":ckpt-step-"


@dataclass(frozen=True)
class Target:
    """What a name in the model map stands for: a base model at a backend, or (PROVIDER "run") a run's model.

    `model` is the backend's own name of it, or the run's id with `@CHECKPOINT` where one is meant.
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
        """The run whose model it is; None for a base model."""
        return self.model.partition("@")[0] if self.provider == "run" else None

    @property
    def checkpoint(self) -> str | None:
        """The checkpoint of that run, where one is named."""
        return self.model.partition("@")[2] or None if self.provider == "run" else None

    def backend(self) -> Provider:
        """The backend that trains it. Raises `UnknownName`, `InvalidSettings`, or `RunNotFound`."""
        if self.run_id is not None:
            return attach(self.run_id).provider
        return get_provider(self.provider)


class ModelMap:
    """The base models that clients may name, and what each stands for at a backend."""

    def __init__(self, entries: Mapping[str, str], source: str = "the model map") -> None:
        if not entries:
            raise InvalidSettings(f"{source} is empty", hint="write default: local:tiny")
        self._targets: dict[str, Target] = {}
        for name, text in entries.items():
            if not isinstance(name, str) or not isinstance(text, str):
                raise InvalidSettings(f"{source}: {name!r} must stand for a text such as local:tiny, not {text!r}")
            self._targets[name] = Target.parse(text, f"{source}, {name}")
        for target in self._targets.values():
            target.backend()  # an unknown name is found before a client asks

    @classmethod
    def load(cls, path: Path) -> ModelMap:
        """Read a YAML or JSON file of names and targets."""
        return cls(read_mapping(path), str(path))

    @property
    def names(self) -> list[str]:
        """The names of their own, without the default."""
        return sorted(set(self._targets) - {DEFAULT})

    @property
    def targets(self) -> list[Target]:
        """What the names stand for."""
        return list(self._targets.values())

    def get(self, name: str) -> Target | None:
        """What a base model's name stands for; None when the map has neither it nor a default."""
        if name == DEFAULT:
            return None
        target = self._targets.get(name)
        return target if target is not None or name.startswith("ft:") else self._targets.get(DEFAULT)


@dataclass(frozen=True)
class Resolved:
    """A model by its name: where it is, since when, and the job that made it."""

    name: str
    target: Target
    created: float
    job: JobRecord | None = None

    def listed(self, owner: str) -> dict[str, Any]:
        """As the API lists it."""
        owned_by = owner if self.job is not None else "llmtune"
        return {"id": self.name, "object": "model", "created": int(self.created), "owned_by": owned_by}


class Models:
    """Every model of the endpoint."""

    def __init__(self, models: ModelMap, state: TuningState, store: Store, *, organization: str, since: float) -> None:
        self.map = models
        self.organization = organization
        self._state, self._store, self._since = state, store, since

    def __iter__(self) -> Iterator[Resolved]:
        for name in self.map.names:
            yield self.find(name)
        for job in self._state.jobs():
            if self._tuned(job) is not None:
                yield self.find(job.tuned_name)

    def find(self, name: str) -> Resolved:
        """The model of that name. Raises `Refused` (404)."""
        target = self.map.get(name)
        if target is not None:
            return Resolved(name, target, self._since)
        tuned, _, step = name.partition(_CHECKPOINT)
        job = next((record for record in self._state.jobs() if record.tuned_name == tuned), None)
        model = None if job is None else self._tuned(job)
        if job is None or model is None:
            raise self._missing(name)
        run_id = job.run_id
        if step:
            steps = {str(ref.data.get("step")): ref.id for ref in Run(run_id, store=self._store).checkpoints}
            if step not in steps:
                raise self._missing(name)
            run_id = f"{run_id}@{steps[step]}"
        return Resolved(name, Target("run", run_id), job.ended or job.created, job)

    def delete(self, name: str) -> None:
        """Remove a tuned model at its backend, for good. Raises `Refused`."""
        resolved = self.find(name)
        if resolved.job is None or resolved.target.checkpoint is not None:
            raise Refused(403, f"{name} is not a tuned model of this endpoint, so it cannot be deleted", param="model")
        run = Run(resolved.job.run_id, store=self._store)
        for resource in self._store.resources(run.id):
            if resource.type in ("deployment", "model"):
                _delete(run.provider, resource.ref, name)
                self._store.mark_removed(resource)
        self._state.change_job(resolved.job.id, model_deleted=True)

    def _tuned(self, job: JobRecord) -> ModelRef | None:
        """The tuned model of a job that has one."""
        if not job.settled or job.model_deleted or job.error is not None:
            return None
        return self._store.ref(job.run_id, "model", ModelRef)

    def _missing(self, name: str) -> Refused:
        names = [*self.map.names, *(job.tuned_name for job in self._state.jobs()[:20] if self._tuned(job) is not None)]
        return Refused(
            404,
            f"The model '{name}' does not exist; there are {', '.join(names) or 'none yet'}",
            param="model",
            code="model_not_found",
        )


def _delete(provider: Provider, ref: AnyRef, name: str) -> None:
    """Remove it at the backend. A worker on this machine may still be ending that has just reported its model."""
    deadline = time.monotonic() + ENDING_SECONDS
    while True:
        try:
            provider.delete(ref)
            return
        except LlmtuneError as error:
            if type(error) is not LlmtuneError:  # the vendor's own words, a missing key, ...
                raise Refused.of(error) from error
            if time.monotonic() > deadline:
                log.warning("%s could not be deleted: %s", name, error.message)
                raise Refused(409, f"The model '{name}' is in use: try again later", param="model") from error
            time.sleep(0.2)


def tuned_name(model: str, organization: str, suffix: str | None, run_id: str) -> str:
    """The name of a tuned model: ft:BASE:ORGANIZATION:SUFFIX:RUN_KEY, in the five parts that clients take apart."""
    base = model.split(":")[1] if model.startswith("ft:") and model.count(":") >= 4 else model.replace(":", "-")
    return f"ft:{base}:{organization}:{suffix_in_name(suffix)}:{run_key(run_id)}"


def suffix_in_name(suffix: str | None) -> str:
    """A suffix as it stands in a model's name: lower case, everything but letters, digits, _ and - replaced by -."""
    return re.sub(r"[^a-z0-9_-]+", "-", (suffix or "").lower()).strip("-")


def checkpoint_name(job: JobRecord, step: int) -> str:
    """The name of a checkpoint of a job's model."""
    return f"{job.tuned_name}{_CHECKPOINT}{step}"
