"""Finding rows that are nearly the same, in bounded memory: MinHash sketches, 33 numbers a row.

A prompt is cut into all its runs of five bytes; what stands in one row of ten or more (a system prompt, a
template) is left out, so that rows are compared by what sets them apart. Two sketches agree in about as many places
as the rows share runs (Jaccard; Broder 1997). Candidates come from eleven bands of three numbers.
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
#: Places of 33 that must agree: about 80 % of the runs are shared.
ALIKE = 27
_RUN = 5
_PAD = b"\x00" * _RUN
_TABLE_BITS = 22
#: When rows are to be kept together, somewhat less likeness is enough: a later look with another sample of the rows,
#: and so other common runs, then finds nothing that was parted.
ALIKE_ENOUGH = 24
#: A run is common when it stands in this share of the rows, and in at least this many.
_COMMON_SHARE = 0.1
_COMMON_LEAST = 5
#: Bytes that are sketched at once; decides how much memory a batch takes (about 40 times this).
BATCH_BYTES = 1 << 18


def _runs(texts: Sequence[bytes]) -> tuple[Any, Any]:
    """The hash of every run of five bytes of the texts, and to which text each belongs."""
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
    """Makes sketches. Give it a sample of the rows first, so that it learns what they all have in common."""

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
        for batch in _batches(_encoded(sample)):
            hashes, owner = _runs(batch)
            slots = (hashes >> np.uint32(32 - _TABLE_BITS)).astype(np.int64)
            # each slot once a row
            seen = np.unique(owner.astype(np.int64) << _TABLE_BITS | slots) & ((1 << _TABLE_BITS) - 1)
            counts += np.bincount(seen, minlength=1 << _TABLE_BITS).astype(np.uint32)
        self._common = counts >= max(_COMMON_LEAST, _COMMON_SHARE * len(sample))
        self._has_common = bool(self._common.any())

    def sketch(self, texts: Sequence[str]) -> tuple[Ints, NDArray[np.bool_]]:
        """Sketches, one row of 33 numbers a text, and which texts have one (those with any run of their own)."""
        import numpy as np

        out = np.empty((len(texts), SIZE), dtype=np.uint32)
        has = np.zeros(len(texts), dtype=bool)
        done = 0
        for batch in _batches(_encoded(texts)):
            hashes, owner = _runs(batch)
            if self._has_common:
                own = ~self._common[hashes >> np.uint32(32 - _TABLE_BITS)]
                hashes, owner = hashes[own], owner[own]
            rows, starts = np.unique(owner, return_index=True) if len(owner) else (owner, owner)
            if len(rows):
                for index in range(SIZE):
                    values = hashes * self._factors[index]
                    values += self._shifts[index]
                    out[done + rows, index] = np.minimum.reduceat(values, starts)
                has[done + rows] = True
            done += len(batch)
        return out, has


def _encoded(texts: Sequence[str]) -> list[bytes]:
    return [text.encode("utf-8", "surrogatepass").replace(b"\x00", b" ") for text in texts]


def _batches(texts: Sequence[bytes]) -> list[Sequence[bytes]]:
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
    """Eleven keys a sketch; two sketches with an equal key in the same place are candidates."""
    import numpy as np

    width = SIZE // BANDS
    keys = np.empty((len(sketches), BANDS), dtype=np.uint64)
    for band in range(BANDS):
        key = np.full(len(sketches), band + 1, dtype=np.uint64)
        for column in range(band * width, (band + 1) * width):
            key = key * np.uint64(0x9E3779B97F4A7C15) + sketches[:, column]
            key ^= key >> np.uint64(29)
        keys[:, band] = key
    return keys


def agreement(first: Ints, second: Ints) -> Any:
    """In how many of the 33 places the sketches of each pair agree."""
    return (first == second).sum(axis=1)


class NearIndex:
    """Held-out rows by their bands, to be asked for each training row whether it is nearly one of them."""

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

    def matches(self, sketches: Ints, has: Any, *, alike: int = ALIKE, most: int = 16) -> list[tuple[int, int, int]]:
        """(row asked, held-out row, places that agree) for each pair that is alike; at most `most` tried a band."""
        import numpy as np

        keys = band_keys(sketches)
        asked = np.arange(len(sketches), dtype=np.int64)[has]
        left: list[Any] = []
        right: list[Any] = []
        for band, (column, rows) in enumerate(self._bands):
            begin = np.searchsorted(column, keys[has, band], side="left")
            count = np.searchsorted(column, keys[has, band], side="right") - begin
            for step in range(min(int(count.max(initial=0)), most)):
                hit = count > step
                left.append(asked[hit])
                right.append(rows[begin[hit] + step])
        if not left:
            return []
        pairs = np.unique(np.stack([np.concatenate(left), np.concatenate(right)], axis=1), axis=0)
        agree = agreement(sketches[pairs[:, 0]], self.sketches[pairs[:, 1]])
        return [(int(a), int(b), int(n)) for (a, b), n in zip(pairs, agree, strict=True) if n >= alike]


def linked(sketches: Ints, has: Any, order: Any, *, alike: int = ALIKE, reach: int = 3) -> list[tuple[int, int, int]]:
    """Pairs of rows of one set that are alike, enough of them to join what belongs together.

    Rows of a band are compared with the next few of it, in the given order, so that large bands cost no more than
    small ones. Returns (row, row, places that agree).
    """
    import numpy as np

    keys = band_keys(sketches)
    rows = np.asarray(order, dtype=np.int64)
    rows = rows[np.asarray(has)[rows]]
    found: list[Any] = []
    for band in range(BANDS):
        column = keys[rows, band]
        by_key = np.argsort(column, kind="stable")
        column, members = column[by_key], rows[by_key]
        for step in range(1, reach + 1):
            same = np.flatnonzero(column[step:] == column[:-step])
            found.append(np.stack([members[same], members[same + step]], axis=1))
    pairs = np.unique(np.concatenate(found), axis=0)
    if not len(pairs):
        return []
    agree = agreement(sketches[pairs[:, 0]], sketches[pairs[:, 1]])
    return [(int(a), int(b), int(n)) for (a, b), n in zip(pairs, agree, strict=True) if n >= alike]
