"""The conversions a declaration may use: each a named rule that says in words what it did, or refuses.

None of them invents a vendor's number: a learning-rate multiplier becomes an absolute rate only through a default
that the vendor publishes, steps become epochs only through the dataset's own size.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from llmtune.provider.declarations import Changed, Converted, Facts, Refused, Rule
from llmtune.provider.values import ValueType


def rate_from_multiplier(published: float, of: str) -> Rule:
    """learning_rate_multiplier -> absolute rate, through the default (`published`) that holds for `of`."""

    def rule(value: float, facts: Facts) -> Changed:
        rate = value * published
        return Changed(rate, f"{value:g} x {of}'s published default {published:g} = {rate:g}")

    return rule


def multiplier_as_rate(wire: str, type: ValueType, published: float, of: str, source: str, **facts: Any) -> Converted:
    """Return the declaration of learning_rate_multiplier for a vendor that takes a rate.

    `wire`, `type`, `source` and `facts` are fields of it; `published` is the default rate that holds for `of`.
    """
    rule = rate_from_multiplier(published, of)
    return Converted(wire, type, rule, f"x {of}'s published default {published:g}", default=1.0, source=source, **facts)


def multiplier_from_rate(published: float, of: str) -> Rule:
    """Absolute rate -> learning_rate_multiplier, through the default (`published`) that holds for `of`."""

    def rule(value: float, facts: Facts) -> Changed:
        factor = value / published
        return Changed(factor, f"{value:g} / {of}'s published default {published:g} = {factor:g}")

    return rule


def whole_number(value: float, facts: Facts) -> Changed | Refused:
    """A `value` -> the same as a whole number; a fraction is refused whatever the `facts`: a vendor would cut it."""
    if float(value).is_integer():
        return Changed(int(value), "", exact=True)
    return Refused(f"must be a whole number here, not {value:g}", invalid=True)


def nearest_size(sizes: Sequence[int]) -> Rule:
    """LoRA rank -> the smallest of the `sizes` offered that is at least as large, else the largest."""

    def rule(value: int, facts: Facts) -> Changed:
        chosen = next((size for size in sorted(sizes) if size >= value), max(sizes))
        if chosen == value:
            return Changed(value, "", exact=True)
        return Changed(chosen, f"rank {value} -> {chosen}; sizes are {', '.join(str(size) for size in sorted(sizes))}")

    return rule


def steps_per_epoch(facts: Facts, batch_size: int | None = None) -> int | None:
    """Optimizer steps of one pass over the training rows; None when rows or batch size are not known.

    `batch_size` holds where the job sets none.
    """
    batch = facts.hyperparameters.batch_size or batch_size
    if facts.rows is None or batch is None:
        return None
    return max(1, math.ceil(facts.rows / batch))


def total_steps(facts: Facts, batch_size: int | None = None, epochs: int | None = None) -> int | None:
    """Optimizer steps of the whole run; None when it is not known.

    `batch_size` and `epochs` hold where the job sets none.
    """
    per_epoch = steps_per_epoch(facts, batch_size)
    passes = facts.hyperparameters.epochs or epochs
    steps = None if per_epoch is None or passes is None else per_epoch * passes
    most = facts.hyperparameters.max_steps
    if most is not None:
        return most if steps is None else min(most, steps)
    return steps


_NEEDS = "needs the number of rows, batch_size and epochs to be known; set {missing}"


def _missing(facts: Facts, batch_size: int | None, epochs: int | None) -> str:
    unset = []
    if facts.rows is None:
        unset.append("a readable dataset")
    if facts.hyperparameters.batch_size is None and batch_size is None:
        unset.append("batch_size")
    if facts.hyperparameters.epochs is None and epochs is None:
        unset.append("epochs")
    return " and ".join(unset) or "them"


def epochs_from_steps(batch_size: int | None = None) -> Rule:
    """max_steps -> whole epochs (rounded up), from the dataset's size. `batch_size`: the vendor's default, if any."""

    def rule(value: int, facts: Facts) -> Changed | Refused:
        if facts.hyperparameters.epochs is not None:
            return Refused("epochs is set too, and only one of them can be sent: leave one unset")
        per_epoch = steps_per_epoch(facts, batch_size)
        if per_epoch is None:
            return Refused(_NEEDS.format(missing=_missing(facts, batch_size, 1)))
        epochs = max(1, math.ceil(value / per_epoch))
        return Changed(epochs, f"{value} steps / {per_epoch} steps per epoch, rounded up = {epochs} epochs")

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
    """warmup_ratio -> warm-up steps, from the run's length.

    `batch_size` and `epochs` are the vendor's defaults, if any.
    """

    def rule(value: float, facts: Facts) -> Changed | Refused:
        total = total_steps(facts, batch_size, epochs)
        if total is None:
            return Refused(_NEEDS.format(missing=_missing(facts, batch_size, epochs)))
        steps = round(value * total)
        return Changed(steps, f"{value:g} x {total} steps = {steps} steps")

    return rule


def ratio_from_steps(batch_size: int | None = None, epochs: int | None = None) -> Rule:
    """warmup_steps -> warm-up ratio, from the run's length.

    `batch_size` and `epochs` are the vendor's defaults, if any.
    """

    def rule(value: int, facts: Facts) -> Changed | Refused:
        total = total_steps(facts, batch_size, epochs)
        if total is None:
            return Refused(_NEEDS.format(missing=_missing(facts, batch_size, epochs)))
        if value > total:
            return Refused(f"{value} warm-up steps are more than the whole run's {total}", invalid=True)
        return Changed(value / total, f"{value} / {total} steps = {value / total:g}")

    return rule


def count_from_interval(batch_size: int | None = None, epochs: int | None = None, *, most: int | None = None) -> Rule:
    """eval_every / checkpoint_every (steps between) -> how many over the whole run (at most `most`).

    `batch_size` and `epochs` are the vendor's defaults, if any.
    """

    def rule(value: int, facts: Facts) -> Changed | Refused:
        total = total_steps(facts, batch_size, epochs)
        if total is None:
            return Refused(_NEEDS.format(missing=_missing(facts, batch_size, epochs)))
        count = max(1, total // value)
        if most is not None and count > most:
            return Changed(most, f"every {value} of {total} steps = {count}, capped at the {most} allowed")
        return Changed(count, f"every {value} of {total} steps = {count} over the run")

    return rule


def train_on_inputs() -> Rule:
    """prompt_loss_weight -> yes or no: only 0 and 1 can be said."""

    def rule(value: float, facts: Facts) -> Changed | Refused:
        if value in (0, 1):
            return Changed(bool(value), f"prompt_loss_weight {value:g} = train_on_inputs {str(bool(value)).lower()}")
        return Refused(
            f"only 0 (answers alone) or 1 (prompts too) can be said here, not the fraction {value:g}",
            invalid=True,
        )

    return rule


def words(mapping: dict[Any, Any], what: str) -> Rule:
    """A value -> the vendor's word for it by `mapping`; others are refused: "`what` must be one of ..."."""

    def rule(value: Any, facts: Facts) -> Changed | Refused:
        key = tuple(value) if isinstance(value, list) else value
        if key in mapping:
            return Changed(mapping[key], f"{value} = {mapping[key]!r}")
        known = ", ".join(" + ".join(key) if isinstance(key, tuple) else str(key) for key in mapping)
        return Refused(f"{what} can be {known} here, not {value!r}", invalid=True)

    return rule


def shortened(longest: int, *, allowed: str = "A-Za-z0-9-") -> Rule:
    """A name -> one of at most `longest` characters out of `allowed` (a regex class); others become '-'."""
    import re

    pattern = re.compile(f"[^{allowed}]+")

    def rule(value: str, facts: Facts) -> Changed:
        name = pattern.sub("-", value).strip("-")[:longest].strip("-") or "job"
        if name == value:
            return Changed(value, "", exact=True)
        return Changed(name, f"{value!r} -> {name!r}: at most {longest} characters of {allowed}")

    return rule
