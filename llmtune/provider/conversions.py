"""The conversions a declaration may use: each a named rule that says in words what it did, or refuses.

None of them invents a vendor's number: a learning-rate multiplier becomes an absolute rate only through a default
that the vendor publishes, steps become epochs only through the dataset's own size.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from llmtune.provider.declarations import ConversionContext, Converted, ConvertedValue, NotConvertible, Rule
from llmtune.provider.values import ValueType


def rate_from_multiplier(published: float, of: str) -> Rule:
    """Return a rule that converts learning_rate_multiplier to an absolute rate; `published` is the default rate of
    `of`."""

    def rule(value: float, facts: ConversionContext) -> ConvertedValue:
        rate = value * published
        return ConvertedValue(rate, f"{value:g} x {of}'s published default {published:g} = {rate:g}")

    return rule


def multiplier_as_rate(wire: str, type: ValueType, published: float, of: str, source: str, **facts: Any) -> Converted:
    """Return the declaration of learning_rate_multiplier for a vendor that takes a rate.

    `wire`, `type`, `source` and `facts` are fields of it; `published` is the default rate that holds for `of`.
    """
    rule = rate_from_multiplier(published, of)
    return Converted(wire, type, rule, f"x {of}'s published default {published:g}", default=1.0, source=source, **facts)


def multiplier_from_rate(published: float, of: str) -> Rule:
    """Return a rule that converts an absolute rate to learning_rate_multiplier; `published` is the default rate of
    `of`."""

    def rule(value: float, facts: ConversionContext) -> ConvertedValue:
        factor = value / published
        return ConvertedValue(factor, f"{value:g} / {of}'s published default {published:g} = {factor:g}")

    return rule


def whole_number(value: float, facts: ConversionContext) -> ConvertedValue | NotConvertible:
    """Convert the `value` to a whole number; refuse a fraction whatever the `facts`, because a vendor would cut it."""
    if float(value).is_integer():
        return ConvertedValue(int(value), "", exact=True)
    return NotConvertible(f"must be a whole number here, not {value:g}", invalid=True)


def nearest_size(sizes: Sequence[int]) -> Rule:
    """Return a rule that converts a LoRA rank to the smallest of the `sizes` that is not below it, else to the
    largest."""

    def rule(value: int, facts: ConversionContext) -> ConvertedValue:
        chosen = next((size for size in sorted(sizes) if size >= value), max(sizes))
        if chosen == value:
            return ConvertedValue(value, "", exact=True)
        return ConvertedValue(
            chosen, f"rank {value} -> {chosen}; sizes are {', '.join(str(size) for size in sorted(sizes))}"
        )

    return rule


def steps_per_epoch(facts: ConversionContext, batch_size: int | None = None) -> int | None:
    """Return the optimizer steps of one epoch; None if rows or batch size are not known.

    `batch_size` holds where the job sets none.
    """
    batch = facts.hyperparameters.batch_size or batch_size
    if facts.rows is None or batch is None:
        return None
    return max(1, math.ceil(facts.rows / batch))


def total_steps(facts: ConversionContext, batch_size: int | None = None, epochs: int | None = None) -> int | None:
    """Return the optimizer steps of the whole run; None if the number is not known.

    `batch_size` and `epochs` hold where the job sets none.
    """
    per_epoch = steps_per_epoch(facts, batch_size)
    passes = facts.hyperparameters.epochs or epochs
    steps = None if per_epoch is None or passes is None else per_epoch * passes
    max_steps = facts.hyperparameters.max_steps
    if max_steps is not None:
        return max_steps if steps is None else min(max_steps, steps)
    return steps


_NOT_KNOWN = "needs the number of rows, batch_size and epochs to be known; set {missing}"


def _list_missing(facts: ConversionContext, batch_size: int | None, epochs: int | None) -> str:
    unset = []
    if facts.rows is None:
        unset.append("a readable dataset")
    if facts.hyperparameters.batch_size is None and batch_size is None:
        unset.append("batch_size")
    if facts.hyperparameters.epochs is None and epochs is None:
        unset.append("epochs")
    return " and ".join(unset) or "them"


def epochs_from_steps(batch_size: int | None = None) -> Rule:
    """Return a rule that converts max_steps to whole epochs (rounded up). `batch_size`: the vendor's default, if
    any."""

    def rule(value: int, facts: ConversionContext) -> ConvertedValue | NotConvertible:
        if facts.hyperparameters.epochs is not None:
            return NotConvertible("epochs is set too, and only one of them can be sent: leave one unset")
        per_epoch = steps_per_epoch(facts, batch_size)
        if per_epoch is None:
            return NotConvertible(_NOT_KNOWN.format(missing=_list_missing(facts, batch_size, 1)))
        epochs = max(1, math.ceil(value / per_epoch))
        return ConvertedValue(epochs, f"{value} steps / {per_epoch} steps per epoch, rounded up = {epochs} epochs")

    return rule


def max_steps_as_epochs(
    wire: str, type: ValueType, source: str, *, batch_size: int | None = None, **facts: Any
) -> Converted:
    """Return the declaration of max_steps for a vendor that counts epochs.

    `wire`, `type`, `source` and further `facts` are fields of it; `batch_size` is the vendor's default, if any.
    """
    size = f" (default {batch_size})" if batch_size else ""
    says = f"as whole epochs, rounded up, from the number of rows and batch_size{size}"
    return Converted(wire, type, epochs_from_steps(batch_size), says, source=source, **facts)


def steps_from_ratio(batch_size: int | None = None, epochs: int | None = None) -> Rule:
    """Return a rule that converts warmup_ratio to warm-up steps by the run's length.

    `batch_size` and `epochs` are the vendor's defaults, if any.
    """

    def rule(value: float, facts: ConversionContext) -> ConvertedValue | NotConvertible:
        total = total_steps(facts, batch_size, epochs)
        if total is None:
            return NotConvertible(_NOT_KNOWN.format(missing=_list_missing(facts, batch_size, epochs)))
        steps = round(value * total)
        return ConvertedValue(steps, f"{value:g} x {total} steps = {steps} steps")

    return rule


def ratio_from_steps(batch_size: int | None = None, epochs: int | None = None) -> Rule:
    """Return a rule that converts warmup_steps to a warm-up ratio by the run's length.

    `batch_size` and `epochs` are the vendor's defaults, if any.
    """

    def rule(value: int, facts: ConversionContext) -> ConvertedValue | NotConvertible:
        total = total_steps(facts, batch_size, epochs)
        if total is None:
            return NotConvertible(_NOT_KNOWN.format(missing=_list_missing(facts, batch_size, epochs)))
        if value > total:
            return NotConvertible(f"{value} warm-up steps are more than the whole run's {total}", invalid=True)
        return ConvertedValue(value / total, f"{value} / {total} steps = {value / total:g}")

    return rule


def count_from_interval(
    batch_size: int | None = None, epochs: int | None = None, *, max_count: int | None = None
) -> Rule:
    """Return a rule that converts eval_every or checkpoint_every (steps between) to a count per run, at most
    `max_count`.

    `batch_size` and `epochs` are the vendor's defaults, if any.
    """

    def rule(value: int, facts: ConversionContext) -> ConvertedValue | NotConvertible:
        total = total_steps(facts, batch_size, epochs)
        if total is None:
            return NotConvertible(_NOT_KNOWN.format(missing=_list_missing(facts, batch_size, epochs)))
        count = max(1, total // value)
        if max_count is not None and count > max_count:
            return ConvertedValue(
                max_count, f"every {value} of {total} steps = {count}, capped at the {max_count} allowed"
            )
        return ConvertedValue(count, f"every {value} of {total} steps = {count} over the run")

    return rule


def train_on_inputs() -> Rule:
    """Return a rule that converts prompt_loss_weight to a boolean; values other than 0 and 1 are refused."""

    def rule(value: float, facts: ConversionContext) -> ConvertedValue | NotConvertible:
        if value in (0, 1):
            return ConvertedValue(
                bool(value), f"prompt_loss_weight {value:g} = train_on_inputs {str(bool(value)).lower()}"
            )
        return NotConvertible(
            f"only 0 (answers alone) or 1 (prompts too) can be said here, not the fraction {value:g}",
            invalid=True,
        )

    return rule


def words(mapping: dict[Any, Any], what: str) -> Rule:
    """Return a rule that converts a value to the vendor's word in `mapping` and refuses others: "`what` must be one of
    ..."."""

    def rule(value: Any, facts: ConversionContext) -> ConvertedValue | NotConvertible:
        key = tuple(value) if isinstance(value, list) else value
        if key in mapping:
            return ConvertedValue(mapping[key], f"{value} = {mapping[key]!r}")
        choices = ", ".join(" + ".join(key) if isinstance(key, tuple) else str(key) for key in mapping)
        return NotConvertible(f"{what} can be {choices} here, not {value!r}", invalid=True)

    return rule


def shortened(longest: int, *, allowed: str = "A-Za-z0-9-") -> Rule:
    """Return a rule that shortens a name to `longest` characters and replaces those not `allowed` (a regex class) by
    '-'."""
    import re

    pattern = re.compile(f"[^{allowed}]+")

    def rule(value: str, facts: ConversionContext) -> ConvertedValue:
        name = pattern.sub("-", value).strip("-")[:longest].strip("-") or "job"
        if name == value:
            return ConvertedValue(value, "", exact=True)
        return ConvertedValue(name, f"{value!r} -> {name!r}: at most {longest} characters of {allowed}")

    return rule
