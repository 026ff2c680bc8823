"""What a sweep will do, settled and told before anything is run: backends, space and its sources, what it costs."""

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
class Place:
    """One backend of a sweep. `takes` are the fields of the space that it has a knob for."""

    backend: Provider
    model: str | None
    takes: frozenset[str]

    @property
    def name(self) -> str:
        """As a trial's "provider" says it."""
        return f"{self.backend.name}:{self.model}" if self.model else self.backend.name

    def job(self, job: TuningJob) -> TuningJob:
        """The job with this place's model."""
        return job.model_copy(update={"model": {self.backend.name: self.model}}) if self.model else job


class Outline(DocumentedModel):
    """What `sweep` will search, and what a trial costs."""

    providers: tuple[str, ...]
    space: dict[str, str]
    """Each field's range or choices, in words."""

    sources: dict[str, str] = {}
    """Where a suggested range comes from; empty for fields that were given."""

    notes: tuple[str, ...] = ()
    """Which fields are searched at some backends alone, and why."""

    trial_cost: dict[str, float | NotReported] = {}
    """Estimate of one trial at each backend, in USD; trials on this machine cost nothing."""


def settle(
    job: TuningJob, provider: str | Provider, given: Mapping[str, Any] | None
) -> tuple[tuple[Place, ...], Space, dict[str, str], tuple[str, ...]]:
    """The backends, the space, its sources and notes. Raises `InvalidJob` for a field that no backend has a knob for.

    `given` may search "provider" too (names, or NAME:MODEL); a field that not all of them have a knob for is searched
    where it exists.
    """
    rest = dict(given) if given is not None else None
    asked = rest.pop("provider", None) if rest is not None else None
    backends: list[tuple[Provider, str | None]] = []
    if asked is None:
        backends.append((get_provider(provider), None))
    else:
        if isinstance(asked, str) or not asked:
            raise InvalidJob("provider: give a list of backends to choose from", where="space")
        named = [str(each).partition(":") for each in asked]
        backends = [(get_provider(name), model or None) for name, _, model in named]
    sources: dict[str, str] = {}
    if rest is None or (asked is not None and not rest):
        first, model = backends[0]
        here = Place(first, model, frozenset()).job(job)
        capabilities = first.capabilities(target_of(here, first))
        space, sources = suggest(here, first.name, capabilities)
    else:
        space = read_space(rest)
    places = tuple(Place(backend, model, _taken(job, backend, model, space)) for backend, model in backends)
    notes = _compared(places, space)
    if asked is not None:
        space = {"provider": Choice(values=tuple(place.name for place in places)), **space}
    return places, space, sources, notes


def _taken(job: TuningJob, backend: Provider, model: str | None, space: Space) -> frozenset[str]:
    """The fields that this backend has a knob for, on the models that the space names."""
    named = space.get("model")
    models = list(named.values) if isinstance(named, Choice) else [model]
    found = set(space)
    for each in models:
        there = Place(backend, str(each) if each else None, frozenset()).job(job)
        declared = backend.capabilities(target_of(there, backend)).parameters
        found &= {name for name in space if name == "model" or isinstance(declared[name], (Sent, Converted))}
    return frozenset(found)


def _compared(places: tuple[Place, ...], space: Space) -> tuple[str, ...]:
    """What is searched at some backends alone, in words."""
    notes = []
    for name in space:
        without = [place for place in places if name not in place.takes]
        if not without:
            continue
        declared = support_matrix.ask(without[0].backend).parameters.get(name)
        why = getattr(declared, "reason", "") or "it has no such knob"
        if len(without) == len(places):
            at = " and ".join(place.name for place in places)
            raise InvalidJob(
                f"{name} cannot be searched at {at}: {why}",
                where="space",
                hint="llmtune sweep JOB --provider NAME --show-space says what can be",
            )
        names = ", ".join(place.name for place in without)
        notes.append(f"{name} is not searched at {names}: {why}")
    return tuple(notes)


def outline(job: TuningJob, provider: str | Provider = "local", space: Mapping[str, Any] | None = None) -> Outline:
    """What `sweep` with these arguments would search and what a trial would cost. Nothing is run.

    Raises `InvalidJob` as `sweep` does.
    """
    places, settled, sources, notes = settle(job, provider, space)
    costs: dict[str, float | NotReported] = {}
    for place in places:
        if not place.backend.hosted:
            costs[place.name] = 0.0
            continue
        cost = plan(place.job(job), place.backend).cost
        costs[place.name] = NotReported(cost.unknown or "not known") if cost.total is None else float(cost.total)
    return Outline(
        providers=tuple(place.name for place in places),
        space={name: part.describe() for name, part in settled.items()},
        sources=sources,
        notes=notes,
        trial_cost=costs,
    )
