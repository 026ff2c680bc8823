"""`llmtune sweep`: hyperparameters searched by training."""

from __future__ import annotations

import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from llmtune.errors import EXIT_INTERRUPTED


class Method(StrEnum):
    """How the next trial is chosen."""

    RANDOM = "random"
    GRID = "grid"
    BAYESIAN = "bayesian"


def sweep(
    job: Annotated[Path, typer.Argument(help="The job file (YAML or JSON).", show_default=False)],
    space: Annotated[
        list[str] | None,
        typer.Option(
            "--space",
            "-s",
            help="FIELD=LOW..HIGH or FIELD=A,B,C, model and provider too; may be given again. None: as published.",
            show_default=False,
        ),
    ] = None,
    provider: Annotated[str, typer.Option("--provider", "-p", help="Where the trials run.")] = "local",
    method: Annotated[Method, typer.Option(help="How the next trial is chosen.")] = Method.BAYESIAN,
    trials: Annotated[int, typer.Option(min=1, help="How many trials in all.")] = 20,
    metric: Annotated[str, typer.Option(help="The series that trials are ranked by.")] = "validation/loss",
    pruning: Annotated[bool, typer.Option(help="Cancel trials that are worse than the median of the others.")] = True,
    finalists: Annotated[int, typer.Option(min=0, help="Best configurations scored on the test rows.")] = 1,
    seeds: Annotated[int, typer.Option(min=1, help="How often each finalist is trained.")] = 1,
    parallel: Annotated[int | None, typer.Option(min=1, help="Trials at once.")] = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask before money is spent.")] = False,
    budget: Annotated[float | None, typer.Option(help="The most that all trials may cost, in USD.")] = None,
    allow_unknown_cost: Annotated[bool, typer.Option(help="Run although the cost is not known.")] = False,
    show_space: Annotated[bool, typer.Option("--show-space", help="Say what would be searched, and stop.")] = False,
    prescreen: Annotated[
        str | None,
        typer.Option(help="Explore there first, as NAME or NAME:MODEL, and carry the best over.", show_default=False),
    ] = None,
    keep: Annotated[int, typer.Option(min=1, help="Configurations carried over from --prescreen.")] = 3,
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
    from llmtune.cli.output import err, out, print_json, write_text
    from llmtune.job.spec import TuningJob
    from llmtune.sweeps.space import parse_space
    from llmtune.sweeps.sweep import sweep as go
    from llmtune.sweeps.sweep_plan import outline
    from llmtune.sweeps.text import print_outline, print_sweep

    loaded, wanted = TuningJob.load(job), parse_space(space) if space else None
    told = outline(loaded, provider, wanted)
    if show_space and as_json:
        print_json(told.model_dump(mode="json"))
        return
    print_outline(told, trials, out if show_space else err)
    if show_space:
        return
    where, _, model = (prescreen or "").partition(":")
    try:
        found = go(
            loaded,
            provider,
            wanted,
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
            prescreen={"provider": where, "model": model or None, "keep": keep} if where else None,
            ray=ray,
            on_trial=_tell,
        )
    except KeyboardInterrupt:
        err.print("\nwhat was started goes on; the same command comes back to the sweep", soft_wrap=True)
        sys.exit(EXIT_INTERRUPTED)
    if best is not None:
        found.save_job(best)
        err.print(f"wrote {best}", markup=False, soft_wrap=True)
    if output is not None:
        found.save(output)
        err.print(f"wrote {output}", markup=False, soft_wrap=True)
    if as_json:
        write_text(found.to_json() + "\n")
    else:
        print_sweep(found, out)


def join(
    sweep: Annotated[
        str | None,
        typer.Argument(metavar="[SWEEP]", help="The sweep's name, or its beginning; none: the one under way."),
    ] = None,
    parallel: Annotated[int | None, typer.Option(min=1, help="Trials at once, here.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="As one JSON document.")] = False,
) -> None:
    """Run trials of a sweep that was started elsewhere on the same store, until none is left to begin."""
    from llmtune.cli.output import err, print_json_line
    from llmtune.sweeps.distributed import join as go

    try:
        rows = go(sweep, parallel=parallel, on_trial=_tell)
    except KeyboardInterrupt:
        err.print("\nwhat was started goes on; the sweep comes back to it", soft_wrap=True)
        sys.exit(EXIT_INTERRUPTED)
    err.print(f"{len(rows)} trials were run here", soft_wrap=True)
    if as_json:
        print_json_line([row.model_dump(mode="json") for row in rows])


def probe(
    job: Annotated[Path, typer.Argument(help="The job file (YAML or JSON).", show_default=False)],
    provider: Annotated[str, typer.Option("--provider", "-p", help="Where the runs are.")] = "local",
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask before money is spent.")] = False,
    budget: Annotated[float | None, typer.Option(help="The most that all runs may cost, in USD.")] = None,
    allow_unknown_cost: Annotated[bool, typer.Option(help="Run although the cost is not known.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="As one JSON document.")] = False,
) -> None:
    """Train on 10, 20, 40 and 80 % of the rows, and tell whether more data or more epochs would help."""
    from llmtune.cli.output import err, out, write_text
    from llmtune.job.spec import TuningJob
    from llmtune.sweeps.learning_curve import probe as go

    def told(rung: Any) -> None:
        loss = rung.note if rung.loss is None else f"validation loss {rung.loss:.4f}"
        err.print(f"{rung.share:.0%} ({rung.rows:,} rows): {loss}", markup=False, soft_wrap=True)

    try:
        found = go(
            TuningJob.load(job),
            provider,
            budget=budget,
            yes=yes,
            allow_unknown_cost=allow_unknown_cost,
            on_rung=told,
        )
    except KeyboardInterrupt:
        err.print("\nwhat was started goes on; the same command comes back to the probe", soft_wrap=True)
        sys.exit(EXIT_INTERRUPTED)
    if as_json:
        write_text(found.to_json() + "\n")
    else:
        out.print(found.says, markup=False, soft_wrap=True)


def _tell(row: Any) -> None:
    from rich.markup import escape

    from llmtune.cli.output import err
    from llmtune.sweeps.text import shown

    value = "" if row.value is None else f" {row.value:.4f}"
    params = ", ".join(f"{name} {shown(each)}" for name, each in row.params.items())
    err.print(escape(f"trial {row.number}: {row.state}{value}  {params}  {row.note}".rstrip()), soft_wrap=True)


class _Group(typer.core.TyperGroup):
    """`llmtune sweep JOB` is `llmtune sweep run JOB`: what comes first is a command only if it is one."""

    default = "run"

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if not args or args[0] not in self.commands:
            args = [self.default, *args]
        return super().parse_args(ctx, args)


app = typer.Typer(cls=_Group, help="Search hyperparameters by training, and score the best on the test rows.")
app.command("run")(sweep)
app.command("join")(join)
app.command("probe")(probe)
