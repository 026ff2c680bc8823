"""The plan of a sweep, before anything is run: its backends, its space and the sources of that, and its cost."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from llmtune._models import DocumentedModel
from llmtune.errors import InvalidJob
from llmtune.job.spec import TuningJob
from llmtune.metrics.points import NotReported
from llmtune.planning import support_matrix
from llmtune.provider.declarations import Converted, Sent
from llmtune.provider.protocol import Provider
from llmtune.provider.registry import get_provider
from llmtune.runs.plans import plan, target_of
from llmtune.sweeps.default_space import suggest
from llmtune.sweeps.space import Choice, Space, read_space


@dataclass(frozen=True)
class SweepTarget:
    """One backend of a sweep. `fields` are the fields of the space that it supports."""

    backend: Provider
    model: str | None
    fields: frozenset[str]

    @property
    def name(self) -> str:
        """The value of a trial's "provider": NAME, or NAME:MODEL."""
        return f"{self.backend.name}:{self.model}" if self.model else self.backend.name

    def job(self, job: TuningJob) -> TuningJob:
        """Return the job with the model of this target."""
        return job.model_copy(update={"model": {self.backend.name: self.model}}) if self.model else job


class SweepPlan(DocumentedModel):
    """The fields that `sweep` will search, and the cost of a trial."""

    providers: tuple[str, ...]
    space: dict[str, str]
    """Each field's range or choices, in words."""

    sources: dict[str, str] = {}
    """By field, the source of a suggested range; empty where the caller gave the space."""

    notes: tuple[str, ...] = ()
    """Which fields are searched at some of the backends only, and why."""

    trial_cost: dict[str, float | NotReported] = {}
    """By backend, the estimated cost of one trial in USD; trials on this machine cost nothing."""


def resolve(
    job: TuningJob, provider: str | Provider, definitions: Mapping[str, Any] | None
) -> tuple[tuple[SweepTarget, ...], Space, dict[str, str], tuple[str, ...]]:
    """Return the backends, the space, the sources of its ranges, and notes.

    `definitions` may search "provider" too (names, or NAME:MODEL); a field that only some of these support is searched
    at those. Raises `InvalidJob` for a field that no backend supports.
    """
    fields = dict(definitions) if definitions is not None else None
    providers = fields.pop("provider", None) if fields is not None else None
    backends: list[tuple[Provider, str | None]] = []
    if providers is None:
        backends.append((get_provider(provider), None))
    else:
        if isinstance(providers, str) or not providers:
            raise InvalidJob("provider: give a list of backends to choose from", where="space")
        named = [str(provider_name).partition(":") for provider_name in providers]
        backends = [(get_provider(name), model or None) for name, _, model in named]
    sources: dict[str, str] = {}
    if fields is None or (providers is not None and not fields):
        first, model = backends[0]
        first_job = SweepTarget(first, model, frozenset()).job(job)
        first_target = target_of(first_job, first)
        space, sources = suggest(first_job, first_target, first.capabilities(first_target))
    else:
        space = read_space(fields)
    targets = tuple(
        SweepTarget(backend, model, _accepted_fields(job, backend, model, space)) for backend, model in backends
    )
    notes = _describe_unsearched(targets, space)
    if providers is not None:
        space = {"provider": Choice(values=tuple(target.name for target in targets)), **space}
    return targets, space, sources, notes


def _accepted_fields(job: TuningJob, backend: Provider, model: str | None, space: Space) -> frozenset[str]:
    """Return the fields that this backend supports for all models that the space names."""
    named = space.get("model")
    models = list(named.values) if isinstance(named, Choice) else [model]
    fields = set(space)
    for model_name in models:
        target_job = SweepTarget(backend, str(model_name) if model_name else None, frozenset()).job(job)
        declared = backend.capabilities(target_of(target_job, backend)).parameters
        fields &= {name for name in space if name == "model" or isinstance(declared[name], (Sent, Converted))}
    return frozenset(fields)


def _describe_unsearched(targets: tuple[SweepTarget, ...], space: Space) -> tuple[str, ...]:
    """Return a note on each field that some of the backends do not support. Raises `InvalidJob` where none does."""
    notes = []
    for name in space:
        without = [target for target in targets if name not in target.fields]
        if not without:
            continue
        declared = support_matrix.get_capabilities(without[0].backend).parameters.get(name)
        why = getattr(declared, "reason", "") or "it has no such setting"
        if len(without) == len(targets):
            at = " and ".join(target.name for target in targets)
            raise InvalidJob(
                f"{name} cannot be searched at {at}: {why}",
                where="space",
                hint="llmtune sweep JOB --provider NAME --show-space lists the fields that can be searched",
            )
        names = ", ".join(target.name for target in without)
        notes.append(f"{name} is not searched at {names}: {why}")
    return tuple(notes)


def plan_sweep(job: TuningJob, provider: str | Provider = "local", space: Mapping[str, Any] | None = None) -> SweepPlan:
    """Return what `sweep` with these arguments would search and what a trial would cost. Nothing is run.

    Raises `InvalidJob` as `sweep` does.
    """
    targets, resolved_space, sources, notes = resolve(job, provider, space)
    costs: dict[str, float | NotReported] = {}
    for target in targets:
        if not target.backend.hosted:
            costs[target.name] = 0.0
            continue
        cost = plan(target.job(job), target.backend).cost
        costs[target.name] = NotReported(cost.unknown or "not known") if cost.total is None else float(cost.total)
    return SweepPlan(
        providers=tuple(target.name for target in targets),
        space={name: part.describe() for name, part in resolved_space.items()},
        sources=sources,
        notes=notes,
        trial_cost=costs,
    )
