"""Budget checks: nothing that may be billed starts unconfirmed, and an unknown price is over any budget."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from llmtune.errors import OverBudget
from llmtune.provider.receipt import Receipt

#: The hint where spending money was not agreed to.
CONFIRM = "pass --budget USD or --yes (Python: budget= or yes=True)"

#: The hint where several runs are billed together and a price is not known.
ALLOW_UNKNOWN = "pass --allow-unknown-cost (Python: allow_unknown_cost=True) to run them all the same"


@dataclass(frozen=True)
class CostTotal:
    """The cost of what is billed together, and the errors for the two ways in which it can exceed a budget."""

    total: float
    """USD, of everything whose price is known."""

    over: OverBudget | None
    """Raised when `total` is above the budget; None: the caller keeps to the budget."""

    unknown: OverBudget | None = None
    """Raised when unknown costs are not allowed; None: every price is known."""


def check_budget(
    bill: Callable[[float], CostTotal],
    *,
    budget: float | None,
    confirmed: bool,
    allow_unknown_cost: bool,
    unconfirmed: OverBudget,
) -> None:
    """Refuse what is over its budget, of unknown cost under a budget, or not agreed to.

    Args:
        bill: given the budget, returns what is billed; called only where there is a budget.
        budget: the most that may be spent, in USD, or None. A budget is consent.
        confirmed: whether the cost was agreed to (at the terminal, by `--yes`, or by calling Python).
        allow_unknown_cost: let a cost that is not known pass under a budget.
        unconfirmed: raised where there is neither a budget nor a confirmation.

    Raises:
        OverBudget: one of the three errors above.
    """
    if budget is None:
        if not confirmed:
            raise unconfirmed
        return
    billed = bill(budget)
    if billed.unknown is not None and not allow_unknown_cost:
        raise billed.unknown
    if billed.over is not None and billed.total > budget:
        raise billed.over


def name_biller(receipt: Receipt, *, hosted: bool) -> str:
    """Return who bills a run: its backend, or the judge of one on this machine."""
    if hosted or receipt.judge is None:
        return receipt.target.provider
    return f"the judge {receipt.judge.model}"


def check_run(
    receipt: Receipt, *, hosted: bool, budget: float | None, confirmed: bool, allow_unknown_cost: bool = False
) -> None:
    """Refuse a run that is over its budget, of unknown cost under a budget, or not agreed to.

    Args:
        receipt: the plan, with its estimate.
        hosted: whether the job leaves this machine; a local run costs nothing, unless its evaluation asks a judge who
            bills.
        budget: the most that may be spent, in the estimate's currency (USD), or None.
        confirmed: whether the cost was agreed to (at the terminal, by `--yes`, or by calling Python).
        allow_unknown_cost: let a cost that is not known pass under a budget.

    Raises:
        OverBudget: with the estimate, and what to pass instead.
    """
    if not hosted and not receipt.bills_judge:
        return
    if budget is not None and budget < 0:
        raise OverBudget(f"a budget of {budget:g} USD allows nothing")
    name, cost = name_biller(receipt, hosted=hosted), receipt.cost

    def bill(budget: float) -> CostTotal:
        total = cost.total or 0.0
        over = OverBudget(
            f"{name} would bill about {total:,.2f} {cost.currency}, over the budget of"
            f" {budget:,.2f} {cost.currency} ({cost.formula})",
            hint=f"raise the budget to at least {total:.2f}, or make the job smaller",
        )
        unknown = OverBudget(
            f"what {name} will bill is not known ({cost.why_incomplete()}), which counts as over the budget"
            f" of {budget:,.2f} {cost.currency}",
            hint="pass --allow-unknown-cost (Python: allow_unknown_cost=True) to run it all the same",
        )
        return CostTotal(total, over, unknown if cost.why_incomplete() else None)

    check_budget(
        bill,
        budget=budget,
        confirmed=confirmed,
        allow_unknown_cost=allow_unknown_cost,
        unconfirmed=OverBudget(
            f"{name} bills this run (estimate: {cost.sentence()}) and it was not confirmed", hint=CONFIRM
        ),
    )
