"""Which rows make a step, and how a step is cut into micro-batches that never change its gradient.

A step is `batch_size` rows of a permutation that is a pure function of seed and epoch, so that any step can be taken
up again by its number. Its rows are packed into micro-batches under a token budget (longest first, first fit), as one
sequence without padding, or padded where the model cannot be packed. Rows that begin alike (a system prompt) may stand
behind one copy of their beginning. Every micro-batch knows which positions are trained, their targets and weights; the
sum of weights over the whole step divides the loss.
"""

from __future__ import annotations

import functools
import itertools
import random
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from llmtune_local.batching.token_rows import TokenRow


#: Families are looked for among so many neighbours at a time.
_NEIGHBOURS = 256
#: Rows share their beginning from this many tokens on: a chat template's first few are not worth a split.
SHARED_TOKENS = 32


class Family(NamedTuple):
    """Rows of one packed sequence that stand behind one copy of their common beginning.

    In the sequence: `shared` tokens, then `own` tokens of each row. A row that shares nothing is a family of one with
    `shared` 0.
    """

    shared: int
    own: tuple[int, ...]

    @property
    def tokens(self) -> int:
        """How long it is in the sequence."""
        return self.shared + sum(self.own)


@dataclass(frozen=True, slots=True)
class MicroBatch:
    """Rows that go through the model at once.

    Packed: `ids` and `positions` [1, tokens] and `families`. Padded on the right: `ids` and `attention_mask`
    [rows, longest]. `select` are flat positions whose next token is trained, ascending; `targets`, `weights` and
    `completion` [selected] belong to them. A position whose rows go on differently is there once for each target;
    `completion` counts the completion tokens that stand there.
    """

    ids: Tensor
    positions: Tensor | None
    families: tuple[Family, ...] | None
    attention_mask: Tensor | None
    select: Tensor
    targets: Tensor
    weights: Tensor
    completion: Tensor
    tokens: int
    beginning: Tensor | None = None
    """Tokens [1, shared] that all rows stand behind and that are not in `ids`; batches of one beginning have the very
    same tensor and follow one another."""

    def to(self, device: str) -> MicroBatch:
        """The same on a device."""
        if device == "cpu":
            return self
        moved: dict[str, Any] = {}
        for name in ("ids", "positions", "attention_mask", "select", "targets", "weights", "completion", "beginning"):
            tensor = getattr(self, name)
            moved[name] = None if tensor is None else tensor.to(device, non_blocking=True)
        return MicroBatch(**moved, families=self.families, tokens=self.tokens)


@dataclass(frozen=True, slots=True)
class Step:
    """One optimizer step: its micro-batches, the sum of its weights, and its counts."""

    batches: list[MicroBatch]
    weight: float
    tokens: int
    completion_tokens: int


@functools.lru_cache(maxsize=2)
def order(rows: int, seed: int, epoch: int) -> tuple[int, ...]:
    """The permutation of an epoch (counted from 0)."""
    indices = list(range(rows))
    random.Random(f"{seed}/{epoch}").shuffle(indices)
    return tuple(indices)


def steps_per_epoch(rows: int, batch_size: int) -> int:
    """The last step of an epoch may have fewer rows."""
    return -(-rows // batch_size)


def rows_of_step(rows: int, batch_size: int, seed: int, step: int) -> tuple[int, ...]:
    """The rows of a step (counted from 0) of a run."""
    epoch, within = divmod(step, steps_per_epoch(rows, batch_size))
    return order(rows, seed, epoch)[within * batch_size : (within + 1) * batch_size]


def make_step(
    rows: Sequence[TokenRow],
    *,
    prompt_weight: float,
    packed: bool,
    token_budget: int,
    micro_batches: int | None = None,
    share: bool = False,
    ahead: bool = False,
    pad: int = 0,
) -> Step:
    """The micro-batches of one step's rows: `micro_batches` of them, or as many as the token budget asks for.

    With `share`, rows of a micro-batch that begin alike are packed behind one copy of their beginning, which comes on
    top of the budget: it stands there once, and the fewer copies there are, the better. With `ahead` too, a beginning
    of more rows than fit the budget is no longer copied but left to be computed `ahead` of the micro-batches.
    """
    trimmed = [_trim(row, prompt_weight) for row in rows]
    if not packed:
        lengths = [len(row.ids) for row in trimmed]
        groups = by_length(lengths, token_budget) if micro_batches is None else _balance(lengths, micro_batches)
        batches = [_pad([trimmed[index] for index in group], prompt_weight, pad) for group in groups]
    elif micro_batches is None:
        kin = _kin(trimmed) if share else [(0, [row]) for row in trimmed]
        batches, left = [], []
        for shared, some in kin:
            behind = _behind(shared, some, prompt_weight, token_budget) if ahead else []
            batches += behind
            left += [] if behind else _split(shared, some, token_budget)
        sizes = [sum(_family(*each).own) for each in left]
        batches += [_pack([left[index] for index in group], prompt_weight) for group in _first_fit(sizes, token_budget)]
    else:
        groups = _balance([len(row.ids) for row in trimmed], micro_batches)
        together = [[trimmed[index] for index in group] for group in groups]
        batches = [_pack(_kin(some) if share else [(0, [row]) for row in some], prompt_weight) for some in together]
    return Step(
        batches,
        weight=sum(float(batch.weights.sum(dtype=torch.float64)) for batch in batches),
        tokens=sum(batch.tokens for batch in batches),
        completion_tokens=sum(int(batch.completion.sum()) for batch in batches),
    )


def _trim(row: TokenRow, prompt_weight: float) -> TokenRow:
    """Without the tokens after the last trained one, which nothing depends on."""
    if prompt_weight > 0:
        return row
    stop = int(np.flatnonzero(row.completion)[-1]) + 1
    return row if stop == len(row.ids) else type(row)(row.ids[:stop], row.completion[:stop])


def _kin(rows: Sequence[TokenRow]) -> list[tuple[int, list[TokenRow]]]:
    """Families of rows: how many tokens they share, and the rows.

    Sorted by their tokens, rows that begin alike are neighbours. A stretch of them is one family where that saves more
    than to cut it where neighbours have least in common.
    """
    ordered = sorted(rows, key=lambda row: row.ids.tolist())
    common = [_common(one.ids, other.ids) for one, other in itertools.pairwise(ordered)]

    def best(first: int, last: int) -> tuple[int, list[tuple[int, int, int]]]:
        """What the rows first..last save at best, and the stretches (first, last, shared) that save it."""
        if first == last:
            return 0, [(first, last, 0)]
        cut = min(range(first, last), key=common.__getitem__)
        left, right = best(first, cut), best(cut + 1, last)
        apart = left[0] + right[0]
        whole = common[cut] * (last - first)
        if common[cut] >= SHARED_TOKENS and whole >= apart:
            return whole, [(first, last, common[cut])]
        return apart, left[1] + right[1]

    found = []
    for start in range(0, len(ordered), _NEIGHBOURS):
        for first, last, shared in best(start, min(start + _NEIGHBOURS, len(ordered)) - 1)[1]:
            found.append((shared, ordered[first : last + 1]))
    return found


def _split(shared: int, rows: list[TokenRow], budget: int) -> list[tuple[int, list[TokenRow]]]:
    """A family as families that fit the budget, each with a copy of the beginning."""
    parts: list[list[TokenRow]] = [[]]
    for row in rows:
        if parts[-1] and _family(shared, [*parts[-1], row]).tokens > budget:
            parts.append([])
        parts[-1].append(row)
    return [(shared if len(part) > 1 else 0, part) for part in parts]


def _behind(shared: int, rows: Sequence[TokenRow], prompt_weight: float, budget: int) -> list[MicroBatch]:
    """The micro-batches of a family that does not fit the budget, behind a beginning that is computed before them; none
    where it fits, or where the beginning itself is trained."""
    if shared < SHARED_TOKENS or _family(shared, rows).tokens <= budget:
        return []
    shared = min(shared, *(int(_trained(row, prompt_weight)[0][0]) for row in rows))
    if shared < SHARED_TOKENS:
        return []
    beginning = torch.from_numpy(rows[0].ids[:shared].astype(np.int64)).unsqueeze(0)
    own = [type(row)(row.ids[shared:], row.completion[shared:]) for row in rows]
    groups = _first_fit([len(row.ids) - 1 for row in own], budget)
    if len(groups) == 1:
        return []
    batches = []
    for group in groups:
        batch = _pack([(0, [own[index]]) for index in group], prompt_weight)
        assert batch.positions is not None
        tokens = batch.tokens + shared * len(group)
        batches.append(replace(batch, positions=batch.positions + shared, tokens=tokens, beginning=beginning))
    return batches


def _common(one: Any, other: Any) -> int:
    """How many first tokens two rows share; at least one token that the model sees stays each row's own."""
    length = min(len(one), len(other)) - 2
    if length <= 0:
        return 0
    different = np.flatnonzero(one[:length] != other[:length])
    return int(different[0]) if len(different) else length


def _family(shared: int, rows: Sequence[TokenRow]) -> Family:
    # The last token of a row is only ever a target.
    return Family(shared, tuple(len(row.ids) - 1 - shared for row in rows))


def _first_fit(lengths: Sequence[int], budget: int) -> list[list[int]]:
    """Groups of rows whose tokens fit the budget; a row longer than it goes alone."""
    groups: list[list[int]] = []
    room: list[int] = []
    for index in sorted(range(len(lengths)), key=lambda index: (-lengths[index], index)):
        place = next((at for at, left in enumerate(room) if lengths[index] <= left), None)
        if place is None:
            groups.append([index])
            room.append(budget - lengths[index])
        else:
            groups[place].append(index)
            room[place] -= lengths[index]
    return groups


def by_length(lengths: Sequence[int], budget: int) -> list[list[int]]:
    """Groups of rows of like length whose padded area fits the budget."""
    groups: list[list[int]] = []
    for index in sorted(range(len(lengths)), key=lambda index: (-lengths[index], index)):
        if groups and lengths[groups[-1][0]] * (len(groups[-1]) + 1) <= budget:
            groups[-1].append(index)
        else:
            groups.append([index])
    return groups


def _balance(lengths: Sequence[int], count: int) -> list[list[int]]:
    """`count` groups (fewer when there are fewer rows) of about as many tokens each."""
    groups: list[list[int]] = [[] for _ in range(min(count, len(lengths)))]
    load = [0] * len(groups)
    for index in sorted(range(len(lengths)), key=lambda index: (-lengths[index], index)):
        place = load.index(min(load))
        groups[place].append(index)
        load[place] += lengths[index]
    return [group for group in groups if group]


def _trained(row: TokenRow, prompt_weight: float) -> tuple[Any, Any, Any, Any]:
    """Position t is trained to produce token t + 1: positions in the row, targets, weights, and what is completion."""
    produced = row.completion[1:]
    at = np.arange(len(produced)) if prompt_weight > 0 else np.flatnonzero(produced)
    return at, row.ids[1:][at].astype(np.int64), np.where(produced[at], 1.0, prompt_weight), produced[at]


def _tensors(select: Any, targets: Any, weights: Any, completion: Any) -> dict[str, Tensor]:
    return {
        "select": torch.from_numpy(np.concatenate(select).astype(np.int64)),
        "targets": torch.from_numpy(np.concatenate(targets)),
        "weights": torch.from_numpy(np.concatenate(weights).astype(np.float32)),
        "completion": torch.from_numpy(np.concatenate(completion).astype(np.int64)),
    }


def _pack(kin: Sequence[tuple[int, Sequence[TokenRow]]], prompt_weight: float) -> MicroBatch:
    families = tuple(_family(shared, rows) for shared, rows in kin)
    ids, positions, trained, start = [], [], [], 0
    for family, (shared, rows) in zip(families, kin, strict=True):
        ids.append(rows[0].ids[:shared])
        positions.append(np.arange(shared))
        begins = start
        start += shared
        parts = []
        for row, own in zip(rows, family.own, strict=True):
            ids.append(row.ids[shared:-1])
            positions.append(np.arange(shared, shared + own))
            at, *rest = _trained(row, prompt_weight)
            parts.append((np.where(at < shared, at + begins, at - shared + start), *rest))
            start += own
        trained.append(_merged(parts) if shared else parts[0])
    return MicroBatch(
        ids=torch.from_numpy(np.concatenate(ids).astype(np.int64)).unsqueeze(0),
        positions=torch.from_numpy(np.concatenate(positions)).unsqueeze(0),
        families=families,
        attention_mask=None,
        tokens=sum(len(row.ids) for _, rows in kin for row in rows),
        **_tensors(*zip(*trained, strict=True)),
    )


def _merged(parts: Sequence[tuple[Any, Any, Any, Any]]) -> tuple[Any, Any, Any, Any]:
    """What rows train at positions they share: the same target once, its weights and completion tokens added up."""
    select, targets, weights, completion = (np.concatenate(each) for each in zip(*parts, strict=True))
    pairs, place = np.unique(np.stack([select, targets]), axis=1, return_inverse=True)
    place = place.reshape(-1)
    count = pairs.shape[1]
    return (
        pairs[0],
        pairs[1],
        np.bincount(place, weights, minlength=count),
        np.bincount(place, completion, minlength=count),
    )


def _pad(rows: Sequence[TokenRow], prompt_weight: float, pad: int) -> MicroBatch:
    laid = pad_rows(rows, pad)
    longest = laid["ids"].shape[1]
    trained = []
    for index, row in enumerate(rows):
        at, *rest = _trained(row, prompt_weight)
        trained.append((at + index * longest, *rest))
    tokens = sum(len(row.ids) for row in rows)
    trained_at = _tensors(*zip(*trained, strict=True))
    return MicroBatch(**laid, positions=None, families=None, tokens=tokens, **trained_at)


def pad_rows(rows: Sequence[TokenRow], pad: int) -> dict[str, Tensor]:
    """Return rows side by side without their last tokens, padded on the right, as fields of a `MicroBatch`."""
    shape = (len(rows), max(len(row.ids) - 1 for row in rows))
    ids, mask = np.full(shape, pad, dtype=np.int64), np.zeros(shape, dtype=np.int64)
    for index, row in enumerate(rows):
        ids[index, : len(row.ids) - 1] = row.ids[:-1]
        mask[index, : len(row.ids) - 1] = 1
    return {"ids": torch.from_numpy(ids), "attention_mask": torch.from_numpy(mask)}
