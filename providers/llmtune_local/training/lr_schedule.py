"""The learning rate over the steps, as a pure function. Names and shapes are those of transformers' schedules.

Step 0 is the first step; as in transformers, a warm-up begins at rate 0. Every falling schedule ends at the floor
`min_lr_ratio`: factor = floor + (1 - floor) * shape. warmup_stable_decay falls over the last tenth of the steps, as a
half cosine. polynomial has power 1 and ends at the floor.
"""

from __future__ import annotations

import math

from llmtune_local.declarations import SCHEDULES


def warmup_steps(total: int, ratio: float | None, steps: int | None) -> int:
    """Return the steps of warm-up: as given, else the ratio of all steps rounded up."""
    return steps if steps is not None else math.ceil(total * (ratio or 0.0))


def lr_factor(
    schedule: str, step: int, total: int, warmup: int, *, floor: float = 0.0, cycles: float | None = None
) -> float:
    """Return the factor on the peak rate at `step` of `total`. `constant` has no warm-up, as in transformers."""
    if schedule == "constant":
        return 1.0
    if step < warmup:
        return step / max(1, warmup)
    if schedule == "constant_with_warmup":
        return 1.0
    return floor + (1.0 - floor) * _shape(schedule, step, total, warmup, cycles)


def _shape(schedule: str, step: int, total: int, warmup: int, cycles: float | None) -> float:
    progress = min(1.0, (step - warmup) / max(1, total - warmup))
    match schedule:
        case "linear" | "polynomial":
            return 1.0 - progress
        case "cosine" | "cosine_with_min_lr":
            return 0.5 * (1.0 + math.cos(2.0 * math.pi * (0.5 if cycles is None else cycles) * progress))
        case "cosine_with_restarts":
            if progress >= 1.0:
                return 0.0
            return 0.5 * (1.0 + math.cos(math.pi * (((1.0 if cycles is None else cycles) * progress) % 1.0)))
        case "inverse_sqrt":
            scale = warmup or 10_000
            return 1.0 / math.sqrt((step + scale - warmup) / scale)
        case "warmup_stable_decay":
            decay = max(1, math.ceil(0.1 * total))
            fallen = min(1.0, max(0.0, (step - (total - decay)) / decay))
            return 0.5 * (1.0 + math.cos(2.0 * math.pi * (0.5 if cycles is None else cycles) * fallen))
    raise ValueError(f"unknown schedule {schedule!r}; known: {', '.join(SCHEDULES)}")
