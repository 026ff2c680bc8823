"""`sweep`: trials of one job, each an ordinary run, chosen by a study, under one budget."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any, Literal

from llmtune.errors import InvalidData, InvalidJob, LlmtuneError, OverBudget
from llmtune.job import TuningJob
from llmtune.planning import plan, read_dataset
from llmtune.provider import Provider
from llmtune.registry import get_provider
from llmtune.runs import Pace
from llmtune.sweeping import study as studies
from llmtune.sweeping.crew import Crew, OnTrial, Search, kept_warm
from llmtune.sweeping.finals import judge
from llmtune.sweeping.joining import Invitation, invite
from llmtune.sweeping.model import Sweep
from llmtune.sweeping.space import Space, read_space
from llmtune.sweeping.study import Method
from llmtune.sweeping.trialjob import with_params, without_test


def sweep(
    job: TuningJob,
    provider: str | Provider = "local",
    space: Mapping[str, Any] | None = None,
    *,
    method: Method = "bayesian",
    trials: int = 20,
    metric: str = "validation/loss",
    direction: Literal["minimize", "maximize"] | None = None,
    budget: float | None = None,
    yes: bool = True,
    allow_unknown_cost: bool = False,
    pruning: bool = True,
    parallel: int | None = None,
    finalists: int = 1,
    seeds: int = 1,
    seed: int = 0,
    on_trial: OnTrial | None = None,
    pace: Pace | None = None,
) -> Sweep:
    """Search hyperparameters by training: every trial is an ordinary run of this backend.

    Trials are ranked on the validation rows alone; the test rows are scored once, for the finalists. The same call
    again goes on where it was: finished trials are kept, a trial that was under way is joined.

    Args:
        job: the job; its split says which rows are validation and test.
        provider: where the trials run.
        space: what is searched: {"learning_rate": (1e-5, 1e-3), "lora_rank": [4, 8, 16]}; a tuple is a range, a list
            a choice.
        method: random, grid, or bayesian (TPE, Bergstra et al. 2011, as Optuna has it).
        trials: how many trials in all; a grid has at most its own number of points.
        metric: a series that the backend reports on validation rows.
        direction: None minimises a loss and maximises anything else.
        budget: the most that all trials may cost, in USD: what was billed and the estimates of what runs.
        yes: whether spending money is agreed to.
        allow_unknown_cost: let unknown prices pass under a budget.
        pruning: cancel trials whose validation loss is worse than the median of the others at the same step.
        parallel: trials at once; None is what the backend allows (one on this machine).
        finalists: how many of the best configurations are scored on the test rows; 0 for none.
        seeds: how often each finalist is trained, with different seeds.
        seed: of the search.
        on_trial: called with each trial that ends.
        pace: how often the backend is asked.

    Raises:
        InvalidJob: nothing to search, a field or value that does not exist, a metric nobody reports.
        OverBudget: not even one trial fits, or nobody agreed to spend money.
        MissingExtra: Optuna is not installed.
        LlmtuneError: no trial came to a result; the message has the first reason.
    """
    backend = get_provider(provider)
    if space is None:
        raise InvalidJob("there is nothing to search", where="space", hint="give space={'learning_rate': (1e-5, 1e-3)}")
    parts = read_space(space)
    dataset = read_dataset(job)
    if isinstance(dataset, InvalidData):
        raise dataset
    if not dataset.validation:
        raise InvalidJob("a sweep ranks trials on validation rows, and there are none", where="dataset.split")
    wanted = direction or ("minimize" if metric.endswith("loss") else "maximize")
    group = _group(job, backend.name, parts, method, metric)
    search = Search(
        job=without_test(job, dataset, group),
        backend=backend,
        space=parts,
        method=method,
        metric=metric,
        direction=wanted,
        group=group,
        budget=budget,
        pruning=pruning,
        pace=pace,
    )
    _check_money(search, yes=yes, allow_unknown=allow_unknown_cost)
    count = min(trials, studies.grid_size(parts)) if method == "grid" else trials
    crew = Crew(search, count, seed=seed, parallel=parallel, on_trial=on_trial)
    invitation = Invitation(
        job=job,
        provider=backend.name,
        space=parts,
        method=method,
        metric=metric,
        direction=wanted,
        budget=budget,
        pruning=pruning,
        trials=count,
        seed=seed,
        rows=dataset.sha256,
    )
    invite(crew.study, invitation)
    with kept_warm(backend):
        stopped = crew.run()
        crew.wait_for_others()
    rows = crew.rows()
    if not any(each.state == "complete" for each in rows):
        first = next((each.note for each in rows if each.note), stopped or "no trial ended")
        raise LlmtuneError(f"no trial of the sweep came to a result: {first}")
    found = Sweep(
        name=job.name,
        provider=backend.name,
        group=group,
        method=method,
        metric=metric,
        direction=wanted,
        trials=rows,
        importance=studies.importance(crew.study),
        spent=crew.spent(),
        budget=budget,
        stopped=stopped,
        job=job,
    )
    best = found.best
    assert best is not None
    found = found.model_copy(update={"job": with_params(job, best.params, backend.name)})
    if finalists and dataset.test:
        best_ones = found.ranked()[:finalists]
        with kept_warm(backend):
            judged = judge(job, backend, best_ones, group=group, seeds=seeds, pace=pace)
        found = found.model_copy(update={"finalists": judged})
    return found


def _group(job: TuningJob, provider: str, space: Space, method: str, metric: str) -> str:
    told = [job.to_dict(), provider, {name: part.model_dump(mode="json") for name, part in space.items()}]
    text = json.dumps([*told, method, metric], sort_keys=True, default=str)
    return f"sweep {hashlib.sha256(text.encode()).hexdigest()[:12]}"


def _check_money(search: Search, *, yes: bool, allow_unknown: bool) -> None:
    if not search.backend.hosted:
        return
    if search.budget is None and not yes:
        raise OverBudget(
            f"{search.backend.name} bills every trial and it was not confirmed",
            hint="pass --budget USD or --yes (Python: budget= or yes=True)",
        )
    if search.budget is not None and not allow_unknown:
        cost = plan(with_params(search.job, {}, search.backend.name), search.backend).cost
        if cost.total is None:
            raise OverBudget(
                f"what a trial costs is not known ({cost.unknown}), which counts as over the budget",
                hint="pass --allow-unknown-cost (Python: allow_unknown_cost=True) to run them all the same",
            )
