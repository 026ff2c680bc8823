"""Attention over packed rows: each row sees itself and nothing else, without padding and without a mask.

Registered with transformers under a name of its own; the layout of the rows travels through the model's forward as
a keyword argument, so no model code is copied. Rows that share their beginning attend to the one copy of it. Models
that bypass transformers' attention interface, or need more than causal (and sliding-window) attention, are found out
by `Network` and run padded instead.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch.nn import functional

from llmtune_local.kernels import cpu_block_attention, varlen_attention

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from llmtune_local.batching.packing import Family
    from llmtune_local.kernels.shared_prefix import Beginning

NAME = "llmtune_packed"


class CannotPack(RuntimeError):
    """The model asks for a kind of attention that is not available for packed rows."""


def packed_attention(  # noqa: C901
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    *,
    families: Sequence[Family] | None = None,
    reads: tuple[int, Sequence[int | None]] | None = None,
    beginning: Beginning | None = None,
    sliding_window: int | None = None,
    **extras: Any,
) -> tuple[Tensor, None]:
    """Causal attention within each row of one packed sequence.

    `query` [1, heads, tokens, width], `key` and `value` [1, key heads, tokens, width]; the `families` add up to
    tokens. `reads` is the number of a layer of which only some answers are read, and from where on (see
    `pieces.first_read`); `beginning` stands before all rows. Returns [1, tokens, heads, width].
    """
    if families is None or query.shape[0] != 1 or attention_mask is not None:
        raise CannotPack("packed attention needs one packed sequence and the layout of its rows")
    if not getattr(module, "is_causal", True) or extras.get("is_causal") is False:
        raise CannotPack("attention is not causal")
    for name in ("softcap", "s_aux", "position_bias", "head_mask"):
        if extras.get(name) is not None:
            raise CannotPack(f"attention uses {name}")
    kind = query.device.type
    if torch.is_autocast_enabled(kind):  # rotary positions come in float32
        query, key, value = (each.to(torch.get_autocast_dtype(kind)) for each in (query, key, value))
    before = 0 if beginning is None else beginning.tokens
    windowed = any(_reaches(family, sliding_window, before) for family in families)
    groups = query.shape[1] // key.shape[1]
    layer = getattr(module, "layer_idx", None)
    if kind == "cpu" and not dropout and not windowed and query.shape[-1] == value.shape[-1]:
        ahead = 0
        if beginning is not None:
            key, value, ahead = beginning.before(_number(layer), key, value)
        if groups > 1:
            key, value = (each.repeat_interleave(groups, dim=1) for each in (key, value))
        asked = reads[1] if reads is not None and reads[0] == layer else None
        cut = cpu_block_attention.cut(families, reads=asked, ahead=ahead)
        return cpu_block_attention.attend(query, key, value, cut, scaling).transpose(1, 2).contiguous(), None
    if beginning is not None:
        raise CannotPack("attention to a beginning that was computed before is for the CPU, without window and dropout")
    if not (windowed and any(family.shared for family in families)) and varlen_attention.can_attend(
        query, key, value, dropout
    ):
        return varlen_attention.attend(query, key, value, families, scaling, sliding_window), None
    native = groups > 1 and kind != "mps"
    if groups > 1 and not native:
        key = key.repeat_interleave(groups, dim=1)
        value = value.repeat_interleave(groups, dim=1)
    sizes = [family.tokens for family in families]
    outputs = []
    for family, q, k, v in zip(
        families, *(torch.split(each, sizes, dim=2) for each in (query, key, value)), strict=True
    ):
        lengths = [family.shared, *family.own] if family.shared else list(family.own)
        parts = zip(*(torch.split(each, lengths, dim=2) for each in (q, k, v)), strict=True)
        for number, (own_q, own_k, own_v) in enumerate(parts):
            if number and family.shared:
                own_k = torch.cat([k[:, :, : family.shared], own_k], dim=2)
                own_v = torch.cat([v[:, :, : family.shared], own_v], dim=2)
            mask = _mask(own_q, own_k, sliding_window)
            outputs.append(
                functional.scaled_dot_product_attention(
                    own_q,
                    own_k,
                    own_v,
                    attn_mask=mask,
                    dropout_p=dropout,
                    is_causal=mask is None,
                    scale=scaling,
                    enable_gqa=native,
                )
            )
    return torch.cat(outputs, dim=2).transpose(1, 2).contiguous(), None


def _number(layer: Any) -> int:
    if not isinstance(layer, int):
        raise CannotPack("the model does not number its layers")
    return layer


def _reaches(family: Family, window: int | None, before: int) -> bool:
    """Whether a row is longer than the window, so that its end no longer sees its beginning."""
    return window is not None and before + family.shared + max(family.own) > window


def _mask(query: Tensor, key: Tensor, window: int | None) -> Tensor | None:
    """True where a token may look: itself and what stands before it, at most `window` tokens in all.

    `key` may begin before `query`; both end alike. None where that is plain causal attention.
    """
    asked, seen = query.shape[2], key.shape[2]
    if asked == seen and (window is None or seen <= window):
        return None
    at = torch.arange(seen, device=query.device)
    behind = at[seen - asked :].unsqueeze(1) - at.unsqueeze(0)
    allowed = behind >= 0
    return allowed if window is None else allowed & (behind < window)


def register() -> str:
    """Make the attention known to transformers; returns its name."""
    from transformers import AttentionInterface

    AttentionInterface.register(NAME, packed_attention)
    return NAME
