"""What a tuned model costs in all: training, answers, hosting and storage over months, and from when on it pays.

Pure arithmetic over prices; nothing is read or sent. Amounts are in the currency of the prices.
"""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING

from llmtune._models import FrozenModel
from llmtune.errors import InvalidJob

if TYPE_CHECKING:
    from llmtune.provider.cost import CostEstimate
    from llmtune.provider.limits import Price

#: Hours of a month: 365.25 days of 24 hours, by 12.
HOURS_PER_MONTH = 730.5

#: How many answers a month a unit of traffic stands for.
_PER_MONTH = {"day": 365.25 / 12, "week": 365.25 / 7 / 12, "month": 1.0, "year": 1 / 12}
_MULTIPLES = {"": 1, "k": 1_000, "m": 1_000_000}


class Traffic(FrozenModel):
    """The use of a model: answers a month, the tokens of a prompt and of an answer, and for how many months.

    `few_shot_tokens` are the tokens that examples add to a prompt.
    """

    answers_per_month: float
    prompt_tokens: float
    answer_tokens: float
    months: float = 12.0
    few_shot_tokens: float = 0.0


class UsageCost(FrozenModel):
    """What one way of answering costs: once, each month, and in all over the months of the traffic.

    `name` says which way, `once` is the training, `tokens` the answers of a month, `standing` hosting and storage of a
    month, `total` all of it over the months. They are None where a price is not known, with the reason in `unknown`.
    """

    name: str
    once: float | None = 0.0
    tokens: float | None = None
    standing: float | None = 0.0
    total: float | None = None
    unknown: str = ""

    @property
    def monthly(self) -> float | None:
        """The cost of a month."""
        return None if self.tokens is None or self.standing is None else self.tokens + self.standing


class BreakEven(FrozenModel):
    """From when on the tuned model is cheaper than another way: after so many months, at so many answers.

    Both are None where that never happens or is not known; `reason` then says why.
    """

    against: str
    months: float | None = None
    answers: float | None = None
    reason: str = ""


class TotalCost(FrozenModel):
    """The total cost of a backend's tuned model beside the other ways to get the same answers."""

    provider: str
    model: str
    currency: str = "USD"
    traffic: Traffic
    tuned: UsageCost
    base: UsageCost
    few_shot: UsageCost
    break_even: tuple[BreakEven, ...]
    note: str = ""
    """What the amounts rest on, where that is not plain."""


def parse_traffic(text: str) -> float:
    """Return the answers a month that a text such as "100k/month", "3000/day" or "2m/year" means.

    Raises:
        InvalidJob: it is not a number of answers per day, week, month or year.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([km]?)\s*/\s*(day|week|month|year)", text.strip().lower())
    if match is None or float(match[1]) <= 0:
        raise InvalidJob(
            f"traffic {text!r} is not a number of answers per day, week, month or year",
            where="--traffic",
            hint='such as "100k/month" or "500/day"',
        )
    return float(match[1]) * _MULTIPLES[match[2]] * _PER_MONTH[match[3]]


def price_tokens(traffic: Traffic, price_in: float | None, price_out: float | None, extra: float = 0.0) -> float | None:
    """Return the cost of a month's answers at prices per million tokens; `extra` tokens are added to each prompt."""
    if price_in is None or price_out is None:
        return None
    tokens_in = traffic.answers_per_month * (traffic.prompt_tokens + extra)
    return (tokens_in * price_in + traffic.answers_per_month * traffic.answer_tokens * price_out) / 1e6


def sum_usage(
    name: str, traffic: Traffic, once: float | None, tokens: float | None, standing: float | None
) -> UsageCost:
    """Add the parts up over the months of the traffic; a part that is None leaves the total unknown."""
    missing = {"training": once, "answers": tokens, "hosting": standing}
    unknown = [part for part, amount in missing.items() if amount is None]
    total = None
    if once is not None and tokens is not None and standing is not None:
        total = once + traffic.months * (tokens + standing)
    reason = f"the price of {' and '.join(unknown)} is not known" if unknown else ""
    return UsageCost(name=name, once=once, tokens=tokens, standing=standing, total=total, unknown=reason)


def price_tuned(traffic: Traffic, estimate: CostEstimate, price: Price, *, hosted_by_the_hour: bool) -> UsageCost:
    """Return what the tuned model costs at a vendor.

    Args:
        traffic: how it is used.
        estimate: the estimate of the job; the upper end of its training counts.
        price: the vendor's prices. Where it bills hosting and no tokens of tuned models (see `Price.billed`), the
            tokens cost nothing; where it bills neither, it does not serve the model and the cost is not known.
        hosted_by_the_hour: whether it answers only from a deployment that is billed by the hour; so it does where the
            vendor bills hosting and no tokens.
    """
    by_token = bool({"input", "output"} & set(price.billed))
    tokens = 0.0 if "hosting" in price.billed else None
    if by_token:
        tokens = price_tokens(traffic, price.input, price.output)
    storage = price.storage or 0.0
    standing: float | None = storage
    if (hosted_by_the_hour or not by_token) and "hosting" in price.billed:
        standing = None if price.hosting is None else storage + HOURS_PER_MONTH * price.hosting
    if "storage" in price.billed and price.storage is None:
        standing = None
    return sum_usage("tuned", traffic, estimate.training, tokens, standing)


def price_machine(traffic: Traffic, training_hours: float | None, hourly: float | None) -> UsageCost:
    """Return what the tuned model costs on one's own machine, or on one rented at `hourly` around the clock.

    Without a price by the hour the machine counts as paid for. Training is billed by the minute begun.
    """
    if hourly is None:
        return sum_usage("tuned", traffic, 0.0, 0.0, 0.0)
    once = None if training_hours is None else math.ceil(round(training_hours * 60, 6)) / 60 * hourly
    return sum_usage("tuned", traffic, once, 0.0, HOURS_PER_MONTH * hourly)


def find_break_even(traffic: Traffic, tuned: UsageCost, other: UsageCost) -> BreakEven:
    """Return after how many months, and at how many answers, the tuned model has cost less than another way.

    It is where once + months x monthly of the one equals months x monthly of the other.
    """
    against = other.name
    if tuned.once is None or tuned.monthly is None or other.monthly is None:
        return BreakEven(against=against, reason=tuned.unknown or other.unknown)
    saved = other.monthly - tuned.monthly
    extra = tuned.once - (other.once or 0.0)
    if extra <= 0 and saved >= 0:
        return BreakEven(against=against, months=0.0, answers=0.0)
    if saved <= 0:
        dearer = f"a month costs {tuned.monthly:,.2f} (tuned) against {other.monthly:,.2f} ({against})"
        return BreakEven(against=against, reason=f"never at this traffic: {dearer}")
    months = max(0.0, extra / saved)
    return BreakEven(against=against, months=months, answers=math.ceil(months * traffic.answers_per_month))
