"""Rows of a step, cut into micro-batches that never change its gradient.

A step is `batch_size` rows of a permutation that is a pure function of seed and epoch, so that any step can be taken
up again by its number. Its rows are packed into micro-batches under a token budget (longest first, first fit), as one
sequence without padding, or padded where the model cannot be packed. Rows that begin alike (a system prompt) may stand
behind one copy of their prefix. Every micro-batch knows which positions are trained, their targets and weights; the
sum of weights over the whole step divides the loss.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from torch import Tensor

    from llmtune_local.batching.token_rows import TokenRow
    from llmtune_local.images.reader import RowImage


#: Groups are looked for among so many neighbours at a time.
_NEIGHBOURS = 256
#: Rows share their prefix from this many tokens on: a chat template's first few are not worth a split.
SHARED_TOKENS = 32


class PrefixGroup(NamedTuple):
    """Rows of one packed sequence that share one copy of a common prefix.

    In the sequence: `shared` tokens, then `own` tokens of each row. A row that shares nothing is a group of one with
    `shared` 0.
    """

    shared: int
    own: tuple[int, ...]

    @property
    def tokens(self) -> int:
        """Return its length in the sequence."""
        return self.shared + sum(self.own)


@dataclass(frozen=True, slots=True)
class MicroBatch:
    """Rows that go through the model at once.

    Packed: `ids` and `positions` [1, tokens] and `prefix_groups`. Padded on the right: `ids` and `attention_mask`
    [rows, longest]. `select` are flat positions whose next token is trained, ascending; `targets`, `weights` and
    `completion` [selected] belong to them. A position whose rows go on differently is there once for each target;
    `completion` counts the completion tokens that stand there.
    """

    ids: Tensor
    positions: Tensor | None
    prefix_groups: tuple[PrefixGroup, ...] | None
    attention_mask: Tensor | None
    select: Tensor
    targets: Tensor
    weights: Tensor
    completion: Tensor
    tokens: int
    prefix: Tensor | None = None
    """Tokens [1, shared] that all rows stand behind and that are not in `ids`; batches of one prefix have the very
    same tensor and follow one another."""

    images: tuple[RowImage, ...] = ()
    """Images that tokens of padded rows stand for, in their order."""

    def without_weight(self) -> MicroBatch:
        """Return the same batch with nothing that counts, for a process that only has to keep up."""
        return replace(
            self, weights=torch.zeros_like(self.weights), completion=torch.zeros_like(self.completion), tokens=0
        )

    def to(self, device: str) -> MicroBatch:
        """Return the same batch on a device."""
        if device == "cpu":
            return self
        moved: dict[str, Any] = {}
        for name in ("ids", "positions", "attention_mask", "select", "targets", "weights", "completion", "prefix"):
            tensor = getattr(self, name)
            moved[name] = None if tensor is None else tensor.to(device, non_blocking=True)
        return MicroBatch(**moved, prefix_groups=self.prefix_groups, tokens=self.tokens, images=self.images)


@dataclass(frozen=True, slots=True)
class Step:
    """One optimizer step: its micro-batches, the sum of its weights, and its counts."""

    batches: list[MicroBatch]
    weight: float
    tokens: int
    completion_tokens: int


class BatchesInParts:
    """Micro-batches of many rows that are made part by part, each time they are iterated over, and not held."""

    def __init__(
        self, rows: Sequence[tuple[TokenRow, ...]], make: Callable[[Sequence[TokenRow]], list[MicroBatch]], size: int
    ) -> None:
        self._rows, self._make, self._size = rows, make, size

    def __bool__(self) -> bool:
        return bool(self._rows)

    def __iter__(self) -> Iterator[MicroBatch]:
        for start in range(0, len(self._rows), self._size):
            yield from self._make([piece for row in self._rows[start : start + self._size] for piece in row])


def make_step(
    rows: Sequence[TokenRow],
    *,
    prompt_weight: float,
    packed: bool,
    token_budget: int,
    micro_batches: int | None = None,
    share_prefixes: bool = False,
    precompute_prefix: bool = False,
    pad: int = 0,
) -> Step:
    """Cut one step's rows into micro-batches: `micro_batches` of them, or as many as the token budget asks for.

    With `share_prefixes`, rows of a micro-batch that start alike are packed behind one copy of their prefix. It is not
    counted in the budget: it is there once, and the fewer copies there are, the better. With `precompute_prefix` too, a
    prefix of more rows than fit the budget is no longer copied but computed before its micro-batches.
    """
    trimmed = [_trim(row, prompt_weight) for row in rows]
    if not packed:
        lengths = [len(row.ids) for row in trimmed]
        groups = group_by_length(lengths, token_budget) if micro_batches is None else _balance(lengths, micro_batches)
        batches = [_pad([trimmed[index] for index in group], prompt_weight, pad) for group in groups]
    elif micro_batches is None:
        rows_by_prefix = _group_by_prefix(trimmed) if share_prefixes else [(0, [row]) for row in trimmed]
        batches, remaining = [], []
        for shared, group_rows in rows_by_prefix:
            precomputed = (
                _batches_after_prefix(shared, group_rows, prompt_weight, token_budget) if precompute_prefix else []
            )
            batches += precomputed
            remaining += [] if precomputed else _split(shared, group_rows, token_budget)
        sizes = [sum(_make_group(*group).own) for group in remaining]
        batches += [
            _pack([remaining[index] for index in group], prompt_weight) for group in _first_fit(sizes, token_budget)
        ]
    else:
        groups = _balance([len(row.ids) for row in trimmed], micro_batches)
        together = [[trimmed[index] for index in group] for group in groups]
        batches = [
            _pack(_group_by_prefix(group_rows) if share_prefixes else [(0, [row]) for row in group_rows], prompt_weight)
            for group_rows in together
        ]
    return Step(
        batches,
        weight=sum(float(batch.weights.sum(dtype=torch.float64)) for batch in batches),
        tokens=sum(batch.tokens for batch in batches),
        completion_tokens=sum(int(batch.completion.sum()) for batch in batches),
    )


def _trim(row: TokenRow, prompt_weight: float) -> TokenRow:
    """Drop the tokens after the last trained one, which nothing depends on."""
    if prompt_weight > 0:
        return row
    stop = int(np.flatnonzero(row.completion)[-1]) + 1
    return row if stop == len(row.ids) else row.cut(0, stop)


def _group_by_prefix(rows: Sequence[TokenRow]) -> list[tuple[int, list[TokenRow]]]:
    """Group rows that share a prefix; return how many tokens each group shares, and its rows.

    Sorted by their tokens, rows that start alike are neighbours. A run of neighbours is one group where that saves more
    than a cut between the two that have least in common.
    """
    ordered = sorted(rows, key=lambda row: row.ids.tolist())
    common = [_common_length(row.ids, next_row.ids) for row, next_row in itertools.pairwise(ordered)]

    def best(first: int, last: int) -> tuple[int, list[tuple[int, int, int]]]:
        """Return the most tokens that the rows first..last can save, and the groups (first, last, shared) that save
        them."""
        if first == last:
            return 0, [(first, last, 0)]
        cut = min(range(first, last), key=common.__getitem__)
        first_half, second_half = best(first, cut), best(cut + 1, last)
        split_saving = first_half[0] + second_half[0]
        joint_saving = common[cut] * (last - first)
        if common[cut] >= SHARED_TOKENS and joint_saving >= split_saving:
            return joint_saving, [(first, last, common[cut])]
        return split_saving, first_half[1] + second_half[1]

    groups = []
    for start in range(0, len(ordered), _NEIGHBOURS):
        for first, last, shared in best(start, min(start + _NEIGHBOURS, len(ordered)) - 1)[1]:
            groups.append((shared, ordered[first : last + 1]))
    return groups


def _split(shared: int, rows: list[TokenRow], budget: int) -> list[tuple[int, list[TokenRow]]]:
    """Split a group into groups that fit the budget, each with a copy of the prefix."""
    parts: list[list[TokenRow]] = [[]]
    for row in rows:
        if parts[-1] and _make_group(shared, [*parts[-1], row]).tokens > budget:
            parts.append([])
        parts[-1].append(row)
    return [(shared if len(part) > 1 else 0, part) for part in parts]


def _batches_after_prefix(shared: int, rows: Sequence[TokenRow], prompt_weight: float, budget: int) -> list[MicroBatch]:
    """Return the micro-batches of a group that does not fit the budget, behind a prefix that is computed before them.

    None where the group fits, or where the prefix itself is trained.
    """
    if shared < SHARED_TOKENS or _make_group(shared, rows).tokens <= budget:
        return []
    shared = min(shared, *(int(_trained_positions(row, prompt_weight)[0][0]) for row in rows))
    if shared < SHARED_TOKENS:
        return []
    prefix = torch.from_numpy(rows[0].ids[:shared].astype(np.int64)).unsqueeze(0)
    suffixes = [row.cut(shared) for row in rows]
    groups = _first_fit([len(row.ids) - 1 for row in suffixes], budget)
    if len(groups) == 1:
        return []
    batches = []
    for group in groups:
        batch = _pack([(0, [suffixes[index]]) for index in group], prompt_weight)
        assert batch.positions is not None
        tokens = batch.tokens + shared * len(group)
        batches.append(replace(batch, positions=batch.positions + shared, tokens=tokens, prefix=prefix))
    return batches


def _common_length(ids: Any, other_ids: Any) -> int:
    """Count the first tokens that two rows share; at least one token that the model sees stays each row's own."""
    length = min(len(ids), len(other_ids)) - 2
    if length <= 0:
        return 0
    different = np.flatnonzero(ids[:length] != other_ids[:length])
    return int(different[0]) if len(different) else length


def _make_group(shared: int, rows: Sequence[TokenRow]) -> PrefixGroup:
    # The last token of a row is only ever a target.
    return PrefixGroup(shared, tuple(len(row.ids) - 1 - shared for row in rows))


def _first_fit(lengths: Sequence[int], budget: int) -> list[list[int]]:
    """Group rows so that the tokens of each group fit the budget; a longer row is a group of its own."""
    groups: list[list[int]] = []
    free: list[int] = []
    for index in sorted(range(len(lengths)), key=lambda index: (-lengths[index], index)):
        target = next((at for at, space in enumerate(free) if lengths[index] <= space), None)
        if target is None:
            groups.append([index])
            free.append(budget - lengths[index])
        else:
            groups[target].append(index)
            free[target] -= lengths[index]
    return groups


def group_by_length(lengths: Sequence[int], budget: int) -> list[list[int]]:
    """Group rows of similar length so that the padded area of each group fits the budget."""
    groups: list[list[int]] = []
    for index in sorted(range(len(lengths)), key=lambda index: (-lengths[index], index)):
        if groups and lengths[groups[-1][0]] * (len(groups[-1]) + 1) <= budget:
            groups[-1].append(index)
        else:
            groups.append([index])
    return groups


def _balance(lengths: Sequence[int], count: int) -> list[list[int]]:
    """Make `count` groups (fewer when there are fewer rows) of about as many tokens each."""
    groups: list[list[int]] = [[] for _ in range(min(count, len(lengths)))]
    load = [0] * len(groups)
    for index in sorted(range(len(lengths)), key=lambda index: (-lengths[index], index)):
        lightest = load.index(min(load))
        groups[lightest].append(index)
        load[lightest] += lengths[index]
    return [group for group in groups if group]


def _trained_positions(row: TokenRow, prompt_weight: float) -> tuple[Any, Any, Any, Any]:
    """Return which positions are trained, in the row, with their targets, weights, and which are completion.

    Position t is trained to produce token t + 1.
    """
    produced = row.completion[1:]
    at = np.arange(len(produced)) if prompt_weight > 0 else np.flatnonzero(produced)
    weights = row.weight * np.where(produced[at], 1.0, prompt_weight)
    return at, row.ids[1:][at].astype(np.int64), weights, produced[at]


def _to_tensors(select: Any, targets: Any, weights: Any, completion: Any) -> dict[str, Tensor]:
    return {
        "select": torch.from_numpy(np.concatenate(select).astype(np.int64)),
        "targets": torch.from_numpy(np.concatenate(targets)),
        "weights": torch.from_numpy(np.concatenate(weights).astype(np.float32)),
        "completion": torch.from_numpy(np.concatenate(completion).astype(np.int64)),
    }


def _pack(rows_by_prefix: Sequence[tuple[int, Sequence[TokenRow]]], prompt_weight: float) -> MicroBatch:
    prefix_groups = tuple(_make_group(shared, rows) for shared, rows in rows_by_prefix)
    ids, positions, trained, start = [], [], [], 0
    for group, (shared, rows) in zip(prefix_groups, rows_by_prefix, strict=True):
        ids.append(rows[0].ids[:shared])
        positions.append(np.arange(shared))
        group_start = start
        start += shared
        parts = []
        for row, length in zip(rows, group.own, strict=True):
            ids.append(row.ids[shared:-1])
            positions.append(np.arange(shared, shared + length))
            at, *labels = _trained_positions(row, prompt_weight)
            parts.append((np.where(at < shared, at + group_start, at - shared + start), *labels))
            start += length
        trained.append(_merge_shared(parts) if shared else parts[0])
    return MicroBatch(
        ids=torch.from_numpy(np.concatenate(ids).astype(np.int64)).unsqueeze(0),
        positions=torch.from_numpy(np.concatenate(positions)).unsqueeze(0),
        prefix_groups=prefix_groups,
        attention_mask=None,
        tokens=sum(len(row.ids) for _, rows in rows_by_prefix for row in rows),
        images=(),
        **_to_tensors(*zip(*trained, strict=True)),
    )


def _merge_shared(parts: Sequence[tuple[Any, Any, Any, Any]]) -> tuple[Any, Any, Any, Any]:
    """Merge what rows train at shared positions: each target once, with its weights and completion tokens summed."""
    select, targets, weights, completion = (np.concatenate(column) for column in zip(*parts, strict=True))
    pairs, inverse = np.unique(np.stack([select, targets]), axis=1, return_inverse=True)
    inverse = inverse.reshape(-1)
    count = pairs.shape[1]
    return (
        pairs[0],
        pairs[1],
        np.bincount(inverse, weights, minlength=count),
        np.bincount(inverse, completion, minlength=count),
    )


def _pad(rows: Sequence[TokenRow], prompt_weight: float, pad: int) -> MicroBatch:
    fields = pad_rows(rows, pad)
    longest = fields["ids"].shape[1]
    trained = []
    for index, row in enumerate(rows):
        at, *labels = _trained_positions(row, prompt_weight)
        trained.append((at + index * longest, *labels))
    tokens = sum(len(row.ids) for row in rows)
    trained_at = _to_tensors(*zip(*trained, strict=True))
    images = tuple(image for row in rows for image in row.images)
    return MicroBatch(
        ids=fields["ids"],
        attention_mask=fields["attention_mask"],
        positions=None,
        prefix_groups=None,
        tokens=tokens,
        prefix=None,
        images=images,
        **trained_at,
    )


def pad_rows(rows: Sequence[TokenRow], pad: int) -> dict[str, Tensor]:
    """Return rows side by side without their last tokens, padded on the right, as fields of a `MicroBatch`."""
    shape = (len(rows), max(len(row.ids) - 1 for row in rows))
    ids, mask = np.full(shape, pad, dtype=np.int64), np.zeros(shape, dtype=np.int64)
    for index, row in enumerate(rows):
        ids[index, : len(row.ids) - 1] = row.ids[:-1]
        mask[index, : len(row.ids) - 1] = 1
    return {"ids": torch.from_numpy(ids), "attention_mask": torch.from_numpy(mask)}
