"""Faults of the run store, injected on purpose: a database that is unavailable for a while.

with store_away(store, times=5, after=20):
    run.wait()                      # twenty transactions succeed, five fail, then the store is back
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING, Any

from llmtune.errors import StoreUnavailable

if TYPE_CHECKING:
    from llmtune.runs.store.store import Store


@contextmanager
def store_away(
    store: Store, *, times: int, after: int = 0, when: Callable[[], bool] = lambda: True
) -> Iterator[Callable[[], int]]:
    """Let `times` transactions of a store fail, as if its database were being restarted.

    Args:
        store: the store to change, in this process.
        times: number of transactions that fail, with `StoreUnavailable`.
        after: number of transactions that succeed before that.
        when: called for each transaction; if it returns False, the transaction succeeds and is not counted.

    Yields:
        A function that returns how many transactions have failed so far.

    Raises:
        ValueError: the store is away already: one `store_away` at a time.
    """
    if "read" in vars(store):
        raise ValueError(f"the run store {store.shown} is away already; wait for the end of the other store_away")
    lock = threading.Lock()
    passed = failed = 0

    def fail_if_due() -> None:
        nonlocal passed, failed
        with lock:
            if failed >= times or not when():
                return
            if passed < after:
                passed += 1
                return
            failed += 1
        raise StoreUnavailable(f"the run store {store.shown} could not be read: the connection was refused (injected)")

    def guarded(transaction: Callable[..., AbstractContextManager[Any]]) -> Callable[..., Any]:
        @contextmanager
        def begin(**options: Any) -> Iterator[Any]:
            fail_if_due()
            with transaction(**options) as connection:
                yield connection

        return begin

    read, write = store.read, store.write
    store.read, store.write = guarded(read), guarded(write)  # type: ignore[method-assign]
    try:
        yield lambda: failed
    finally:
        del store.read, store.write  # those of its class again
