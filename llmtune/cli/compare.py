"""`llmtune compare`: train the same job at several backends and rank them."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from llmtune.cli.completion import complete_provider
from llmtune.cli.evaluate import AsJson, ReportFormat
from llmtune.cli.job_options import JobFile, JobName, JobOptions, LimitRows, Seed, SetFields
from llmtune.errors import EXIT_INTERRUPTED

if TYPE_CHECKING:
    from llmtune.comparisons.compare import Plans


def compare(
    job: JobFile,
    provider: Annotated[
        str,
        typer.Option(
            "--provider",
            "-p",
            autocompletion=complete_provider,
            help="The members: a,b:MODEL,local:tiny[lora_rank=4] and so on.",
            show_default=False,
        ),
    ],
    fields: SetFields = None,
    name: JobName = None,
    seed: Seed = None,
    limit_rows: LimitRows = None,
    few_shot: Annotated[
        int, typer.Option(min=0, help="Examples in the prompt of the untuned baselines; 0 for no such baseline.")
    ] = 3,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask before money is spent.")] = False,
    budget: Annotated[float | None, typer.Option(help="Refuse above this many USD, all members together.")] = None,
    allow_unknown_cost: Annotated[bool, typer.Option(help="Run although the cost is not known.")] = False,
    allow_lossy_data: Annotated[bool, typer.Option(help="Leave out content that the row format cannot hold.")] = False,
    retry_failed: Annotated[bool, typer.Option("--retry-failed", help="Run members that failed once more.")] = False,
    traffic: Annotated[
        str | None, typer.Option(help="Also the cost in use: answers in a time, such as 100k/month or 500/day.")
    ] = None,
    months: Annotated[float, typer.Option(min=0.1, help="With --traffic: for how many months.")] = 12.0,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Also write the board (.json, .md or .html).")
    ] = None,
    shape: Annotated[ReportFormat, typer.Option("--format", "-f", help="Output format.")] = ReportFormat.TERMINAL,
    as_json: AsJson = False,
) -> None:
    """Train at several backends on one held-out split and put them side by side. Exits with 1 when a member failed."""
    from llmtune.cli.output import check_ending, err, out, write_text
    from llmtune.cli.plan import print_plans
    from llmtune.comparisons.compare import compare as go
    from llmtune.comparisons.compare import plan_members
    from llmtune.comparisons.members import split_members
    from llmtune.planning.total_cost import parse_traffic
    from llmtune.report.terminal import print_report

    check_ending(output, ".html", ".json", ".md")
    if traffic is not None:
        parse_traffic(traffic)  # before anything is planned or asked
    loaded, _ = JobOptions(fields, name, seed, limit_rows).load(job, "compare", provider)
    members = split_members(provider)
    plans = plan_members(loaded, members, few_shot=few_shot)
    print_plans(err, loaded.name, plans.receipts, every_field=False, request=False)
    if plans.billed:
        out_of = "" if plans.total is not None else f" ({'; '.join(plans.unknown)})"
        err.print(f"all {len(plans.members)} together: {plans.price}{out_of}", markup=False, soft_wrap=True)
    if budget is None and not yes:
        yes = _confirm(plans)
    display = _Lines(err)
    try:
        board = go(
            loaded,
            members,
            few_shot=few_shot,
            budget=budget,
            yes=yes,
            allow_unknown_cost=allow_unknown_cost,
            allow_lossy_data=allow_lossy_data,
            retry_failed=retry_failed,
            on_update=display,
            plans=plans,
            traffic=traffic,
            months=months,
        )
    except KeyboardInterrupt:
        err.print("\nthe runs continue; the same command reattaches to them", soft_wrap=True)
        sys.exit(EXIT_INTERRUPTED)
    if output is not None:
        board.save(output)
        err.print(f"wrote {output}", markup=False, soft_wrap=True)
    if as_json or shape is ReportFormat.JSON:
        write_text(board.to_json() + "\n")
    elif shape in (ReportFormat.MARKDOWN, ReportFormat.HTML):
        text = board.to_markdown() if shape is ReportFormat.MARKDOWN else board.to_html()
        write_text(text)
    else:
        print_report(board, out)
    if board.failed:
        raise typer.Exit(1)


def _confirm(plans: Plans) -> bool:
    from llmtune.cli.output import confirm, err
    from llmtune.errors import OverBudget

    if not plans.billed:
        return True
    if not (err.is_terminal and sys.stdin.isatty()):
        raise OverBudget(
            f"{', '.join(plans.billed)} bill {plans.price} together; nobody can confirm here",
            hint="pass --budget USD or --yes",
        )
    if not confirm(f"Start {len(plans.members)} runs for {plans.price}?"):
        raise OverBudget("not confirmed; nothing was sent", hint="llmtune plan shows the estimates again")
    return True


class _Lines:
    """Progress output: one line for each change of a member's state."""

    def __init__(self, console: Any) -> None:
        self._console = console
        self._last: dict[str, str] = {}

    def __call__(self, label: str, update: Any) -> None:
        from rich.markup import escape

        record = update.record
        step = record.progress.step
        total = record.progress.total_steps
        state = record.state.value
        if self._last.get(label) == state:
            return
        self._last[label] = state
        progress = f" step {step}/{total}" if step is not None and total else ""
        self._console.print(f"{escape(label)}: {state}{progress}", soft_wrap=True, highlight=False)
