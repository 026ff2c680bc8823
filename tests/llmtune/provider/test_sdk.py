"""A vendor's list is read record by record."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from llmtune.errors import VendorError
from llmtune.provider.sdk import read_each


def test_an_odd_record_is_skipped_and_counted_at_the_end() -> None:
    records: list[Any] = [{"id": "a"}, None, {"name": "no id"}, {"id": ""}, {"id": "b"}]
    found = []
    with pytest.raises(VendorError, match=r"^Acme: 2 records of the list cannot be read \(TypeError") as caught:
        for value in read_each(records, lambda record: record["id"] or None, "Acme"):
            found.append(value)  # noqa: PERF402 - the error comes after the values
    assert found == ["a", "b"]
    assert caught.value.code == "odd_record"


def test_what_the_vendor_refuses_is_not_taken_for_an_odd_record() -> None:
    def pages() -> Iterator[str]:
        yield "a"
        raise VendorError("no more pages today")

    reading = read_each(pages(), str.upper, "Acme")
    assert next(reading) == "A"
    with pytest.raises(VendorError, match="no more pages today"):
        next(reading)
