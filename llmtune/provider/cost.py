"""The estimated cost of a job, as a formula to check by hand, with the source and the date of each price."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from functools import partial
from typing import TYPE_CHECKING

from llmtune._models import FrozenModel

if TYPE_CHECKING:
    from llmtune.provider.declarations import Capabilities
    from llmtune.provider.limits import EpochRange, Price


class CostLine(FrozenModel):
    """One part of an estimate: what it is for, between how much and how much it costs, and how that is computed.

    `low` and `high` are equal where it is no range, and None where the amount is not known; `unknown` then says why.
    `formula` is the sum written out.
    """

    name: str
    low: float | None = None
    high: float | None = None
    formula: str = ""
    unknown: str | None = None


class CostEstimate(FrozenModel):
    """An estimate in `currency`: `training`, `evaluation` and `hosting` add up to `total`, the most that it may cost.

    `low` is the least that it may cost where it is a range, with the reason in `range_reason`; else None. `total` is
    None if a part is not known, and `unknown` says which and why. `epoch` is the cost of one epoch of training, `lines`
    are the parts one by one, `formula` is the sum written out; `source` is the page that states the price, and
    `checked` the day on which it was read.
    """

    epoch: float | None = None
    training: float | None = None
    evaluation: float | None = None
    hosting: float | None = None
    total: float | None = None
    low: float | None = None
    range_reason: str = ""
    lines: tuple[CostLine, ...] = ()
    currency: str = "USD"
    formula: str = ""
    unknown: str | None = None
    source: str = ""
    checked: date | None = None

    def sentence(self) -> str:
        """Return the total in words ("12.40 USD", "0.30 to 0.90 USD"), or why it is not known."""
        if self.total is None:
            return f"unknown: {self.unknown}"
        text = f"{_between(self.low, self.total)} {self.currency}"
        if self.range_reason:
            text += f" ({self.range_reason})"
        missing = [line for line in self.lines if line.unknown]
        if missing:
            text += f", without {' and '.join(line.name for line in missing)}: {missing[0].unknown}"
        return text

    def why_incomplete(self) -> str | None:
        """Return why the total is not all that may be billed: a part without a price; None where it is."""
        if self.total is None:
            return self.unknown or "not known"
        return next((f"{line.name}: {line.unknown}" for line in self.lines if line.unknown), None)

    def for_epochs(self, epochs: object) -> CostEstimate:
        """Return the estimate for the number of epochs that the vendor reports; itself where it reports none."""
        if self.epoch is None or isinstance(epochs, bool) or not isinstance(epochs, (int, float)):
            return self
        training = self.epoch * epochs
        training_term, _, other_terms = self.formula.partition("; ")
        tokens, _, price = training_term.partition(" tokens x ")
        price = price.partition(" x ")[2].partition(" = ")[0]
        formula = f"{tokens} tokens x {epochs:g} epochs x {price} = {training:,.2f}"
        line = CostLine(name="training", low=training, high=training, formula=formula)
        fields: dict[str, object] = {
            "training": training,
            "low": None,
            "range_reason": "",
            "lines": tuple(line if part.name == "training" else part for part in self.lines),
            "formula": f"{formula}; {other_terms}" if other_terms else formula,
        }
        if self.evaluation is not None and self.hosting is not None:
            fields |= {"total": training + self.evaluation + self.hosting, "unknown": None}
        elif self.training is None:  # the number of epochs was not all that was missing
            fields["unknown"] = "the price of answers, or of hosting, is not known"
        return self.model_copy(update=fields)


FREE = CostEstimate(
    training=0.0, evaluation=0.0, hosting=0.0, total=0.0, formula="your own machine: no vendor bills it"
)


@dataclass(frozen=True)
class Answers:
    """Answers that an evaluation asks a model for: the tokens of all prompts and of all answers together.

    `name` says whose they are ("evaluation", "base model", "few-shot baseline"); `tuned` chooses the prices.
    """

    name: str
    prompt_tokens: int
    answer_tokens: int = 0
    tuned: bool = True


def estimate(
    capabilities: Capabilities,
    *,
    training_tokens: int | None,
    tokens_estimated: bool,
    epochs: int | None,
    answers: Sequence[Answers] = (),
    hosting_hours: float = 0.0,
) -> CostEstimate:
    """Estimate the cost of training (tokens x epochs x price), of answers (price of tokens) and of hosting (hours).

    `training_tokens` are the tokens of one epoch. With `epochs` None the vendor chooses their number: the estimate is
    then a range where the capabilities say between what (`epochs_if_unset`), else unknown. Answers whose price is not
    known are left out of the total and named in its sentence.
    """
    price = capabilities.price
    new_estimate = partial(
        CostEstimate, source=price.source_of("training"), checked=price.checked, currency=price.currency
    )
    if price.training is None:
        return new_estimate(unknown=_explain_no_price(price))
    if training_tokens is None:
        return new_estimate(unknown="the dataset could not be read, so its tokens are not known")
    bounds = capabilities.epochs_if_unset
    epoch_cost = training_tokens / 1e6 * price.training
    training = _estimate_training(
        price, training_tokens, "about " if tokens_estimated else "", (epochs, epochs) if epochs is not None else bounds
    )
    answer_lines = [line for group in answers if (line := _price_answers(price, group))]
    lines = [training, *answer_lines]
    if hosting_hours:
        lines.append(_price_hosting(price, hosting_hours))
    evaluation = sum(line.high or 0.0 for line in answer_lines)
    hosting = lines[-1].high if hosting_hours else 0.0
    total = None if training.high is None or hosting is None else training.high + evaluation + hosting
    is_range = total is not None and training.low is not None and training.low != training.high
    return new_estimate(
        epoch=epoch_cost,
        training=training.high,
        evaluation=evaluation,
        hosting=hosting,
        total=total,
        low=total - training.high + training.low if is_range else None,  # type: ignore[operator]
        range_reason=bounds.reason if is_range and bounds is not None else "",
        lines=tuple(lines),
        unknown=None if total is not None else training.unknown or lines[-1].unknown,
        formula="; ".join(line.formula for line in lines if line.formula),
    )


def add_line(estimate: CostEstimate, line: CostLine) -> CostEstimate:
    """Return the estimate with one more part of the evaluation; one whose amount is not known is left out of it."""
    training = CostLine(
        name="training",
        low=estimate.training,
        high=estimate.training,
        formula=estimate.formula,
        unknown=estimate.unknown,
    )
    lines = estimate.lines or (training,)
    changed: dict[str, object] = {"lines": (*lines, line)}
    if line.high is not None:
        changed["evaluation"] = (estimate.evaluation or 0.0) + line.high
        changed["total"] = None if estimate.total is None else estimate.total + line.high
        changed["low"] = None if estimate.low is None else estimate.low + (line.low or 0.0)
        changed["formula"] = "; ".join(filter(None, (estimate.formula, line.formula)))
    return estimate.model_copy(update=changed)


def _explain_no_price(price: Price) -> str:
    """Return why training has no price per token: the note, and the page that was looked at."""
    if price.training_hour is not None:
        reason = (
            f"billed by the hour of training, at {price.training_hour:g} {price.currency}, and how many hours a job"
            " takes is known only when it ends"
        )
        return f"{reason}; {price.note}" if price.note else reason
    reason = price.note or "the vendor's training price is not published"
    if price.source and price.checked and price.source not in reason:
        reason += f" (looked at {price.source}, {price.checked})"
    return reason


def _estimate_training(
    price: Price, tokens: int, about: str, epochs: tuple[int, int | None] | EpochRange | None
) -> CostLine:
    """Price the training tokens of so many epochs, or of between so many."""
    one = tokens / 1e6 * (price.training or 0.0)
    rate = f"{price.training:g} {price.currency} per million"
    one_epoch = f"one epoch is {about}{one:,.2f} {price.currency}"
    if epochs is None:
        reason = f"the vendor chooses the number of epochs; {one_epoch}"
        return CostLine(name="training", formula=f"{about}{tokens:,} tokens x epochs x {rate}", unknown=reason)
    low, high = epochs if isinstance(epochs, tuple) else (epochs.low, epochs.high)
    if high is None:
        reason = f"{epochs.reason}; {one_epoch}"  # type: ignore[union-attr]
        formula = f"{about}{tokens:,} tokens x epochs x {rate}"
        return CostLine(name="training", low=low * one, formula=formula, unknown=reason)
    least = price.training_minimum or 0.0
    costs = max(low * one, least), max(high * one, least)
    count = f"{high}" if low == high else f"{low} to {high}"
    formula = f"{about}{tokens:,} tokens x {count} epochs x {rate} = {_between(*costs)}"
    if costs[1] > high * one:
        formula += " (the least for a job)"
    return CostLine(name="training", low=costs[0], high=costs[1], formula=formula)


def _price_answers(price: Price, answers: Answers) -> CostLine | None:
    """Price the prompts and answers of one model; None where there are none."""
    if not answers.prompt_tokens and not answers.answer_tokens:
        return None
    prefix = "" if answers.tuned else "base_"
    into, out = getattr(price, f"{prefix}input"), getattr(price, f"{prefix}output")
    if not answers.tuned and into is None and out is None:
        into, out = price.input, price.output  # what tuned answers cost is the best bound there is
    if into is None or (out is None and answers.answer_tokens):
        return CostLine(name=answers.name, unknown="the price of its answers is not published")
    terms = [f"{answers.prompt_tokens:,} tokens x {into:g}"]
    cost = answers.prompt_tokens / 1e6 * into
    if answers.answer_tokens:
        terms.append(f"{answers.answer_tokens:,} x {out:g}")
        cost += answers.answer_tokens / 1e6 * out
    formula = f"{answers.name} {' + '.join(terms)} = {cost:,.2f}"
    return CostLine(name=answers.name, low=cost, high=cost, formula=formula)


def _price_hosting(price: Price, hours: float) -> CostLine:
    """Price a deployment that stands so many hours, and is billed for its least number of hours."""
    if price.hosting is None:
        return CostLine(name="deployment", unknown="the hosting price is not known")
    hours = max(hours, price.hosting_minimum or 0.0)
    cost = hours * price.hosting
    formula = f"hosting {hours:g} h x {price.hosting:g} = {cost:,.2f}"
    return CostLine(name="deployment", low=cost, high=cost, formula=formula)


def _between(low: float | None, high: float) -> str:
    """Write an amount, or the two ends of a range: "0.90", "0.30 to 0.90"."""
    if low is None or f"{low:,.2f}" == f"{high:,.2f}":
        return f"{high:,.2f}"
    return f"{low:,.2f} to {high:,.2f}"
