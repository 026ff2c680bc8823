"""The bill beside the estimate: which amount, how far off, and why."""

from __future__ import annotations

from typing import Any

import pytest

from llmtune.planning.bill import compare_bill, compute_from_tokens
from llmtune.provider.cost import estimate
from llmtune.provider.declarations import DECLARED_FIELDS, Capabilities, Declarations, Unsupported
from llmtune.provider.limits import EpochRange, Limits, Price
from llmtune.provider.receipt import DatasetStatus, FieldReceipt, Receipt
from llmtune.provider.types import Billed, Target

NOTHING = Declarations(**{name: Unsupported("no parameter") for name in DECLARED_FIELDS})


def a_plan(
    epochs: int | None = 3, *, tokens: int = 1_000_000, exact: bool = False, price: float | None = 5.0
) -> Receipt:
    chosen = EpochRange(1, 4, "the vendor chooses", "its page")
    capabilities = Capabilities(
        parameters=NOTHING, family="f", limits=Limits(), price=Price(training=price), epochs_if_unset=chosen
    )
    cost = estimate(capabilities, training_tokens=tokens, tokens_estimated=not exact, epochs=epochs)
    return Receipt(
        target=Target(provider="v", kind="v", model="m"),
        family="f",
        job_name="j",
        fields=(FieldReceipt(field="epochs", support="sent", requested=epochs, effective=epochs),),
        data=DatasetStatus(tokens=tokens, tokens_estimated=not exact),
        cost=cost,
    )


def test_a_bill_in_money_counts_before_what_tokens_come_to() -> None:
    bill = compare_bill(a_plan(), Billed(tokens=3_000_000, amount=12.0, currency="USD"))
    assert (bill.basis, bill.actual, bill.high, bill.difference) == ("billed", 12.0, 15.0, pytest.approx(-3.0))
    assert bill.explanation == "the tokens are as estimated, so the vendor's price is not the one of the plan"


def test_billed_tokens_are_priced_as_planned() -> None:
    bill = compare_bill(a_plan(), Billed(tokens=3_300_000))
    assert (bill.basis, bill.actual) == ("computed", pytest.approx(16.5))
    assert bill.share == pytest.approx(1.5 / 16.5)
    assert "3,300,000 tokens were billed, 10 % more than the 3,000,000 estimated from words and signs" in (
        bill.explanation
    )
    assert "with the model's tokenizer" in compare_bill(a_plan(exact=True), Billed(tokens=3_300_000)).explanation


def test_epochs_that_the_vendor_chose_are_those_of_the_estimate() -> None:
    bill = compare_bill(a_plan(None), Billed(tokens=2_000_000), epochs=2)
    assert (bill.low, bill.high, bill.actual) == (10.0, 10.0, pytest.approx(10.0))
    assert bill.explanation == "as estimated"
    unsaid = compare_bill(a_plan(None), None)
    assert (unsaid.low, unsaid.high, unsaid.actual, unsaid.basis) == (5.0, 20.0, None, "not reported")


def test_a_bill_between_the_ends_of_an_estimate_is_within_it() -> None:
    bill = compare_bill(a_plan(None), Billed(tokens=2_000_000, amount=11.0))
    assert (bill.low, bill.high, bill.explanation) == (5.0, 20.0, "within the estimate")
    assert compare_bill(a_plan(None), Billed(amount=21.0)).explanation != "within the estimate"


def test_what_was_planned_besides_training_and_not_billed_is_said() -> None:
    receipt = a_plan()
    more = receipt.cost.lines[0].model_copy(update={"low": 16.0, "high": 18.0})
    cost = receipt.cost.model_copy(update={"training": 18.0, "total": 18.0, "lines": (more,)})
    bill = compare_bill(receipt.model_copy(update={"cost": cost}), Billed(tokens=3_000_000, amount=15.0))
    assert bill.difference == -3.0
    assert "what was planned besides was not billed" in bill.explanation


@pytest.mark.parametrize("billed", [Billed(amount=20.0, currency="USD"), Billed(amount=1.0, currency="USD")])
def test_a_bill_without_tokens_cannot_be_explained(billed: Billed) -> None:
    assert "cannot be explained" in compare_bill(a_plan(), billed).explanation


def test_without_a_price_or_tokens_nothing_is_computed() -> None:
    assert compute_from_tokens(a_plan(price=None), 10) is None
    assert compute_from_tokens(a_plan(), None) is None
    assert compute_from_tokens(a_plan(tokens=0), 10) is None
    nothing: Any = compare_bill(a_plan(price=None), Billed(tokens=10))
    assert (nothing.actual, nothing.basis, nothing.difference, nothing.share) == (None, "not reported", None, None)
