"""A vendor's list is read record by record."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from llmtune.errors import TransientError, VendorError
from llmtune.provider.base import OptionalReads
from llmtune.provider.sdk import count_pages, read_each
from llmtune.provider.types import RunState, Snapshot


def test_an_odd_record_is_skipped_and_counted_at_the_end() -> None:
    records: list[Any] = [{"id": "a"}, None, {"name": "no id"}, {"id": ""}, {"id": "b"}]
    read_records = []
    with pytest.raises(VendorError, match=r"^Acme: 2 records of the list cannot be read \(TypeError") as caught:
        for value in read_each(records, lambda record: record["id"] or None, "Acme"):
            read_records.append(value)  # noqa: PERF402 - the error comes after the values
    assert read_records == ["a", "b"]
    assert caught.value.code == "odd_record"


def test_what_the_vendor_refuses_is_not_taken_for_an_odd_record() -> None:
    def pages() -> Iterator[str]:
        yield "a"
        raise VendorError("no more pages today")

    reading = read_each(pages(), str.upper, "Acme")
    assert next(reading) == "A"
    with pytest.raises(VendorError, match="no more pages today"):
        next(reading)


def test_a_list_that_leads_in_circles_ends_in_a_sentence() -> None:
    pages = []
    with pytest.raises(VendorError, match=r"Acme: a list does not end after 7 pages") as caught:
        for page in count_pages("Acme", max_pages=7):
            pages.append(page)  # noqa: PERF402 - the error comes after the values
    assert pages == list(range(7))
    assert not isinstance(caught.value, TransientError)
    for page in count_pages("Acme", max_pages=7):
        if page == 3:
            break  # a list that ends


def test_what_cannot_be_read_beside_a_job_is_pending_or_a_warning() -> None:
    optional = OptionalReads()
    for _ in range(2):
        with optional.reading("its events"):
            raise TransientError("down", status=500)
    with optional.reading("its checkpoints"):
        raise VendorError("you may not see that", status=403)
    with optional.reading("its metrics"):
        pass
    snapshot = Snapshot(state=RunState.SUCCEEDED, raw_state="done", pending=("the endpoint",), warnings=("w",))
    complete = optional.complete(snapshot)
    assert complete.pending == ("the endpoint", "its events")
    assert complete.warnings == ("w", "its checkpoints could not be read: you may not see that")
    with pytest.raises(KeyError), OptionalReads().reading("its events"):
        raise KeyError("a fault of the provider's own is not hidden")
