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
        list[str],
        typer.Option("--space", "-s", help="FIELD=LOW..HIGH or FIELD=A,B,C; may be given again.", show_default=False),
    ],
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
    best: Annotated[Path | None, typer.Option("--best", help="Write the best job to this file (.yaml, .json).")] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Also write the sweep (.json, .md or .html).")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="As one JSON document.")] = False,
) -> None:
    """Search hyperparameters by training, and score the best on the test rows."""
    from rich.markup import escape

    from llmtune.cli.output import err, out
    from llmtune.job import TuningJob
    from llmtune.sweeping import sweep as go
    from llmtune.sweeping.space import parse_space
    from llmtune.sweeping.words import print_sweep, shown

    def told(row: Any) -> None:
        value = "" if row.value is None else f" {metric} {row.value:.4f}"
        params = ", ".join(f"{name} {shown(each)}" for name, each in row.params.items())
        err.print(escape(f"trial {row.number}: {row.state}{value}  {params}  {row.note}".rstrip()), soft_wrap=True)

    try:
        found = go(
            TuningJob.load(job),
            provider,
            parse_space(space),
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
            on_trial=told,
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
        sys.stdout.buffer.write((found.to_json() + "\n").encode())
    else:
        print_sweep(found, out)
