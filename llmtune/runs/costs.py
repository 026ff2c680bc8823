"""What runs have cost: the bill where there is one, else the estimate, grouped by provider, month or tag."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from llmtune._models import FrozenModel
from llmtune.errors import UnknownName
from llmtune.planning.bill import BillComparison, compare_bill
from llmtune.provider.types import RunState

if TYPE_CHECKING:
    from llmtune.runs.store.records import RunRecord

#: What costs can be grouped by; any other name is a tag of the job, as `tag:NAME`.
GROUPS = ("provider", "model", "month", "name", "tag")

#: The columns of a table of costs, after those of the groups.
COLUMNS = ("runs", "billed", "computed", "estimated", "total", "without_amount")


class RunCost(FrozenModel):
    """What one run cost. `spent` is the bill, else what its billed tokens come to, else the estimate's upper end.

    `basis` says which: "billed", "computed", "estimated", or "unknown" with `spent` None. Runs on one's own machine are
    "free", but for a judge who bills.
    """

    run: str
    name: str
    provider: str
    model: str
    state: str
    month: str
    tags: dict[str, str] = {}
    spent: float | None = None
    basis: str = "unknown"
    bill: BillComparison = BillComparison()


class CostGroup(FrozenModel):
    """The costs of the runs of one group, in USD: what was billed, computed and estimated, and runs without amount."""

    group: dict[str, str]
    runs: int
    billed: float
    computed: float
    estimated: float
    total: float
    without_amount: int


def cost_run(record: RunRecord) -> RunCost:
    """Return what a run cost, from its record alone."""
    month = datetime.fromtimestamp(record.created, UTC).strftime("%Y-%m")
    tags = {str(key): str(value) for key, value in (record.job.get("tags") or {}).items()}
    common: dict[str, Any] = {
        "run": record.id,
        "name": record.name,
        "provider": record.provider,
        "model": record.model,
        "state": record.state.value,
        "month": month,
        "tags": tags,
    }
    if not record.hosted:
        judged = record.receipt and record.plan.bills_judge and record.state is RunState.SUCCEEDED
        if not judged:
            return RunCost(**common, spent=0.0, basis="free")
        incomplete = record.cost.why_incomplete() is not None
        return RunCost(**common) if incomplete else RunCost(**common, spent=record.cost.total, basis="estimated")
    if not record.receipt:
        return RunCost(**common)
    bill = compare_bill(record.plan, record.billed, record.resolved.get("epochs"))
    if bill.actual is not None:
        return RunCost(**common, spent=bill.actual, basis=bill.basis, bill=bill)
    if not record.submits:  # the paid call was never made
        return RunCost(**common, spent=0.0, basis="free", bill=bill)
    if record.cost.total is not None and record.state is not RunState.FAILED:
        return RunCost(**common, spent=record.cost.total, basis="estimated", bill=bill)
    return RunCost(**common, bill=bill)


def group_costs(costs: Iterable[RunCost], by: Sequence[str]) -> list[CostGroup]:
    """Sum costs by the groups named, in the order of their names.

    Args:
        costs: the runs.
        by: names of `GROUPS`, or "tag:NAME" for the values of one tag.

    Raises:
        UnknownName: a group does not exist.
    """
    for name in by:
        if name not in GROUPS and not name.startswith("tag:"):
            raise UnknownName("group", name, [*GROUPS, "tag:NAME"])
    groups: dict[tuple[str, ...], list[RunCost]] = {}
    for cost in costs:
        groups.setdefault(tuple(_value(cost, name) for name in by), []).append(cost)
    return [_sum(dict(zip(by, values, strict=True)), groups[values]) for values in sorted(groups)]


def _value(cost: RunCost, name: str) -> str:
    if name.startswith("tag:"):
        return cost.tags.get(name.removeprefix("tag:"), "")
    if name == "tag":
        return ", ".join(f"{key}={value}" for key, value in sorted(cost.tags.items()))
    return str(getattr(cost, name))


def _sum(group: dict[str, str], costs: Sequence[RunCost]) -> CostGroup:
    sums = {
        basis: sum(cost.spent or 0.0 for cost in costs if cost.basis == basis)
        for basis in ("billed", "computed", "estimated")
    }
    return CostGroup(
        group=group,
        runs=len(costs),
        total=sum(sums.values()),
        without_amount=sum(cost.spent is None for cost in costs),
        **sums,
    )


def write_csv(groups: Sequence[CostGroup], by: Sequence[str]) -> str:
    """Return the groups as CSV with a header. A text that a spreadsheet would compute is written as text."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*by, *COLUMNS])
    for row in groups:
        amounts = [getattr(row, name) for name in COLUMNS]
        cells = [round(amount, 6) if isinstance(amount, float) else amount for amount in amounts]
        writer.writerow([*(_as_text(row.group[name]) for name in by), *cells])
    return text.getvalue()


def _as_text(value: str) -> str:
    return f"'{value}" if value[:1] in ("=", "+", "-", "@", "\t", "\r") else value
