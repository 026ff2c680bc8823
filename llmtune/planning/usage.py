"""What each backend's tuned model would cost in use, beside prompting the base model and few-shot prompting."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llmtune.evaluation.few_shot import SHOTS
from llmtune.planning.regions import explain_other_prices
from llmtune.planning.total_cost import (
    TotalCost,
    Traffic,
    UsageCost,
    find_break_even,
    price_machine,
    price_tokens,
    price_tuned,
    sum_usage,
)
from llmtune.provider.receipt import Receipt
from llmtune.provider.registry import get_provider

if TYPE_CHECKING:
    from rich.console import Console

    from llmtune.provider.limits import Price
    from llmtune.provider.protocol import Provider


def build_traffic(
    receipt: Receipt,
    answers_per_month: float,
    *,
    prompt_tokens: float | None = None,
    answer_tokens: float | None = None,
    months: float = 12.0,
) -> Traffic:
    """Return the traffic of a plan; tokens that are not given are those of an average row of its dataset."""
    prompt = prompt_tokens if prompt_tokens is not None else receipt.data.prompt_tokens or 0.0
    answer = answer_tokens if answer_tokens is not None else receipt.data.answer_tokens or 0.0
    return Traffic(
        answers_per_month=answers_per_month,
        prompt_tokens=prompt,
        answer_tokens=answer,
        months=months,
        few_shot_tokens=SHOTS * (prompt + answer),
    )


#: The row of the total for a machine that is rented by the hour. No provider's name has a space.
RENTED = "rented machine"


def compute_total_cost(receipt: Receipt, traffic: Traffic, *, region: str | None = None) -> TotalCost:
    """Compute the total cost of a plan's backend; this machine costs nothing. Prices of other regions do not count.

    Raises `UnknownName` where the plan's provider does not exist any more.
    """
    backend = get_provider(receipt.target.provider)
    if not backend.hosted:
        return _compute_on_machine(receipt, traffic, receipt.target.provider, None, None)
    capabilities = backend.capabilities(receipt.target)
    price = capabilities.price.for_target(receipt.target.method, receipt.target.adapter)
    if region is not None and (problem := explain_other_prices(region, capabilities.regions, price.region)):
        tuned, base, few_shot = (
            UsageCost(name=name, once=None, standing=None, unknown=problem)
            for name in ("tuned", "base model", "few-shot")
        )
    else:
        by_the_hour = capabilities.abilities.deployment == "required"
        tuned = price_tuned(traffic, receipt.cost, price, hosted_by_the_hour=by_the_hour)
        base, few_shot = _price_base(traffic, price)
    return _build_total(receipt, traffic, receipt.target.provider, (tuned, base, few_shot), currency=price.currency)


def compute_rented_cost(receipt: Receipt, traffic: Traffic, hourly: float) -> TotalCost:
    """Compute the total cost of a plan for this machine on one that is rented at `hourly` USD an hour instead.

    Training counts as long as it takes here, and answers need the machine around the clock.
    """
    hours = _training_hours(receipt, get_provider(receipt.target.provider))
    took = "how long training takes is not known" if hours is None else "training counts as long as on this machine"
    total = _compute_on_machine(receipt, traffic, RENTED, hours, hourly)
    return total.model_copy(update={"note": f"{took}, and the machine is rented around the clock"})


def _compute_on_machine(
    receipt: Receipt, traffic: Traffic, name: str, hours: float | None, hourly: float | None
) -> TotalCost:
    tuned = price_machine(traffic, hours, hourly)
    base = sum_usage("base model", traffic, 0.0, 0.0, tuned.standing)
    few_shot = sum_usage("few-shot", traffic, 0.0, 0.0, tuned.standing)
    return _build_total(receipt, traffic, name, (tuned, base, few_shot), currency="USD")


def _build_total(
    receipt: Receipt, traffic: Traffic, name: str, usage: tuple[UsageCost, UsageCost, UsageCost], *, currency: str
) -> TotalCost:
    tuned, base, few_shot = usage
    return TotalCost(
        provider=name,
        model=receipt.target.model,
        currency=currency,
        traffic=traffic,
        tuned=tuned,
        base=base,
        few_shot=few_shot,
        break_even=(find_break_even(traffic, tuned, base), find_break_even(traffic, tuned, few_shot)),
    )


def _price_base(traffic: Traffic, price: Price) -> tuple[UsageCost, UsageCost]:
    """Return what prompting the base model costs, without examples and with."""
    into, out = price.base_input, price.base_output
    base = sum_usage("base model", traffic, 0.0, price_tokens(traffic, into, out), 0.0)
    examples = price_tokens(traffic, into, out, traffic.few_shot_tokens)
    return base, sum_usage("few-shot", traffic, 0.0, examples, 0.0)


def _training_hours(receipt: Receipt, backend: Provider) -> float | None:
    """Return the most hours of a training and its evaluation on this machine; None where they cannot be estimated."""
    duration = receipt.duration
    if duration is None or backend.hosted or duration.total is None:
        return None
    return duration.total.high / 3600


def print_total_costs(console: Console, totals: list[TotalCost]) -> None:
    """Print one row per backend, then when each pays."""
    from rich.markup import escape
    from rich.table import Table

    if not totals:
        return
    traffic = totals[0].traffic
    console.print(
        f"\n[bold]{traffic.answers_per_month:,.0f} answers a month[/] of about {traffic.prompt_tokens:,.0f} tokens in"
        f" and {traffic.answer_tokens:,.0f} out, for {traffic.months:g} months"
    )
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 1))
    for name in ("backend", "training", "tuned, a month", "of it standing", "tuned, in all", "base model", "few-shot"):
        table.add_column(name, justify="left" if name == "backend" else "right")
    for total in totals:
        tuned = total.tuned
        amounts = (tuned.once, tuned.monthly, tuned.standing, tuned.total, total.base.total, total.few_shot.total)
        table.add_row(
            escape(total.provider), *("unknown" if amount is None else f"{amount:,.2f}" for amount in amounts)
        )
    console.print(table)
    for total in totals:
        for pays in total.break_even:
            if pays.months is None:
                text = f"against {pays.against}: {pays.reason or 'not known'}"
            elif pays.months == 0:
                text = f"against {pays.against}: costs no more from the first answer on"
            else:
                text = f"against {pays.against}: pays after {pays.months:,.1f} months, {pays.answers:,.0f} answers"
            console.print(f"  [dim]{escape(total.provider)}[/] {escape(text)}", soft_wrap=True)
        if total.note:
            console.print(f"  [dim]{escape(total.provider)}[/] {escape(total.note)}", soft_wrap=True)
