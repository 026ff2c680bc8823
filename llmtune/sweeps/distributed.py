"""`llmtune sweep join`: another worker, here or on another machine, for a sweep that is under way.

Whoever starts a sweep leaves an invitation in its study: all that a worker needs to take part. The study and the runs
are in the store, so a worker on another machine needs the same store (PostgreSQL), the dataset and credentials.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import ValidationError

from llmtune._models import FrozenModel
from llmtune.errors import InvalidData, LlmtuneError, RunNotFound
from llmtune.job.spec import TuningJob
from llmtune.planning.plan import read_dataset
from llmtune.runs.poller import Pace
from llmtune.sweeps import study as studies
from llmtune.sweeps.results import TrialRow
from llmtune.sweeps.space import Choice, Range, as_given
from llmtune.sweeps.study import Method
from llmtune.sweeps.sweep_plan import settle
from llmtune.sweeps.trial_job import without_test
from llmtune.sweeps.worker import Crew, OnTrial, Search, kept_warm

if TYPE_CHECKING:
    import optuna

#: Under which name a study keeps its invitation.
_KEY = "llmtune"

#: How the names of sweeps begin, in the store.
PREFIX = "sweep "


class Invitation(FrozenModel):
    """What a worker must know to take part in a sweep."""

    job: TuningJob
    provider: str
    """The one that was named, where the space does not choose among several."""

    space: dict[str, Range | Choice]
    method: Method
    metric: str
    direction: Literal["minimize", "maximize"]
    budget: float | None
    pruning: bool
    trials: int
    seed: int
    rows: str
    """Digest of the dataset."""


def invite(study: optuna.Study, invitation: Invitation) -> None:
    """Leave it in the study; a later call with more trials or another budget replaces it."""
    study.set_user_attr(_KEY, invitation.model_dump(mode="json"))


def join(
    sweep: str | None = None,
    *,
    parallel: int | None = None,
    on_trial: OnTrial | None = None,
    pace: Pace | None = None,
) -> tuple[TrialRow, ...]:
    """Run trials of a sweep that was started elsewhere, until none is left to begin.

    The budget, the space and the number of trials are the sweep's own; what this worker runs counts in them.

    Args:
        sweep: its name, `3f9c...` as `sweep` says it; None is the only one that has trials left.
        parallel: trials at once here; None is what the backend allows.
        on_trial: called with each trial that ends here.
        pace: how often the backend is asked.

    Returns:
        The trials that this worker ran.

    Raises:
        RunNotFound: there is no such sweep in this store, or more than one that it could be.
        InvalidData: the dataset is not on this machine, or has other rows than where the sweep was started.
        MissingExtra: Optuna is not installed.
    """
    group, found = _find(sweep)
    dataset = read_dataset(found.job)
    if isinstance(dataset, InvalidData):
        raise dataset
    if dataset.sha256 != found.rows:
        raise InvalidData(
            f"{dataset.source}: these are not the rows that the sweep was started with",
            hint="bring the same files to this machine, under the same path",
        )
    places, space, _, _ = settle(found.job, found.provider, as_given(found.space))
    search = Search(
        job=without_test(found.job, dataset, group),
        places=places,
        space=space,
        method=found.method,
        metric=found.metric,
        direction=found.direction,
        group=group,
        budget=found.budget,
        pruning=found.pruning,
        pace=pace,
    )
    crew = Crew(search, found.trials, seed=found.seed, parallel=parallel, on_trial=on_trial)
    with kept_warm(places):
        crew.run()
    return tuple(each for each in crew.rows() if each.number in crew.mine and each.run is not None)


def _find(sweep: str | None) -> tuple[str, Invitation]:
    known = studies.names(PREFIX)
    if sweep is not None:
        wanted = PREFIX + sweep.removeprefix(PREFIX)
        matching = [name for name in known if name.startswith(wanted)]
    else:
        matching = [name for name in known if _unfinished(name)]
    if len(matching) != 1:
        which = f"{sweep!r}" if sweep is not None else "unfinished"
        told = ", ".join(name.removeprefix(PREFIX) for name in (matching or known)[:5])
        raise RunNotFound(
            f"{'no' if not matching else 'more than one'} sweep in this store is {which}",
            hint=f"there are {told}" if told else "start one with llmtune sweep; on another machine set the same store",
        )
    found = _invitation(studies.attributes(matching[0]))
    if found is None:
        raise LlmtuneError(
            f"the sweep {matching[0].removeprefix(PREFIX)} was started by another version of llmtune",
            hint="start the same sweep again here; its trials are kept",
        )
    return matching[0], found


def _invitation(attributes: dict[str, object]) -> Invitation | None:
    try:
        return Invitation.model_validate(attributes.get(_KEY))
    except ValidationError:
        return None


def _unfinished(name: str) -> bool:
    found = _invitation(studies.attributes(name))
    return found is not None and studies.ended(name) < found.trials
