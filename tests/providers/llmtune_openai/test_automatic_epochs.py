"""The epochs of "auto": the published rule, and jobs that were recorded."""

from __future__ import annotations

import pytest

from llmtune.provider import Target
from llmtune_openai.automatic_epochs import bound_automatic_epochs, count_automatic_epochs


@pytest.mark.parametrize(
    ("rows", "epochs"),
    [(0, 3), (3, 25), (10, 10), (33, 3), (34, 3), (100, 3), (8_333, 3), (8_334, 2), (30_000, 1)],
)
def test_the_rule_has_three_epochs_more_for_few_rows_and_fewer_for_many(rows: int, epochs: int) -> None:
    assert count_automatic_epochs(rows) == epochs


def test_a_recorded_job_of_ten_rows_was_within_the_range() -> None:
    """Ten rows, all auto: 10 epochs (a recorded run of 2023)."""
    target = Target(provider="openai", kind="openai", model="gpt-4.1-mini-2025-04-14", rows={"train": 10})
    chosen = bound_automatic_epochs(target)
    assert (chosen.low, chosen.high) == (1, 10)
