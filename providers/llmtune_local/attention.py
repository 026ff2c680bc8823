"""Attention over packed rows: each row sees itself and nothing else, without padding and without a mask.

Registered with transformers under a name of its own; the lengths of the rows travel through the model's forward as
a keyword argument, so no model code is copied. Models that bypass transformers' attention interface, or need more
than causal (and sliding-window) attention, are found out by `model.can_pack` and run padded instead.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch.nn import functional

if TYPE_CHECKING:
    from torch import Tensor

NAME = "llmtune_packed"


class CannotPack(RuntimeError):
    """The model asks for a kind of attention that is not available for packed rows."""


def packed_attention(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    *,
    row_lengths: list[int] | None = None,
    sliding_window: int | None = None,
    **extras: Any,
) -> tuple[Tensor, None]:
    """Causal attention within each row of one packed sequence.

    `query` [1, heads, tokens, width], `key` and `value` [1, key heads, tokens, width]; `row_lengths` sum to tokens.
    Returns [1, tokens, heads, width].
    """
    if row_lengths is None or query.shape[0] != 1 or attention_mask is not None:
        raise CannotPack("packed attention needs one packed sequence and its row lengths")
    if not getattr(module, "is_causal", True) or extras.get("is_causal") is False:
        raise CannotPack("attention is not causal")
    for name in ("softcap", "s_aux", "position_bias", "head_mask"):
        if extras.get(name) is not None:
            raise CannotPack(f"attention uses {name}")
    groups = query.shape[1] // key.shape[1]
    native = groups > 1 and query.device.type != "mps"
    if groups > 1 and not native:
        key = key.repeat_interleave(groups, dim=1)
        value = value.repeat_interleave(groups, dim=1)
    rows = zip(*(torch.split(tensor, row_lengths, dim=2) for tensor in (query, key, value)), strict=True)
    outputs = [
        functional.scaled_dot_product_attention(
            q,
            k,
            v,
            attn_mask=_window_mask(q, sliding_window),
            dropout_p=dropout,
            is_causal=sliding_window is None or q.shape[2] <= sliding_window,
            scale=scaling,
            enable_gqa=native,
        )
        for q, k, v in rows
    ]
    return torch.cat(outputs, dim=2).transpose(1, 2).contiguous(), None


def _window_mask(query: Tensor, window: int | None) -> Tensor | None:
    """True where a token may look: itself and the `window - 1` tokens before; None where the row is no longer."""
    length = query.shape[2]
    if window is None or length <= window:
        return None
    at = torch.arange(length, device=query.device)
    behind = at.unsqueeze(1) - at.unsqueeze(0)
    return (behind >= 0) & (behind < window)


def register() -> str:
    """Make the attention known to transformers; returns its name."""
    from transformers import AttentionInterface

    AttentionInterface.register(NAME, packed_attention)
    return NAME
