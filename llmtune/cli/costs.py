"""`llmtune costs`: what runs have cost, by provider, month or tag."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from llmtune.runs.costs import CostGroup, RunCost


class CostFormat(StrEnum):
    """How the costs are printed."""

    TABLE = "table"
    CSV = "csv"
    JSON = "json"


def costs(
    by: Annotated[
        str, typer.Option("--by", help="Group by provider, model, month, name, tag or tag:NAME; several with commas.")
    ] = "provider",
    format: Annotated[CostFormat, typer.Option("--format", "-f", help="As a table, CSV or JSON.")] = CostFormat.TABLE,
    as_json: Annotated[bool, typer.Option("--json", help="As one JSON document.")] = False,
    runs: Annotated[bool, typer.Option("--runs", help="Also each run, with its bill beside the estimate.")] = False,
) -> None:
    """Show what runs have cost: billed, computed from billed tokens, or estimated. Nothing is sent."""
    from llmtune.cli.output import out, print_json, write_text
    from llmtune.cli.plan import split_names
    from llmtune.runs.costs import cost_run, group_costs, write_csv
    from llmtune.runs.store.store import open_store

    names = split_names(by)
    listed = [cost_run(record) for record in open_store().runs()]
    groups = group_costs(listed, names)
    if as_json or format is CostFormat.JSON:
        document: dict[str, Any] = {"schema": 1, "by": names, "currency": "USD"}
        document["groups"] = [group.model_dump(mode="json") for group in groups]
        if runs:
            document["runs"] = [cost.model_dump(mode="json") for cost in listed]
        print_json(document)
    elif format is CostFormat.CSV:
        from llmtune.report.format import escape_control_chars

        write_text("\n".join(map(escape_control_chars, write_csv(groups, names).split("\n"))))
    elif not listed:
        out.print("there are no runs yet")
    else:
        _print_groups(out, groups, names)
        if runs:
            _print_runs(out, listed)


def _print_groups(console: Any, groups: list[CostGroup], names: list[str]) -> None:
    from rich.markup import escape
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in names:
        table.add_column(escape(name), overflow="fold")
    for name in ("runs", "billed", "computed", "estimated", "USD in all"):
        table.add_column(name, justify="right")
    for group in groups:
        amounts = [f"{amount:,.2f}" for amount in (group.billed, group.computed, group.estimated, group.total)]
        if group.without_amount:
            amounts[-1] += f" + {group.without_amount} unknown"
        table.add_row(*(escape(group.group[name]) or "-" for name in names), str(group.runs), *amounts)
    console.print(table)


def _print_runs(console: Any, costs: list[RunCost]) -> None:
    from rich.markup import escape

    console.print()
    for cost in costs:
        amount = "unknown" if cost.spent is None else f"{cost.spent:,.2f} USD"
        bill = cost.bill
        estimated = f", training estimated {bill.high:,.2f}" if bill.high is not None else ""
        reason = f": {bill.explanation}" if bill.explanation else ""
        console.print(escape(f"{cost.run}  {amount} {cost.basis}{estimated}{reason}"), soft_wrap=True)
