"""Cache of a warm process from one run to the next: tokenizers, token rows, base models. Imports nothing heavy.

Nothing is cached unless `enable_cache` was called, which only the process that forks workers does (`warm`): a forked
worker has what that process read, and whatever it changes is its own.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

#: Entries of each kind that are cached at most: a sweep over models or data must not fill the memory.
_MAX_ENTRIES = {"model": 1, "tokenizer": 2, "rows": 4}

_cache: dict[str, OrderedDict[str, Any]] | None = None


def enable_cache() -> None:
    """Cache what is read from now on."""
    global _cache
    _cache = {kind: OrderedDict() for kind in _MAX_ENTRIES}


def cached(kind: str, inputs: tuple[object, ...], read: Callable[[], Any]) -> Any:
    """Return what was read before for the same `inputs`, else call `read`."""
    if _cache is None:
        return read()
    entries, key = _cache[kind], repr(inputs)
    if key not in entries:
        if len(entries) >= _MAX_ENTRIES[kind]:
            entries.popitem(last=False)  # before the next is read, so that there is room for it
        entries[key] = read()
    entries.move_to_end(key)
    return entries[key]


def stamp(path: str) -> tuple[object, ...]:
    """Return values that change when a file, or one of a folder's files, does."""
    root = Path(path)
    files = sorted(root.iterdir()) if root.is_dir() else [root] if root.exists() else []
    return tuple((file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in files)
