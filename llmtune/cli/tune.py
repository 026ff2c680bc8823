"""`llmtune tune`: from a job file to a report, with progress on the way and the command to reattach if interrupted."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from llmtune.cli.completion import complete_provider
from llmtune.cli.job_options import BaseModelName, JobName, JobOptions, LimitRows, Seed, SetFields
from llmtune.errors import EXIT_INTERRUPTED, InvalidJob, RunFailed

if TYPE_CHECKING:
    from collections.abc import Callable

    from llmtune.job.spec import TuningJob
    from llmtune.provider.protocol import Provider
    from llmtune.provider.receipt import Receipt
    from llmtune.report.schema import Report
    from llmtune.runs.run import Run
    from llmtune.runs.store.records import RunRecord


def tune(
    job: Annotated[
        Path,
        typer.Argument(
            metavar="JOB",
            help="The job file (YAML or JSON); for a dataset, a job is proposed first.",
            show_default=False,
        ),
    ],
    provider: Annotated[
        str,
        typer.Option(
            "--provider",
            "-p",
            autocompletion=complete_provider,
            help="Backend to train at; of several (a,b,c), the first that takes the job.",
        ),
    ] = "local",
    fields: SetFields = None,
    model: BaseModelName = None,
    name: JobName = None,
    seed: Seed = None,
    limit_rows: LimitRows = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask before money is spent.")] = False,
    budget: Annotated[float | None, typer.Option(help="Refuse above this many USD.")] = None,
    allow_unknown_cost: Annotated[bool, typer.Option(help="Run although the cost is not known.")] = False,
    strict: Annotated[bool, typer.Option(help="Refuse when any field that is set would not be used.")] = False,
    allow_lossy_data: Annotated[bool, typer.Option(help="Leave out content that the row format cannot hold.")] = False,
    new: Annotated[bool, typer.Option("--new", help="Start another run although the same one is unfinished.")] = False,
    reuse: Annotated[bool, typer.Option("--reuse", help="Return a finished run of the same content.")] = False,
    seeds: Annotated[
        int | None,
        typer.Option(
            help="Train so many times, each with another seed, and report the spread. A budget is for all together;"
            " finished runs of these seeds are reused.",
            show_default=False,
        ),
    ] = None,
    fallback_on: Annotated[
        str,
        typer.Option(help="Other reasons to try the next backend: failed, over_budget, 'queued>2h' (comma-separated)."),
    ] = "",
    stall_timeout: Annotated[
        float | None, typer.Option(help="Warn when there is no new step or state for this many seconds.")
    ] = None,
    detach: Annotated[
        bool, typer.Option("--detach", help="Start the run and exit; llmtune runs attach follows it later.")
    ] = False,
    sink: Annotated[
        list[str] | None,
        typer.Option(help="Also send the curves to tensorboard:DIR, mlflow:URI or wandb:PROJECT. May be repeated."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="As one JSON document.")] = False,
) -> None:
    """Train, evaluate and report."""
    from functools import partial

    from llmtune.cli.output import err
    from llmtune.cli.progress import follow
    from llmtune.provider.registry import get_provider
    from llmtune.runs.api import start
    from llmtune.runs.fallback import Conditions

    conditions = [condition for condition in fallback_on.split(",") if condition.strip()]
    Conditions.parse(conditions)  # a wrong word is a mistake even where there is one backend only
    backends = [get_provider(backend.strip()) for backend in provider.split(",") if backend.strip()]
    loaded, _ = JobOptions(fields, name, seed, limit_rows, model).load(job, "tune", provider)
    if seeds is not None and (len(backends) > 1 or conditions):
        raise InvalidJob("seeds are compared at one backend, and several are named", where="--seeds")
    if seeds is not None and detach:
        raise InvalidJob("the spread is computed when all runs have ended", where="--seeds", hint="leave out --detach")
    if budget is None and not yes:
        yes = _confirm_cost(loaded, backends, suggest_reuse=not (new or reuse or seeds), runs=seeds or 1)
    options: dict[str, Any] = {
        "yes": yes,
        "budget": budget,
        "allow_unknown_cost": allow_unknown_cost,
        "strict": strict,
        "allow_lossy_data": allow_lossy_data,
        "new": new,
        "reuse": reuse,
        "sinks": sink or (),
    }
    if len(backends) > 1:
        _print_fallbacks(loaded, backends)
    if seeds is not None:
        del options["reuse"]  # finished runs of these seeds are reused without it
        report = _tune_with_seeds(loaded, backends[0], seeds, stall_timeout, options)
        _print_report(report, as_json=as_json)
        return
    if conditions and len(backends) > 1 and not detach:
        report = _tune_with_fallback(loaded, backends, conditions, stall_timeout, options)
        _print_report(report, as_json=as_json)
        return
    run = start(loaded, backends if len(backends) > 1 else backends[0], fallback_on=conditions, **options)
    _print_start(run)
    if detach:
        err.print(f"follow it with: llmtune runs attach {run.id}", soft_wrap=True)
        return
    follow_to_report(run, partial(follow, stall_timeout=stall_timeout), as_json=as_json)


def _confirm_cost(job: TuningJob, backends: list[Provider], *, suggest_reuse: bool, runs: int) -> bool:
    """Ask about the first backend that takes the job, if it bills; return whether anything was confirmed."""
    from llmtune.runs.budget import name_biller
    from llmtune.runs.plans import plan

    for backend in backends:
        if not backend.hosted and job.evaluation.judge is None:
            return False
        receipt = plan(job, backend)
        if not backend.hosted and not receipt.bills_judge:
            return False
        if receipt.lifecycle.open and not receipt.refusals:
            finished = find_finished(job, receipt) if suggest_reuse else None
            confirm(receipt, finished, runs=runs, biller=name_biller(receipt, hosted=backend.hosted))
            return True
    return False


def _print_fallbacks(job: TuningJob, backends: list[Provider]) -> None:
    from rich.markup import escape

    from llmtune.cli.output import err
    from llmtune.runs.fallback import describe_fallbacks
    from llmtune.runs.plans import plan_all

    for line in describe_fallbacks(plan_all(job, backends)):
        err.print(escape(line), soft_wrap=True, style="dim")


def _print_start(run: Run) -> None:
    from rich.markup import escape

    from llmtune.cli.output import err

    err.print(f"run [bold]{run.id}[/] at {run.record.provider}", soft_wrap=True)
    for warning in run.record.warnings:
        err.print(f"[yellow]{escape(warning)}[/]", soft_wrap=True)


def _tune_with_fallback(
    job: TuningJob,
    backends: list[Provider],
    conditions: list[str],
    stall_timeout: float | None,
    options: dict[str, Any],
) -> Report:
    """Train at the backends in turn, as `conditions` say; Ctrl-C leaves the run running."""
    from llmtune.cli.output import err
    from llmtune.cli.progress import follow
    from llmtune.runs.fallback import tune_first

    def follow_run(run: Run, queue_timeout: float | None) -> Report:
        return follow(run, queue_timeout=queue_timeout, stall_timeout=stall_timeout)

    try:
        return tune_first(job, backends, fallback_on=conditions, follow=follow_run, on_start=_print_start, **options)
    except KeyboardInterrupt:
        err.print("\nthe run continues; the same command reattaches to it and to the list of backends", soft_wrap=True)
        sys.exit(EXIT_INTERRUPTED)


def _tune_with_seeds(
    job: TuningJob, backend: Provider, seeds: int, stall_timeout: float | None, options: dict[str, Any]
) -> Report:
    """Train with several seeds; Ctrl-C leaves what has begun running."""
    from llmtune.cli.output import err
    from llmtune.cli.progress import follow
    from llmtune.runs.seeds import tune_seeds

    try:
        return tune_seeds(
            job,
            backend,
            seeds,
            follow=lambda run: follow(run, stall_timeout=stall_timeout),
            on_start=_print_start,
            **options,
        )
    except KeyboardInterrupt:
        err.print("\nwhat has begun continues; the same command goes on with all of it", soft_wrap=True)
        sys.exit(EXIT_INTERRUPTED)


def follow_to_report(run: Run, follow: Callable[[Run], Report], *, as_json: bool) -> None:
    """Follow a run to its end and print its report; Ctrl-C leaves it running and prints how to reattach.

    `follow` waits for the run and returns its report. Raises `RunFailed`, after printing the report of a failed run.
    """
    from llmtune.cli.output import err

    try:
        report = follow(run)
    except RunFailed as error:
        if error.report is not None:
            _print_report(error.report, as_json=as_json)
        raise
    except KeyboardInterrupt:
        err.print(
            f"\nthe run continues; follow it with: llmtune runs attach {run.id}\n"
            f"stop it with:                      llmtune runs cancel {run.id}",
            soft_wrap=True,
        )
        sys.exit(EXIT_INTERRUPTED)
    _print_report(report, as_json=as_json)


def _print_report(report: Report, *, as_json: bool) -> None:
    from llmtune.cli.output import out, print_json
    from llmtune.report.terminal import print_report

    if as_json:
        print_json(report.model_dump(mode="json"))
    else:
        print_report(report, out)


def find_finished(job: TuningJob, receipt: Receipt) -> RunRecord | None:
    """Find the newest finished run of the same job on the same rows at this backend; None if there is none."""
    from llmtune.errors import InvalidJob
    from llmtune.provider.types import RunState
    from llmtune.runs.store.store import open_store

    provider = receipt.target.provider

    def list_content(spec: TuningJob) -> tuple[object, ...]:
        return (
            spec.model_for(provider),
            spec.method,
            spec.hyperparameters_for(provider),
            spec.seed,
            spec.dataset.limit_rows,
        )

    for record in open_store().runs(states=[RunState.SUCCEEDED], provider=provider):  # newest first
        try:
            is_same_job = record.plan.target.adapter == receipt.target.adapter and list_content(
                record.tuning_job
            ) == list_content(job)
        except InvalidJob:  # written by a version with other fields
            continue
        if is_same_job and receipt.data.sha256 and record.receipt.get("data", {}).get("sha256") == receipt.data.sha256:
            return record
    return None


def confirm(receipt: Receipt, finished: RunRecord | None = None, *, runs: int = 1, biller: str | None = None) -> None:
    """Show the estimate and ask whether to start so many runs; a `finished` run of the same content is pointed out.

    `biller` is who bills them; None is the backend.

    Raises:
        OverBudget: the user declined, or there is no terminal to ask on; the hint says what to pass instead.
    """
    from llmtune.cli.output import confirm as ask_user
    from llmtune.cli.output import err
    from llmtune.cli.plan import print_plans
    from llmtune.errors import OverBudget

    if receipt.refusals or not receipt.lifecycle.open:
        return  # `start` refuses with the full sentence
    if not (err.is_terminal and sys.stdin.isatty()):
        billed = "this run" if runs == 1 else f"each of {runs} runs"
        raise OverBudget(
            f"{biller or receipt.target.provider} bills {billed} (estimate: {receipt.cost.sentence()}); nobody can"
            " confirm here",
            hint="pass --budget USD or --yes",
        )
    print_plans(err, receipt.job_name, {receipt.target.provider: receipt}, every_field=False, request=False)
    if finished is not None:
        err.print(
            f"run {finished.id} has finished with the same job on the same rows: --reuse returns its model and costs"
            f" nothing (llmtune report {finished.id})",
            soft_wrap=True,
        )
    times = "" if runs == 1 else f", {runs} times"
    if not ask_user(f"Start at {receipt.target.provider} for {receipt.cost.sentence()}{times}?"):
        raise OverBudget("not confirmed; nothing was sent", hint="llmtune plan shows the estimate again")
