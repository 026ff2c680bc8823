"""Deployments that llmtune made and that still stand, with what a day of each costs."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from llmtune._models import FrozenModel
from llmtune.errors import LlmtuneError
from llmtune.provider.registry import get_provider

if TYPE_CHECKING:
    from llmtune.runs.store.store import Store


class StandingDeployment(FrozenModel):
    """A deployment that llmtune has not removed: whose it is, for how long it stands, and what it costs.

    `daily` is its price of a day in `currency`, `so_far` that of the hours since it was made; None where the hourly
    price is not known.
    """

    deployment: str
    provider: str
    run: str
    model: str = ""
    hours: float
    daily: float | None = None
    so_far: float | None = None
    currency: str = "USD"

    def sentence(self) -> str:
        """Say what it costs and how to remove it."""
        if self.daily is None:
            cost = "costs an amount that is not known"
        else:
            cost = f"costs {self.daily:,.2f} {self.currency} a day, {self.so_far or 0.0:,.2f} so far"
        removal = f"llmtune runs cleanup {self.run} removes it"
        return f"{self.deployment} has stood for {self.hours:,.0f} h and {cost}; {removal}"


def list_standing_deployments(store: Store) -> list[StandingDeployment]:
    """Return the deployments in the store that llmtune made and has not removed, oldest first. Nothing is sent."""
    found = []
    for resource in store.resources():
        if resource.type != "deployment":
            continue
        hours = max(0.0, time.time() - resource.created) / 3600
        model, hourly, currency = _find_price(store, resource.run_id, resource.provider)
        found.append(
            StandingDeployment(
                deployment=resource.ref.id,
                provider=resource.provider,
                run=resource.run_id,
                model=model,
                hours=hours,
                daily=None if hourly is None else 24 * hourly,
                so_far=None if hourly is None else hours * hourly,
                currency=currency,
            )
        )
    return found


def _find_price(store: Store, run_id: str, provider: str) -> tuple[str, float | None, str]:
    """Return the base model of a run, and the price of an hour of its deployment with its currency."""
    try:
        record = store.get(run_id)
        price = get_provider(provider).capabilities(record.plan.target).price
    except (LlmtuneError, ValueError):  # the run is gone, its plan is damaged, or the provider is configured no longer
        return "", None, "USD"
    return record.model, price.hosting, price.currency
