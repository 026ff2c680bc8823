"""The search itself, by Optuna, kept in the run store's own database so that a crash or another worker goes on."""

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

Method = Literal["random", "grid", "bayesian"]
Direction = Literal["minimize", "maximize"]

#: Results that differ by no more than this share are equal: rounding is nothing that a field has done.
SAME_RESULT = 1e-6

#: Seconds that a writer waits for another one, as in the store.
BUSY_SECONDS = 60


def open_study(
    name: str, space: Space, *, method: Method, direction: Direction, seed: int, pruning: bool
) -> optuna.Study:
    """The study of that name, new or as it was left. Raises `MissingExtra` without Optuna."""
    _need_optuna()
    import optuna

    pruner: optuna.pruners.BasePruner = optuna.pruners.NopPruner()
    if pruning:
        pruner = optuna.pruners.MedianPruner(n_startup_trials=4, n_warmup_steps=0)
    study = optuna.create_study(
        study_name=name, storage=_storage(), pruner=pruner, direction=direction, load_if_exists=True
    )
    # A study that goes on must not draw again what it drew before.
    study.sampler = _sampler(space, method, seed + 1009 * len(study.get_trials(deepcopy=False)))
    return study


def names(prefix: str) -> list[str]:
    """The studies in the store whose names begin so. Raises `MissingExtra` without Optuna."""
    _need_optuna()
    import optuna

    return sorted(name for name in optuna.get_all_study_names(_storage()) if name.startswith(prefix))


def attributes(name: str) -> dict[str, Any]:
    """What was written down with a study."""
    import optuna

    return dict(optuna.load_study(study_name=name, storage=_storage()).user_attrs)


def ended(name: str) -> int:
    """How many of its trials have ended."""
    import optuna

    trials = optuna.load_study(study_name=name, storage=_storage()).get_trials(deepcopy=False)
    return sum(each.state.is_finished() for each in trials)


def _need_optuna() -> None:
    try:
        import optuna
    except ImportError:
        raise MissingExtra("sweep", "optuna", purpose="a sweep") from None
    optuna.logging.set_verbosity(optuna.logging.WARNING)


def _storage() -> Any:
    import optuna

    from llmtune.runs.store.leases import Lease
    from llmtune.runs.store.store import open_store

    url = store_url()
    store = open_store(url)  # makes the file with its mode, and refuses a store that is not ours to write
    arguments = {"connect_args": {"timeout": BUSY_SECONDS}} if url.startswith("sqlite") else {}
    # Optuna makes its tables when they are missing; two workers that begin at once would both make them.
    lease = Lease(store, "sweep:tables")
    lease.acquire(wait=None)
    with lease:
        return optuna.storages.RDBStorage(url, engine_kwargs=arguments)


def _sampler(space: Space, method: Method, seed: int) -> Any:
    import optuna

    if method == "grid":

        class Grid(optuna.samplers.GridSampler):
            """Optuna's stops its own loop after the last point, and here there is another loop."""

            def after_trial(self, *_: Any) -> None:
                return None

        return Grid({name: part.points() for name, part in space.items()}, seed=0)
    if method == "bayesian":
        return optuna.samplers.TPESampler(seed=seed, constant_liar=True, n_startup_trials=5)
    return optuna.samplers.RandomSampler(seed=seed)


def grid_size(space: Space) -> int:
    """How many points a grid has."""
    size = 1
    for part in space.values():
        size *= len(part.points())
    return size


def importance(study: optuna.Study) -> dict[str, float]:
    """What mattered; empty where that cannot be told (too few trials, or all with the same result)."""
    import optuna

    values = [trial.value for trial in study.get_trials(deepcopy=False) if trial.value is not None]
    if len(values) < 2 or max(values) - min(values) <= SAME_RESULT * max(map(abs, values)):
        return {}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that few trials say little
            return dict(optuna.importance.get_param_importances(study))
    except (ValueError, RuntimeError, ImportError):
        return {}
