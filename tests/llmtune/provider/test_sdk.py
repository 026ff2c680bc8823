"""A vendor's list is read record by record; a moment is read whatever it is spelled as."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from llmtune.errors import VendorError
from llmtune.provider.sdk import read_each, unix_seconds


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


@pytest.mark.parametrize(
    ("value", "seconds"),
    [(1.5, 1.5), (3, 3.0), ("2026-03-01T12:00:00Z", 1772366400.0), ("soon", None), (None, None), (True, None)],
)
def test_a_moment_is_a_number_or_iso_text(value: Any, seconds: float | None) -> None:
    assert unix_seconds(value) == seconds
