"""Keys that are taken while rows are read are those that are computed from the rows."""

from __future__ import annotations

import numpy as np
import pytest

from llmtune.data.checks.duplicates import RowIndex, hash_row
from llmtune.data.example import Example, Message
from llmtune.data.row_keys import RowKeys
from llmtune.data.split import divide


def row(number: int, *, group: str | None = None) -> Example:
    turns = (Message("user", f"question {number % 7}"), Message("assistant", f"answer {number % 3}"))
    return Example(messages=turns, line=number + 1, group=group)


@pytest.mark.parametrize("grouped", [False, True])
def test_a_split_and_duplicates_by_keys_are_those_by_rows(grouped: bool) -> None:
    rows = [row(number, group=f"g{number % 11}" if grouped and number % 2 else None) for number in range(60)]
    keys = RowKeys()
    assert list(keys.watch(iter(rows))) == rows
    for shares in ((0.6, 0.2, 0.2), (30, 5, 5)):
        by_rows, findings = divide(rows, shares, seed=3)
        by_keys, same_findings = divide(rows, shares, seed=3, row_keys=keys)
        assert [part.tolist() for part in by_keys] == [part.tolist() for part in by_rows]
        assert findings == same_findings
    halves = (np.arange(0, 40), np.arange(40, 60))
    one_by_one, together = (RowIndex(["a", "b"], ["train", "test"]) for _ in range(2))
    for part, numbers in enumerate(halves):
        for number in numbers:
            prompt, answer, labelled = hash_row(rows[number])
            one_by_one.add(prompt, answer, int(number) + 1, part, labelled=labelled)
        together.add_rows(*keys.select(numbers), part=part)
    found = [str(finding) for finding in together.findings()]
    assert found == [str(finding) for finding in one_by_one.findings()]
    assert found
