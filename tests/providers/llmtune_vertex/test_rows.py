"""The declarations and the row rules tell one story: formats, and Google's limits on validation sets."""

from __future__ import annotations

import pytest

from llmtune.data.formats.base import FileFacts
from llmtune.data.formats.registry import get_format
from llmtune_vertex.capabilities import OPEN_ROWS, PREFERENCE_ROWS
from llmtune_vertex.rows import VERTEX_ROWS
from tests.providers.llmtune_vertex.conftest import FLASH
from tests.providers.llmtune_vertex.test_provider import ask


def test_formats_are_the_same_on_both_sides() -> None:
    assert VERTEX_ROWS.format_for("sft", FLASH) == ask(FLASH).limits.format == "gemini"
    assert VERTEX_ROWS.format_for("dpo", FLASH) == ask(FLASH, method="dpo").limits.format == PREFERENCE_ROWS
    assert get_format(OPEN_ROWS).name == ask("meta/llama3_1@llama-3.1-8b").limits.format


@pytest.mark.parametrize(
    ("rows", "train", "refused"),
    [(5_000, 20_000, False), (5_001, 100_000, True), (1_000, 1_000, False), (1_001, 2_000, True)],
)
def test_a_validation_set_may_have_5000_rows_and_30_percent(rows: int, train: int, refused: bool) -> None:
    facts = FileFacts(
        role="validation",
        path="v.jsonl",
        rows=rows,
        size=1000,
        tokens=1000,
        exact_tokens=False,
        format="gemini",
        method="sft",
        model=FLASH,
        features=0,
        labels={},
        train_rows=train,
        total_rows=train + rows,
    )
    found = list(VERTEX_ROWS.file_rules(facts))
    assert bool(found) is refused
    assert all(each.is_error for each in found)
