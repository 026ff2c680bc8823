"""Packed attention on CUDA: all rows of a micro-batch in one call of flash attention's kernel for rows of any length.

Rows that share one copy of a prefix take two calls: each row (and each prefix) at itself, and all rows of a group at
their prefix; merged as on the CPU (see `cpu_block_attention`), which is exact. The layout of the rows is moved to the
device once per micro-batch, not once per layer.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from llmtune_local.batching.packing import PrefixGroup

#: What the kernel computes in, and the widest head it knows; widths are multiples of 8.
_DTYPES = (torch.bfloat16, torch.float16)
_WIDEST = 256


class _Spans(NamedTuple):
    """Spans of queries and of keys that belong together: where each begins, as the kernel wants it (int32, one more
    than there are spans), and the longest."""

    query: Tensor
    key: Tensor
    longest_query: int
    longest_key: int


class _Layout(NamedTuple):
    """A micro-batch's rows: each at itself; and, where prefixes are shared, the rows' own tokens at their prefix."""

    self_spans: _Spans
    own: Tensor | None
    shared: Tensor | None
    prefix_spans: _Spans | None


def can_attend(query: Tensor, key: Tensor, value: Tensor, dropout: float) -> bool:
    """Return whether the kernel computes this: on CUDA, in half precision, without dropout."""
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
    query: Tensor,
    key: Tensor,
    value: Tensor,
    prefix_groups: Sequence[PrefixGroup],
    scale: float | None,
    window: int | None,
) -> Tensor:
    """Compute causal attention of each row to itself and its prefix.

    `query` [1, heads, tokens, width], `key` and `value` [1, key heads, tokens, width]; returns [1, tokens, heads,
    width]. With a `window`, no row that shares its prefix may be longer than it.
    """
    layout = _layout(tuple(prefix_groups), query.device)
    parts = (tensor.squeeze(0).transpose(0, 1) for tensor in (query, key, value))
    output: Tensor = _Varlen.apply(*parts, layout, scale, -1 if window is None else window - 1)  # type: ignore[no-untyped-call]
    return output.unsqueeze(0)


@functools.lru_cache(maxsize=8)
def _layout(prefix_groups: tuple[PrefixGroup, ...], device: torch.device) -> _Layout:
    def spans(queries: list[int], keys: list[int]) -> _Spans:
        query, key = (torch.tensor([0, *lengths]).cumsum(0).to(device, torch.int32) for lengths in (queries, keys))
        return _Spans(query, key, max(queries), max(keys))

    lengths = [length for group in prefix_groups for length in (group.shared, *group.own) if length]
    if not any(group.shared for group in prefix_groups):
        return _Layout(spans(lengths, lengths), None, None, None)
    suffixes, shared, queries, keys, start = [], [], [], [], 0
    for group in prefix_groups:
        if group.shared:
            shared.append(torch.arange(start, start + group.shared))
            suffixes.append(torch.arange(start + group.shared, start + group.tokens))
            queries.append(sum(group.own))
            keys.append(group.shared)
        start += group.tokens
    return _Layout(
        spans(lengths, lengths), torch.cat(suffixes).to(device), torch.cat(shared).to(device), spans(queries, keys)
    )


class _Varlen(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, query: Tensor, key: Tensor, value: Tensor, layout: _Layout, scale: float | None, window_left: int
    ) -> Tensor:
        output, norm, *seeds = _forward(query, key, value, layout.self_spans, True, scale, window_left)
        if layout.prefix_spans is not None:
            suffix, shared = layout.own, layout.shared
            prefix_output, sums, *_ = _forward(
                query[suffix], key[shared], value[shared], layout.prefix_spans, False, scale, -1
            )
            suffix_norm = norm[:, suffix]  # [heads, own tokens], float32
            merged = torch.logaddexp(sums, suffix_norm)
            weigh = (difference.exp().t().unsqueeze(-1) for difference in (suffix_norm - merged, sums - merged))
            output[suffix] = (output[suffix] * next(weigh) + prefix_output * next(weigh)).to(output.dtype)
            norm[:, suffix] = merged
        ctx.save_for_backward(query, key, value, output, norm, *seeds)
        ctx.layout, ctx.scale, ctx.window_left = layout, scale, window_left
        return output

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[Any, ...]:
        query, key, value, output, norm, *seeds = ctx.saved_tensors
        layout: _Layout = ctx.layout
        grad = grads[0].contiguous()
        tensors = (grad, query, key, value, output, norm)
        gradients = _backward(tensors, seeds, layout.self_spans, True, ctx.scale, ctx.window_left)
        if layout.prefix_spans is not None:
            suffix, shared = layout.own, layout.shared
            tensors = (
                grad[suffix],
                query[suffix],
                key[shared],
                value[shared],
                output[suffix],
                norm[:, suffix].contiguous(),
            )
            prefix_gradients = _backward(tensors, seeds, layout.prefix_spans, False, ctx.scale, -1)
            for gradient, part, index in zip(gradients, prefix_gradients, (suffix, shared, shared), strict=True):
                gradient[index] += part
        return (*gradients, None, None, None)


def _forward(
    query: Tensor, key: Tensor, value: Tensor, spans: _Spans, causal: bool, scale: float | None, window_left: int
) -> tuple[Tensor, ...]:
    """Return output [tokens, heads, width], log-sum-exp [heads, tokens] and the random state that backward needs."""
    outputs: tuple[Tensor, ...] = torch.ops.aten._flash_attention_forward(
        query, key, value, *spans, 0.0, causal, False, **_window(causal, scale, window_left)
    )
    return outputs[:4]


def _window(causal: bool, scale: float | None, window_left: int) -> dict[str, Any]:
    return {"scale": scale, "window_size_left": window_left, "window_size_right": 0 if causal else -1}


def _backward(
    tensors: tuple[Tensor, ...],
    seeds: Sequence[Tensor],
    spans: _Spans,
    causal: bool,
    scale: float | None,
    window_left: int,
) -> list[Tensor]:
    """Return the gradients of query, key and value; `tensors` are grad, query, key, value, output and norm."""
    return list(
        torch.ops.aten._flash_attention_backward(
            *tensors, *spans, 0.0, causal, *seeds, **_window(causal, scale, window_left)
        )
    )
