"""Calls of a vendor's SDK: its exceptions as those of llmtune, and bounds on how long they take."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from llmtune.errors import LlmtuneError, VendorError

_T = TypeVar("_T")
_R = TypeVar("_R")


@contextmanager
def translate_errors(translate: Callable[[Exception], Exception | None]) -> Iterator[None]:
    """Raise `translate(error)` in place of an exception raised inside.

    llmtune's own errors pass through, and so does an exception for which `translate` returns None.
    """
    try:
        yield
    except LlmtuneError:
        raise
    except Exception as error:
        translated = translate(error)
        if translated is None:
            raise
        raise translated from error


@contextmanager
def ignore_not_found() -> Iterator[None]:
    """Suppress the vendor's 404: what does not exist any more need not be removed."""
    try:
        yield
    except VendorError as error:
        if error.status != 404:
            raise


#: Pages of one list that are read at most. No account has so many; a cursor that leads in circles does.
MOST_PAGES = 1000


def count_pages(title: str, *, max_pages: int | None = None) -> Iterator[int]:
    """Yield the numbers of the pages of one list, from 0: `for page in count_pages(title):` reads a list that ends.

    Args:
        title: how the vendor is called in the sentence.
        max_pages: None is `MOST_PAGES`.

    Raises:
        VendorError: the list goes on after the last of them. What was read must not be taken for the whole.
    """
    limit = MOST_PAGES if max_pages is None else max_pages
    yield from range(limit)
    raise VendorError(f"{title}: a list does not end after {limit} pages; it was not read on", code="endless_list")


def growing_pauses(
    limit: float, *, first: float = 0.1, longest: float = 10.0, sleep: Callable[[float], None] = time.sleep
) -> Iterator[float]:
    """Yield the seconds waited so far, at once and then after pauses that double, until `limit` is reached.

    For a loop that looks whether something is done and returns; what follows the loop says that it took too long.

    Args:
        limit: seconds after which it ends.
        first: the first pause, in seconds.
        longest: the longest pause, in seconds.
        sleep: waits; a test may give its own.
    """
    pause, waited = first, 0.0
    while True:
        yield waited
        if waited >= limit:
            return
        sleep(pause)
        waited += pause
        pause = min(pause * 2, longest)


def read_each(records: Iterable[_R], read: Callable[[_R], _T | None], title: str) -> Iterator[_T]:
    """Yield what `read` makes of each record of a vendor's list; None leaves a record out.

    One odd record hurts no other: it is skipped, and the last thing raised says how many there were.

    Args:
        records: the vendor's list.
        read: makes a value of one record.
        title: how the vendor is called in the sentence.

    Raises:
        VendorError: after all the others, where a record could not be read.
    """
    odd: list[str] = []
    for record in records:
        try:
            value = read(record)
        except (AttributeError, IndexError, KeyError, OSError, TypeError, ValueError) as error:
            odd.append(f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else record!r:.100}")
            continue
        if value is not None:
            yield value
    if odd:
        records_are = "1 record" if len(odd) == 1 else f"{len(odd)} records"
        raise VendorError(f"{title}: {records_are} of the list cannot be read ({odd[0]})", code="odd_record")
