"""Runs are started, found and listed here; `Run` is the handle on one."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Unpack, cast

from llmtune.errors import InvalidJob
from llmtune.provider.protocol import Provider
from llmtune.provider.registry import get_provider
from llmtune.provider.types import RunState
from llmtune.runs.fallback import start_first, tune_first
from llmtune.runs.keywords import StartKeywords, TuneKeywords, WaitKeywords
from llmtune.runs.options import check_keywords
from llmtune.runs.planned import StartOptions
from llmtune.runs.progress import ProgressMode, show_progress
from llmtune.runs.run import Run
from llmtune.runs.seeds import tune_seeds
from llmtune.runs.start import start_run
from llmtune.runs.store.database import keep_trying
from llmtune.runs.store.store import open_store

if TYPE_CHECKING:
    from llmtune.job.spec import TuningJob
    from llmtune.report.schema import Report


# --- starting ------------------------------------------------------------------------------------------------------
@check_keywords()
def start(  # noqa: PLR0913 - users pass keywords
    job: TuningJob,
    provider: str | Provider | Sequence[str | Provider] = "local",
    *,
    budget: float | None = None,
    yes: bool = True,
    allow_unknown_cost: bool = False,
    strict: bool | Collection[str] = False,
    allow_lossy_data: bool = False,
    new: bool = False,
    reuse: bool = False,
    group: str | None = None,
    fallback_on: Sequence[str] = (),
    sinks: Collection[str] = (),
) -> Run:
    """Plan, upload and submit a job, and return its run, which goes on without this process.

    An unfinished run of the same content is joined instead of paid for twice. If this process dies at any moment,
    starting the same job again (or `attach`) goes on from there.

    Args:
        job: the job.
        provider: a provider's name, a configured instance's name, or a provider; of a list, the first that takes the
            job (see `llmtune.runs.fallback`).
        budget: the most that may be spent, in USD; an unknown cost counts as over it.
        yes: whether spending money is agreed to; calling from Python is, the command line asks first.
        allow_unknown_cost: let an unknown cost pass under a budget.
        strict: refuse when any field that is set (or any of these) would not be used.
        allow_lossy_data: leave out what the vendor's row format cannot carry.
        new: start another run although one of the same content is unfinished.
        reuse: return a finished run of the same content, if there is one.
        group: name of the comparison or sweep it belongs to.
        fallback_on: with a list of providers, what else moves on to the next one: "over_budget" (and, for `tune`,
            "failed" and "queued>2h").
        sinks: where its curves go too, while it is waited for: "tensorboard:runs/", "mlflow:URI#EXPERIMENT",
            "wandb:ENTITY/PROJECT". A run that is joined gets them as well. See docs/page.md.

    Raises:
        UnknownOption: there is no such keyword; names the nearest one.
        LlmtuneError: see `llmtune.errors`; nothing was sent when it is one of InvalidJob, InvalidData, NotTranslatable,
            ProviderClosed, OverBudget, MissingExtra, MissingCredentials.
    """
    options = StartOptions(
        budget=budget,
        yes=yes,
        allow_unknown_cost=allow_unknown_cost,
        strict=strict,
        allow_lossy_data=allow_lossy_data,
        new=new,
        reuse=reuse,
        group=group,
    )
    if isinstance(provider, Sequence) and not isinstance(provider, str):
        return start_first(job, provider, fallback_on=fallback_on, sinks=sinks, **vars(options))
    return start_run(job, get_provider(provider), options, sinks=sinks)


@check_keywords(start, Run.wait)
def tune(
    job: TuningJob,
    provider: str | Provider | Sequence[str | Provider] = "local",
    *,
    progress: ProgressMode = "auto",
    seeds: int | None = None,
    **options: Unpack[TuneKeywords],
) -> Report:
    """Start a run and wait for its report: `start` and `Run.wait` in one call. Takes the options of both.

    Args:
        job: the job.
        provider: as for `start`.
        seeds: train so many times, 2 to 100, each time with another seed, and report how far the figures differ; the
            report is that of the first seed. A budget is for all together; finished runs of these seeds are reused
            unless `new` is set. For one backend, not a list of them.
        progress: "auto" shows one line of progress on a terminal's standard error or in a notebook, and nothing
            elsewhere; True prints plain lines to standard error there; False is quiet.
        options: the keywords of `start` and `Run.wait`.

    Raises:
        RunFailed: the run ended without a model; carries the report. And whatever `start` and `wait` raise.
        UnknownOption: there is no such keyword; names the nearest one.
    """
    start_options, wait_options = _split(options)
    with show_progress(progress, wait_options.pop("on_update", None)) as on_update:
        wait_options["on_update"] = on_update
        if seeds is not None:
            if isinstance(provider, Sequence) and not isinstance(provider, str):
                raise InvalidJob("seeds are compared at one backend, and a list of them is given", where="seeds")
            if start_options.pop("fallback_on", ()):
                raise InvalidJob("fallback_on needs a list of backends, and seeds one", where="fallback_on")
            start_options.pop("reuse", None)  # finished runs of these seeds are reused without it
            return tune_seeds(job, provider, seeds, follow=lambda run: run.wait(**wait_options), **start_options)
        if start_options.get("fallback_on") and isinstance(provider, Sequence) and not isinstance(provider, str):

            def follow(run: Run, queue_timeout: float | None) -> Report:
                limited = wait_options if queue_timeout is None else wait_options | {"queue_timeout": queue_timeout}
                return run.wait(**limited)

            return tune_first(job, provider, follow=follow, **start_options)
        return start(job, provider, **start_options).wait(**wait_options)


def _split(options: TuneKeywords) -> tuple[StartKeywords, WaitKeywords]:
    """Split the options of `tune` into those of `start` and those of `Run.wait`."""
    wait_options = {name: value for name, value in options.items() if name in WaitKeywords.__annotations__}
    start_options = {name: value for name, value in options.items() if name not in wait_options}
    return cast(StartKeywords, start_options), cast(WaitKeywords, wait_options)


@check_keywords(start)
async def start_async(
    job: TuningJob,
    provider: str | Provider | Sequence[str | Provider] = "local",
    **options: Unpack[StartKeywords],
) -> Run:
    """Start a run as `start` does, with its `options`, without blocking the event loop."""
    import asyncio

    return await asyncio.to_thread(lambda: start(job, provider, **options))


@check_keywords(start, Run.wait)
async def tune_async(
    job: TuningJob,
    provider: str | Provider | Sequence[str | Provider] = "local",
    *,
    progress: ProgressMode = "auto",
    seeds: int | None = None,
    **options: Unpack[TuneKeywords],
) -> Report:
    """Start a run and wait for its report as `tune` does, with its `seeds` and `options`, without blocking the loop."""
    import asyncio

    if seeds is not None or options.get("fallback_on"):
        return await asyncio.to_thread(lambda: tune(job, provider, progress=progress, seeds=seeds, **options))
    start_options, wait_options = _split(options)
    with show_progress(progress, wait_options.pop("on_update", None)) as on_update:
        wait_options["on_update"] = on_update
        run = await start_async(job, provider, **start_options)
        return await run.wait_async(**wait_options)


def attach(run_id: str, *, provider: Provider | None = None, store_timeout: float = 60.0) -> Run:
    """Return the run with this `run_id`: its id, the beginning of it, its key, or its name.

    Args:
        run_id: which run.
        provider: reach the backend through this one; None makes it from the settings that the run was started with.
        store_timeout: seconds for which a store that is unavailable (PostgreSQL restarts, a file is locked) is asked
            again.

    Raises:
        RunNotFound: there is none; the message has the nearest ids.
        StoreUnavailable: the store was unavailable for longer, or was deleted.
    """

    def find() -> Run:
        store = open_store()
        return Run(store.resolve(run_id), store=store, provider=provider)

    return keep_trying(find, doing=f"looking for run {run_id}", seconds=store_timeout, even_deleted=False)


def list_runs(
    *, states: Collection[RunState] | None = None, provider: str | None = None, limit: int | None = None
) -> list[Run]:
    """Return the runs in the store, newest first, as `llmtune runs list` shows them.

    Args:
        states: only runs in one of these states; None is all.
        provider: only runs at the provider, or configured instance, of this name.
        limit: number of runs at most.
    """
    store = open_store()
    return [Run(record.id, store=store) for record in store.runs(states=states, provider=provider, limit=limit)]
