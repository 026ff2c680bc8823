"""The rule about money: nothing that may be billed starts unconfirmed, and an unknown price is over any budget."""

from __future__ import annotations

from llmtune.errors import OverBudget
from llmtune.provider.receipt import Receipt


def check(
    receipt: Receipt, *, hosted: bool, budget: float | None, confirmed: bool, allow_unknown_cost: bool = False
) -> None:
    """Refuse a run that is over its budget, of unknown cost under a budget, or that nobody agreed to.

    Args:
        receipt: the plan, with its estimate.
        hosted: whether the job leaves this machine; a local run costs nothing and always passes.
        budget: the most that may be spent, in the estimate's currency (USD), or None.
        confirmed: whether somebody said yes (at the terminal, `--yes`, or by calling Python).
        allow_unknown_cost: let a cost that is not known pass under a budget.

    Raises:
        OverBudget: with the estimate, and what to pass instead.
    """
    if not hosted:
        return
    name, cost = receipt.target.provider, receipt.cost
    if budget is None:
        if not confirmed:
            raise OverBudget(
                f"{name} bills this run (estimate: {cost.sentence()}) and it was not confirmed",
                hint="pass --budget USD or --yes (Python: budget= or yes=True)",
            )
        return
    if budget < 0:
        raise OverBudget(f"a budget of {budget:g} USD allows nothing")
    if cost.total is None:
        if not allow_unknown_cost:
            raise OverBudget(
                f"what {name} will bill is not known ({cost.unknown}), which counts as over the budget"
                f" of {budget:,.2f} {cost.currency}",
                hint="pass --allow-unknown-cost (Python: allow_unknown_cost=True) to run it all the same",
            )
    elif cost.total > budget:
        raise OverBudget(
            f"{name} would bill about {cost.total:,.2f} {cost.currency}, over the budget of"
            f" {budget:,.2f} {cost.currency} ({cost.formula})",
            hint=f"raise the budget to at least {cost.total:.2f}, or make the job smaller",
        )
