"""Near-duplicate detection in bounded memory: MinHash sketches, 33 numbers per row.

A prompt is cut into all its runs of five bytes (5-gram shingles); those that occur in one row of ten or more (a system
prompt, a template) are left out, so that rows are compared by what sets them apart. The share of numbers in which two
sketches agree estimates the share of runs that the rows have in common (Jaccard similarity; Broder 1997). Candidates
come from locality-sensitive hashing with eleven bands of three numbers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Ints = NDArray[np.uint32]
    Longs = NDArray[np.uint64]

SIZE = 33
BANDS = 11
#: Numbers of the 33 that must agree: about 80 % of the runs are shared.
MIN_AGREEMENT = 27
_RUN = 5
_PAD = b"\x00" * _RUN
_TABLE_BITS = 22
#: When rows are to be kept together, a lower similarity is enough: a later check with another sample of the rows, and
#: so other common runs, then finds no near-duplicates in two parts.
ALIKE_ENOUGH = 24
#: A run is common when it occurs in this share of the rows, and in at least this many.
_COMMON_SHARE = 0.1
_COMMON_LEAST = 5
#: Bytes that are sketched at once; a batch takes about 40 times as much memory.
BATCH_BYTES = 1 << 18
#: Pairs that are compared at once.
_PAIRS = 1 << 16


def _hash_runs(texts: Sequence[bytes]) -> tuple[Any, Any]:
    """Return the hash of every run of five bytes of the texts, and the index of the text each belongs to."""
    import numpy as np

    joined = np.frombuffer(_PAD.join(texts) + _PAD, dtype=np.uint8)
    lengths = np.fromiter((len(text) for text in texts), dtype=np.int64, count=len(texts))
    owner = np.repeat(np.arange(len(texts), dtype=np.int32), lengths + _RUN)
    inside = joined != 0
    hashes = joined[: -_RUN + 1].astype(np.uint32)
    for offset in range(1, _RUN):
        hashes *= np.uint32(0x01000193)
        hashes ^= joined[offset : len(joined) - _RUN + 1 + offset]
    inside = inside[: len(hashes)]
    hashes = hashes[inside]
    hashes ^= hashes >> np.uint32(15)
    hashes *= np.uint32(0x2C1B3C6D)
    hashes ^= hashes >> np.uint32(12)
    hashes *= np.uint32(0x297A2D39)
    hashes ^= hashes >> np.uint32(15)
    return hashes, owner[: len(inside)][inside]


class Sketcher:
    """Makes sketches of texts. Runs that are common in the `sample` of the rows are left out of them."""

    def __init__(self, sample: Sequence[str] = ()) -> None:
        import numpy as np

        random = np.random.default_rng(20261121)
        self._factors = random.integers(0, 2**31, SIZE, dtype=np.uint32) * np.uint32(2) + np.uint32(1)
        self._shifts = random.integers(0, 2**32, SIZE, dtype=np.uint32)
        self._common = np.zeros(1 << _TABLE_BITS, dtype=bool)
        self._has_common = False
        if len(sample) >= _COMMON_LEAST:
            self._learn(sample)

    def _learn(self, sample: Sequence[str]) -> None:
        import numpy as np

        counts = np.zeros(1 << _TABLE_BITS, dtype=np.uint32)
        for batch in _split_batches(_encode(sample)):
            hashes, owner = _hash_runs(batch)
            slots = (hashes >> np.uint32(32 - _TABLE_BITS)).astype(np.int64)
            # each slot once per row
            row_slots = np.unique(owner.astype(np.int64) << _TABLE_BITS | slots) & ((1 << _TABLE_BITS) - 1)
            counts += np.bincount(row_slots, minlength=1 << _TABLE_BITS).astype(np.uint32)
        self._common = counts >= max(_COMMON_LEAST, _COMMON_SHARE * len(sample))
        self._has_common = bool(self._common.any())

    def sketch(self, texts: Sequence[str]) -> tuple[Ints, NDArray[np.bool_]]:
        """Return the sketches, shape (texts, 33), and which texts have one: those with any run that is not common."""
        import numpy as np

        out = np.empty((len(texts), SIZE), dtype=np.uint32)
        has = np.zeros(len(texts), dtype=bool)
        done = 0
        for batch in _split_batches(_encode(texts)):
            hashes, owner = _hash_runs(batch)
            if self._has_common:
                is_rare = ~self._common[hashes >> np.uint32(32 - _TABLE_BITS)]
                hashes, owner = hashes[is_rare], owner[is_rare]
            rows, starts = np.unique(owner, return_index=True) if len(owner) else (owner, owner)
            if len(rows):
                for index in range(SIZE):
                    values = hashes * self._factors[index]
                    values += self._shifts[index]
                    out[done + rows, index] = np.minimum.reduceat(values, starts)
                has[done + rows] = True
            done += len(batch)
        return out, has


def _encode(texts: Sequence[str]) -> list[bytes]:
    return [text.encode("utf-8", "surrogatepass").replace(b"\x00", b" ") for text in texts]


def _split_batches(texts: Sequence[bytes]) -> list[Sequence[bytes]]:
    batches: list[Sequence[bytes]] = []
    begin = held = 0
    for index, text in enumerate(texts):
        held += len(text)
        if held >= BATCH_BYTES:
            batches.append(texts[begin : index + 1])
            begin, held = index + 1, 0
    if begin < len(texts):
        batches.append(texts[begin:])
    return batches


def band_keys(sketches: Ints) -> Longs:
    """Return the keys of the bands, shape (sketches, 11); sketches with an equal key in one band are candidates."""
    import numpy as np

    keys = np.empty((len(sketches), BANDS), dtype=np.uint64)
    for band in range(BANDS):
        keys[:, band] = _band_key(sketches, band)
    return keys


def _band_key(sketches: Ints, band: int, rows: Any = slice(None)) -> Longs:
    """Return the key of a band of all sketches, or of those of `rows`."""
    import numpy as np

    width = SIZE // BANDS
    key = np.full(len(sketches) if isinstance(rows, slice) else len(rows), band + 1, dtype=np.uint64)
    for column in range(band * width, (band + 1) * width):
        key = key * np.uint64(0x9E3779B97F4A7C15) + sketches[rows, column]
        key ^= key >> np.uint64(29)
    return key


def count_agreement(first: Ints, second: Ints) -> Any:
    """Count the numbers, of 33, in which the sketches of each pair agree."""
    return (first == second).sum(axis=1)


class NearIndex:
    """An index of held-out rows by the keys of their bands, in which near-duplicates of training rows are looked up."""

    def __init__(self, sketches: Ints, has: Any) -> None:
        import numpy as np

        self.sketches = sketches
        keys = band_keys(sketches)
        rows = np.arange(len(sketches), dtype=np.int64)[has]
        self._bands = []
        for band in range(BANDS):
            column = keys[has, band]
            order = np.argsort(column, kind="stable")
            self._bands.append((column[order], rows[order]))

    def matches(
        self, sketches: Ints, has: Any, *, alike: int = MIN_AGREEMENT, max_tries: int = 16
    ) -> list[tuple[int, int, int]]:
        """Return (row, held-out row, numbers that agree) of similar pairs; up to `max_tries` are compared per band."""
        import numpy as np

        keys = band_keys(sketches)
        numbers = np.arange(len(sketches), dtype=np.int64)[has]
        queries: list[Any] = []
        held_out: list[Any] = []
        for band, (column, rows) in enumerate(self._bands):
            begin = np.searchsorted(column, keys[has, band], side="left")
            count = np.searchsorted(column, keys[has, band], side="right") - begin
            for step in range(min(int(count.max(initial=0)), max_tries)):
                hit = count > step
                queries.append(numbers[hit])
                held_out.append(rows[begin[hit] + step])
        if not queries:
            return []
        pairs = np.unique(np.stack([np.concatenate(queries), np.concatenate(held_out)], axis=1), axis=0)
        agree = count_agreement(sketches[pairs[:, 0]], self.sketches[pairs[:, 1]])
        return [(int(a), int(b), int(n)) for (a, b), n in zip(pairs, agree, strict=True) if n >= alike]


def pairs_between(sketches: Ints, inside: Any, outside: Any, *, alike: int, max_tries: int = 16) -> Any:
    """Return the similar pairs of two sets of rows of `sketches`: an array of (outside row, inside row, numbers that
    agree).

    They are those that `NearIndex` of the rows `inside` finds for the rows `outside`, but one band at a time: an index
    of all bands takes about 400 bytes a row, this one 16.
    """
    import numpy as np

    similar = [np.empty((0, 3), dtype=np.int64)]
    for band in range(BANDS):
        column = _band_key(sketches, band, inside)
        by_key = np.argsort(column, kind="stable")
        column, members = column[by_key], inside[by_key]
        for start in range(0, len(outside), _PAIRS):
            rows = outside[start : start + _PAIRS]
            keys = _band_key(sketches, band, rows)
            begin = np.searchsorted(column, keys, side="left")
            count = np.searchsorted(column, keys, side="right") - begin
            for step in range(min(int(count.max(initial=0)), max_tries)):
                hit = count > step
                first, second = rows[hit], members[begin[hit] + step]
                agree = count_agreement(sketches[first], sketches[second])
                similar.append(np.stack([first, second, agree], axis=1)[agree >= alike])
    return np.unique(np.concatenate(similar), axis=0)


def similar_pairs(sketches: Ints, has: Any, order: Any, *, alike: int = MIN_AGREEMENT, reach: int = 3) -> Any:
    """Return enough similar pairs of one set to join what belongs together: an array of (row, row, numbers that agree).

    A row is compared with the next `reach` rows of equal key, in the given order, so that large groups cost no more
    than small ones.
    """
    import numpy as np

    rows = np.asarray(order, dtype=np.int64)
    rows = rows[np.asarray(has)[rows]]
    similar = [np.empty((0, 3), dtype=np.int64)]
    for band in range(BANDS):
        column = _band_key(sketches, band, rows)
        by_key = np.argsort(column, kind="stable")
        column, members = column[by_key], rows[by_key]
        for step in range(1, reach + 1):
            same = np.flatnonzero(column[step:] == column[:-step])
            for start in range(0, len(same), _PAIRS):
                part = same[start : start + _PAIRS]
                first, second = members[part], members[part + step]
                agree = count_agreement(sketches[first], sketches[second])
                similar.append(np.stack([first, second, agree], axis=1)[agree >= alike])
    return np.unique(np.concatenate(similar), axis=0)
