"""What can go wrong with the run store, injected on purpose: a database that is away for a while.

with store_away(store, times=5, after=20):
    run.wait()                      # twenty transactions go well, five find nobody, and then it is back
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
    """Let the next `times` transactions of a store fail as those of a database that is being restarted do.

    Args:
        store: the store, as this process has it open.
        times: how many transactions fail.
        after: how many go well before that.
        when: asked at each transaction; it goes well, and is not counted, where this is false.

    Yields a call that says how many have failed so far. What fails raises `StoreUnavailable`.
    """
    lock = threading.Lock()
    passed = failed = 0

    def strike() -> None:
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
            strike()
            with transaction(**options) as connection:
                yield connection

        return begin

    read, write = store.read, store.write
    store.read, store.write = guarded(read), guarded(write)  # type: ignore[method-assign]
    try:
        yield lambda: failed
    finally:
        del store.read, store.write  # those of its class again
