"""Rows of a dataset as a sequence that does not grow in memory: beyond a number of rows they lie in a temporary file.

Whoever reads a dataset takes a `Sequence[Example]` and cannot tell the two apart. Rows in order are read in one pass;
a row by its index costs the reading of its block.
"""

from __future__ import annotations

import os
import pickle
import tempfile
from array import array
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from threading import Lock
from typing import IO, TYPE_CHECKING, Any, overload

from llmtune.data.example import Example

if TYPE_CHECKING:
    from numpy.typing import NDArray

#: Rows that are held in memory; a dataset of more lies in a temporary file.
ROWS_IN_MEMORY = 20_000
#: Rows that are written and read at once.
_BLOCK = 64
#: A folder for temporary files that is on a disk: /tmp is often a part of the memory (file-hierarchy(7)).
_ON_DISK = "/var/tmp"


class _RowFile:
    """Rows in a file of its own that no one else can open: it has no name where the system allows that."""

    def __init__(self) -> None:
        folder = None if "TMPDIR" in os.environ or not os.access(_ON_DISK, os.W_OK) else _ON_DISK
        self._file: IO[bytes] = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115 - it lives as long as the rows
        self._offsets = array("Q", [0])
        self._lock = Lock()
        self._cached: tuple[int, list[Example]] = (-1, [])

    def append(self, block: list[Example]) -> None:
        """Write a block of rows."""
        data = pickle.dumps(block, protocol=5)
        self._file.write(data)
        self._offsets.append(self._offsets[-1] + len(data))

    def finish(self) -> None:
        """Make what was written readable."""
        self._file.flush()

    def read(self, number: int) -> list[Example]:
        """Return a block of rows; the last one is remembered."""
        if self._cached[0] == number:
            return self._cached[1]
        start, stop = self._offsets[number], self._offsets[number + 1]
        block: list[Example] = pickle.loads(self._read_bytes(start, stop - start))
        self._cached = number, block
        return block

    def _read_bytes(self, start: int, size: int) -> bytes:
        if hasattr(os, "pread"):  # no position that a forked process would share
            return os.pread(self._file.fileno(), size, start)
        with self._lock:
            self._file.seek(start)
            return self._file.read(size)


class StoredRows(Sequence[Example]):
    """Rows in a temporary file, all of them or those of `indices`. The file is removed with the last of its views."""

    def __init__(self, file: _RowFile, count: int, indices: NDArray[Any] | None = None) -> None:
        self._file = file
        self._count = count if indices is None else len(indices)
        self._indices = indices

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[Example]:
        numbers: Iterable[int] = range(self._count) if self._indices is None else map(int, self._indices)
        for number in numbers:
            block, within = divmod(number, _BLOCK)
            yield self._file.read(block)[within]

    @overload
    def __getitem__(self, index: int) -> Example: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Example]: ...
    def __getitem__(self, index: int | slice) -> Example | Sequence[Example]:
        if isinstance(index, slice):
            return self.select(range(self._count)[index])
        position = range(self._count)[index]  # also from the end; raises IndexError
        block, within = divmod(position if self._indices is None else int(self._indices[position]), _BLOCK)
        return self._file.read(block)[within]

    def select(self, indices: Sequence[int] | NDArray[Any]) -> Sequence[Example]:
        """Return the rows of these indices, in that order; a few of them as a list."""
        if len(indices) <= _BLOCK:
            return [self[int(index)] for index in indices]
        import numpy as np

        chosen = np.asarray(indices, dtype=np.uint32 if self._count < 1 << 32 else np.uint64)
        return StoredRows(self._file, self._count, chosen if self._indices is None else self._indices[chosen])


class ChainedRows(Sequence[Example]):
    """Several parts of a dataset as one sequence, none of them copied."""

    def __init__(self, *parts: Sequence[Example]) -> None:
        self._parts = parts

    def __len__(self) -> int:
        return sum(map(len, self._parts))

    def __iter__(self) -> Iterator[Example]:
        for part in self._parts:
            yield from part

    @overload
    def __getitem__(self, index: int) -> Example: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Example]: ...
    def __getitem__(self, index: int | slice) -> Example | Sequence[Example]:
        if isinstance(index, slice):
            return [self[number] for number in range(len(self))[index]]
        position = range(len(self))[index]
        for part in self._parts:
            if position < len(part):
                return part[position]
            position -= len(part)
        raise IndexError(index)


def store_rows(rows: Iterable[Example]) -> Sequence[Example]:
    """Return the rows as a sequence: a list, or beyond `ROWS_IN_MEMORY` rows a temporary file.

    Raises `OSError` where there is no room for the file.
    """
    iterator = iter(rows)
    first = list(islice(iterator, ROWS_IN_MEMORY + 1))
    if len(first) <= ROWS_IN_MEMORY:
        return first
    file, count = _RowFile(), len(first)
    whole = len(first) // _BLOCK * _BLOCK
    for start in range(0, whole, _BLOCK):
        file.append(first[start : start + _BLOCK])
    block = first[whole:]
    del first
    for row in iterator:
        block.append(row)
        count += 1
        if len(block) == _BLOCK:
            file.append(block)
            block = []
    if block:
        file.append(block)
    file.finish()
    return StoredRows(file, count)


def select_rows(rows: Sequence[Example], indices: Sequence[int] | NDArray[Any]) -> Sequence[Example]:
    """Return the rows of these indices, in that order: a list, or a view of stored rows."""
    if isinstance(rows, StoredRows):
        return rows.select(indices)
    return [rows[int(index)] for index in indices]
