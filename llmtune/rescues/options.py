"""The options that `rescue` and `rescue_all` share."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from llmtune._retry import RetryPolicy
from llmtune.errors import OverBudget
from llmtune.rescues.golden_set import Confirm
from llmtune.runs.budget import CONFIRM, CostTotal, check_budget
from llmtune.runs.run import Run

if TYPE_CHECKING:
    from llmtune.provider.receipt import Receipt
    from llmtune.report.schema import Report
    from llmtune.verifications.endpoint import Endpoint

log = logging.getLogger("llmtune")


def log_progress(message: str) -> None:
    """Log a progress message: the default of `say`."""
    log.info("%s", message)


@dataclass(frozen=True, kw_only=True)
class RescueOptions:
    """How a model is rescued, and what may be spent on it. `llmtune.rescue` describes each option."""

    model: str | None
    max_rows: int
    snapshot_only: bool
    deploy: bool
    yes: bool
    budget: float | None
    allow_unknown_cost: bool
    confirm: Confirm | None
    confirm_run: Callable[[Receipt], None] | None
    follow: Callable[[Run], Report] | None
    say: Callable[[str], None]
    patience: RetryPolicy | None
    server: Endpoint | None = None
    """A server to verify against the golden set, in the place of training."""

    def check_answers_cost(self, cost: float | None, formula: str, sampling: dict[str, Any], spent: float) -> None:
        """Raise `OverBudget` if the old model's answers may not be paid for.

        Args:
            cost: of the open answers in USD; None: not known.
            formula: how the cost was computed, in words.
            sampling: the sampling settings, passed to `confirm`.
            spent: USD for the answers on file, which count against the budget too.
        """
        if cost == 0:
            return
        if self.budget is None and not self.yes and self.confirm is not None:
            self.confirm(cost, formula, sampling)
            return

        def bill(budget: float) -> CostTotal:
            if cost is None:
                unknown = OverBudget(
                    f"what the old model's answers cost is not known ({formula})", hint="pass --allow-unknown-cost"
                )
                return CostTotal(0.0, unknown, unknown)
            before = f" besides {spent:,.2f} USD for those on file" if spent else ""
            over = OverBudget(f"the old model's answers may cost {cost:,.2f} USD{before}, over the budget ({formula})")
            return CostTotal(cost + spent, over)

        check_budget(
            bill,
            budget=self.budget,
            confirmed=self.yes,
            allow_unknown_cost=self.allow_unknown_cost,
            unconfirmed=OverBudget(
                f"the old model's answers are billed ({formula}) and it was not confirmed", hint=CONFIRM
            ),
        )
