"""Direct Preference Optimization (arXiv:2305.18290): raise the preferred answer's likelihood above the rejected one's.

    loss = -(1 - e) log s(m) - e log s(-m),   m = reward(preferred) - reward(rejected),
    reward(answer) = beta * (log p(answer | prompt) - log p_reference(answer | prompt))

s is the logistic function, e the label smoothing (0 is DPO as published; above, it is the conservative form for pairs
of which a share e may be the wrong way round). Likelihoods are summed over the answer's tokens, its end-of-turn token
included. The loss of a step is the mean over its pairs, so how they are cut into micro-batches changes nothing.

The reference is the model that the run starts from. With a fresh adapter that is the same model with its adapter
switched off, and no second one is in memory. Where there is nothing to switch off (full tuning, or going on from an
adapter) the reference's likelihoods are taken once, before the first step, and kept in the run folder: they are two
numbers a pair.
"""

from __future__ import annotations

import contextlib
import io
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch.nn import functional

from llmtune_local.batching.packing import SHARED_TOKENS, Family, MicroBatch, pad_rows
from llmtune_local.batching.sizes import chunk_rows
from llmtune_local.batching.token_rows import TokenRow, TokenRows, read_pairs
from llmtune_local.models.hub import adapter_of
from llmtune_local.run_state.run_dir import write_atomically
from llmtune_local.training.trainer import Trainer

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from llmtune_local.models.model_runner import Network

#: Beta where the request leaves it open; the paper's own default.
BETA = 0.1

Pair = tuple[TokenRow, TokenRow]


class PairLosses(NamedTuple):
    """One value a pair. `rewards` [pairs, 2] are those of the preferred and of the rejected answer."""

    loss: Tensor
    rewards: Tensor

    @property
    def margins(self) -> Tensor:
        """Reward of the preferred answer minus that of the rejected one, [pairs]."""
        return self.rewards[:, 0] - self.rewards[:, 1]


def pair_losses(policy: Tensor, reference: Tensor, *, beta: float, smoothing: float = 0.0) -> PairLosses:
    """The loss of each pair from log-likelihoods in nats, both [pairs, 2]: preferred and rejected answer."""
    rewards = beta * (policy - reference)
    margin = rewards[:, 0] - rewards[:, 1]
    loss = -(1 - smoothing) * functional.logsigmoid(margin) - smoothing * functional.logsigmoid(-margin)
    return PairLosses(loss, rewards)


@dataclass(frozen=True, slots=True)
class PairBatch:
    """Pairs that go through the model at once. Both answers of a pair stand side by side.

    `batch` is laid out as for any other loss; `owner` [selected] says to which answer a trained token belongs: 2 i and
    2 i + 1 are the preferred and the rejected answer of the pair `pairs[i]` of its file.
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


def make_pairs(
    rows: Sequence[Pair],
    numbers: Sequence[int],
    *,
    packed: bool,
    token_budget: int,
    micro_batches: int | None = None,
    share: bool = False,
    pad: int = 0,
) -> PairStep:
    """The pairs `numbers` of a file as micro-batches: so many, or as many as the token budget asks for.

    Packed, the two answers of a pair stand behind one copy of their prompt where the model can do that (`share`).
    """
    sizes = {number: _size(rows[number], packed=packed, share=share) for number in numbers}
    ordered = sorted(numbers, key=lambda number: (-sizes[number], number))
    groups: list[list[int]] = []
    if micro_batches is None:
        for number in ordered:
            fits = (group for group in groups if _area(sizes, [*group, number], packed) <= token_budget)
            group = next(fits, None)
            if group is None:
                groups.append([number])
            else:
                group.append(number)
    else:
        groups = [[] for _ in range(min(micro_batches, len(ordered)))]
        for number in ordered:
            min(groups, key=lambda group: sum(sizes[each] for each in group)).append(number)
    lay = _pack if packed else _pad
    batches = [lay([rows[number] for number in group], tuple(group), share, pad) for group in groups]
    return PairStep(
        batches,
        weight=float(len(numbers)),
        tokens=sum(len(side.ids) for number in numbers for side in rows[number]),
        completion_tokens=sum(int(side.completion.sum()) for number in numbers for side in rows[number]),
    )


def _shared(pair: Pair) -> int:
    """How many first tokens both sides share; at least one that the model sees stays each side's own."""
    length = max(0, min(len(side.ids) for side in pair) - 2)
    different = np.flatnonzero(pair[0].ids[:length] != pair[1].ids[:length])
    common = int(different[0]) if len(different) else length
    return common if common >= SHARED_TOKENS else 0


def _size(pair: Pair, *, packed: bool, share: bool) -> int:
    if not packed:
        return 2 * max(len(side.ids) for side in pair)
    return sum(len(side.ids) for side in pair) - (_shared(pair) if share else 0)


def _area(sizes: dict[int, int], group: list[int], packed: bool) -> int:
    found = [sizes[number] for number in group]
    return sum(found) if packed else max(found) * len(found)


def _trained(side: TokenRow) -> tuple[Any, Any]:
    """Positions whose next token is the answer's, and that token."""
    at = np.flatnonzero(side.completion[1:])
    return at, side.ids[1:][at].astype(np.int64)


def _pack(pairs: Sequence[Pair], numbers: tuple[int, ...], share: bool, _pad: int) -> PairBatch:
    ids, positions, families, trained = [], [], [], []
    start = 0
    for index, pair in enumerate(pairs):
        shared = _shared(pair) if share else 0
        own = [len(side.ids) - 1 - shared for side in pair]
        families += [Family(shared, tuple(own))] if shared else [Family(0, (length,)) for length in own]
        begins = start
        ids.append(pair[0].ids[:shared])
        positions.append(np.arange(shared))
        start += shared
        for place, (side, length) in enumerate(zip(pair, own, strict=True)):
            ids.append(side.ids[shared:-1])
            positions.append(np.arange(shared, shared + length))
            at, target = _trained(side)
            select = np.where(at < shared, at + begins, at - shared + start)
            trained.append((select, target, np.full(len(at), 2 * index + place)))
            start += length
    return _batch(
        pairs,
        numbers,
        trained,
        ids=torch.from_numpy(np.concatenate(ids).astype(np.int64)).unsqueeze(0),
        positions=torch.from_numpy(np.concatenate(positions)).unsqueeze(0),
        families=tuple(families),
        attention_mask=None,
    )


def _pad(pairs: Sequence[Pair], numbers: tuple[int, ...], _share: bool, pad: int) -> PairBatch:
    sides = [side for pair in pairs for side in pair]
    laid = pad_rows(sides, pad)
    longest = laid["ids"].shape[1]
    trained = []
    for index, side in enumerate(sides):
        at, target = _trained(side)
        trained.append((at + index * longest, target, np.full(len(at), index)))
    return _batch(pairs, numbers, trained, positions=None, families=None, **laid)


def _batch(
    pairs: Sequence[Pair], numbers: tuple[int, ...], trained: Sequence[tuple[Any, Any, Any]], **laid: Any
) -> PairBatch:
    """Return the batch; `trained` holds of each side the places that are trained, their tokens, and whose they are."""
    select, targets, owner = (np.concatenate(column) for column in zip(*trained, strict=True))
    chosen = torch.from_numpy(select.astype(np.int64))
    batch = MicroBatch(
        **laid,
        select=chosen,
        targets=torch.from_numpy(targets),
        weights=torch.ones(len(chosen)),
        completion=torch.ones(len(chosen), dtype=torch.int64),
        tokens=sum(len(side.ids) for pair in pairs for side in pair),
    )
    return PairBatch(batch, torch.from_numpy(owner.astype(np.int64)), numbers)


class _LogLikelihood(torch.autograd.Function):
    """log softmax(hidden W^T + b)[target] in chunks; backward makes each chunk's logits again instead of keeping them.

    The loss of a pair depends on both of its answers, so its gradient is not known on the way forward.
    """

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor) -> Tensor:
        found = torch.empty(hidden.shape[0], dtype=torch.float32, device=hidden.device)
        for part in _parts(hidden, weight):
            logits = functional.linear(hidden[part].to(weight.dtype), weight, bias).float()
            found[part] = logits.gather(1, targets[part].unsqueeze(1)).squeeze(1) - torch.logsumexp(logits, dim=1)
        ctx.save_for_backward(hidden, weight, bias, targets)
        return found

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[Any, ...]:
        hidden, weight, bias, targets = ctx.saved_tensors
        wants_hidden, wants_weight, wants_bias = ctx.needs_input_grad[:3]
        to_hidden = torch.empty_like(hidden) if wants_hidden else None
        to_weight = torch.zeros_like(weight, dtype=torch.float32) if wants_weight else None
        to_bias = torch.zeros_like(bias, dtype=torch.float32) if wants_bias and bias is not None else None
        for part in _parts(hidden, weight):
            piece = hidden[part].to(weight.dtype)
            grad = functional.linear(piece, weight, bias).float().softmax(dim=1).neg_()
            grad.scatter_add_(1, targets[part].unsqueeze(1), torch.ones_like(grad[:, :1]))
            grad.mul_(grads[0][part].unsqueeze(1))
            low = grad.to(weight.dtype)
            if to_hidden is not None:
                to_hidden[part] = (low @ weight).to(hidden.dtype)
            if to_weight is not None:
                to_weight.add_(low.t() @ piece)
            if to_bias is not None:
                to_bias.add_(grad.sum(dim=0))
        return to_hidden, to_weight, to_bias, None


def _parts(hidden: Tensor, weight: Tensor) -> list[slice]:
    size = chunk_rows(weight.shape[0], hidden.device.type)
    return [slice(start, start + size) for start in range(0, hidden.shape[0], size)]


def likelihoods(network: Network, pairs: PairBatch) -> Tensor:
    """Log-likelihood in nats of each answer given its prompt, [pairs, 2], with its gradient."""
    batch = pairs.batch.to(network.device)
    with network.arithmetic():
        if network.linear_head:
            head = network.causal.get_output_embeddings()
            hidden = network.hidden(batch)
            each: Tensor = _LogLikelihood.apply(hidden, head.weight, head.bias, batch.targets)  # type: ignore[no-untyped-call]
        else:
            logits = network.logits(batch).float()
            each = -functional.cross_entropy(logits, batch.targets, reduction="none")
    sums = torch.zeros(2 * len(pairs.pairs), dtype=torch.float32, device=each.device)
    return sums.index_add(0, pairs.owner.to(each.device), each).view(-1, 2)


class PreferenceTrainer(Trainer):
    """Trains on preference rows by DPO; everything that is not the loss is the same as in any other run."""

    def _rows(self, path: str) -> TokenRows:
        return self._checked(path, read_pairs)

    def _load(self, published: torch.dtype | None) -> None:
        self.beta = self.recipe.dpo_beta or BETA
        fresh = self.request.adapter != "full" and adapter_of(self.request.model)[1] is None
        self.reference_off = fresh
        self.resolved["dpo_reference"] = (
            "the adapter switched off"
            if fresh
            else "the model at the start; its likelihoods are kept in the run folder"
        )
        super()._load(published)
        self._reference: dict[int, tuple[float, float]] = {}
        """By pair: training pairs count from 0, validation pairs from the number of training pairs."""
        if not fresh:
            self._keep_reference()

    def _hold_out(self) -> list[Any]:
        return self._make(self.validation, range(len(self.validation))).batches

    def _cut_into(self, indices: Sequence[int], micro_batches: int | None) -> Any:
        return self._make(self.train, indices, micro_batches)

    def _make(self, rows: TokenRows, numbers: Sequence[int], micro_batches: int | None = None) -> PairStep:
        return make_pairs(
            rows.rows,  # type: ignore[arg-type]
            list(numbers),
            packed=self.network.packed,
            token_budget=self.budget,
            micro_batches=micro_batches,
            share=self.network.shares,
            pad=self.tokenizer.pad_token_id or 0,
        )

    def _backward(self, step: Any, batches: Sequence[Any]) -> dict[str, float]:
        found = []
        for pairs in batches:
            reference = self._of_reference(pairs, 0)
            losses = self._losses(pairs, reference, smoothing=self.recipe.label_smoothing)
            share: Any = losses.loss.sum() / step.weight
            share.backward()
            found.append(PairLosses(*(each.detach() for each in losses)))
        return _figures("train", found, sum(len(pairs.pairs) for pairs in step.batches))

    def _measure(self) -> dict[str, float]:
        found = [self._losses(pairs, self._of_reference(pairs, len(self.train))) for pairs in self.held_out]
        return _figures("validation", found, len(self.validation))

    def _losses(self, pairs: PairBatch, reference: Tensor, *, smoothing: float = 0.0) -> PairLosses:
        self.journal.update()
        return pair_losses(likelihoods(self.network, pairs), reference, beta=self.beta, smoothing=smoothing)

    # the reference

    def _of_reference(self, pairs: PairBatch, offset: int) -> Tensor:
        """The reference's log-likelihoods [pairs, 2]: taken when a pair is first met, and known from then on."""
        known = self._reference
        if any(offset + number not in known for number in pairs.pairs):
            self._ask_reference(pairs, offset)
        return torch.tensor([known[offset + number] for number in pairs.pairs], device=self.device)

    def _ask_reference(self, pairs: PairBatch, offset: int) -> None:
        training = self.model.training
        self.model.eval()
        off = self.model.disable_adapter() if self.reference_off else contextlib.nullcontext()
        with torch.no_grad(), off:
            found = likelihoods(self.network, pairs).tolist()
        self.model.train(training)
        self._reference |= {offset + number: tuple(each) for number, each in zip(pairs.pairs, found, strict=True)}

    def _keep_reference(self) -> None:
        """Take the likelihoods of all pairs before anything is trained, or find those of an earlier attempt."""
        path = self.folder.path / "reference.npy"
        expected = len(self.train) + len(self.validation)
        if path.exists():
            try:
                kept = np.load(path)
            except (OSError, ValueError, EOFError):  # a crash has damaged it: it is taken again
                kept = np.empty(0)
            if kept.shape == (expected, 2):
                self._reference = {number: (float(one), float(other)) for number, (one, other) in enumerate(kept)}
                return
        self.journal.update(message="taking the reference's likelihoods")
        for rows, offset in ((self.train, 0), (self.validation, len(self.train))):
            if rows:
                for pairs in self._make(rows, range(len(rows))).batches:
                    self._ask_reference(pairs, offset)
        written = io.BytesIO()
        np.save(written, np.array([self._reference[number] for number in range(expected)], dtype=np.float64))
        if self.team.leads:
            write_atomically(path, written.getvalue())


def _figures(part: str, found: Sequence[PairLosses], pairs: int) -> dict[str, float]:
    """Means over `pairs`, of which `found` are some or all: loss, margin, the share of pairs whose margin is positive,
    and both rewards. Those of all parts add up."""
    loss = torch.cat([each.loss.cpu() for each in found]) if found else torch.zeros(0)
    rewards = torch.cat([each.rewards.cpu() for each in found]) if found else torch.zeros(0, 2)
    margins = rewards[:, 0] - rewards[:, 1]
    return {
        f"{part}/loss": float(loss.sum()) / pairs,
        f"{part}/reward_margin": float(margins.sum()) / pairs,
        f"{part}/reward_accuracy": float((margins > 0).sum()) / pairs,
        f"{part}/reward_preferred": float(rewards[:, 0].sum()) / pairs,
        f"{part}/reward_rejected": float(rewards[:, 1].sum()) / pairs,
    }
