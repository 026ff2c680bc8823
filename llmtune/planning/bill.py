"""The bill beside the estimate: what was billed, or computed from billed tokens, and why that differs."""

from __future__ import annotations

from typing import Literal

from llmtune._models import FrozenModel
from llmtune.provider.receipt import Receipt
from llmtune.provider.types import Billed

#: Differences up to this share of the estimate need no explanation.
NEGLIGIBLE = 0.01


class BillComparison(FrozenModel):
    """What training cost beside what was estimated for it, in `currency`.

    `actual` is what the vendor says it billed (`basis` "billed"), or the billed tokens times the price of the plan
    ("computed"), or None ("not reported"). `low` and `high` are the estimate's ends for the epochs that the vendor
    trained. `difference` is `actual - high`, and `explanation` says where it comes from, as a sentence.
    """

    low: float | None = None
    high: float | None = None
    actual: float | None = None
    basis: Literal["billed", "computed", "not reported"] = "not reported"
    difference: float | None = None
    explanation: str = ""
    currency: str = "USD"

    @property
    def share(self) -> float | None:
        """The difference as a share of what was billed; None where there is no bill or no estimate."""
        if self.difference is None or not self.actual:
            return None
        return self.difference / self.actual


def compare_bill(receipt: Receipt, billed: Billed | None, epochs: object = None) -> BillComparison:
    """Compare the bill of a run with the estimate of its training.

    Args:
        receipt: the plan, with its estimate.
        billed: what the vendor says; None where it says nothing.
        epochs: the number of epochs that the vendor trained, where it reports one.
    """
    planned = receipt.cost
    estimate = planned.for_epochs(epochs)
    low = estimate.lines[0].low if estimate.lines else estimate.training
    actual = billed.amount if billed is not None else None
    basis: Literal["billed", "computed", "not reported"] = "billed" if actual is not None else "not reported"
    if billed is not None and actual is None:
        actual = compute_from_tokens(receipt, billed.tokens)
        basis = "computed" if actual is not None else basis
    difference = None if actual is None or estimate.training is None else actual - estimate.training
    is_within = low is not None and actual is not None and difference is not None and low <= actual and difference < 0
    return BillComparison(
        low=low,
        high=estimate.training,
        actual=actual,
        basis=basis,
        difference=difference,
        explanation="within the estimate" if is_within else _explain(receipt, billed, epochs, difference),
        currency=planned.currency,
    )


def compute_from_tokens(receipt: Receipt, tokens: int | None) -> float | None:
    """Return the billed tokens times the plan's price of a token; None where either is not known."""
    epoch_cost, epoch_tokens = receipt.cost.epoch, receipt.data.tokens
    if tokens is None or epoch_cost is None or not epoch_tokens:
        return None
    return tokens * epoch_cost / epoch_tokens


def _explain(receipt: Receipt, billed: Billed | None, epochs: object, difference: float | None) -> str:
    """Say in a sentence why a bill differs from the estimate."""
    if difference is None:
        return ""
    training = receipt.cost.for_epochs(epochs).training or 0.0
    if abs(difference) <= NEGLIGIBLE * max(training, 0.01):
        return "as estimated"
    tokens, planned = billed.tokens if billed is not None else None, receipt.data.tokens
    trained = epochs if isinstance(epochs, (int, float)) and not isinstance(epochs, bool) else None
    if trained is None:
        trained = receipt.effective("epochs")
    if tokens is None or planned is None or not isinstance(trained, (int, float)):
        return "the vendor does not say how many tokens it billed, so the difference cannot be explained"
    expected = planned * trained
    if abs(tokens - expected) > NEGLIGIBLE * expected:
        more = "more" if tokens > expected else "fewer"
        share = 100 * abs(tokens - expected) / expected
        how = "from words and signs" if receipt.data.tokens_estimated else "with the model's tokenizer"
        return f"{tokens:,} tokens were billed, {share:.0f} % {more} than the {expected:,.0f} estimated {how}"
    priced = compute_from_tokens(receipt, tokens)
    amount = billed.amount if billed is not None else None
    if priced is not None and amount is not None and abs(amount - priced) <= NEGLIGIBLE * priced:
        return "the training tokens are as estimated, at the plan's price; what was planned besides was not billed"
    return "the tokens are as estimated, so the vendor's price is not the one of the plan"
