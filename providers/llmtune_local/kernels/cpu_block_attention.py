"""Attention on the CPU by blocks: some queries at some keys, as much as is needed and no more.

A packed sequence is cut into pieces: each row at itself, all rows of a group at the prefix they share, and all rows of
a micro-batch at a prefix that was computed before it. Where only some outputs are read (in the last block), only their
queries are computed. The outputs of a query at several pieces are merged by the log-sum-exps of the softmaxes. Flash
attention's backward needs no more of a softmax than its output and log-sum-exp; given the merged ones, each piece gives
its exact share of the gradient.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import torch

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from torch import Tensor

    from llmtune_local.batching.packing import PrefixGroup


class Piece(NamedTuple):
    """Queries [first, last) at keys [begin, end): each at all of them or, causal, at those up to its own position."""

    first: int
    last: int
    begin: int
    end: int
    causal: bool

    @property
    def queries(self) -> slice:
        """Return the positions of its queries."""
        return slice(self.first, self.last)

    @property
    def keys(self) -> slice:
        """Return the positions of its keys."""
        return slice(self.begin, self.end)


def first_read(prefix_groups: Sequence[PrefixGroup], select: Tensor) -> tuple[int | None, ...]:
    """Return the first position among `select` in each span of the sequence, None where there is none.

    A span is a shared prefix, or a row's own tokens.
    """
    ordered = torch.unique(select)
    spans = list(_stretches(prefix_groups))
    bounds = torch.searchsorted(ordered, torch.tensor(spans, device=ordered.device)).tolist()
    return tuple(int(ordered[low]) if low < high else None for low, high in bounds)


def cut(
    prefix_groups: Sequence[PrefixGroup], *, reads: Sequence[int | None] | None = None, prefix_tokens: int = 0
) -> tuple[Piece, ...]:
    """Cut a packed sequence into pieces; those in which a query sees itself come first.

    With `reads` (see `first_read`), each span is computed from there on. `prefix_tokens` keys, which every query sees,
    come before those of the sequence.
    """
    itself, further = [], []
    spans = list(_stretches(prefix_groups))
    query_spans = iter(spans if reads is None else zip(reads, (stop for _, stop in spans), strict=True))
    start = 0
    for group in prefix_groups:
        group_start = start
        for part, length in enumerate((group.shared, *group.own)):
            if not length:
                continue
            first, stop = next(query_spans)
            if first is not None:
                itself.append(Piece(first, stop, prefix_tokens + first, prefix_tokens + stop, True))
                if first > start:
                    further.append(Piece(first, stop, prefix_tokens + start, prefix_tokens + first, False))
                if reads is not None:
                    if part and group.shared:
                        further.append(
                            Piece(
                                first,
                                stop,
                                prefix_tokens + group_start,
                                prefix_tokens + group_start + group.shared,
                                False,
                            )
                        )
                    if prefix_tokens:
                        further.append(Piece(first, stop, 0, prefix_tokens, False))
            start += length
        if reads is None and group.shared:
            further.append(
                Piece(
                    group_start + group.shared,
                    start,
                    prefix_tokens + group_start,
                    prefix_tokens + group_start + group.shared,
                    False,
                )
            )
    if reads is None and prefix_tokens:
        further.append(Piece(0, start, 0, prefix_tokens, False))
    return (*itself, *further)


def attend(query: Tensor, key: Tensor, value: Tensor, pieces: Sequence[Piece], scale: float | None) -> Tensor:
    """Attend with each query to the keys of its pieces; zeros where a query has none.

    `query` [1, heads, tokens, width], `key` and `value` [1, heads, keys, width], of one width and dtype; the result is
    like `query`.
    """
    output: Tensor = _Attend.apply(query, key, value, pieces, scale)  # type: ignore[no-untyped-call]
    return output


def _stretches(prefix_groups: Sequence[PrefixGroup]) -> Iterator[tuple[int, int]]:
    """Yield where each shared prefix and each row's own tokens start and stop."""
    start = 0
    for group in prefix_groups:
        for length in (group.shared, *group.own):
            if length:
                yield start, start + length
            start += length


class _Attend(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, query: Tensor, key: Tensor, value: Tensor, pieces: Sequence[Piece], scale: float | None
    ) -> Tensor:
        flash = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
        output = _room(query, sum(piece.last - piece.first for piece in pieces if piece.causal))
        # [1, heads, tokens], in float32 whatever the rest is in
        norm = torch.empty(query.shape[:3], dtype=torch.float32)
        for piece in pieces:
            q, k, v = query[:, :, piece.queries], key[:, :, piece.keys], value[:, :, piece.keys]
            part, sums = flash(q, k, v, 0.0, piece.causal, scale=scale)
            here, here_sums = output[:, :, piece.queries], norm[:, :, piece.queries]
            if piece.causal:
                here.copy_(part)
                here_sums.copy_(sums)
                continue
            merged = torch.logaddexp(sums, here_sums)
            here.mul_((here_sums - merged).exp_().unsqueeze(-1)).add_(part * (sums - merged).exp_().unsqueeze(-1))
            here_sums.copy_(merged)
        ctx.save_for_backward(query, key, value, output, norm)
        ctx.pieces, ctx.scale = pieces, scale
        return output

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[Any, ...]:
        flash = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward
        query, key, value, output, norm = ctx.saved_tensors
        covered = sum(piece.last - piece.first for piece in ctx.pieces if piece.causal)
        to_query, to_key, to_value = (_room(tensor, covered) for tensor in (query, key, value))
        for piece in ctx.pieces:
            at_queries = (tensor[:, :, piece.queries] for tensor in (grads[0], query))
            at_keys = (tensor[:, :, piece.keys] for tensor in (key, value))
            outputs = (tensor[:, :, piece.queries] for tensor in (output, norm))
            parts = flash(*at_queries, *at_keys, *outputs, 0.0, piece.causal, scale=ctx.scale)
            targets = (to_query[:, :, piece.queries], to_key[:, :, piece.keys], to_value[:, :, piece.keys])
            for target, part in zip(targets, parts, strict=True):
                if piece.causal:  # the first that comes here
                    target.copy_(part)
                else:
                    target.add_(part)
        return to_query, to_key, to_value, None, None


def _room(like: Tensor, covered: int) -> Tensor:
    """Return a tensor to write into: zeros, unless all of it will be written."""
    return torch.empty_like(like) if covered == like.shape[2] else torch.zeros_like(like)
