"""What a warm process keeps from one run to the next: tokenizers, token rows, base models. Imports nothing heavy.

Nothing is kept unless `start_keeping` was called, which only the process that forks workers does (`warm`): a forked
worker has what that process read, and whatever it changes is its own.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

#: Things of one kind that are kept at most: a sweep over models or data must not fill the memory.
_MOST = {"model": 1, "tokenizer": 2, "rows": 4}

_kept: dict[str, OrderedDict[str, Any]] | None = None


def start_keeping() -> None:
    """From now on keep what is read."""
    global _kept
    _kept = {kind: OrderedDict() for kind in _MOST}


def kept(kind: str, what: tuple[object, ...], read: Callable[[], Any]) -> Any:
    """What was read before for the same `what`, or else what `read` gives."""
    if _kept is None:
        return read()
    shelf, key = _kept[kind], repr(what)
    if key not in shelf:
        if len(shelf) >= _MOST[kind]:
            shelf.popitem(last=False)  # before the next is read, so that there is room for it
        shelf[key] = read()
    shelf.move_to_end(key)
    return shelf[key]


def stamp(path: str) -> tuple[object, ...]:
    """What changes when a file, or one of a folder's files, does."""
    place = Path(path)
    files = sorted(place.iterdir()) if place.is_dir() else [place] if place.exists() else []
    return tuple((file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in files)
