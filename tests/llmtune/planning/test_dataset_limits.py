"""What a plan asks of the rows, and how often they are read for it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from llmtune.data.dataset import Dataset
from llmtune.data.example import Example, Message
from llmtune.planning.dataset_limits import build_dataset_status
from llmtune.provider.limits import Limits
from llmtune.provider.types import Target


class CountedRows(Sequence[Example]):
    """Rows that count how often they are read from the first to the last."""

    def __init__(self, rows: Sequence[Example]) -> None:
        self.rows, self.passes = rows, 0

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: Any) -> Any:
        return self.rows[index]

    def __iter__(self) -> Iterator[Example]:
        self.passes += 1
        return iter(self.rows)


def make_rows(count: int, *extra: Message) -> list[Example]:
    return [
        Example(messages=(*extra, Message("user", f"question {n}"), Message("assistant", f"answer {n}")), line=n + 1)
        for n in range(count)
    ]


def check(dataset: Dataset, kind: str, row_format: str) -> Any:
    return build_dataset_status(dataset, Limits(format=row_format), Target(provider=kind, kind=kind, model="m"))


def test_each_further_backend_reads_the_rows_once_more() -> None:
    rows = CountedRows(make_rows(30, Message("system", "be short")))
    dataset = Dataset(train=rows)
    check(dataset, "openai", "openai")
    first = rows.passes
    for kind, row_format in (("azure", "openai"), ("together", "together"), ("nebius", "nebius")):
        check(dataset, kind, row_format)
    assert (first, rows.passes) == (2, 5)  # tokens with what there is in the rows, and each vendor's rules for a row


@pytest.mark.parametrize("row_format", ["gemini", "bedrock_converse"])
def test_what_one_row_of_many_would_lose_is_found(row_format: str) -> None:
    rows = make_rows(30)
    name = Message("user", "question", name="ann")
    rows[17] = Example(messages=(name, Message("assistant", "answer")), line=18)
    status = check(Dataset(train=rows), "openai", row_format)
    assert any("names of speakers" in line for line in status.changed), status.changed
