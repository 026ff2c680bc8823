"""Attention on the CPU, piece by piece: some queries at some keys, as much as is needed and no more.

A packed sequence is cut into pieces: each row at itself, all rows of a family at the beginning they share, and all
rows of a micro-batch at a beginning that was computed before it. Where only some answers are read (in the last block),
only their queries are asked. What a query finds in several pieces is merged by the log-sum-exps of the softmaxes. Flash
attention's backward needs no more of a softmax than its output and log-sum-exp; given the merged ones, each piece
gives its exact share of the gradient.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import torch

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from torch import Tensor

    from llmtune_local.batching.packing import Family


class Piece(NamedTuple):
    """Queries [first, last) at keys [begin, end): each at all of them or, causal, at those up to its own place."""

    first: int
    last: int
    begin: int
    end: int
    causal: bool

    @property
    def queries(self) -> slice:
        """Where its queries stand."""
        return slice(self.first, self.last)

    @property
    def keys(self) -> slice:
        """Where its keys stand."""
        return slice(self.begin, self.end)


def first_read(families: Sequence[Family], select: Tensor) -> tuple[int | None, ...]:
    """For each stretch of the sequence (a shared beginning, a row's own tokens) the first of its positions that is
    among `select`, None where there is none."""
    ordered = torch.unique(select)
    spans = list(_stretches(families))
    bounds = torch.searchsorted(ordered, torch.tensor(spans, device=ordered.device)).tolist()
    return tuple(int(ordered[low]) if low < high else None for low, high in bounds)


def cut(families: Sequence[Family], *, reads: Sequence[int | None] | None = None, ahead: int = 0) -> tuple[Piece, ...]:
    """The pieces of a packed sequence; those in which a query sees itself come first.

    With `reads` (see `first_read`), each stretch is asked from there on. `ahead` keys, which every query sees, stand
    before those of the sequence.
    """
    itself, others = [], []
    spans = list(_stretches(families))
    asked = iter(spans if reads is None else zip(reads, (stop for _, stop in spans), strict=True))
    start = 0
    for family in families:
        begins = start
        for place, length in enumerate((family.shared, *family.own)):
            if not length:
                continue
            first, stop = next(asked)
            if first is not None:
                itself.append(Piece(first, stop, ahead + first, ahead + stop, True))
                if first > start:
                    others.append(Piece(first, stop, ahead + start, ahead + first, False))
                if reads is not None:
                    if place and family.shared:
                        others.append(Piece(first, stop, ahead + begins, ahead + begins + family.shared, False))
                    if ahead:
                        others.append(Piece(first, stop, 0, ahead, False))
            start += length
        if reads is None and family.shared:
            others.append(Piece(begins + family.shared, start, ahead + begins, ahead + begins + family.shared, False))
    if reads is None and ahead:
        others.append(Piece(0, start, 0, ahead, False))
    return (*itself, *others)


def attend(query: Tensor, key: Tensor, value: Tensor, pieces: Sequence[Piece], scale: float | None) -> Tensor:
    """Each query at the keys of its pieces; zeros where a query has none. `query` [1, heads, tokens, width], `key` and
    `value` [1, heads, keys, width], of one width and dtype; returns what `query` is like."""
    output: Tensor = _Attend.apply(query, key, value, pieces, scale)  # type: ignore[no-untyped-call]
    return output


def _stretches(families: Sequence[Family]) -> Iterator[tuple[int, int]]:
    """Where each shared beginning and each row's own tokens stand."""
    start = 0
    for family in families:
        for length in (family.shared, *family.own):
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
        to_query, to_key, to_value = (_room(each, covered) for each in (query, key, value))
        for piece in ctx.pieces:
            asked = (each[:, :, piece.queries] for each in (grads[0], query))
            seen = (each[:, :, piece.keys] for each in (key, value))
            found = (each[:, :, piece.queries] for each in (output, norm))
            parts = flash(*asked, *seen, *found, 0.0, piece.causal, scale=ctx.scale)
            places = (to_query[:, :, piece.queries], to_key[:, :, piece.keys], to_value[:, :, piece.keys])
            for place, part in zip(places, parts, strict=True):
                if piece.causal:  # the first that comes here
                    place.copy_(part)
                else:
                    place.add_(part)
        return to_query, to_key, to_value, None, None


def _room(like: Tensor, covered: int) -> Tensor:
    """A tensor to write into: zeros, but where all of it will be written."""
    return torch.empty_like(like) if covered == like.shape[2] else torch.zeros_like(like)
