"""`llmtune sweep`: hyperparameters searched by training."""

from __future__ import annotations

import sys
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from llmtune.errors import EXIT_INTERRUPTED

if TYPE_CHECKING:
    from llmtune.sweeping import Sweep


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
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Write the best job to this file.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="The result as JSON on standard output.")] = False,
) -> None:
    """Search hyperparameters by training, and score the best on the test rows."""
    from rich.markup import escape

    from llmtune.cli.output import err, out
    from llmtune.job import TuningJob
    from llmtune.sweeping import sweep as go
    from llmtune.sweeping.space import parse_space

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
    if output is not None:
        found.save_job(output)
        err.print(f"wrote {output}", markup=False, soft_wrap=True)
    if as_json:
        sys.stdout.buffer.write((found.to_json() + "\n").encode())
    else:
        _show(found, out)


def shown(value: Any) -> str:
    """A value of the space, short."""
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _show(found: Sweep, out: Any) -> None:
    from rich.markup import escape
    from rich.table import Table

    from llmtune.metrics.points import NotReported

    best = found.best
    assert best is not None
    params = ", ".join(f"{name} {shown(value)}" for name, value in best.params.items())
    out.print(
        f"[bold]{escape(f'best: {params} ({found.metric} {best.value:.4f}, trial {best.number})')}[/]", soft_wrap=True
    )
    for final in found.finalists:
        spread = (
            ""
            if isinstance(final.interval, NotReported)
            else f" ({final.interval.low:.3f} to {final.interval.high:.3f})"
        )
        out.print(
            escape(f"on the test rows: {final.metric} {final.mean:.3f}{spread}, {len(final.values)} seeds"),
            soft_wrap=True,
        )
    if found.importance:
        told = ", ".join(f"{name} {100 * share:.0f}%" for name, share in found.importance.items())
        out.print(f"what mattered: {told}", markup=False, soft_wrap=True)
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 1))
    for heading in ("trial", found.metric, *best.params, "state", "run"):
        table.add_column(heading)
    sign = 1 if found.direction == "minimize" else -1
    for row in sorted(found.trials, key=lambda each: (each.value is None, sign * float(each.value or 0))):
        value = "" if row.value is None else f"{row.value:.4f}"
        cells = [shown(row.params.get(name, "")) for name in best.params]
        table.add_row(str(row.number), value, *map(escape, cells), row.state, row.run or "")
    out.print(table)
    if not isinstance(found.spent, NotReported) and found.spent:
        out.print(f"spent {found.spent:,.2f} USD")
    if found.stopped:
        out.print(f"[yellow]{escape(f'stopped by {found.stopped}')}[/]", soft_wrap=True)
