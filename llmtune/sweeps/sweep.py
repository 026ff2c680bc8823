"""`sweep`: trials of one job, each an ordinary run, chosen by a study, under one budget."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

from llmtune.errors import InvalidData, InvalidJob, LlmtuneError, OverBudget
from llmtune.job.spec import TuningJob
from llmtune.metrics.points import NotReported
from llmtune.planning.plan import read_dataset
from llmtune.provider.protocol import Provider
from llmtune.provider.registry import get_provider
from llmtune.runs.budget import ALLOW_UNKNOWN, CONFIRM, Bill, check_bill
from llmtune.runs.plans import plan, target_of
from llmtune.runs.poller import Pace
from llmtune.sweeps import study as studies
from llmtune.sweeps.distributed import PREFIX, Invitation, invite
from llmtune.sweeps.finalists import judge
from llmtune.sweeps.prescreen import Prescreen, job_for, kept, read_prescreen, space_for
from llmtune.sweeps.ray import run_on_ray
from llmtune.sweeps.results import Prescreened, Sweep
from llmtune.sweeps.space import Space, as_given
from llmtune.sweeps.study import Method
from llmtune.sweeps.sweep_plan import Place, settle
from llmtune.sweeps.trial_job import with_params, without_test
from llmtune.sweeps.worker import Crew, OnTrial, Search, at_once, kept_warm


def sweep(  # noqa: C901
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
    prescreen: Mapping[str, Any] | Prescreen | None = None,
    ray: str | None = None,
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
            a choice. "model" and "provider" (names, or NAME:MODEL) may be searched too. None: what the backend has
            knobs for, in the ranges that have been published (`outline` tells which and from where).
        method: random, grid, or bayesian (TPE, Bergstra et al. 2011, as Optuna has it).
        trials: how many trials in all; a grid has at most its own number of points.
        metric: a series that the backend reports on validation rows.
        direction: None minimises a loss and maximises anything else.
        budget: the most that all trials and finalists may cost, in USD: what was billed and the estimates of what
            runs.
        yes: whether spending money is agreed to.
        allow_unknown_cost: let unknown prices pass under a budget.
        pruning: cancel trials whose validation loss is worse than the median of the others at the same step.
        parallel: trials at once; None is what the backend allows (one on this machine).
        finalists: how many of the best configurations are trained again and scored on the test rows, as far as the
            budget goes; 0 for none.
        seeds: how often each finalist is trained, with different seeds.
        seed: of the search.
        prescreen: explore elsewhere first and train only the best few here: {"provider": "local", "model": "tiny",
            "keep": 3, "trials": 20}. The model that is explored with is the one named, never another.
        ray: run the trials as tasks on a Ray cluster, `parallel` of them at once (None: as many as the backends allow
            together, one for this machine): "local", "auto" or an address. Its
            nodes need this store (PostgreSQL), the dataset and the credentials. A pre-screening stays here.
        on_trial: called with each trial that ends here.
        pace: how often the backend is asked.

    Raises:
        InvalidJob: nothing to search, a field or value that does not exist, a metric nobody reports.
        OverBudget: not even one trial fits, or nobody agreed to spend money.
        MissingExtra: Optuna is not installed.
        LlmtuneError: no trial came to a result; the message has the first reason.
    """
    places, parts, sources, notes = settle(job, provider, space)
    dataset = read_dataset(job)
    if isinstance(dataset, InvalidData):
        raise dataset
    if not dataset.validation:
        raise InvalidJob("a sweep ranks trials on validation rows, and there are none", where="dataset.split")
    wanted = direction or ("minimize" if metric.endswith("loss") else "maximize")
    screen = read_prescreen(prescreen) if prescreen is not None else None
    if screen is not None:
        # Part of what the search is: with another number explored, others are kept, and that is another study.
        screen = screen.model_copy(update={"trials": screen.trials or trials})
    explored: Prescreened | None = None
    if screen is not None:
        parts, said = space_for(job_for(job, screen), screen, parts)
        places, _, _, more = settle(job, provider, as_given(parts))
        notes = (*dict.fromkeys((*notes, *more)), *said)
    if method == "grid" and any(set(parts) - place.takes - {"provider"} for place in places):
        raise InvalidJob(
            f"a grid needs every field at every backend: {notes[0]}",
            where="space",
            hint="take method random or bayesian, or leave the field out",
        )
    group = _group(job, places, parts, method, metric, screen)
    search = Search(
        job=without_test(job, dataset, group),
        places=places,
        space=parts,
        method=method,
        metric=metric,
        direction=wanted,
        group=group,
        budget=budget,
        pruning=pruning,
        pace=pace,
    )
    _check_budget(search, yes=yes, allow_unknown=allow_unknown_cost)
    queue: tuple[dict[str, Any], ...] = ()
    if screen is not None:
        explored = _explore(
            search,
            job,
            screen,
            seed=seed,
            on_trial=on_trial,
            yes=yes,
            allow_unknown=allow_unknown_cost,
        )
        queue = explored.kept
        if budget is not None and isinstance(explored.spent, float):
            search = replace(search, budget=budget - explored.spent)
    count = len(queue) or (min(trials, studies.grid_size(parts)) if method == "grid" else trials)
    crew = Crew(search, count, seed=seed, parallel=parallel, on_trial=on_trial)
    for values in queue:
        crew.study.enqueue_trial(values, skip_if_exists=True)
    invitation = Invitation(
        job=job,
        provider=places[0].backend.name,
        space=parts,
        method=method,
        metric=metric,
        direction=wanted,
        budget=search.budget,
        pruning=pruning,
        trials=count,
        seed=seed,
        rows=dataset.sha256,
    )
    invite(crew.study, invitation)
    if ray is not None:
        workers = parallel or sum(at_once(place.backend) for place in places)
        run_on_ray(group.removeprefix(PREFIX), ray, workers)
    with kept_warm(places):
        stopped = crew.run()
        crew.wait_for_others()
    rows = crew.rows()
    if not any(each.state == "complete" for each in rows):
        first = next((each.note for each in rows if each.note), stopped or "no trial ended")
        raise LlmtuneError(f"no trial of the sweep came to a result: {first}")
    spent = crew.spent()
    if explored is not None:
        spent = _plus(spent, explored.spent)
    found = Sweep(
        name=job.name,
        provider=", ".join(place.name for place in places),
        group=group,
        method=method,
        metric=metric,
        direction=wanted,
        trials=rows,
        sources=sources,
        notes=notes,
        prescreened=explored,
        importance=studies.importance(crew.study),
        spent=spent,
        budget=budget,
        stopped=stopped,
        job=job,
    )
    best = found.best
    assert best is not None
    place = search.place(best.params)
    found = found.model_copy(update={"job": with_params(place.job(job), best.params, place.backend.name)})
    if finalists and dataset.test:
        with kept_warm(places):
            left = None if search.budget is None else search.budget - crew.committed()
            judged = judge(search, job, found.ranked()[:finalists], seeds=seeds, left=left)
        found = found.model_copy(
            update={
                "finalists": judged.finalists,
                "spent": _plus(found.spent, judged.spent),
                "notes": (*found.notes, *judged.notes),
            }
        )
    return found


def _explore(
    search: Search,
    job: TuningJob,
    screen: Prescreen,
    *,
    seed: int,
    on_trial: OnTrial | None,
    yes: bool,
    allow_unknown: bool,
) -> Prescreened:
    """The sweep at the backend of the pre-screening; a study of its own, which a crash resumes like any other."""
    here = job_for(job, screen)
    found = sweep(
        here,
        screen.provider,
        as_given(search.space),
        method=search.method,
        trials=screen.trials or 0,
        metric=search.metric,
        direction=search.direction,
        budget=search.budget if get_provider(screen.provider).hosted else None,
        yes=yes,
        allow_unknown_cost=allow_unknown,
        pruning=search.pruning,
        finalists=0,
        seed=seed,
        on_trial=on_trial,
        pace=search.pace,
    )
    return kept(found, screen, target_of(here, get_provider(screen.provider)).model)


def _plus(one: float | NotReported, other: float | NotReported) -> float | NotReported:
    if isinstance(one, NotReported):
        return one
    return other if isinstance(other, NotReported) else one + other


def _group(
    job: TuningJob,
    places: Sequence[Place],
    space: Space,
    method: str,
    metric: str,
    screen: Prescreen | None = None,
) -> str:
    told: list[Any] = [job.to_dict(), ", ".join(place.name for place in places)]
    told += [{name: part.model_dump(mode="json") for name, part in space.items()}, method, metric]
    if screen is not None:
        told.append(screen.model_dump())
    text = json.dumps(told, sort_keys=True, default=str)
    return f"{PREFIX}{hashlib.sha256(text.encode()).hexdigest()[:12]}"


def _check_budget(search: Search, *, yes: bool, allow_unknown: bool) -> None:
    """Refuse a sweep that nobody agreed to, or whose trials have no known price; the crew keeps to the budget."""
    paid = [place for place in search.places if place.backend.hosted]
    if not paid:
        return

    def bill(budget: float) -> Bill:
        costs = (
            [] if allow_unknown else [(place.name, plan(place.job(search.job), place.backend).cost) for place in paid]
        )
        unknown = (
            OverBudget(
                f"what a trial at {name} costs is not known ({cost.unknown}), which counts as over the budget",
                hint=ALLOW_UNKNOWN,
            )
            for name, cost in costs
            if cost.total is None
        )
        return Bill(0.0, None, next(unknown, None))

    names = ", ".join(dict.fromkeys(place.backend.name for place in paid))
    check_bill(
        bill,
        budget=search.budget,
        confirmed=yes,
        allow_unknown_cost=allow_unknown,
        unconfirmed=OverBudget(f"{names} bills every trial and it was not confirmed", hint=CONFIRM),
    )
