"""How many epochs OpenAI trains where a job leaves that to "auto"."""

from __future__ import annotations

from llmtune.provider import EpochRange, Target

#: The rule that OpenAI once published for its own choice; it fits the recorded jobs.
SOURCE = "OpenAI cookbook, Data preparation and analysis for chat model fine-tuning (copy of 2024)"

TARGET_EPOCHS = 3
MIN_EXAMPLES = 100
MAX_EXAMPLES = 25_000
MAX_EPOCHS = 25


def count_automatic_epochs(rows: int) -> int:
    """Return the epochs of the published rule for a number of training rows: 3, more for few rows, fewer for many.

    Source: OpenAI cookbook, Data preparation and analysis for chat model fine-tuning (copy of 2024).
    """
    if rows < 1:
        return TARGET_EPOCHS
    if rows * TARGET_EPOCHS < MIN_EXAMPLES:
        return min(MAX_EPOCHS, MIN_EXAMPLES // rows)
    if rows * TARGET_EPOCHS > MAX_EXAMPLES:
        return max(1, MAX_EXAMPLES // rows)
    return TARGET_EPOCHS


def bound_automatic_epochs(target: Target) -> EpochRange:
    """Return between how many epochs the service chooses: at least 1, at most those of the published rule."""
    rows = target.rows.get("train", 0)
    highest = count_automatic_epochs(rows)
    reason = f"the vendor chooses the number of epochs: at least 1, and {highest} by the rule it once published"
    return EpochRange(1, highest, reason, SOURCE)
