"""Runs are started, found and listed here; `Run` is the handle on one."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Any

from llmtune.provider.protocol import Provider
from llmtune.provider.registry import get_provider
from llmtune.provider.types import RunState
from llmtune.runs.fallback import start_first, tune_first
from llmtune.runs.planned import StartOptions
from llmtune.runs.store.store import open_store

if TYPE_CHECKING:
    from llmtune.job.spec import TuningJob
    from llmtune.report.schema import Report
from llmtune.runs.run import Run
from llmtune.runs.start import start_run


# --- the front door --------------------------------------------------------------------------------------------------
def start(
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
    """Plan, upload, submit, and return the run. It goes on without this process.

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


def tune(job: TuningJob, provider: str | Provider | Sequence[str | Provider] = "local", **options: Any) -> Report:
    """`start` and `wait`: blocks until there is a report. Takes the options of both.

    Raises:
        RunFailed: the run ended without a model; carries the report. And whatever `start` and `wait` raise.
    """
    waits = {name: options.pop(name) for name in _WAITS if name in options}
    if options.get("fallback_on") and isinstance(provider, Sequence) and not isinstance(provider, str):

        def follow(run: Run, queued: float | None) -> Report:
            return run.wait(**(waits if queued is None else waits | {"queue_timeout": queued}))

        return tune_first(job, provider, follow=follow, **options)
    return start(job, provider, **options).wait(**waits)


_WAITS = ("timeout", "stall_timeout", "queue_timeout", "on_update", "pace")


async def start_async(
    job: TuningJob, provider: str | Provider | Sequence[str | Provider] = "local", **options: Any
) -> Run:
    """`start` for asyncio."""
    import asyncio

    return await asyncio.to_thread(lambda: start(job, provider, **options))


async def tune_async(
    job: TuningJob, provider: str | Provider | Sequence[str | Provider] = "local", **options: Any
) -> Report:
    """`tune` for asyncio."""
    import asyncio

    if options.get("fallback_on"):
        return await asyncio.to_thread(lambda: tune(job, provider, **options))
    waits = {name: options.pop(name) for name in _WAITS if name in options}
    run = await start_async(job, provider, **options)
    return await run.wait_async(**waits)


def attach(run_id: str, *, provider: Provider | None = None) -> Run:
    """A run by `run_id`: its id, the beginning of that, its key, or its name.

    Raises:
        RunNotFound: there is none; the message has the nearest ids.
    """
    store = open_store()
    return Run(store.resolve(run_id), store=store, provider=provider)


def runs(
    *, states: Collection[RunState] | None = None, provider: str | None = None, limit: int | None = None
) -> list[Run]:
    """The runs in the store, newest first."""
    store = open_store()
    return [Run(record.id, store=store) for record in store.runs(states=states, provider=provider, limit=limit)]
