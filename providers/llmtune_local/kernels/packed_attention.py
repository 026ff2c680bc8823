"""Attention over packed rows: each row sees itself and nothing else, without padding and without a mask.

Registered with transformers under a name of its own; the layout of the rows travels through the model's forward as
a keyword argument, so no model code is copied. Rows that share a prefix attend to the one copy of it. Models that
bypass transformers' attention interface, or need more than causal (and sliding-window) attention, are detected by
`Network` and run padded instead.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch.nn import functional

from llmtune_local.kernels import cpu_block_attention, varlen_attention

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor

    from llmtune_local.batching.packing import PrefixGroup
    from llmtune_local.kernels.shared_prefix import SharedPrefix

NAME = "llmtune_packed"


class CannotPack(RuntimeError):
    """The model asks for a kind of attention that is not available for packed rows."""


@dataclass(frozen=True, slots=True)
class PackedLayout:
    """How rows lie in one packed sequence; handed through the model's forward to `packed_attention`."""

    groups: Sequence[PrefixGroup]
    """The rows, in their order; their tokens add up to the sequence."""

    prefix: SharedPrefix | None = None
    """A prefix of all rows that was computed before and is not in the sequence."""

    partial_layer: tuple[int, Sequence[int | None]] | None = None
    """The number of a layer of which only some outputs are read, and where they begin (see `first_read`)."""


def packed_attention(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    **options: Any,
) -> tuple[Tensor, None]:
    """Compute causal attention within each row of one packed sequence.

    The signature is transformers' own. Of its `options`, `packed_layout` (a `PackedLayout`) is ours and
    `sliding_window` is obeyed; those that would change the numbers otherwise are refused.

    Args:
        query: [1, heads, tokens, width].
        key: [1, key heads, tokens, width]; `value` alike.

    Returns:
        The output, [1, tokens, heads, width], and None in place of the attention weights.

    Raises:
        CannotPack: the model needs another kind of attention.
    """
    layout: PackedLayout | None = options.get("packed_layout")
    if layout is None or query.shape[0] != 1 or attention_mask is not None:
        raise CannotPack("packed attention needs one packed sequence and the layout of its rows")
    _check_options(module, options)
    window: int | None = options.get("sliding_window")
    device = query.device.type
    if torch.is_autocast_enabled(device):  # rotary positions come in float32
        query, key, value = (tensor.to(torch.get_autocast_dtype(device)) for tensor in (query, key, value))
    prefix_tokens = 0 if layout.prefix is None else layout.prefix.tokens
    windowed = any(_exceeds(group, window, prefix_tokens) for group in layout.groups)
    if device == "cpu" and not dropout and not windowed and query.shape[-1] == value.shape[-1]:
        return _attend_on_cpu(module, query, key, value, layout, scaling), None
    if layout.prefix is not None:
        raise CannotPack("attention to a precomputed prefix is for the CPU, without window and dropout")
    shares_window = windowed and any(group.shared for group in layout.groups)
    if not shares_window and varlen_attention.can_attend(query, key, value, dropout):
        return varlen_attention.attend(query, key, value, layout.groups, scaling, window), None
    outputs = _attend_row_by_row(query, key, value, layout.groups, window=window, dropout=dropout, scale=scaling)
    return torch.cat(outputs, dim=2).transpose(1, 2).contiguous(), None


def _check_options(module: torch.nn.Module, options: Mapping[str, Any]) -> None:
    if not getattr(module, "is_causal", True) or options.get("is_causal") is False:
        raise CannotPack("attention is not causal")
    for name in ("softcap", "s_aux", "position_bias", "head_mask"):
        if options.get(name) is not None:
            raise CannotPack(f"attention uses {name}")


def _attend_on_cpu(
    module: torch.nn.Module, query: Tensor, key: Tensor, value: Tensor, layout: PackedLayout, scale: float | None
) -> Tensor:
    """Attend block by block, behind a precomputed prefix where there is one."""
    layer = getattr(module, "layer_idx", None)
    heads_per_key = query.shape[1] // key.shape[1]
    prefix_tokens = 0
    if layout.prefix is not None:
        if not isinstance(layer, int):
            raise CannotPack("the model does not number its layers")
        key, value, prefix_tokens = layout.prefix.before(layer, key, value)
    if heads_per_key > 1:
        key, value = (tensor.repeat_interleave(heads_per_key, dim=1) for tensor in (key, value))
    partial = layout.partial_layer
    reads = partial[1] if partial is not None and partial[0] == layer else None
    pieces = cpu_block_attention.cut(layout.groups, reads=reads, prefix_tokens=prefix_tokens)
    return cpu_block_attention.attend(query, key, value, pieces, scale).transpose(1, 2).contiguous()


def _attend_row_by_row(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    groups: Sequence[PrefixGroup],
    *,
    window: int | None,
    dropout: float,
    scale: float | None,
) -> list[Tensor]:
    """Attend with torch's own kernel, each row (or shared prefix) in a call of its own."""
    heads_per_key = query.shape[1] // key.shape[1]
    native = heads_per_key > 1 and query.device.type != "mps"
    if heads_per_key > 1 and not native:
        key = key.repeat_interleave(heads_per_key, dim=1)
        value = value.repeat_interleave(heads_per_key, dim=1)
    sizes = [group.tokens for group in groups]
    outputs = []
    for group, q, k, v in zip(
        groups, *(torch.split(tensor, sizes, dim=2) for tensor in (query, key, value)), strict=True
    ):
        lengths = [group.shared, *group.own] if group.shared else list(group.own)
        rows = zip(*(torch.split(tensor, lengths, dim=2) for tensor in (q, k, v)), strict=True)
        for number, (row_q, row_k, row_v) in enumerate(rows):
            if number and group.shared:
                row_k = torch.cat([k[:, :, : group.shared], row_k], dim=2)
                row_v = torch.cat([v[:, :, : group.shared], row_v], dim=2)
            mask = _mask(row_q, row_k, window)
            outputs.append(
                functional.scaled_dot_product_attention(
                    row_q,
                    row_k,
                    row_v,
                    attn_mask=mask,
                    dropout_p=dropout,
                    is_causal=mask is None,
                    scale=scale,
                    enable_gqa=native,
                )
            )
    return outputs


def _exceeds(group: PrefixGroup, window: int | None, prefix_tokens: int) -> bool:
    """Return whether a row is longer than the window, so that its end no longer sees its start."""
    return window is not None and prefix_tokens + group.shared + max(group.own) > window


def _mask(query: Tensor, key: Tensor, window: int | None) -> Tensor | None:
    """Return which keys each query sees, [queries, keys]: itself and earlier ones, at most `window` tokens in all.

    `key` may begin before `query`; both end at the same token. None where plain causal attention gives that.
    """
    query_length, key_length = query.shape[2], key.shape[2]
    if query_length == key_length and (window is None or key_length <= window):
        return None
    at = torch.arange(key_length, device=query.device)
    distance = at[key_length - query_length :].unsqueeze(1) - at.unsqueeze(0)
    allowed = distance >= 0
    return allowed if window is None else allowed & (distance < window)


def register() -> str:
    """Register the attention with transformers; return its name there."""
    from transformers import AttentionInterface

    AttentionInterface.register(NAME, packed_attention)
    return NAME
