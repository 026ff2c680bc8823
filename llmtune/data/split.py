"""Splitting rows into train, validation and test by hash, so that the split does not depend on their order.

Rows with the same prompt, of the same group, or with nearly the same prompt stay together as a unit. Units are ordered
by a hash of the seed and the prompt; within each label the first units are test rows, the next ones validation rows,
and all others train. Shares are met to the row where units are single rows.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from itertools import islice
from math import floor
from typing import TYPE_CHECKING, Any, NamedTuple

from llmtune.data.example import Example
from llmtune.data.findings import Finding, error, warning
from llmtune.data.hashing import digest, label_of, label_set, normal, prompt_text, split_position
from llmtune.data.stored_rows import select_rows
from llmtune.errors import InvalidData

if TYPE_CHECKING:
    from llmtune.data.checks.minhash import Ints, Longs
    from llmtune.data.row_keys import RowKeys

#: A unit of nearly equal rows grows to this share of all rows at most (and to 20 rows at least): a set made from one
#: template would otherwise become one unit.
_LARGEST_SHARE = 0.02
_LARGEST_LEAST = 20
_SAMPLE = 2000
_ROUNDS = 5
#: Prompts that are sketched at once.
_SKETCHED = 1024


class Split(NamedTuple):
    """The three parts, each in the order of the input, and the findings about the split."""

    train: Sequence[Example]
    validation: Sequence[Example]
    test: Sequence[Example]
    findings: tuple[Finding, ...] = ()


class _Units:
    """Disjoint sets of row numbers. A unit's key is the smallest of its rows' keys, so order does not matter."""

    def __init__(self, keys: Longs) -> None:
        self._parent = array("q", range(len(keys)))
        self._key = array("Q", keys.tobytes())
        self._size = array("q", [1]) * len(keys)

    def find(self, row: int) -> int:
        """Return the unit of a row."""
        parent = self._parent
        while parent[row] != row:
            parent[row] = parent[parent[row]]
            row = parent[row]
        return row

    def join(self, first: int, second: int, largest: int | None = None) -> bool:
        """Join two units; False when they are one already or would grow above `largest` rows."""
        first, second = self.find(first), self.find(second)
        if first == second or (largest is not None and self._size[first] + self._size[second] > largest):
            return False
        self._parent[second] = first
        self._key[first] = min(self._key[first], self._key[second])
        self._size[first] += self._size[second]
        return True

    def list_units(self) -> tuple[Any, Longs, Any]:
        """Return the unit of each row as a number from 0, and of each unit its key and its number of rows."""
        import numpy as np

        units = np.fromiter((self.find(row) for row in range(len(self._parent))), np.int64, len(self._parent))
        roots, numbers = np.unique(units, return_inverse=True)
        keys = np.frombuffer(self._key, dtype=np.uint64)[roots] if len(roots) else np.empty(0, dtype=np.uint64)
        sizes = np.frombuffer(self._size, dtype=np.int64)[roots] if len(roots) else np.empty(0, dtype=np.int64)
        return numbers, keys, sizes


def split(
    examples: Sequence[Example],
    shares: tuple[float, float, float] = (0.8, 0.1, 0.1),
    *,
    seed: int = 0,
    stratify: bool | None = None,
    group_by: str | None = None,
    keep_similar: bool = True,
) -> Split:
    """Split examples into train, validation and test.

    It takes about 300 bytes of memory per row, whatever the rows' own size: hashes and sketches are held, and no texts.

    Args:
        examples: the rows, in any order; the split does not depend on it. They are read several times.
        shares: three shares that sum to 1, or three row counts; further rows are left out (a finding).
        seed: the seed of the split.
        stratify: keep the labels' shares the same in every part; None does so when the rows have labels.
        group_by: key of `Example.extra` whose equal values stay together, where `Example.group` is not set.
        keep_similar: keep rows with nearly the same prompt together, too. It takes about 25 ns per byte of prompts.

    Raises `InvalidData` when there are fewer rows than the counts ask for.
    """
    parts, findings = divide(
        examples, shares, seed=seed, stratify=stratify, group_by=group_by, keep_similar=keep_similar
    )
    train, validation, test = (select_rows(examples, part) for part in parts)
    return Split(train, validation, test, tuple(findings))


def divide(
    examples: Sequence[Example],
    shares: tuple[float, float, float],
    *,
    seed: int = 0,
    stratify: bool | None = None,
    group_by: str | None = None,
    keep_similar: bool = True,
    row_keys: RowKeys | None = None,
) -> tuple[list[Any], list[Finding]]:
    """Return the numbers of the rows of train, validation and test, and the findings, as `split` makes them.

    `row_keys` are the keys of the examples, where they were taken while they were read, with their groups.
    """
    import numpy as np

    targets = _count_targets(len(examples), shares)
    if row_keys is None:
        keys = np.fromiter((digest(prompt_text(example)) for example in examples), np.uint64, len(examples))
        grouped = _find_groups(examples, group_by)
    else:
        keys, grouped = row_keys.prompts, row_keys.groups
    units = _Units(keys)
    _join_equal(units, keys, np.arange(len(keys)))
    if len(grouped[0]):
        _join_equal(units, grouped[1], grouped[0])
    strata = _find_strata(examples, stratify)
    findings: list[Finding] = []
    if not keep_similar or targets[1] + targets[2] == 0 or len(examples) < 2:
        sides = _assign(units, strata, targets, seed)
    else:
        sides = _assign_similar(units, strata, targets, seed, examples, keys, findings)
    parts = [np.flatnonzero(sides == side) for side in range(3)]
    findings += _check_empty_parts(parts, targets)
    train_rows = len(examples) if sum(shares) <= 1 + 1e-6 else int(shares[0])
    if len(parts[0]) > train_rows:
        left_out = len(parts[0]) - train_rows
        positions = _find_positions(keys[parts[0]], seed + 1)
        last = np.sort(positions)[train_rows - 1]
        parts[0] = parts[0][positions <= last]
        findings.append(
            warning("left-out", f"{left_out} rows are in no part: the counts ask for {train_rows} training rows", "")
        )
    return parts, findings


def _count_targets(rows: int, shares: tuple[float, float, float]) -> tuple[int, int, int]:
    """Return the target numbers of rows in train, validation and test."""
    if abs(sum(shares) - 1) < 1e-6 and max(shares) <= 1:
        validation, test = (floor(rows * share + 0.5) for share in shares[1:])
        while validation + test >= rows > 0 and shares[0] > 0:  # train keeps a row before the others get one
            validation, test = (validation - 1, test) if validation >= test else (validation, test - 1)
        return rows - validation - test, validation, test
    counts = [int(count) for count in shares]
    if sum(counts) > rows:
        raise InvalidData(
            f"the split asks for {sum(counts)} rows and there are {rows}",
            findings=[error("split", f"{sum(counts)} rows are asked for and there are {rows}", "ask for fewer")],
            hint="give fewer rows, or shares such as 0.8, 0.1, 0.1",
        )
    return rows - counts[1] - counts[2], counts[1], counts[2]


def _hash_group(example: Example, group_by: str | None) -> int | None:
    value = example.group
    if value is None and group_by is not None:
        extra = (example.extra or {}).get(group_by)
        if extra is None:
            location = f" in line {example.line}" if example.line is not None else ""
            raise InvalidData(f"there is no {group_by!r}{location}, by which rows are to be grouped")
        value = str(extra)
    return None if value is None else digest(value)


def _join_equal(units: _Units, keys: Longs, rows: Any) -> None:
    """Join the rows whose keys are equal; `keys` and `rows` are as long as one another."""
    import numpy as np

    order = np.argsort(keys, kind="stable")
    repeats = np.flatnonzero(keys[order[1:]] == keys[order[:-1]])
    for position in repeats:
        units.join(int(rows[order[position]]), int(rows[order[position + 1]]))


def _find_groups(examples: Sequence[Example], group_by: str | None) -> tuple[Any, Longs]:
    """Return the numbers of the rows that are of a group, and the hash of each one's group."""
    import numpy as np

    rows, groups = array("Q"), array("Q")
    for row, example in enumerate(examples):
        group = _hash_group(example, group_by)
        if group is not None:
            rows.append(row)
            groups.append(group)
    return np.frombuffer(rows, dtype=np.uint64), np.frombuffer(groups, dtype=np.uint64)


def _find_strata(examples: Sequence[Example], stratify: bool | None) -> tuple[list[str], Any]:
    """Return the names of the strata, sorted, and the stratum of each row as an index into them."""
    import numpy as np

    if stratify is None:
        stratify = label_set(examples) is not None
    if not stratify:
        return [""], np.zeros(len(examples), dtype=np.int32)
    numbers: dict[str, int] = {}
    by_row = np.fromiter(
        (numbers.setdefault(normal(label_of(example) or ""), len(numbers)) for example in examples),
        np.int32,
        len(examples),
    )
    names = sorted(numbers)
    places = np.empty(len(names), dtype=np.int32)
    for place, name in enumerate(names):
        places[numbers[name]] = place
    return names, places[by_row]


def _find_positions(keys: Longs, seed: int) -> Longs:
    """Return the position of each key by `split_position`."""
    import numpy as np

    return np.fromiter((split_position(seed, int(key)) for key in keys), np.uint64, len(keys))


def _assign(units: _Units, strata: tuple[list[str], Any], targets: tuple[int, int, int], seed: int) -> Any:
    """Return the part of each row: 0 train, 1 validation, 2 test."""
    import numpy as np

    names, by_row = strata
    numbers, keys, sizes = units.list_units()
    stratum = _find_unit_strata(numbers, by_row, len(keys), len(names))
    rows_of = np.bincount(stratum, weights=sizes, minlength=len(names)).astype(np.int64)
    present = {name: int(rows) for name, rows in zip(names, rows_of, strict=True) if rows}
    quotas = _divide_quotas(present, targets, seed)
    order = np.lexsort((keys, _find_positions(keys, seed), stratum))
    begins = np.searchsorted(stratum[order], np.arange(len(names) + 1))
    sides = np.zeros(len(keys), dtype=np.int8)
    for place, name in enumerate(names):
        if name in quotas:
            _fill(order[begins[place] : begins[place + 1]], sizes, quotas[name], sides)
    return sides[numbers]


def _find_unit_strata(numbers: Any, by_row: Any, units: int, strata: int) -> Any:
    """Return the stratum of each unit: the one that most of its rows have; of equals, the first by name."""
    import numpy as np

    if strata == 1:
        return np.zeros(units, dtype=np.int64)
    pairs, counts = np.unique(numbers * strata + by_row, return_counts=True)
    unit, stratum = pairs // strata, pairs % strata
    order = np.lexsort((stratum, -counts, unit))
    first = np.unique(unit[order], return_index=True)[1]
    return stratum[order[first]]


def _fill(members: Any, sizes: Any, quota: tuple[int, int], sides: Any) -> None:
    """Put units into the held-out parts, in this order, until their quotas are met."""
    missing = {2: quota[1], 1: quota[0]}
    for unit in members:
        if missing[1] <= 0 and missing[2] <= 0:
            return
        size = int(sizes[unit])
        for side in (2, 1):
            # a unit is put where at least half of its rows are missing
            if missing[side] > 0 and 2 * missing[side] >= size:
                missing[side] -= size
                sides[unit] = side
                break


def _divide_quotas(sizes: dict[str, int], targets: tuple[int, int, int], seed: int) -> dict[str, tuple[int, int]]:
    """Return validation and test rows by stratum: proportional, rounded to the totals (largest remainders)."""
    total = sum(sizes.values())
    out: dict[str, list[int]] = {stratum: [0, 0] for stratum in sizes}
    for column, target in enumerate(targets[1:]):
        ideal = {stratum: size * target / max(total, 1) for stratum, size in sizes.items()}
        for stratum, size in sizes.items():
            out[stratum][column] = min(floor(ideal[stratum]), size - 1 - sum(out[stratum]))
        missing = target - sum(quota[column] for quota in out.values())
        order = sorted(
            (stratum for stratum in sizes if sizes[stratum] - sum(out[stratum]) > 1),
            key=lambda stratum: (
                floor(ideal[stratum]) - ideal[stratum],
                split_position(seed + column, digest(stratum)),
            ),
        )
        for stratum in order[: max(missing, 0)]:
            out[stratum][column] += 1
    return {stratum: (quota[0], quota[1]) for stratum, quota in out.items()}


def _assign_similar(
    units: _Units,
    strata: tuple[list[str], Any],
    targets: tuple[int, int, int],
    seed: int,
    examples: Sequence[Example],
    keys: Longs,
    findings: list[Finding],
) -> Any:
    """Assign with near-duplicates joined; join the pairs that are still in two parts, and repeat."""
    import numpy as np

    from llmtune.data.checks.minhash import ALIKE_ENOUGH, similar_pairs

    first_keys, rows = np.unique(keys, return_index=True)  # by key, so that nothing depends on the order of the rows
    sketches, has = _sketch(examples, rows, first_keys)
    largest = max(_LARGEST_LEAST, int(_LARGEST_SHARE * len(examples)))
    pairs = similar_pairs(sketches, has, np.arange(len(rows)), alike=ALIKE_ENOUGH)
    sides: Any = None
    for _ in range(_ROUNDS):
        # most alike first; `rows` ascend by key, so the numbers of a pair order it by its keys
        pairs = pairs[np.lexsort((pairs[:, 1], pairs[:, 0], -pairs[:, 2]))]
        joined = False
        for first, second, _agree in pairs:
            joined |= units.join(int(rows[first]), int(rows[second]), largest)
        if sides is not None and not joined:
            break
        sides = _assign(units, strata, targets, seed)
        pairs = _find_split_pairs(sides[rows], sketches, has)
        if not len(pairs):
            break
    if len(pairs):
        findings.append(
            warning(
                "near-leakage",
                f"{len(pairs)} pairs of nearly equal prompts are in two parts: too many rows are similar; keeping them"
                " together would leave no split",
                "group the rows by what they were made from (group_by)",
            )
        )
    return sides


def _sketch(examples: Sequence[Example], rows: Any, keys: Longs) -> tuple[Ints, Any]:
    """Return the sketches of some rows, in that order, and which have one; the texts are held for a few at a time."""
    import numpy as np

    from llmtune.data.checks.minhash import SIZE, Sketcher

    spread = np.argsort(_find_positions(keys, 0), kind="stable")[:_SAMPLE]
    sketcher = Sketcher([prompt_text(examples[int(row)]) for row in np.sort(rows[spread])])
    place = np.full(len(examples), -1, dtype=np.int64)
    place[rows] = np.arange(len(rows))
    sketches, has = np.empty((len(rows), SIZE), dtype=np.uint32), np.zeros(len(rows), dtype=bool)
    held = ((place[row], prompt_text(example)) for row, example in enumerate(examples) if place[row] >= 0)
    while block := list(islice(held, _SKETCHED)):
        places, texts = zip(*block, strict=True)
        sketches[list(places)], has[list(places)] = sketcher.sketch(texts)
    return sketches, has


def _find_split_pairs(side: Any, sketches: Ints, has: Any) -> Any:
    """Return pairs of near-duplicates in two parts: held-out against training rows, test against validation.

    An array of (row, row, numbers that agree).
    """
    import numpy as np

    from llmtune.data.checks.minhash import ALIKE_ENOUGH, pairs_between

    pairs = []
    for held, compared in ((side != 0, side == 0), (side == 2, side == 1)):
        inside, outside = np.flatnonzero(held & has), np.flatnonzero(compared & has)
        pairs.append(pairs_between(sketches, inside, outside, alike=ALIKE_ENOUGH))
    return np.concatenate(pairs)


def _check_empty_parts(parts: Sequence[Any], targets: Sequence[int]) -> list[Finding]:
    return [
        warning(
            "empty-part",
            f"no row is in {name}, where {target} should be: the rows form too few independent units",
            "give more rows, or another seed",
        )
        for name, part, target in zip(("train", "validation", "test"), parts, targets, strict=True)
        if target and not len(part)
    ]
