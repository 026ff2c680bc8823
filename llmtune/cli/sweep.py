"""`llmtune sweep`: search hyperparameters by training."""

from __future__ import annotations

import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from llmtune.cli.completion import complete_provider
from llmtune.cli.help import HelpfulGroup
from llmtune.cli.job_options import BaseModelName, JobFile, JobName, JobOptions, LimitRows, Seed, SetFields
from llmtune.errors import EXIT_INTERRUPTED


class Method(StrEnum):
    """Search methods: how the next trial is chosen."""

    RANDOM = "random"
    GRID = "grid"
    BAYESIAN = "bayesian"


def sweep(
    job: JobFile,
    space: Annotated[
        list[str] | None,
        typer.Option(
            "--space",
            "-s",
            help="FIELD=LOW..HIGH or FIELD=A,B,C, also model and provider; may be repeated. Default: published ranges.",
            show_default=False,
        ),
    ] = None,
    provider: Annotated[
        str, typer.Option("--provider", "-p", autocompletion=complete_provider, help="Where the trials run.")
    ] = "local",
    fields: SetFields = None,
    model: BaseModelName = None,
    name: JobName = None,
    seed: Seed = None,
    limit_rows: LimitRows = None,
    method: Annotated[Method, typer.Option(help="How the next trial is chosen.")] = Method.BAYESIAN,
    trials: Annotated[int, typer.Option(min=1, help="Number of trials.")] = 20,
    metric: Annotated[str, typer.Option(help="The series that trials are ranked by.")] = "validation/loss",
    pruning: Annotated[bool, typer.Option(help="Cancel trials that are worse than the median of the others.")] = True,
    finalists: Annotated[int, typer.Option(min=0, help="Best configurations scored on the test rows.")] = 1,
    seeds: Annotated[int, typer.Option(min=1, help="Training runs per finalist, each with its own seed.")] = 1,
    parallel: Annotated[int | None, typer.Option(min=1, help="Trials that run at the same time.")] = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask before money is spent.")] = False,
    budget: Annotated[float | None, typer.Option(help="Most that all trials together may cost, in USD.")] = None,
    allow_unknown_cost: Annotated[bool, typer.Option(help="Run although the cost is not known.")] = False,
    show_space: Annotated[bool, typer.Option("--show-space", help="Show the search space and exit.")] = False,
    prescreen: Annotated[
        str | None,
        typer.Option(
            help="Search first at this backend (NAME or NAME:MODEL), and continue with the best.", show_default=False
        ),
    ] = None,
    keep: Annotated[int, typer.Option(min=1, help="Number of configurations to take over from --prescreen.")] = 3,
    ray: Annotated[
        str | None,
        typer.Option(help="Run trials on a Ray cluster: local, auto or its address.", show_default=False),
    ] = None,
    best: Annotated[Path | None, typer.Option("--best", help="Write the best job to this file (.yaml, .json).")] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Also write the sweep (.json, .md or .html).")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="As one JSON document.")] = False,
) -> None:
    """Search hyperparameters by training, and score the best on the test rows."""
    from llmtune.cli.output import check_ending, err, out, print_json, write_text
    from llmtune.report.terminal import print_report
    from llmtune.sweeps.space import parse_space
    from llmtune.sweeps.sweep import sweep as go
    from llmtune.sweeps.sweep_plan import plan_sweep
    from llmtune.sweeps.text import print_plan

    check_ending(output, ".html", ".json", ".md")
    check_ending(best, ".yaml", ".yml", ".json")
    loaded, _ = JobOptions(fields, name, seed, limit_rows, model).load(job, "sweep", provider)
    parsed_space = parse_space(space) if space else None
    sweep_plan = plan_sweep(loaded, provider, parsed_space)
    if show_space and as_json:
        print_json(sweep_plan.model_dump(mode="json"))
        return
    print_plan(sweep_plan, trials, out if show_space else err)
    if show_space:
        return
    where, _, cheap_model = (prescreen or "").partition(":")
    try:
        result = go(
            loaded,
            provider,
            parsed_space,
            method=method.value,
            trials=trials,
            metric=metric,
            pruning=pruning,
            finalists=finalists,
            seeds=seeds,
            parallel=parallel,
            yes=yes,
            budget=budget,
            allow_unknown_cost=allow_unknown_cost,
            prescreen={"provider": where, "model": cheap_model or None, "keep": keep} if where else None,
            ray=ray,
            on_trial=_print_trial,
        )
    except KeyboardInterrupt:
        err.print("\nstarted trials continue; the same command continues the sweep", soft_wrap=True)
        sys.exit(EXIT_INTERRUPTED)
    if best is not None:
        result.save_job(best)
        err.print(f"wrote {best}", markup=False, soft_wrap=True)
    if output is not None:
        result.save(output)
        err.print(f"wrote {output}", markup=False, soft_wrap=True)
    if as_json:
        write_text(result.to_json() + "\n")
    else:
        print_report(result, out)


def join(
    sweep: Annotated[
        str | None,
        typer.Argument(
            metavar="[SWEEP]", help="The sweep's name or the beginning of it; default: the sweep that is running."
        ),
    ] = None,
    parallel: Annotated[
        int | None, typer.Option(min=1, help="Trials that run at the same time on this machine.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="As one JSON document.")] = False,
) -> None:
    """Run trials of a sweep that was started elsewhere on the same store, until none is left."""
    from llmtune.cli.output import err, print_json_line
    from llmtune.sweeps.distributed import join_sweep as go

    try:
        rows = go(sweep, parallel=parallel, on_trial=_print_trial)
    except KeyboardInterrupt:
        err.print("\nstarted trials continue; the sweep collects their results", soft_wrap=True)
        sys.exit(EXIT_INTERRUPTED)
    err.print(f"{len(rows)} trials were run here", soft_wrap=True)
    if as_json:
        print_json_line([row.model_dump(mode="json") for row in rows])


def probe(
    job: Annotated[Path, typer.Argument(help="The job file (YAML or JSON).", show_default=False)],
    provider: Annotated[
        str, typer.Option("--provider", "-p", autocompletion=complete_provider, help="Backend that the runs train at.")
    ] = "local",
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask before money is spent.")] = False,
    budget: Annotated[float | None, typer.Option(help="Most that all runs together may cost, in USD.")] = None,
    allow_unknown_cost: Annotated[bool, typer.Option(help="Run although the cost is not known.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="As one JSON document.")] = False,
) -> None:
    """Train on 10, 20, 40 and 80 % of the rows, and report whether more data or more epochs would help."""
    from llmtune.cli.output import err, out, write_text
    from llmtune.job.spec import TuningJob
    from llmtune.sweeps.learning_curve import probe as go

    def print_rung(rung: Any) -> None:
        loss = rung.note if rung.loss is None else f"validation loss {rung.loss:.4f}"
        err.print(f"{rung.share:.0%} ({rung.rows:,} rows): {loss}", markup=False, soft_wrap=True)

    try:
        curve = go(
            TuningJob.load(job),
            provider,
            budget=budget,
            yes=yes,
            allow_unknown_cost=allow_unknown_cost,
            on_rung=print_rung,
        )
    except KeyboardInterrupt:
        err.print("\nstarted runs continue; the same command continues the probe", soft_wrap=True)
        sys.exit(EXIT_INTERRUPTED)
    if as_json:
        write_text(curve.to_json() + "\n")
    else:
        out.print(curve.says, markup=False, soft_wrap=True)


def _print_trial(row: Any) -> None:
    from rich.markup import escape

    from llmtune.cli.output import err
    from llmtune.sweeps.text import format_value

    value = "" if row.value is None else f" {row.value:.4f}"
    params = ", ".join(f"{name} {format_value(param)}" for name, param in row.params.items())
    err.print(escape(f"trial {row.number}: {row.state}{value}  {params}  {row.note}".rstrip()), soft_wrap=True)


class _Group(HelpfulGroup):
    """Command group with a default: `llmtune sweep JOB` means `llmtune sweep run JOB`."""

    default = "run"

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if not args or args[0] not in self.commands:
            args = [self.default, *args]
        return super().parse_args(ctx, args)


app = typer.Typer(cls=_Group, help="Search hyperparameters by training, and score the best on the test rows.")
app.command("run")(sweep)
app.command("join")(join)
app.command("probe")(probe)
