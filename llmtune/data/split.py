"""Cutting rows into train, validation and test by hash: the same rows fall the same way in whatever order they come.

Rows with the same prompt, of the same group, or nearly the same prompt stay together. Each such unit has a place on
a line, given by the seed and its prompt; within each label the units at the front are test rows, the next ones
validation rows, the rest train. Shares are met to the row where units are single rows.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from math import floor
from typing import TYPE_CHECKING, Any, NamedTuple

from llmtune.data.example import Example
from llmtune.data.findings import Finding, error, warning
from llmtune.data.hashing import digest, label_of, label_set, normal, place, prompt_text
from llmtune.errors import InvalidData

if TYPE_CHECKING:
    from llmtune.data.checks.minhash import Ints

#: A unit of nearly equal rows grows to this share of all rows at most (and to 20 rows at least): a set made from one
#: template would otherwise become one unit.
_LARGEST_SHARE = 0.02
_LARGEST_LEAST = 20
_SAMPLE = 2000
_ROUNDS = 5


class Split(NamedTuple):
    """The three parts, each in the order of the input, and what is worth knowing about the cut."""

    train: list[Example]
    validation: list[Example]
    test: list[Example]
    findings: tuple[Finding, ...] = ()


class _Units:
    """Disjoint sets of row numbers; the smallest key of its rows names a unit, so order does not matter."""

    def __init__(self, keys: Sequence[int]) -> None:
        self._parent = list(range(len(keys)))
        self.key = list(keys)
        self.size = [1] * len(keys)

    def find(self, row: int) -> int:
        parent = self._parent
        while parent[row] != row:
            parent[row] = parent[parent[row]]
            row = parent[row]
        return row

    def join(self, first: int, second: int, largest: int | None = None) -> bool:
        """Join two units; False when they are one already or would grow above `largest` rows."""
        first, second = self.find(first), self.find(second)
        if first == second or (largest is not None and self.size[first] + self.size[second] > largest):
            return False
        self._parent[second] = first
        self.key[first] = min(self.key[first], self.key[second])
        self.size[first] += self.size[second]
        return True

    def members(self) -> dict[int, list[int]]:
        """Row numbers by unit."""
        units: dict[int, list[int]] = defaultdict(list)
        for row in range(len(self._parent)):
            units[self.find(row)].append(row)
        return units


def split(
    examples: Sequence[Example],
    shares: tuple[float, float, float] = (0.8, 0.1, 0.1),
    *,
    seed: int = 0,
    stratify: bool | None = None,
    group_by: str | None = None,
    near: bool = True,
) -> Split:
    """Cut examples into train, validation and test.

    Args:
        examples: the rows, in any order; the cut does not depend on it.
        shares: three shares that sum to 1, or three row counts; rows beyond the counts are left out, and told.
        seed: another seed, another cut.
        stratify: keep the labels' shares alike in every part; None does so when the rows have labels.
        group_by: key of `Example.extra` whose equal values stay together, where `Example.group` is not set.
        near: keep rows with nearly the same prompt together, too. It costs about 25 ns a byte of prompts.

    Raises `InvalidData` when there are fewer rows than the counts ask for.
    """
    targets = _targets(len(examples), shares)
    texts = [prompt_text(example) for example in examples]
    keys = [digest(text) for text in texts]
    units = _Units(keys)
    _join_equal(units, keys)
    _join_equal(units, [_group(example, group_by) for example in examples])
    strata = _strata(examples, stratify)
    findings: list[Finding] = []
    sides: list[int]
    if not near or targets[1] + targets[2] == 0 or len(examples) < 2:
        sides = _assign(units, strata, targets, seed)
    else:
        sides = _assign_apart(units, strata, targets, seed, texts, keys, findings)
    parts: tuple[list[Example], list[Example], list[Example]] = ([], [], [])
    for example, side in zip(examples, sides, strict=True):
        parts[side].append(example)
    findings += _empty_parts(parts, targets)
    wanted = len(examples) if sum(shares) <= 1 + 1e-6 else int(shares[0])
    if len(parts[0]) > wanted:
        left_out = len(parts[0]) - wanted
        last = sorted(place(seed + 1, key) for key, side in zip(keys, sides, strict=True) if side == 0)[wanted - 1]
        parts = ([row for row in parts[0] if place(seed + 1, digest(prompt_text(row))) <= last], *parts[1:])
        findings.append(
            warning("left-out", f"{left_out} rows are in no part: the counts ask for {wanted} training rows", "")
        )
    return Split(*parts, tuple(findings))


def _targets(rows: int, shares: tuple[float, float, float]) -> tuple[int, int, int]:
    """Rows wanted in train, validation and test."""
    if abs(sum(shares) - 1) < 1e-6 and max(shares) <= 1:
        validation, test = (floor(rows * share + 0.5) for share in shares[1:])
        while validation + test >= rows > 0 and shares[0] > 0:  # train keeps a row before the others get one
            validation, test = (validation - 1, test) if validation >= test else (validation, test - 1)
        return rows - validation - test, validation, test
    wanted = [int(count) for count in shares]
    if sum(wanted) > rows:
        raise InvalidData(
            f"the split asks for {sum(wanted)} rows and there are {rows}",
            findings=[error("split", f"{sum(wanted)} rows are asked for and there are {rows}", "ask for fewer")],
            hint="give fewer rows, or shares such as 0.8, 0.1, 0.1",
        )
    return rows - wanted[1] - wanted[2], wanted[1], wanted[2]


def _group(example: Example, group_by: str | None) -> int | None:
    value = example.group
    if value is None and group_by is not None:
        found = (example.extra or {}).get(group_by)
        if found is None:
            place = f" in line {example.line}" if example.line is not None else ""
            raise InvalidData(f"there is no {group_by!r}{place}, by which rows are to be grouped")
        value = str(found)
    return None if value is None else digest(value)


def _join_equal(units: _Units, keys: Sequence[int | None]) -> None:
    first: dict[int, int] = {}
    for row, key in enumerate(keys):
        if key is not None:
            other = first.setdefault(key, row)
            if other != row:
                units.join(other, row)


def _strata(examples: Sequence[Example], stratify: bool | None) -> list[str]:
    if stratify is None:
        stratify = label_set(examples) is not None
    return [normal(label_of(example) or "") if stratify else "" for example in examples]


def _assign(units: _Units, strata: Sequence[str], targets: tuple[int, int, int], seed: int) -> list[int]:
    """The side of each row: 0 train, 1 validation, 2 test."""
    by_stratum: dict[str, list[tuple[int, int, list[int]]]] = defaultdict(list)
    for unit, rows in units.members().items():
        # a unit of several labels counts for the one most of its rows have; of equals, for the first by name
        counts = Counter(strata[row] for row in rows)
        stratum = min(counts, key=lambda name: (-counts[name], name))
        key = units.key[unit]
        by_stratum[stratum].append((place(seed, key), key, rows))
    sides = [0] * len(strata)
    sizes = {stratum: sum(len(rows) for _, _, rows in members) for stratum, members in by_stratum.items()}
    quotas = _quotas(sizes, targets, seed)
    for stratum, members in by_stratum.items():
        members.sort(key=lambda member: member[:2])
        _fill(members, quotas[stratum], sides)
    return sides


def _fill(members: list[tuple[int, int, list[int]]], quota: tuple[int, int], sides: list[int]) -> None:
    left = {2: quota[1], 1: quota[0]}
    for _, _, rows in members:
        for side in (2, 1):
            # a unit goes where at least half of it is wanted
            if left[side] > 0 and 2 * left[side] >= len(rows):
                left[side] -= len(rows)
                for row in rows:
                    sides[row] = side
                break


def _quotas(sizes: dict[str, int], targets: tuple[int, int, int], seed: int) -> dict[str, tuple[int, int]]:
    """Validation and test rows by stratum: proportional, rounded so that the totals are met (largest remainders)."""
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
                place(seed + column, digest(stratum)),
            ),
        )
        for stratum in order[: max(missing, 0)]:
            out[stratum][column] += 1
    return {stratum: (quota[0], quota[1]) for stratum, quota in out.items()}


def _assign_apart(
    units: _Units,
    strata: Sequence[str],
    targets: tuple[int, int, int],
    seed: int,
    texts: Sequence[str],
    keys: Sequence[int],
    findings: list[Finding],
) -> list[int]:
    """Assign with nearly equal rows joined; look for pairs that were still parted, join those too, and repeat."""
    from llmtune.data.checks.minhash import ALIKE_ENOUGH, Sketcher, linked

    firsts = list({key: row for row, key in reversed(list(enumerate(keys)))}.items())
    firsts.sort()  # by key, so that nothing below depends on the order of the rows
    rows = [row for _, row in firsts]
    spread = sorted(rows, key=lambda row: place(0, keys[row]))[:_SAMPLE]
    sketcher = Sketcher([texts[row] for row in spread])
    sketches, has = sketcher.sketch([texts[row] for row in rows])
    largest = max(_LARGEST_LEAST, int(_LARGEST_SHARE * len(texts)))
    pairs = linked(sketches, has, range(len(rows)), alike=ALIKE_ENOUGH)
    sides: list[int] = []
    for _ in range(_ROUNDS):
        pairs.sort(key=lambda pair: (-pair[2], keys[rows[pair[0]]], keys[rows[pair[1]]]))
        joined = [units.join(rows[first], rows[second], largest) for first, second, _ in pairs]
        if sides and not any(joined):
            break
        sides = _assign(units, strata, targets, seed)
        pairs = _parted([sides[row] for row in rows], sketches, has)
        if not pairs:
            break
    if pairs:
        findings.append(
            warning(
                "near-leakage",
                f"{len(pairs)} pairs of nearly equal prompts lie on two sides: so many rows are alike that keeping them"
                " together would leave no split",
                "group the rows by what they were made from (group_by)",
            )
        )
    return sides


def _parted(sides: Sequence[int], sketches: Ints, has: Any) -> list[tuple[int, int, int]]:
    """Pairs of nearly equal rows on two sides: held-out rows against training rows, test against validation."""
    import numpy as np

    from llmtune.data.checks.minhash import ALIKE_ENOUGH, NearIndex

    side = np.asarray(sides)
    found: list[tuple[int, int, int]] = []
    for held, others in ((side != 0, side == 0), (side == 2, side == 1)):
        inside, outside = np.flatnonzero(held), np.flatnonzero(others)
        if len(inside) and len(outside):
            matches = NearIndex(sketches[inside], has[inside]).matches(
                sketches[outside], has[outside], alike=ALIKE_ENOUGH
            )
            found += [(int(outside[first]), int(inside[second]), agree) for first, second, agree in matches]
    return found


def _empty_parts(parts: Sequence[Sequence[Example]], targets: Sequence[int]) -> list[Finding]:
    return [
        warning(
            "empty-part",
            f"no row fell into {name}, where {target} were wanted: the rows form too few independent units",
            "give more rows, or another seed",
        )
        for name, part, target in zip(("train", "validation", "test"), parts, targets, strict=True)
        if target and not part
    ]
