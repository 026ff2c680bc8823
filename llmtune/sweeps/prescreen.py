"""Pre-screening: explore at a cheap backend, and train only the best configurations at the one that bills."""

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
    """The backend to explore at (`provider`), and how many configurations to carry over."""

    provider: str = "local"
    model: str | None = None
    """Base model to explore with; None is the model that the job names for that backend."""

    keep: int = Field(default=3, ge=1)
    """Configurations that are carried over, the best first. >= 1."""

    trials: int | None = Field(default=None, ge=1)
    """Trials of the exploration; None is as many as the sweep has."""


def read_prescreen(settings: Mapping[str, Any] | Prescreen) -> Prescreen:
    """Read the settings, from Python or the command line. Raises `InvalidJob` for the first invalid one."""
    try:
        return settings if isinstance(settings, Prescreen) else Prescreen.model_validate(dict(settings))
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]
        where = ".".join(map(str, problem["loc"]))
        raise InvalidJob(f"prescreen.{where}: {problem['msg']}", where="prescreen") from None


def build_prescreen_job(job: TuningJob, prescreen: Prescreen) -> TuningJob:
    """Return the job to explore with. Raises `InvalidJob` where no model is named for that backend."""
    if prescreen.model is not None:
        return job.model_copy(update={"model": {prescreen.provider: prescreen.model}})
    if not (isinstance(job.model, Mapping) and prescreen.provider in job.model):
        raise InvalidJob(
            f"pre-screening at {prescreen.provider} needs a model to explore with",
            where="prescreen.model",
            hint='prescreen={"provider": ..., "model": ...} or --prescreen NAME:MODEL, or name one in the job',
        )
    return job


def restrict_space(job: TuningJob, prescreen: Prescreen, space: Space) -> tuple[Space, tuple[str, ...]]:
    """Return the fields that can be explored, and a note on each that cannot. Raises `InvalidJob` where none can."""
    backend = get_provider(prescreen.provider)
    declared = backend.capabilities(target_of(job, backend)).parameters
    explorable: Space = {}
    notes = []
    for name, part in space.items():
        if name in ("provider", "model"):
            raise InvalidJob(f"{name} cannot be explored at another backend", where="prescreen")
        if isinstance(declared[name], (Sent, Converted)):
            explorable[name] = part
        else:
            why = getattr(declared[name], "reason", "it has no such setting")
            notes.append(f"{name} cannot be explored at {prescreen.provider} ({why}); it stays as the job has it")
    if not explorable:
        raise InvalidJob(f"nothing of this space can be explored at {prescreen.provider}", where="prescreen")
    return explorable, tuple(notes)


def select_configurations(sweep: Sweep, prescreen: Prescreen, model: str) -> Prescreened:
    """Return the best configurations, each once, with the cost of finding them."""
    best: list[dict[str, Any]] = []
    for row in sweep.ranked():
        if row.params not in best and len(best) < prescreen.keep:
            best.append(dict(row.params))
    return Prescreened(
        provider=prescreen.provider, model=model, trials=sweep.trials, kept=tuple(best), spent=sweep.spent
    )
