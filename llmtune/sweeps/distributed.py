"""`llmtune sweep join`: another worker, on this machine or another, for a sweep that is running.

Starting a sweep writes a `SweepSpec` to its study: all that another worker needs. The study and the runs are in the run
store, so a worker on another machine needs the same store (PostgreSQL), the dataset and the credentials.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import ValidationError

from llmtune._models import FrozenModel
from llmtune.errors import InvalidData, LlmtuneError, RunNotFound
from llmtune.job.spec import TuningJob
from llmtune.planning.plan import read_dataset
from llmtune.runs.poller import PollInterval
from llmtune.sweeps import study as studies
from llmtune.sweeps.results import TrialRow
from llmtune.sweeps.space import Choice, Range, to_definitions
from llmtune.sweeps.study import SearchMethod
from llmtune.sweeps.sweep_plan import resolve
from llmtune.sweeps.trial_job import without_test
from llmtune.sweeps.worker import OnTrial, SweepConfig, SweepWorker, keep_model_loaded

if TYPE_CHECKING:
    import optuna

#: User attribute of the study that holds its `SweepSpec`.
_KEY = "llmtune"

#: Prefix of the names of sweeps in the store.
PREFIX = "sweep "


class SweepSpec(FrozenModel):
    """Everything a worker needs to run trials of a sweep."""

    job: TuningJob
    provider: str
    """Backend of the trials, unless the space chooses among several."""

    space: dict[str, Range | Choice]
    method: SearchMethod
    metric: str
    direction: Literal["minimize", "maximize"]
    budget: float | None
    pruning: bool
    trials: int
    seed: int
    rows: str
    """Digest of the dataset."""


def create_shared_sweep(study: optuna.Study, spec: SweepSpec) -> None:
    """Write the spec to the study, so that other workers can join. A later call replaces it, as with more trials."""
    study.set_user_attr(_KEY, spec.model_dump(mode="json"))


def join_sweep(
    sweep: str | None = None,
    *,
    parallel: int | None = None,
    on_trial: OnTrial | None = None,
    pace: PollInterval | None = None,
) -> tuple[TrialRow, ...]:
    """Run trials of a sweep that another process started, until all have been started.

    Budget, space and number of trials are the sweep's; the trials of this worker count towards them.

    Args:
        sweep: name of the sweep (`3f9c...`), or how it begins; None is the only one that has trials left.
        parallel: number of trials at once in this process; None is as many as the backend allows.
        on_trial: called with each trial that ends in this process.
        pace: how often the backend is polled.

    Returns:
        The trials that this worker ran.

    Raises:
        RunNotFound: no sweep in this store matches, or more than one.
        InvalidData: the dataset is not on this machine, or its rows differ from those the sweep was started with.
        MissingExtra: Optuna is not installed.
    """
    group, spec = _find_sweep(sweep)
    dataset = read_dataset(spec.job)
    if isinstance(dataset, InvalidData):
        raise dataset
    if dataset.sha256 != spec.rows:
        raise InvalidData(
            f"{dataset.source}: these are not the rows that the sweep was started with",
            hint="bring the same files to this machine, under the same path",
        )
    targets, space, _, _ = resolve(spec.job, spec.provider, to_definitions(spec.space))
    config = SweepConfig(
        job=without_test(spec.job, dataset, group),
        targets=targets,
        space=space,
        method=spec.method,
        metric=spec.metric,
        direction=spec.direction,
        group=group,
        budget=spec.budget,
        pruning=spec.pruning,
        pace=pace,
    )
    worker = SweepWorker(config, spec.trials, seed=spec.seed, parallel=parallel, on_trial=on_trial)
    with keep_model_loaded(targets):
        worker.run()
    return tuple(row for row in worker.trial_rows() if row.number in worker.claimed and row.run is not None)


def _find_sweep(sweep: str | None) -> tuple[str, SweepSpec]:
    names = studies.list_studies(PREFIX)
    if sweep is not None:
        prefix = PREFIX + sweep.removeprefix(PREFIX)
        matching = [name for name in names if name.startswith(prefix)]
    else:
        matching = [name for name in names if _is_unfinished(name)]
    if len(matching) != 1:
        description = f"{sweep!r}" if sweep is not None else "unfinished"
        listing = ", ".join(name.removeprefix(PREFIX) for name in (matching or names)[:5])
        raise RunNotFound(
            f"{'no' if not matching else 'more than one'} sweep in this store is {description}",
            hint=f"there are {listing}"
            if listing
            else "start one with llmtune sweep; on another machine set the same store",
        )
    spec = _read_spec(studies.load_attributes(matching[0]))
    if spec is None:
        raise LlmtuneError(
            f"the sweep {matching[0].removeprefix(PREFIX)} was started by another version of llmtune",
            hint="start the same sweep again here; its trials are kept",
        )
    return matching[0], spec


def _read_spec(attributes: dict[str, object]) -> SweepSpec | None:
    try:
        return SweepSpec.model_validate(attributes.get(_KEY))
    except ValidationError:
        return None


def _is_unfinished(name: str) -> bool:
    spec = _read_spec(studies.load_attributes(name))
    return spec is not None and studies.count_finished(name) < spec.trials
