"""Direct Preference Optimization (arXiv:2305.18290): raise the preferred answer's likelihood above the rejected one's.

The loss is that of `pair_loss.py`. The reference is the model that the run starts from. With a fresh adapter that is
the same model with its adapter switched off, and no second one is in memory. Where there is nothing to switch off (full
tuning, or going on from an adapter) the reference's likelihoods are taken once, before the first step, and kept in the
run folder: they are two numbers a pair.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.nn import functional

from llmtune_local.batching.packing import SHARED_TOKENS, MicroBatch, PrefixGroup, pad_rows
from llmtune_local.batching.token_rows import TokenRow, TokenRows, read_pairs
from llmtune_local.models.hub import split_adapter
from llmtune_local.training.likelihoods import token_log_likelihoods
from llmtune_local.training.pair_loss import (
    BETA,
    PairLosses,
    mean_metrics,
    pair_losses,
    read_reference,
    write_reference,
)
from llmtune_local.training.trainer import Trainer

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from llmtune_local.models.model_runner import Network

Pair = tuple[TokenRow, TokenRow]


@dataclass(frozen=True, slots=True)
class PairBatch:
    """Pairs that go through the model at once, both answers of a pair side by side.

    `batch` is laid out as for any other loss; `owner` [selected] names the answer that a trained token belongs to: 2 i
    and 2 i + 1 are the preferred and the rejected answer of the pair `pairs[i]` of its file.
    """

    batch: MicroBatch
    owner: Tensor
    pairs: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class PairStep:
    """One optimizer step of pairs; counts as in `batching.Step`."""

    batches: list[PairBatch]
    weight: float
    tokens: int
    completion_tokens: int


def make_pair_step(
    rows: Sequence[Pair],
    numbers: Sequence[int],
    *,
    packed: bool,
    token_budget: int,
    micro_batches: int | None = None,
    share_prefixes: bool = False,
    pad: int = 0,
) -> PairStep:
    """Cut the pairs `numbers` of a file into micro-batches: `micro_batches`, or as many as the token budget asks for.

    Packed, the two answers of a pair share one copy of their prompt where the model can do that (`share_prefixes`).
    """
    sizes = {number: _pair_tokens(rows[number], packed=packed, share_prefixes=share_prefixes) for number in numbers}
    ordered = sorted(numbers, key=lambda number: (-sizes[number], number))
    groups: list[list[int]] = []
    if micro_batches is None:
        for number in ordered:
            fits = (group for group in groups if _batch_tokens(sizes, [*group, number], packed) <= token_budget)
            group = next(fits, None)
            if group is None:
                groups.append([number])
            else:
                group.append(number)
    else:
        groups = [[] for _ in range(min(micro_batches, len(ordered)))]
        for number in ordered:
            min(groups, key=lambda group: sum(sizes[member] for member in group)).append(number)
    make_batch = _pack if packed else _pad
    batches = [make_batch([rows[number] for number in group], tuple(group), share_prefixes, pad) for group in groups]
    return PairStep(
        batches,
        weight=float(len(numbers)),
        tokens=sum(len(side.ids) for number in numbers for side in rows[number]),
        completion_tokens=sum(int(side.completion.sum()) for number in numbers for side in rows[number]),
    )


def _shared_tokens(pair: Pair) -> int:
    """Count the first tokens that both sides share; at least one that the model sees stays each side's own."""
    length = max(0, min(len(side.ids) for side in pair) - 2)
    different = np.flatnonzero(pair[0].ids[:length] != pair[1].ids[:length])
    common = int(different[0]) if len(different) else length
    return common if common >= SHARED_TOKENS else 0


def _pair_tokens(pair: Pair, *, packed: bool, share_prefixes: bool) -> int:
    if not packed:
        return 2 * max(len(side.ids) for side in pair)
    return sum(len(side.ids) for side in pair) - (_shared_tokens(pair) if share_prefixes else 0)


def _batch_tokens(sizes: dict[int, int], group: list[int], packed: bool) -> int:
    lengths = [sizes[number] for number in group]
    return sum(lengths) if packed else max(lengths) * len(lengths)


def _trained_positions(side: TokenRow) -> tuple[Any, Any]:
    """Return the positions whose next token is the answer's, and that token."""
    at = np.flatnonzero(side.completion[1:])
    return at, side.ids[1:][at].astype(np.int64)


def _pack(pairs: Sequence[Pair], numbers: tuple[int, ...], share_prefixes: bool, _pad: int) -> PairBatch:
    ids, positions, prefix_groups, trained = [], [], [], []
    start = 0
    for index, pair in enumerate(pairs):
        shared = _shared_tokens(pair) if share_prefixes else 0
        lengths = [len(side.ids) - 1 - shared for side in pair]
        prefix_groups += (
            [PrefixGroup(shared, tuple(lengths))] if shared else [PrefixGroup(0, (length,)) for length in lengths]
        )
        pair_start = start
        ids.append(pair[0].ids[:shared])
        positions.append(np.arange(shared))
        start += shared
        for side_index, (side, length) in enumerate(zip(pair, lengths, strict=True)):
            ids.append(side.ids[shared:-1])
            positions.append(np.arange(shared, shared + length))
            at, target = _trained_positions(side)
            select = np.where(at < shared, at + pair_start, at - shared + start)
            trained.append((select, target, np.full(len(at), 2 * index + side_index)))
            start += length
    return _batch(
        pairs,
        numbers,
        trained,
        ids=torch.from_numpy(np.concatenate(ids).astype(np.int64)).unsqueeze(0),
        positions=torch.from_numpy(np.concatenate(positions)).unsqueeze(0),
        prefix_groups=tuple(prefix_groups),
        attention_mask=None,
    )


def _pad(pairs: Sequence[Pair], numbers: tuple[int, ...], _share_prefixes: bool, pad: int) -> PairBatch:
    sides = [side for pair in pairs for side in pair]
    fields = pad_rows(sides, pad)
    longest = fields["ids"].shape[1]
    trained = []
    for index, side in enumerate(sides):
        at, target = _trained_positions(side)
        trained.append((at + index * longest, target, np.full(len(at), index)))
    return _batch(pairs, numbers, trained, positions=None, prefix_groups=None, **fields)


def _batch(
    pairs: Sequence[Pair], numbers: tuple[int, ...], trained: Sequence[tuple[Any, Any, Any]], **fields: Any
) -> PairBatch:
    """Build the batch; `trained` holds of each side its trained positions, their targets, and their owner."""
    select, targets, owner = (np.concatenate(column) for column in zip(*trained, strict=True))
    chosen = torch.from_numpy(select.astype(np.int64))
    batch = MicroBatch(
        **fields,
        select=chosen,
        targets=torch.from_numpy(targets),
        weights=torch.ones(len(chosen)),
        completion=torch.ones(len(chosen), dtype=torch.int64),
        tokens=sum(len(side.ids) for pair in pairs for side in pair),
    )
    return PairBatch(batch, torch.from_numpy(owner.astype(np.int64)), numbers)


def pair_log_likelihoods(network: Network, pairs: PairBatch) -> Tensor:
    """Log-likelihood in nats of each answer given its prompt, [pairs, 2], with its gradient."""
    batch = pairs.batch.to(network.device)
    with network.autocast():
        if network.linear_head:
            head = network.causal.get_output_embeddings()
            per_token = token_log_likelihoods(network.hidden(batch), head.weight, head.bias, batch.targets)
        else:
            logits = network.logits(batch).float()
            per_token = -functional.cross_entropy(logits, batch.targets, reduction="none")
    sums = torch.zeros(2 * len(pairs.pairs), dtype=torch.float32, device=per_token.device)
    return sums.index_add(0, pairs.owner.to(per_token.device), per_token).view(-1, 2)


class PreferenceTrainer(Trainer):
    """Trainer on preference rows by DPO; everything but the loss is the same as in any other run."""

    other_validation_passes = 2
    """The one before the first step, and the reference's."""

    shares_validation = False

    def _read_rows(self, path: str) -> TokenRows:
        return self._read_and_check(path, read_pairs)

    def _load_model(self, published: torch.dtype | None) -> None:
        self.beta = self.recipe.dpo_beta or BETA
        has_fresh_adapter = self.request.adapter != "full" and split_adapter(self.request.model)[1] is None
        self.reference_off = has_fresh_adapter
        self.resolved["dpo_reference"] = (
            "the adapter switched off"
            if has_fresh_adapter
            else "the model at the start; its likelihoods are kept in the run folder"
        )
        super()._load_model(published)
        self._reference: dict[int, tuple[float, float]] = {}
        """By pair: training pairs count from 0, validation pairs from the number of training pairs."""
        if not has_fresh_adapter:
            self._load_or_compute_reference()

    def _make_validation_batches(self) -> list[Any]:
        return self._make(self.validation, range(len(self.validation))).batches

    def _make_micro_batches(self, indices: Sequence[int], number: int, micro_batches: int | None) -> Any:
        return self._make(self.train, indices, micro_batches)

    def _make(self, rows: TokenRows, numbers: Sequence[int], micro_batches: int | None = None) -> PairStep:
        return make_pair_step(
            rows.rows,  # type: ignore[arg-type]
            list(numbers),
            packed=self.network.packed,
            token_budget=self.budget,
            micro_batches=micro_batches,
            share_prefixes=self.network.shares_prefixes,
            pad=self.tokenizer.pad_token_id or 0,
        )

    def _backward(self, step: Any, batches: Sequence[Any]) -> dict[str, float]:
        measured = []
        for pairs in batches:
            reference = self._reference_likelihoods(pairs, 0)
            losses = self._losses(pairs, reference, smoothing=self.recipe.label_smoothing)
            share: Any = losses.loss.sum() / step.weight
            share.backward()
            measured.append(PairLosses(*(tensor.detach() for tensor in losses)))
        return mean_metrics("train", measured, sum(len(pairs.pairs) for pairs in step.batches))

    def _measure(self) -> dict[str, float]:
        losses = [
            self._losses(pairs, self._reference_likelihoods(pairs, len(self.train)))
            for pairs in self.validation_batches
        ]
        return mean_metrics("validation", losses, len(self.validation))

    def _accuracy(self, values: dict[str, float]) -> float | None:
        return values.get("validation/reward_accuracy")

    def _losses(self, pairs: PairBatch, reference: Tensor, *, smoothing: float = 0.0) -> PairLosses:
        self.status_writer.update()
        return pair_losses(pair_log_likelihoods(self.network, pairs), reference, beta=self.beta, smoothing=smoothing)

    # the reference

    def _reference_likelihoods(self, pairs: PairBatch, offset: int) -> Tensor:
        """Return the reference's log-likelihoods [pairs, 2], computed once for each pair."""
        stored = self._reference
        if any(offset + number not in stored for number in pairs.pairs):
            self._compute_reference(pairs, offset)
        return torch.tensor([stored[offset + number] for number in pairs.pairs], device=self.device)

    def _compute_reference(self, pairs: PairBatch, offset: int) -> None:
        training = self.model.training
        self.model.eval()
        off = self.model.disable_adapter() if self.reference_off else contextlib.nullcontext()
        with torch.no_grad(), off:
            values = pair_log_likelihoods(self.network, pairs).tolist()
        self.model.train(training)
        self._reference |= {offset + number: tuple(pair) for number, pair in zip(pairs.pairs, values, strict=True)}

    def _load_or_compute_reference(self) -> None:
        """Load the likelihoods of all pairs from an earlier attempt, or compute them before anything is trained."""
        path = self.folder.path / "reference.npy"
        expected = len(self.train) + len(self.validation)
        stored = read_reference(path, expected)
        if stored is not None:
            self._reference = {
                number: (float(preferred), float(rejected)) for number, (preferred, rejected) in enumerate(stored)
            }
            return
        self.status_writer.update(message="taking the reference's likelihoods")
        for rows, offset in ((self.train, 0), (self.validation, len(self.train))):
            if rows:
                for pairs in self._make(rows, range(len(rows))).batches:
                    self._compute_reference(pairs, offset)
        if self.worker_group.is_main:
            write_reference(path, np.array([self._reference[number] for number in range(expected)], dtype=np.float64))
