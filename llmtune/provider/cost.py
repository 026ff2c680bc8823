"""What a job will cost, as a formula anybody can check by hand, with the source and the date of each price."""

from __future__ import annotations

from datetime import date
from typing import TYPE_CHECKING

from llmtune._models import FrozenModel

if TYPE_CHECKING:
    from llmtune.provider.declarations import Capabilities


class CostEstimate(FrozenModel):
    """An estimate in `currency`: `training`, `evaluation` and `hosting` add up to `total`.

    `total` is None when a part is not known, and `unknown` says which and why. `formula` is the sum written out;
    `source` is where the price was read, and `checked` the day. `epoch` is what one epoch of the training costs.
    """

    epoch: float | None = None
    training: float | None = None
    evaluation: float | None = None
    hosting: float | None = None
    total: float | None = None
    currency: str = "USD"
    formula: str = ""
    unknown: str | None = None
    source: str = ""
    checked: date | None = None

    def sentence(self) -> str:
        """ "12.40 USD (...)" or why it is not known."""
        if self.total is None:
            return f"unknown: {self.unknown}"
        return f"{self.total:,.2f} {self.currency}"

    def for_epochs(self, epochs: object) -> CostEstimate:
        """The same for the number of epochs that the vendor says it trains, where it says one."""
        if self.epoch is None or isinstance(epochs, bool) or not isinstance(epochs, (int, float)):
            return self
        training = self.epoch * epochs
        first, _, others = self.formula.partition("; ")
        tokens, _, price = first.partition(" tokens x ")
        price = price.partition(" x ")[2].partition(" = ")[0]
        formula = f"{tokens} tokens x {epochs:g} epochs x {price} = {training:,.2f}"
        parts: dict[str, object] = {"training": training, "formula": f"{formula}; {others}" if others else formula}
        if self.evaluation is not None and self.hosting is not None:
            parts |= {"total": training + self.evaluation + self.hosting, "unknown": None}
        elif self.training is None:  # the number of epochs was not all that was missing
            parts["unknown"] = "the price of answers, or of hosting, is not known"
        return self.model_copy(update=parts)


FREE = CostEstimate(
    training=0.0, evaluation=0.0, hosting=0.0, total=0.0, formula="your own machine: no vendor bills it"
)


def estimate(
    capabilities: Capabilities,
    *,
    training_tokens: int | None,
    tokens_estimated: bool,
    epochs: int | None,
    evaluation_tokens: int = 0,
    hosting_hours: float = 0.0,
) -> CostEstimate:
    """Training (tokens x epochs x price), evaluation (input price) and hosting hours.

    `training_tokens` are the tokens of one pass; `epochs` None means the vendor chooses, which leaves the total open.
    """
    price = capabilities.price
    blank = CostEstimate(source=price.source, checked=price.checked, currency=price.currency)

    def say(**parts: object) -> CostEstimate:
        return blank.model_copy(update=parts)

    if price.training is None:
        return say(unknown=price.note or "the vendor's training price is not published")
    if training_tokens is None:
        return say(unknown="the dataset could not be read, so its tokens are not known")
    about = "about " if tokens_estimated else ""
    once = training_tokens / 1e6 * price.training
    if epochs is None:
        others = estimate(
            capabilities,
            training_tokens=0,
            tokens_estimated=False,
            epochs=0,
            evaluation_tokens=evaluation_tokens,
            hosting_hours=hosting_hours,
        )
        formula = f"{about}{training_tokens:,} tokens x epochs x {price.training:g} {price.currency} per million"
        return say(
            epoch=once,
            evaluation=others.evaluation,
            hosting=others.hosting,
            unknown=f"the vendor chooses the number of epochs; one epoch is {about}{once:,.2f} {price.currency}",
            formula="; ".join(filter(None, (formula, others.formula.partition("; ")[2]))),
        )
    training = once * epochs
    formula = (
        f"{about}{training_tokens:,} tokens x {epochs} epochs x {price.training:g} {price.currency} per million"
        f" = {training:,.2f}"
    )
    evaluation = 0.0
    if evaluation_tokens:
        if price.input is None:
            return say(epoch=once, training=training, formula=formula, unknown="the inference price is not known")
        evaluation = evaluation_tokens / 1e6 * price.input
        formula += f"; evaluation {evaluation_tokens:,} tokens x {price.input:g} = {evaluation:,.2f}"
    hosting = 0.0
    if hosting_hours:
        if price.hosting is None:
            return say(
                epoch=once,
                training=training,
                evaluation=evaluation,
                formula=formula,
                unknown="the hosting price is not known",
            )
        hosting = hosting_hours * price.hosting
        formula += f"; hosting {hosting_hours:g} h x {price.hosting:g} = {hosting:,.2f}"
    return say(
        epoch=once,
        training=training,
        evaluation=evaluation,
        hosting=hosting,
        total=training + evaluation + hosting,
        formula=formula,
    )
