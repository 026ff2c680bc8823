"""Packed attention on CUDA: all rows of a micro-batch in one call of flash attention's kernel for rows of any length.

Rows that stand behind one copy of their beginning take two calls: each row (and each beginning) at itself, and all
rows of a family at their beginning; merged as on the CPU (see `attention`), which is exact. How the rows lie is put on
the device once a micro-batch, not once a layer.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from llmtune_local.batching.packing import Family

#: What the kernel computes in, and the widest head it knows; widths are multiples of 8.
_DTYPES = (torch.bfloat16, torch.float16)
_WIDEST = 256


class _Spans(NamedTuple):
    """Stretches of queries and of keys that belong together: where each begins, as the kernel wants it (int32, one
    more than there are), and the longest."""

    query: Tensor
    key: Tensor
    longest_query: int
    longest_key: int


class _Layout(NamedTuple):
    """A micro-batch's rows: each at itself; and, where beginnings are shared, the rows' `own` tokens at those."""

    alone: _Spans
    own: Tensor | None
    shared: Tensor | None
    behind: _Spans | None


def can_attend(query: Tensor, key: Tensor, value: Tensor, dropout: float) -> bool:
    """Whether the kernel computes this: on CUDA, in half precision, without dropout."""
    width = query.shape[-1]
    return (
        query.device.type == "cuda"
        and query.dtype in _DTYPES
        and query.dtype == key.dtype == value.dtype
        and width == value.shape[-1]
        and width % 8 == 0
        and width <= _WIDEST
        and not dropout
        and torch.cuda.get_device_capability(query.device) >= (8, 0)
        and torch.version.hip is None
    )


def attend(
    query: Tensor, key: Tensor, value: Tensor, families: Sequence[Family], scale: float | None, window: int | None
) -> Tensor:
    """Causal attention of each row to itself and its beginning. `query` [1, heads, tokens, width], `key` and `value`
    [1, key heads, tokens, width]; returns [1, tokens, heads, width]. With a `window`, no row that shares its beginning
    may be longer than it."""
    layout = _layout(tuple(families), query.device)
    parts = (each.squeeze(0).transpose(0, 1) for each in (query, key, value))
    output: Tensor = _Varlen.apply(*parts, layout, scale, -1 if window is None else window - 1)  # type: ignore[no-untyped-call]
    return output.unsqueeze(0)


@functools.lru_cache(maxsize=8)
def _layout(families: tuple[Family, ...], device: torch.device) -> _Layout:
    def spans(queries: list[int], keys: list[int]) -> _Spans:
        query, key = (torch.tensor([0, *each]).cumsum(0).to(device, torch.int32) for each in (queries, keys))
        return _Spans(query, key, max(queries), max(keys))

    alone = [length for family in families for length in (family.shared, *family.own) if length]
    if not any(family.shared for family in families):
        return _Layout(spans(alone, alone), None, None, None)
    own, shared, queries, keys, start = [], [], [], [], 0
    for family in families:
        if family.shared:
            shared.append(torch.arange(start, start + family.shared))
            own.append(torch.arange(start + family.shared, start + family.tokens))
            queries.append(sum(family.own))
            keys.append(family.shared)
        start += family.tokens
    return _Layout(spans(alone, alone), torch.cat(own).to(device), torch.cat(shared).to(device), spans(queries, keys))


class _Varlen(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, query: Tensor, key: Tensor, value: Tensor, layout: _Layout, scale: float | None, left: int
    ) -> Tensor:
        output, norm, *seeds = _forward(query, key, value, layout.alone, True, scale, left)
        if layout.behind is not None:
            own, shared = layout.own, layout.shared
            seen, sums, *_ = _forward(query[own], key[shared], value[shared], layout.behind, False, scale, -1)
            mine = norm[:, own]  # [heads, own tokens], float32
            merged = torch.logaddexp(sums, mine)
            weigh = (each.exp().t().unsqueeze(-1) for each in (mine - merged, sums - merged))
            output[own] = (output[own] * next(weigh) + seen * next(weigh)).to(output.dtype)
            norm[:, own] = merged
        ctx.save_for_backward(query, key, value, output, norm, *seeds)
        ctx.layout, ctx.scale, ctx.left = layout, scale, left
        return output

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[Any, ...]:
        query, key, value, output, norm, *seeds = ctx.saved_tensors
        layout: _Layout = ctx.layout
        grad = grads[0].contiguous()
        found = _backward(grad, query, key, value, output, norm, seeds, layout.alone, True, ctx.scale, ctx.left)
        if layout.behind is not None:
            own, shared = layout.own, layout.shared
            parts = (grad[own], query[own], key[shared], value[shared], output[own], norm[:, own].contiguous())
            behind = _backward(*parts, seeds, layout.behind, False, ctx.scale, -1)
            for whole, part, place in zip(found, behind, (own, shared, shared), strict=True):
                whole[place] += part
        return (*found, None, None, None)


def _forward(
    query: Tensor, key: Tensor, value: Tensor, spans: _Spans, causal: bool, scale: float | None, left: int
) -> tuple[Tensor, ...]:
    """Output [tokens, heads, width], log-sum-exp [heads, tokens] and what backward asks to have back."""
    found: tuple[Tensor, ...] = torch.ops.aten._flash_attention_forward(
        query, key, value, *spans, 0.0, causal, False, **_window(causal, scale, left)
    )
    return found[:4]


def _window(causal: bool, scale: float | None, left: int) -> dict[str, Any]:
    return {"scale": scale, "window_size_left": left, "window_size_right": 0 if causal else -1}


def _backward(
    grad: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    output: Tensor,
    norm: Tensor,
    seeds: Sequence[Tensor],
    spans: _Spans,
    causal: bool,
    scale: float | None,
    left: int,
) -> list[Tensor]:
    tensors = (grad, query, key, value, output, norm)
    return list(
        torch.ops.aten._flash_attention_backward(*tensors, *spans, 0.0, causal, *seeds, **_window(causal, scale, left))
    )
