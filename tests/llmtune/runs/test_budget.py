"""The money rule: consent, then known prices, then the budget."""

from __future__ import annotations

import pytest

from llmtune.errors import OverBudget
from llmtune.provider.cost import CostEstimate, CostLine
from llmtune.provider.receipt import Receipt
from llmtune.provider.types import Target
from llmtune.runs.budget import CostTotal, check_budget, check_run

UNCONFIRMED, UNKNOWN, OVER = OverBudget("not confirmed"), OverBudget("not known"), OverBudget("too much")


@pytest.mark.parametrize(
    ("total", "known", "budget", "confirmed", "allow_unknown_cost", "refusal"),
    [
        (9.0, True, None, False, True, UNCONFIRMED),
        (9.0, True, None, True, False, None),
        (9.0, False, None, True, False, None),  # without a budget an unknown price is no refusal
        (9.0, True, 9.0, False, False, None),  # a budget is consent
        (9.0, True, 8.99, True, False, OVER),
        (9.0, False, 100.0, True, False, UNKNOWN),
        (9.0, False, 100.0, True, True, None),
        (9.0, False, 8.0, True, False, UNKNOWN),
        (9.0, False, 8.0, True, True, OVER),  # the known part alone is too much
        (0.0, True, 0.0, False, False, None),
    ],
)
def test_consent_comes_first_then_unknown_prices_then_the_total(
    total: float,
    known: bool,
    budget: float | None,
    confirmed: bool,
    allow_unknown_cost: bool,
    refusal: OverBudget | None,
) -> None:
    def check() -> None:
        check_budget(
            lambda budget: CostTotal(total, OVER, None if known else UNKNOWN),
            budget=budget,
            confirmed=confirmed,
            allow_unknown_cost=allow_unknown_cost,
            unconfirmed=UNCONFIRMED,
        )

    if refusal is None:
        check()
        return
    with pytest.raises(OverBudget) as caught:
        check()
    assert caught.value is refusal


def test_nothing_is_priced_where_there_is_no_budget() -> None:
    def never(budget: float) -> CostTotal:
        raise AssertionError("priced without a budget")

    check_budget(never, budget=None, confirmed=True, allow_unknown_cost=False, unconfirmed=UNCONFIRMED)


def test_a_bill_that_others_keep_to_the_budget_is_never_over() -> None:
    bill = CostTotal(50.0, over=None)
    check_budget(lambda budget: bill, budget=1.0, confirmed=True, allow_unknown_cost=False, unconfirmed=UNCONFIRMED)


def a_receipt(lines: tuple[CostLine, ...]) -> Receipt:
    return Receipt(
        target=Target(provider="cloud", kind="cloud", model="m"),
        family="f",
        job_name="j",
        fields=(),
        cost=CostEstimate(training=1.0, evaluation=0.0, hosting=0.0, total=1.0, lines=lines),
    )


def test_answers_without_a_price_count_as_over_any_budget() -> None:
    training = CostLine(name="training", low=1.0, high=1.0)
    unpriced = CostLine(name="base model", unknown="the price of its answers is not published")
    known, unknown = a_receipt((training,)), a_receipt((training, unpriced))
    check_run(known, hosted=True, budget=1.0, confirmed=False)
    with pytest.raises(OverBudget, match="base model: the price of its answers is not published"):
        check_run(unknown, hosted=True, budget=100.0, confirmed=True)
    check_run(unknown, hosted=True, budget=100.0, confirmed=True, allow_unknown_cost=True)
    check_run(unknown, hosted=True, budget=None, confirmed=True)
    with pytest.raises(OverBudget, match="over the budget"):
        check_run(unknown, hosted=True, budget=0.5, confirmed=True, allow_unknown_cost=True)
    check_run(unknown, hosted=False, budget=0.0, confirmed=False)
