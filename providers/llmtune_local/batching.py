"""Which rows make a step, and how a step is cut into micro-batches that never change its gradient.

A step is `batch_size` rows of a permutation that is a pure function of seed and epoch, so that any step can be taken
up again by its number. Its rows are packed into micro-batches under a token budget (longest first, first fit), as one
sequence without padding, or padded where the model cannot be packed. Every micro-batch knows which positions are
trained, their targets and weights; the sum of weights over the whole step divides the loss.
"""

from __future__ import annotations

import functools
import random
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from llmtune_local.rows import TokenRow


@dataclass(frozen=True, slots=True)
class MicroBatch:
    """Rows that go through the model at once.

    Packed: `ids` and `positions` [1, tokens] and `row_lengths`. Padded on the right: `ids` and `attention_mask`
    [rows, longest]. `select` are flat positions whose next token is trained; `targets`, `weights` and `completion`
    [selected] belong to them.
    """

    ids: Tensor
    positions: Tensor | None
    row_lengths: list[int] | None
    attention_mask: Tensor | None
    select: Tensor
    targets: Tensor
    weights: Tensor
    completion: Tensor
    tokens: int

    def to(self, device: str) -> MicroBatch:
        """The same on a device."""
        if device == "cpu":
            return self
        moved: dict[str, Any] = {}
        for name in ("ids", "positions", "attention_mask", "select", "targets", "weights", "completion"):
            tensor = getattr(self, name)
            moved[name] = None if tensor is None else tensor.to(device, non_blocking=True)
        return MicroBatch(**moved, row_lengths=self.row_lengths, tokens=self.tokens)


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
    pad: int = 0,
) -> Step:
    """The micro-batches of one step's rows: `micro_batches` of them, or as many as the token budget asks for."""
    trimmed = [_trim(row, prompt_weight) for row in rows]
    lengths = [len(row.ids) for row in trimmed]
    if micro_batches is not None:
        groups = _balance(lengths, micro_batches)
    elif packed:
        groups = _first_fit(lengths, token_budget)
    else:
        groups = _by_length(lengths, token_budget)
    make = _pack if packed else _pad
    batches = [make([trimmed[index] for index in group], prompt_weight, pad) for group in groups]
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


def _by_length(lengths: Sequence[int], budget: int) -> list[list[int]]:
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


def _trained(rows: Sequence[TokenRow], prompt_weight: float, starts: Sequence[int]) -> dict[str, Tensor]:
    """Position t is trained to produce token t + 1, with that token's weight."""
    select, targets, weights, completion = [], [], [], []
    for row, start in zip(rows, starts, strict=True):
        produced = row.completion[1:]
        at = np.arange(len(produced)) if prompt_weight > 0 else np.flatnonzero(produced)
        select.append(at + start)
        targets.append(row.ids[1:][at])
        completion.append(produced[at])
        weights.append(np.where(produced[at], 1.0, prompt_weight))
    return {
        "select": torch.from_numpy(np.concatenate(select).astype(np.int64)),
        "targets": torch.from_numpy(np.concatenate(targets).astype(np.int64)),
        "weights": torch.from_numpy(np.concatenate(weights).astype(np.float32)),
        "completion": torch.from_numpy(np.concatenate(completion)),
    }


def _pack(rows: Sequence[TokenRow], prompt_weight: float, _pad: int) -> MicroBatch:
    # The last token of a row is only ever a target.
    lengths = [len(row.ids) - 1 for row in rows]
    starts = [sum(lengths[:index]) for index in range(len(rows))]
    ids = np.concatenate([row.ids[:-1] for row in rows]).astype(np.int64)
    positions = np.concatenate([np.arange(length) for length in lengths])
    return MicroBatch(
        ids=torch.from_numpy(ids).unsqueeze(0),
        positions=torch.from_numpy(positions).unsqueeze(0),
        row_lengths=lengths,
        attention_mask=None,
        tokens=sum(len(row.ids) for row in rows),
        **_trained(rows, prompt_weight, starts),
    )


def _pad(rows: Sequence[TokenRow], prompt_weight: float, pad: int) -> MicroBatch:
    longest = max(len(row.ids) - 1 for row in rows)
    ids = np.full((len(rows), longest), pad, dtype=np.int64)
    mask = np.zeros((len(rows), longest), dtype=np.int64)
    for index, row in enumerate(rows):
        ids[index, : len(row.ids) - 1] = row.ids[:-1]
        mask[index, : len(row.ids) - 1] = 1
    return MicroBatch(
        ids=torch.from_numpy(ids),
        positions=None,
        row_lengths=None,
        attention_mask=torch.from_numpy(mask),
        tokens=sum(len(row.ids) for row in rows),
        **_trained(rows, prompt_weight, [index * longest for index in range(len(rows))]),
    )
