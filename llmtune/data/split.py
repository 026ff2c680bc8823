"""Splitting rows into train, validation and test by hash, so that the split does not depend on their order.

Rows with the same prompt, of the same group, or with nearly the same prompt stay together as a unit. Units are ordered
by a hash of the seed and the prompt; within each label the first units are test rows, the next ones validation rows,
and all others train. Shares are met to the row where units are single rows.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from math import floor
from typing import TYPE_CHECKING, Any, NamedTuple

from llmtune.data.example import Example
from llmtune.data.findings import Finding, error, warning
from llmtune.data.hashing import digest, label_of, label_set, normal, prompt_text, split_position
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
    """The three parts, each in the order of the input, and the findings about the split."""

    train: list[Example]
    validation: list[Example]
    test: list[Example]
    findings: tuple[Finding, ...] = ()


class _Units:
    """Disjoint sets of row numbers. A unit's key is the smallest of its rows' keys, so order does not matter."""

    def __init__(self, keys: Sequence[int]) -> None:
        self._parent = list(range(len(keys)))
        self.key = list(keys)
        self.size = [1] * len(keys)

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
        if first == second or (largest is not None and self.size[first] + self.size[second] > largest):
            return False
        self._parent[second] = first
        self.key[first] = min(self.key[first], self.key[second])
        self.size[first] += self.size[second]
        return True

    def members(self) -> dict[int, list[int]]:
        """Return the row numbers by unit."""
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
    keep_similar: bool = True,
) -> Split:
    """Split examples into train, validation and test.

    Args:
        examples: the rows, in any order; the split does not depend on it.
        shares: three shares that sum to 1, or three row counts; further rows are left out (a finding).
        seed: the seed of the split.
        stratify: keep the labels' shares the same in every part; None does so when the rows have labels.
        group_by: key of `Example.extra` whose equal values stay together, where `Example.group` is not set.
        near: keep rows with nearly the same prompt together, too. It takes about 25 ns per byte of prompts.

    Raises `InvalidData` when there are fewer rows than the counts ask for.
    """
    targets = _count_targets(len(examples), shares)
    texts = [prompt_text(example) for example in examples]
    keys = [digest(text) for text in texts]
    units = _Units(keys)
    _join_equal(units, keys)
    _join_equal(units, [_hash_group(example, group_by) for example in examples])
    strata = _find_strata(examples, stratify)
    findings: list[Finding] = []
    sides: list[int]
    if not keep_similar or targets[1] + targets[2] == 0 or len(examples) < 2:
        sides = _assign(units, strata, targets, seed)
    else:
        sides = _assign_similar(units, strata, targets, seed, texts, keys, findings)
    parts: tuple[list[Example], list[Example], list[Example]] = ([], [], [])
    for example, side in zip(examples, sides, strict=True):
        parts[side].append(example)
    findings += _check_empty_parts(parts, targets)
    train_rows = len(examples) if sum(shares) <= 1 + 1e-6 else int(shares[0])
    if len(parts[0]) > train_rows:
        left_out = len(parts[0]) - train_rows
        last = sorted(split_position(seed + 1, key) for key, side in zip(keys, sides, strict=True) if side == 0)[
            train_rows - 1
        ]
        parts = ([row for row in parts[0] if split_position(seed + 1, digest(prompt_text(row))) <= last], *parts[1:])
        findings.append(
            warning("left-out", f"{left_out} rows are in no part: the counts ask for {train_rows} training rows", "")
        )
    return Split(*parts, tuple(findings))


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


def _join_equal(units: _Units, keys: Sequence[int | None]) -> None:
    first_rows: dict[int, int] = {}
    for row, key in enumerate(keys):
        if key is not None:
            first_row = first_rows.setdefault(key, row)
            if first_row != row:
                units.join(first_row, row)


def _find_strata(examples: Sequence[Example], stratify: bool | None) -> list[str]:
    if stratify is None:
        stratify = label_set(examples) is not None
    return [normal(label_of(example) or "") if stratify else "" for example in examples]


def _assign(units: _Units, strata: Sequence[str], targets: tuple[int, int, int], seed: int) -> list[int]:
    """Return the part of each row: 0 train, 1 validation, 2 test."""
    by_stratum: dict[str, list[tuple[int, int, list[int]]]] = defaultdict(list)
    for unit, rows in units.members().items():
        # a unit of several labels counts for the one most of its rows have; of equals, for the first by name
        counts = Counter(strata[row] for row in rows)
        stratum = min(counts, key=lambda name: (-counts[name], name))
        key = units.key[unit]
        by_stratum[stratum].append((split_position(seed, key), key, rows))
    sides = [0] * len(strata)
    sizes = {stratum: sum(len(rows) for _, _, rows in members) for stratum, members in by_stratum.items()}
    quotas = _divide_quotas(sizes, targets, seed)
    for stratum, members in by_stratum.items():
        members.sort(key=lambda member: member[:2])
        _fill(members, quotas[stratum], sides)
    return sides


def _fill(members: list[tuple[int, int, list[int]]], quota: tuple[int, int], sides: list[int]) -> None:
    missing = {2: quota[1], 1: quota[0]}
    for _, _, rows in members:
        for side in (2, 1):
            # a unit is put where at least half of its rows are missing
            if missing[side] > 0 and 2 * missing[side] >= len(rows):
                missing[side] -= len(rows)
                for row in rows:
                    sides[row] = side
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
    strata: Sequence[str],
    targets: tuple[int, int, int],
    seed: int,
    texts: Sequence[str],
    keys: Sequence[int],
    findings: list[Finding],
) -> list[int]:
    """Assign with near-duplicates joined; join the pairs that are still in two parts, and repeat."""
    from llmtune.data.checks.minhash import ALIKE_ENOUGH, Sketcher, similar_pairs

    firsts = list({key: row for row, key in reversed(list(enumerate(keys)))}.items())
    firsts.sort()  # by key, so that nothing below depends on the order of the rows
    rows = [row for _, row in firsts]
    spread = sorted(rows, key=lambda row: split_position(0, keys[row]))[:_SAMPLE]
    sketcher = Sketcher([texts[row] for row in spread])
    sketches, has = sketcher.sketch([texts[row] for row in rows])
    largest = max(_LARGEST_LEAST, int(_LARGEST_SHARE * len(texts)))
    pairs = similar_pairs(sketches, has, range(len(rows)), alike=ALIKE_ENOUGH)
    sides: list[int] = []
    for _ in range(_ROUNDS):
        pairs.sort(key=lambda pair: (-pair[2], keys[rows[pair[0]]], keys[rows[pair[1]]]))
        joined = [units.join(rows[first], rows[second], largest) for first, second, _ in pairs]
        if sides and not any(joined):
            break
        sides = _assign(units, strata, targets, seed)
        pairs = _find_split_pairs([sides[row] for row in rows], sketches, has)
        if not pairs:
            break
    if pairs:
        findings.append(
            warning(
                "near-leakage",
                f"{len(pairs)} pairs of nearly equal prompts are in two parts: too many rows are similar; keeping them"
                " together would leave no split",
                "group the rows by what they were made from (group_by)",
            )
        )
    return sides


def _find_split_pairs(sides: Sequence[int], sketches: Ints, has: Any) -> list[tuple[int, int, int]]:
    """Return pairs of near-duplicates in two parts: held-out against training rows, test against validation."""
    import numpy as np

    from llmtune.data.checks.minhash import ALIKE_ENOUGH, NearIndex

    side = np.asarray(sides)
    pairs: list[tuple[int, int, int]] = []
    for held, compared in ((side != 0, side == 0), (side == 2, side == 1)):
        inside, outside = np.flatnonzero(held), np.flatnonzero(compared)
        if len(inside) and len(outside):
            matches = NearIndex(sketches[inside], has[inside]).matches(
                sketches[outside], has[outside], alike=ALIKE_ENOUGH
            )
            pairs += [(int(outside[first]), int(inside[second]), agree) for first, second, agree in matches]
    return pairs


def _check_empty_parts(parts: Sequence[Sequence[Example]], targets: Sequence[int]) -> list[Finding]:
    return [
        warning(
            "empty-part",
            f"no row is in {name}, where {target} should be: the rows form too few independent units",
            "give more rows, or another seed",
        )
        for name, part, target in zip(("train", "validation", "test"), parts, targets, strict=True)
        if target and not part
    ]
