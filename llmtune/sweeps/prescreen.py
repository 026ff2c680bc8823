"""Pre-screening: explore where trials are cheap, carry the best configurations to where they are paid for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import Field, ValidationError

from llmtune._models import DocumentedModel
from llmtune.errors import InvalidJob
from llmtune.job.spec import TuningJob
from llmtune.provider.declarations import Converted, Sent
from llmtune.provider.registry import get_provider
from llmtune.runs.plans import target_of
from llmtune.sweeps.results import Prescreened, Sweep
from llmtune.sweeps.space import Space


class Prescreen(DocumentedModel):
    """Where to explore and how many configurations to carry over."""

    provider: str = "local"
    model: str | None = None
    """Base model to explore with; None is the job's own for that backend, and never another one."""

    keep: int = Field(default=3, ge=1)
    """Configurations that are carried over, the best first. >= 1."""

    trials: int | None = Field(default=None, ge=1)
    """Trials of the exploration; None: as many as the sweep was asked for."""


def read_prescreen(given: Mapping[str, Any] | Prescreen) -> Prescreen:
    """From Python or the command line. Raises `InvalidJob` with what is wrong."""
    try:
        return given if isinstance(given, Prescreen) else Prescreen.model_validate(dict(given))
    except ValidationError as error:
        fault = error.errors(include_url=False)[0]
        where = ".".join(map(str, fault["loc"]))
        raise InvalidJob(f"prescreen.{where}: {fault['msg']}", where="prescreen") from None


def job_for(job: TuningJob, wanted: Prescreen) -> TuningJob:
    """The job as it is explored. Raises `InvalidJob` where no model is named for that backend."""
    if wanted.model is not None:
        return job.model_copy(update={"model": {wanted.provider: wanted.model}})
    if not (isinstance(job.model, Mapping) and wanted.provider in job.model):
        raise InvalidJob(
            f"pre-screening at {wanted.provider} needs a model to explore with",
            where="prescreen.model",
            hint='prescreen={"provider": ..., "model": ...} or --prescreen NAME:MODEL, or name one in the job',
        )
    return job


def space_for(job: TuningJob, wanted: Prescreen, space: Space) -> tuple[Space, tuple[str, ...]]:
    """The fields that can be explored there, and in words which cannot. Raises `InvalidJob` where none can."""
    backend = get_provider(wanted.provider)
    declared = backend.capabilities(target_of(job, backend)).parameters
    here: Space = {}
    notes = []
    for name, part in space.items():
        if name in ("provider", "model"):
            raise InvalidJob(f"{name} cannot be explored at another backend", where="prescreen")
        if isinstance(declared[name], (Sent, Converted)):
            here[name] = part
        else:
            why = getattr(declared[name], "reason", "it has no such knob")
            notes.append(f"{name} cannot be explored at {wanted.provider} ({why}); it stays as the job has it")
    if not here:
        raise InvalidJob(f"nothing of this space can be explored at {wanted.provider}", where="prescreen")
    return here, tuple(notes)


def kept(found: Sweep, wanted: Prescreen, model: str) -> Prescreened:
    """What is carried over: the best configurations, each once."""
    best: list[dict[str, Any]] = []
    for row in found.ranked():
        if row.params not in best and len(best) < wanted.keep:
            best.append(dict(row.params))
    return Prescreened(provider=wanted.provider, model=model, trials=found.trials, kept=tuple(best), spent=found.spent)
