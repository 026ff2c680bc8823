"""The Optuna study of a sweep. It is in the run store's database, so that it survives a crash and workers share it."""

from __future__ import annotations

import logging
import warnings
from typing import TYPE_CHECKING, Any, Literal

from llmtune.config import store_url
from llmtune.errors import MissingExtra
from llmtune.sweeps.space import Space

if TYPE_CHECKING:
    import optuna

log = logging.getLogger("llmtune")

#: How the configurations of a sweep are chosen.
SearchMethod = Literal["random", "grid", "bayesian"]
Direction = Literal["minimize", "maximize"]

#: Values that differ by no more than this share are equal: rounding errors are not the effect of a field.
SAME_RESULT = 1e-6

#: Seconds that a writer waits for another writer, as in the run store.
BUSY_SECONDS = 60


def open_study(
    name: str, space: Space, *, method: SearchMethod, direction: Direction, seed: int, pruning: bool
) -> optuna.Study:
    """Open the study of that name, or create it. Raises `MissingExtra` without Optuna."""
    _require_optuna()
    import optuna

    pruner: optuna.pruners.BasePruner = optuna.pruners.NopPruner()
    if pruning:
        pruner = optuna.pruners.MedianPruner(n_startup_trials=4, n_warmup_steps=0)
    study = optuna.create_study(
        study_name=name, storage=_open_storage(), pruner=pruner, direction=direction, load_if_exists=True
    )
    # A study that is continued must not draw the same values again.
    study.sampler = _build_sampler(space, method, seed + 1009 * len(study.get_trials(deepcopy=False)))
    return study


def list_studies(prefix: str) -> list[str]:
    """Return the names of the studies in the store that begin with `prefix`. Raises `MissingExtra` without Optuna."""
    _require_optuna()
    import optuna

    return sorted(name for name in optuna.get_all_study_names(_open_storage()) if name.startswith(prefix))


def load_attributes(name: str) -> dict[str, Any]:
    """Return the user attributes of a study."""
    import optuna

    return dict(optuna.load_study(study_name=name, storage=_open_storage()).user_attrs)


def count_finished(name: str) -> int:
    """Return how many trials of a study have ended."""
    import optuna

    trials = optuna.load_study(study_name=name, storage=_open_storage()).get_trials(deepcopy=False)
    return sum(trial.state.is_finished() for trial in trials)


def _require_optuna() -> None:
    try:
        import optuna
    except ImportError:
        raise MissingExtra("sweep", "optuna", purpose="a sweep") from None
    optuna.logging.set_verbosity(optuna.logging.WARNING)


def _open_storage() -> Any:
    import optuna

    from llmtune.runs.store.leases import Lease
    from llmtune.runs.store.store import open_store

    url = store_url()
    store = open_store(url)  # creates the file with its permissions, and refuses a store that cannot be written
    arguments = {"connect_args": {"timeout": BUSY_SECONDS}} if url.startswith("sqlite") else {}
    # Optuna creates missing tables; two workers that start at the same time would both try to.
    lease = Lease(store, "sweep:tables")
    lease.acquire(wait=None)
    with lease:
        return optuna.storages.RDBStorage(url, engine_kwargs=arguments)


def _build_sampler(space: Space, method: SearchMethod, seed: int) -> Any:
    import optuna

    if method == "grid":

        class Grid(optuna.samplers.GridSampler):
            """Optuna's grid sampler, without its `after_trial`: that stops `study.optimize`, which is not used here."""

            def after_trial(self, *_: Any) -> None:
                return None

        return Grid({name: part.grid_points() for name, part in space.items()}, seed=0)
    if method == "bayesian":
        return optuna.samplers.TPESampler(seed=seed, constant_liar=True, n_startup_trials=5)
    return optuna.samplers.RandomSampler(seed=seed)


def count_grid_points(space: Space) -> int:
    """Return how many configurations a grid has."""
    size = 1
    for part in space.values():
        size *= len(part.grid_points())
    return size


def compute_importance(study: optuna.Study) -> dict[str, float]:
    """Return the importance of each field; empty with too few trials, or where all have the same result."""
    import optuna

    values = [trial.value for trial in study.get_trials(deepcopy=False) if trial.value is not None]
    if len(values) < 2 or max(values) - min(values) <= SAME_RESULT * max(map(abs, values)):
        return {}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about the small number of trials
            return dict(optuna.importance.get_param_importances(study))
    except (ValueError, RuntimeError, ImportError):
        return {}
