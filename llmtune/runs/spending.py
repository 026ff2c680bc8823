"""What a run has spent of its budget while it trains: measured, warned of, and stopped at the cap."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from llmtune._models import FrozenModel
from llmtune.errors import LlmtuneError
from llmtune.planning.bill import compare_bill
from llmtune.provider.types import RunState
from llmtune.redaction.secrets import scrub
from llmtune.runs.actions import cancel

if TYPE_CHECKING:
    from llmtune.provider.protocol import Provider
    from llmtune.runs.store.records import RunRecord
    from llmtune.runs.store.store import Store

log = logging.getLogger("llmtune")

#: The share of the budget at which a run is warned of.
WARN_SHARE = 0.8


class Spending(FrozenModel):
    """What a run with a budget has spent of it, in `currency`.

    `spent` is what the vendor billed, or the share of the estimate that the progress of the training amounts to;
    `projected` is what the run costs in all. Both are None where they are not known.
    """

    budget: float
    spent: float | None = None
    projected: float | None = None
    currency: str = "USD"

    @property
    def left(self) -> float | None:
        """What is left of the budget; negative when it is exceeded."""
        return None if self.spent is None else self.budget - self.spent

    def sentence(self) -> str:
        """Write the three amounts out: "spent about 1.20, projected 3.00, 18.80 of 20.00 USD left"."""
        spent = "an unknown amount" if self.spent is None else f"about {self.spent:,.2f}"
        projected = "unknown" if self.projected is None else f"{self.projected:,.2f}"
        left = f"{self.budget:,.2f}" if self.left is None else f"{self.left:,.2f} of {self.budget:,.2f}"
        return f"spent {spent}, projected {projected}, {left} {self.currency} left"


def measure_spending(record: RunRecord) -> Spending | None:
    """Return what a run has spent of its budget; None for one without a budget, or on one's own machine."""
    if record.budget is None or not record.hosted or not record.receipt:
        return None
    bill = compare_bill(record.plan, record.billed, record.resolved.get("epochs"))
    estimate = record.cost
    projected = estimate.total
    if bill.difference is not None and projected is not None:
        projected += bill.difference
    spent = bill.actual
    if spent is None and estimate.training is not None:
        share = _trained_share(record)
        spent = None if share is None else share * estimate.training
    return Spending(budget=record.budget, spent=spent, projected=projected, currency=estimate.currency)


def _trained_share(record: RunRecord) -> float | None:
    """Return the share of the training that is done, by its steps or epochs; None where the vendor tells neither."""
    progress = record.progress
    if record.outcome is RunState.SUCCEEDED:
        return 1.0
    if progress.step is not None and progress.total_steps:
        return min(1.0, progress.step / progress.total_steps)
    epochs = record.resolved.get("epochs") or record.plan.effective("epochs")
    if progress.epoch is not None and isinstance(epochs, (int, float)) and epochs > 0:
        return min(1.0, progress.epoch / epochs)
    return 0.0 if record.state in (RunState.PLANNED, RunState.UPLOADING, RunState.SUBMITTING, RunState.QUEUED) else None


def guard_budget(store: Store, provider: Provider, record: RunRecord) -> str | None:
    """Warn when a run has spent most of its budget, and have it stopped at the cap; return the sentence for people.

    Each warning is stored with the run, once. A vendor that cannot stop a job is named in the warning.
    """
    if record.budget is None:
        return None
    spending = measure_spending(record)
    if spending is None or spending.spent is None or record.outcome is not None:
        return None
    if spending.spent >= spending.budget:
        return _stop(store, provider, record, spending)
    projected = spending.projected or 0.0
    if spending.spent >= WARN_SHARE * spending.budget:
        return _warn(store, record, f"over {WARN_SHARE:.0%} of the budget", spending)
    if projected > spending.budget:
        return _warn(store, record, "the run is projected to cost more than its budget", spending)
    return None


def _warn(store: Store, record: RunRecord, reason: str, spending: Spending) -> str | None:
    if any(sentence.startswith(reason) for sentence in record.warnings):
        return None
    sentence = f"{reason}: {spending.sentence()}"
    store.warn(record.id, sentence)
    return sentence


def _stop(store: Store, provider: Provider, record: RunRecord, spending: Spending) -> str | None:
    able = provider.capabilities(record.plan.target).abilities.cancel
    if able is not True:
        return _warn(
            store, record, f"the budget is spent and {provider.name} cannot stop the job ({able.reason})", spending
        )
    if record.cancel_requested:
        return None
    sentence = _warn(store, record, "the budget is spent, so the run is stopped", spending)
    try:
        cancel(store, record.id, provider)
    except LlmtuneError as error:  # the run goes on being followed; the next poll asks again
        log.warning("run %s: could not be stopped at its budget: %s", record.id, scrub(error.message))
        store.change(record.id, cancel_requested=False)
        return f"the run could not be stopped at its budget ({scrub(error.message)}); trying again"
    return sentence
