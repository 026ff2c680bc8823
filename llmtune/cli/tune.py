"""`llmtune tune`: from a job file to a report, with the progress in sight and the way back always known."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from llmtune.errors import EXIT_INTERRUPTED, RunFailed

if TYPE_CHECKING:
    from llmtune.job.spec import TuningJob
    from llmtune.provider.receipt import Receipt
    from llmtune.report.schema import Report
    from llmtune.runs.run import Run
    from llmtune.runs.store.records import RunRecord


def tune(  # noqa: C901
    job: Annotated[Path, typer.Argument(help="The job file (YAML or JSON).", show_default=False)],
    provider: Annotated[
        str, typer.Option("--provider", "-p", help="The backend to train at; of several (a,b,c) the first that can.")
    ] = "local",
    model: Annotated[str | None, typer.Option("--model", help="Another base model than the job's.")] = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask before money is spent.")] = False,
    budget: Annotated[float | None, typer.Option(help="Refuse above this many USD.")] = None,
    allow_unknown_cost: Annotated[bool, typer.Option(help="Run although the cost is not known.")] = False,
    strict: Annotated[bool, typer.Option(help="Refuse when any field that is set would not be used.")] = False,
    allow_lossy_data: Annotated[bool, typer.Option(help="Leave out what the row format cannot carry.")] = False,
    new: Annotated[bool, typer.Option("--new", help="Start another run although the same one is unfinished.")] = False,
    reuse: Annotated[bool, typer.Option("--reuse", help="Return a finished run of the same content.")] = False,
    fallback_on: Annotated[
        str,
        typer.Option(
            help="With several backends, what else moves on: failed,over_budget,'queued>2h' (comma-separated)."
        ),
    ] = "",
    stall_timeout: Annotated[
        float | None, typer.Option(help="Say so when no new step or state comes for so many seconds.")
    ] = None,
    detach: Annotated[bool, typer.Option("--detach", help="Start it and leave; come back with runs attach.")] = False,
    sink: Annotated[
        list[str] | None,
        typer.Option(help="Send the curves there too: tensorboard:DIR, mlflow:URI, wandb:PROJECT. May be given again."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="As one JSON document.")] = False,
) -> None:
    """Train, evaluate and report."""
    from functools import partial

    from rich.markup import escape

    from llmtune.cli.output import err
    from llmtune.cli.progress import follow
    from llmtune.job.spec import TuningJob
    from llmtune.provider.registry import get_provider
    from llmtune.runs.api import start
    from llmtune.runs.plans import plan

    loaded = TuningJob.load(job)
    if model is not None:
        loaded = loaded.model_copy(update={"model": model})
    backends = [get_provider(name.strip()) for name in provider.split(",") if name.strip()]
    if budget is None and not yes:
        # Of several, the first that takes jobs is the one to be asked about, if it bills.
        for backend in backends:
            if not backend.hosted:
                break
            receipt = plan(loaded, backend)
            if receipt.lifecycle.open and not receipt.refusals:
                confirm(receipt, None if new or reuse else finished_like(loaded, receipt))
                yes = True
                break
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
    conditions = [word for word in fallback_on.split(",") if word.strip()]
    if len(backends) > 1:
        from llmtune.runs.fallback import outlook
        from llmtune.runs.plans import plan_all

        for line in outlook(plan_all(loaded, backends)):
            err.print(escape(line), soft_wrap=True, style="dim")

    def told(run: Run) -> None:
        err.print(f"run [bold]{run.id}[/] at {run.record.provider}", soft_wrap=True)
        for warning in run.record.warnings:
            err.print(f"[yellow]{escape(warning)}[/]", soft_wrap=True)

    if conditions and len(backends) > 1 and not detach:
        from llmtune.runs.fallback import tune_first

        def followed(run: Run, queued: float | None) -> Report:
            return follow(run, queue_timeout=queued, stall_timeout=stall_timeout)

        try:
            report = tune_first(loaded, backends, fallback_on=conditions, follow=followed, on_start=told, **options)
        except KeyboardInterrupt:
            err.print("\nthe run goes on; the same command comes back to it and to the list", soft_wrap=True)
            sys.exit(EXIT_INTERRUPTED)
        _print(report, as_json=as_json)
        return
    run = start(loaded, backends if len(backends) > 1 else backends[0], fallback_on=conditions, **options)
    told(run)
    if detach:
        err.print(f"come back with: llmtune runs attach {run.id}", soft_wrap=True)
        return
    show(run, partial(follow, stall_timeout=stall_timeout), as_json=as_json)


def show(run: Run, follow: Any, *, as_json: bool) -> None:
    """Follow a run to its end and print its report; Ctrl-C leaves it running and says how to come back."""
    from llmtune.cli.output import err

    try:
        report = follow(run)
    except RunFailed as error:
        if error.report is not None:
            _print(error.report, as_json=as_json)
        raise
    except KeyboardInterrupt:
        err.print(
            f"\nthe run goes on; come back with: llmtune runs attach {run.id}\n"
            f"stop it with:                    llmtune runs cancel {run.id}",
            soft_wrap=True,
        )
        sys.exit(EXIT_INTERRUPTED)
    _print(report, as_json=as_json)


def _print(report: Report, *, as_json: bool) -> None:
    from llmtune.cli.output import out, print_json
    from llmtune.report.terminal import print_report

    if as_json:
        print_json(report.model_dump(mode="json"))
    else:
        print_report(report, out)


def finished_like(job: TuningJob, receipt: Receipt) -> RunRecord | None:
    """The newest run that has finished with the same job on the same rows at this backend."""
    from llmtune.errors import InvalidJob
    from llmtune.provider.types import RunState
    from llmtune.runs.store.store import open_store

    def content(of: TuningJob) -> tuple[object, ...]:
        provider = receipt.target.provider
        return of.model_for(provider), of.method, of.adapter, of.hyperparameters_for(provider), of.seed

    for record in open_store().runs(states=[RunState.SUCCEEDED], provider=receipt.target.provider):  # newest first
        try:
            same = content(record.tuning_job) == content(job)
        except InvalidJob:  # of a version that knew other fields
            continue
        if same and receipt.data.sha256 and record.receipt.get("data", {}).get("sha256") == receipt.data.sha256:
            return record
    return None


def confirm(receipt: Receipt, finished: RunRecord | None = None) -> None:
    """Show the estimate and ask; without a terminal that is a refusal that says what to pass instead.

    A run that has `finished` with the same content is named: its model is there already.
    """
    from llmtune.cli.output import confirm as ask
    from llmtune.cli.output import err
    from llmtune.cli.plan import print_plans
    from llmtune.errors import OverBudget

    if receipt.refusals or not receipt.lifecycle.open:
        return  # `start` refuses with the full sentence
    if not (err.is_terminal and sys.stdin.isatty()):
        raise OverBudget(
            f"{receipt.target.provider} bills this run (estimate: {receipt.cost.sentence()}); nobody can confirm here",
            hint="pass --budget USD or --yes",
        )
    print_plans(err, receipt.job_name, {receipt.target.provider: receipt}, every_field=False, request=False)
    if finished is not None:
        err.print(
            f"run {finished.id} has finished with the same job on the same rows: --reuse takes its model and costs"
            f" nothing (llmtune report {finished.id})",
            soft_wrap=True,
        )
    if not ask(f"Start at {receipt.target.provider} for {receipt.cost.sentence()}?"):
        raise OverBudget("not confirmed; nothing was sent", hint="llmtune plan shows the estimate again")
