"""What a run on preferences sends beside its gradients: a pass without one in each step, and the reference's before."""

from __future__ import annotations

import llmtune.provider as core

RANGE_REASON = "whether a pass without a gradient is billed as input or as training is not documented"


def add_passes(receipt: core.Receipt, price: core.Price) -> core.CostEstimate:
    """Return the estimate of a receipt with its passes without a gradient, at the price of input to that of training.

    Each step has one over its own rows, and the reference's likelihoods take one over all pairs. The SDK's usage events
    count "tokens processed by forward/backward passes" as training (types/billing_usage_response.py of 0.38.0, read
    2026-12-02), so the higher price is what a budget is held against.
    """
    estimate, data, epochs = receipt.cost, receipt.data, receipt.effective("epochs")
    if receipt.target.method != "dpo" or not estimate.lines or not isinstance(epochs, int):
        return estimate
    if price.training is None or data.tokens is None or estimate.training is None or estimate.total is None:
        return estimate
    training, *answer_lines = estimate.lines
    tokens = data.tokens * (epochs + 1) + (data.validation_tokens or 0)
    cheapest = price.training if price.input is None else min(price.input, price.training)
    low, high = tokens / 1e6 * cheapest, tokens / 1e6 * price.training
    rate = f"{price.training:g}" if low == high else f"{cheapest:g} to {price.training:g}"
    about = "about " if data.tokens_estimated else ""
    amount = f"{high:,.2f}" if f"{low:,.2f}" == f"{high:,.2f}" else f"{low:,.2f} to {high:,.2f}"
    formula = f"{training.formula} + passes without a gradient {about}{tokens:,} tokens x {rate} = {amount}"
    line = training.model_copy(
        update={"low": (training.low or 0.0) + low, "high": (training.high or 0.0) + high, "formula": formula}
    )
    lines = (line, *answer_lines)
    total = estimate.total + high
    return estimate.model_copy(
        update={
            "training": estimate.training + high,
            "total": total,
            "low": None if low == high else total - high + low,
            "range_reason": "" if low == high else RANGE_REASON,
            "lines": lines,
            "formula": "; ".join(part.formula for part in lines if part.formula),
        }
    )
