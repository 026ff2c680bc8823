"""`sweep`: trials of one job, each an ordinary run, chosen by a study, under one budget."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

from llmtune.errors import InvalidData, InvalidJob, LlmtuneError, OverBudget
from llmtune.job.spec import TuningJob
from llmtune.metrics.points import NotReported
from llmtune.planning.plan import read_dataset
from llmtune.provider.protocol import Provider
from llmtune.provider.registry import get_provider
from llmtune.runs.budget import ALLOW_UNKNOWN, CONFIRM, CostTotal, check_budget
from llmtune.runs.options import check_keywords
from llmtune.runs.plans import plan, target_of
from llmtune.runs.poller import PollInterval
from llmtune.sweeps import study as studies
from llmtune.sweeps.distributed import PREFIX, SweepSpec, create_shared_sweep
from llmtune.sweeps.finalists import evaluate_finalists
from llmtune.sweeps.prescreen import (
    Prescreen,
    build_prescreen_job,
    read_prescreen,
    restrict_space,
    select_configurations,
)
from llmtune.sweeps.ray import run_on_ray
from llmtune.sweeps.results import Prescreened, Sweep
from llmtune.sweeps.space import Space, to_definitions
from llmtune.sweeps.study import SearchMethod
from llmtune.sweeps.sweep_plan import SweepTarget, resolve
from llmtune.sweeps.trial_job import with_params, without_test
from llmtune.sweeps.worker import OnTrial, SweepConfig, SweepWorker, keep_model_loaded, parallel_runs

if TYPE_CHECKING:
    from llmtune.data.dataset import Dataset


@dataclass(frozen=True)
class _SweepOptions:
    """The keyword arguments of `sweep`; see there."""

    method: SearchMethod
    trials: int
    metric: str
    direction: Literal["minimize", "maximize"] | None
    budget: float | None
    yes: bool
    allow_unknown_cost: bool
    pruning: bool
    parallel: int | None
    finalists: int
    seeds: int
    seed: int
    prescreen: Mapping[str, Any] | Prescreen | None
    ray: str | None
    on_trial: OnTrial | None
    pace: PollInterval | None


@dataclass(frozen=True)
class _PreparedSweep:
    """A sweep whose arguments have been checked and whose defaults are filled in. Nothing has been run yet."""

    job: TuningJob
    """The whole job, test rows included; `config.job` is what trials run."""

    dataset: Dataset
    config: SweepConfig
    sources: dict[str, str]
    notes: tuple[str, ...]
    prescreen: Prescreen | None


@check_keywords()
def sweep(  # noqa: PLR0913
    job: TuningJob,
    provider: str | Provider = "local",
    space: Mapping[str, Any] | None = None,
    *,
    method: SearchMethod = "bayesian",
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
    pace: PollInterval | None = None,
) -> Sweep:
    """Search hyperparameters by training: every trial is an ordinary run of this backend.

    Trials are ranked on the validation rows alone; the test rows are scored once, for the finalists. The same call
    made again continues the sweep: finished trials are kept, and trials that were running are joined.

    Args:
        job: the job; its split says which rows are validation and test.
        provider: where the trials run.
        space: the fields to search: {"learning_rate": (1e-5, 1e-3), "lora_rank": [4, 8, 16]}; a tuple is a range, a
            list a choice. "model" and "provider" (names, or NAME:MODEL) may be searched too. None searches the fields
            that the backend supports, in ranges that have been published (`llmtune sweep JOB --show-space` lists them
            with their sources).
        method: random, grid, or bayesian (Optuna's TPE; Bergstra et al. 2011).
        trials: number of trials in all; a grid has at most as many as it has points.
        metric: a series that the backend reports on validation rows.
        direction: None minimises a loss and maximises anything else.
        budget: the most that all trials and finalists may cost, in USD: what has been billed plus the estimates of
            the runs under way.
        yes: whether you agree to spend money.
        allow_unknown_cost: accept unknown prices under a budget.
        pruning: cancel trials whose validation loss is worse than the median of the others at the same step.
        parallel: number of trials at once; None is as many as the backend allows (one on this machine).
        finalists: how many of the best configurations are trained again and scored on the test rows, as far as the
            budget goes; 0 for none.
        seeds: how often each finalist is trained, each time with another seed.
        seed: seed of the search.
        prescreen: explore at another backend first and train only the best few here: {"provider": "local", "model":
            "tiny", "keep": 3, "trials": 20}. Only the model named there is explored with.
        ray: run the trials as tasks on a Ray cluster, `parallel` of them at once (None: as many as the backends allow
            together, one for this machine): "local", "auto" or an address. Its nodes need this store (PostgreSQL), the
            dataset and the credentials. A pre-screening is run on this machine.
        on_trial: called with each trial that ends in this process.
        pace: how often the backend is polled.

    Raises:
        InvalidJob: there is nothing to search, or no validation row, or a field or value does not exist.
        OverBudget: a price is not known, or spending money was not confirmed.
        MissingExtra: Optuna is not installed.
        LlmtuneError: no trial has a result; the message gives the first reason.
    """
    options = _SweepOptions(
        method=method,
        trials=trials,
        metric=metric,
        direction=direction,
        budget=budget,
        yes=yes,
        allow_unknown_cost=allow_unknown_cost,
        pruning=pruning,
        parallel=parallel,
        finalists=finalists,
        seeds=seeds,
        seed=seed,
        prescreen=prescreen,
        ray=ray,
        on_trial=on_trial,
        pace=pace,
    )
    return _run_sweep(job, provider, space, options)


def _run_sweep(
    job: TuningJob, provider: str | Provider, space: Mapping[str, Any] | None, options: _SweepOptions
) -> Sweep:
    prepared = _prepare_sweep(job, provider, space, options)
    _check_budget(prepared, finalists=options.finalists, yes=options.yes, allow_unknown=options.allow_unknown_cost)
    prescreened: Prescreened | None = None
    queue: tuple[dict[str, Any], ...] = ()
    if prepared.prescreen is not None:
        prescreened = _explore(prepared, prepared.prescreen, options)
        queue = prescreened.kept
        if options.budget is not None and isinstance(prescreened.spent, float):
            config = replace(prepared.config, budget=options.budget - prescreened.spent)
            prepared = replace(prepared, config=config)
    worker, stopped = _run_trials(prepared, queue, options)
    result = _build_result(prepared, worker, stopped, prescreened, budget=options.budget)
    if options.finalists and prepared.dataset.test:
        result = _add_finalists(result, prepared, worker, options)
    return result


def _prepare_sweep(
    job: TuningJob, provider: str | Provider, definitions: Mapping[str, Any] | None, options: _SweepOptions
) -> _PreparedSweep:
    """Resolve the backends and the space. Raises `InvalidJob` or `InvalidData` where they or the rows are invalid."""
    targets, space, sources, notes = resolve(job, provider, definitions)
    dataset = read_dataset(job)
    if isinstance(dataset, InvalidData):
        raise dataset
    if not dataset.validation:
        raise InvalidJob("a sweep ranks trials on validation rows, and there are none", where="dataset.split")
    prescreen = read_prescreen(options.prescreen) if options.prescreen is not None else None
    if prescreen is not None:
        # The number explored is part of the study's identity: with another one, other configurations are carried over.
        prescreen = prescreen.model_copy(update={"trials": prescreen.trials or options.trials})
        space, restriction_notes = restrict_space(build_prescreen_job(job, prescreen), prescreen, space)
        targets, _, _, target_notes = resolve(job, provider, to_definitions(space))
        notes = (*dict.fromkeys((*notes, *target_notes)), *restriction_notes)
    if options.method == "grid" and any(set(space) - target.fields - {"provider"} for target in targets):
        raise InvalidJob(
            f"a grid needs every field at every backend: {notes[0]}",
            where="space",
            hint="use method random or bayesian, or leave the field out",
        )
    group = _build_group(job, targets, space, options, prescreen)
    config = SweepConfig(
        job=without_test(job, dataset, group),
        targets=targets,
        space=space,
        method=options.method,
        metric=options.metric,
        direction=options.direction or ("minimize" if options.metric.endswith("loss") else "maximize"),
        group=group,
        budget=options.budget,
        pruning=options.pruning,
        pace=options.pace,
    )
    return _PreparedSweep(job, dataset, config, sources, notes, prescreen)


def _explore(prepared: _PreparedSweep, prescreen: Prescreen, options: _SweepOptions) -> Prescreened:
    """Run the sweep at the pre-screening's backend. It is a study of its own, which is resumed like any other."""
    config = prepared.config
    backend = get_provider(prescreen.provider)
    job = build_prescreen_job(prepared.job, prescreen)
    result = _run_sweep(
        job,
        prescreen.provider,
        to_definitions(config.space),
        replace(
            options,
            trials=prescreen.trials or 0,
            direction=config.direction,
            budget=config.budget if backend.hosted else None,
            parallel=None,
            finalists=0,
            seeds=1,
            prescreen=None,
            ray=None,
        ),
    )
    return select_configurations(result, prescreen, target_of(job, backend).model)


def _run_trials(
    prepared: _PreparedSweep, queue: Sequence[dict[str, Any]], options: _SweepOptions
) -> tuple[SweepWorker, str | None]:
    """Run all trials, those of `queue` first. Returns the worker, and why it stopped early if it did."""
    config = prepared.config
    count = len(queue) or options.trials
    if config.method == "grid" and not queue:
        count = min(options.trials, studies.count_grid_points(config.space))
    worker = SweepWorker(config, count, seed=options.seed, parallel=options.parallel, on_trial=options.on_trial)
    for values in queue:
        worker.study.enqueue_trial(values, skip_if_exists=True)
    spec = SweepSpec(
        job=prepared.job,
        provider=config.targets[0].backend.name,
        space=config.space,
        method=config.method,
        metric=config.metric,
        direction=config.direction,
        budget=config.budget,
        pruning=config.pruning,
        trials=count,
        seed=options.seed,
        rows=prepared.dataset.sha256,
    )
    create_shared_sweep(worker.study, spec)
    if options.ray is not None:
        workers = options.parallel or sum(parallel_runs(target.backend) for target in config.targets)
        run_on_ray(config.group.removeprefix(PREFIX), options.ray, workers)
    with keep_model_loaded(config.targets):
        stopped = worker.run()
        worker.wait_for_others()
    return worker, stopped


def _build_result(
    prepared: _PreparedSweep,
    worker: SweepWorker,
    stopped: str | None,
    prescreened: Prescreened | None,
    *,
    budget: float | None,
) -> Sweep:
    """Rank the trials. Raises `LlmtuneError` where none has a result."""
    config, job = prepared.config, prepared.job
    rows = worker.trial_rows()
    if not any(row.state == "complete" for row in rows):
        reason = next((row.note for row in rows if row.note), stopped or "no trial ended")
        raise LlmtuneError(f"no trial of the sweep has a result: {reason}")
    spent = worker.total_cost()
    if prescreened is not None:
        spent = _add_costs(spent, prescreened.spent)
    result = Sweep(
        name=job.name,
        provider=", ".join(target.name for target in config.targets),
        group=config.group,
        method=config.method,
        metric=config.metric,
        direction=config.direction,
        trials=rows,
        sources=prepared.sources,
        notes=prepared.notes,
        prescreened=prescreened,
        importance=studies.compute_importance(worker.study),
        spent=spent,
        budget=budget,
        stopped=stopped,
        job=job,
    )
    best = result.best
    assert best is not None
    target = config.find_target(best.params)
    return result.model_copy(update={"job": with_params(target.job(job), best.params, target.backend.name)})


def _add_finalists(result: Sweep, prepared: _PreparedSweep, worker: SweepWorker, options: _SweepOptions) -> Sweep:
    """Train the best configurations again and score them on the test rows, as far as the budget goes."""
    config = prepared.config
    with keep_model_loaded(config.targets):
        remaining = None if config.budget is None else config.budget - worker.committed_cost()
        best = result.ranked()[: options.finalists]
        evaluated = evaluate_finalists(config, prepared.job, best, seeds=options.seeds, remaining=remaining)
    return result.model_copy(
        update={
            "finalists": evaluated.finalists,
            "spent": _add_costs(result.spent, evaluated.spent),
            "notes": (*result.notes, *evaluated.notes),
        }
    )


def _add_costs(first: float | NotReported, second: float | NotReported) -> float | NotReported:
    if isinstance(first, NotReported):
        return first
    return second if isinstance(second, NotReported) else first + second


def _build_group(
    job: TuningJob,
    targets: Sequence[SweepTarget],
    space: Space,
    options: _SweepOptions,
    prescreen: Prescreen | None,
) -> str:
    """Return the name of the study: equal for equal sweeps, so that the same call finds its trials again."""
    identity: list[Any] = [job.to_dict(), ", ".join(target.name for target in targets)]
    identity += [{name: part.model_dump(mode="json") for name, part in space.items()}, options.method, options.metric]
    if prescreen is not None:
        identity.append(prescreen.model_dump())
    text = json.dumps(identity, sort_keys=True, default=str)
    return f"{PREFIX}{hashlib.sha256(text.encode()).hexdigest()[:12]}"


def _check_budget(prepared: _PreparedSweep, *, finalists: int, yes: bool, allow_unknown: bool) -> None:
    """Raise `OverBudget` where spending was not confirmed or a price is unknown. Workers keep to the budget itself."""
    config = prepared.config
    # Finalists are evaluated with the job's judge, which may bill on this machine too.
    job = prepared.job if finalists and prepared.job.evaluation.judge is not None else config.job
    paid = [
        target
        for target in config.targets
        if target.backend.hosted or (job is prepared.job and plan(target.job(job), target.backend).bills_judge)
    ]
    if not paid:
        return

    def bill(budget: float) -> CostTotal:
        costs = [] if allow_unknown else [(target.name, plan(target.job(job), target.backend).cost) for target in paid]
        unknown = (
            OverBudget(
                f"what a trial at {name} costs is not known ({missing}), which counts as over the budget",
                hint=ALLOW_UNKNOWN,
            )
            for name, cost in costs
            if (missing := cost.why_incomplete()) is not None
        )
        return CostTotal(0.0, None, next(unknown, None))

    names = ", ".join(dict.fromkeys(target.backend.name for target in paid))
    check_budget(
        bill,
        budget=config.budget,
        confirmed=yes,
        allow_unknown_cost=allow_unknown,
        unconfirmed=OverBudget(f"{names} bills every trial and it was not confirmed", hint=CONFIRM),
    )
