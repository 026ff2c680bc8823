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

from llmtune_local import varlen

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from llmtune_local.batching import Family

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
    families: Sequence[Family] | None = None,
    sliding_window: int | None = None,
    **extras: Any,
) -> tuple[Tensor, None]:
    """Causal attention within each row of one packed sequence.

    `query` [1, heads, tokens, width], `key` and `value` [1, key heads, tokens, width]; the `families` add up to
    tokens. Returns [1, tokens, heads, width].
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
    windowed = any(_reaches(family, sliding_window) for family in families if family.shared)
    if not windowed and varlen.can_attend(query, key, value, dropout):
        return varlen.attend(query, key, value, families, scaling, sliding_window), None
    groups = query.shape[1] // key.shape[1]
    native = groups > 1 and kind != "mps"
    if groups > 1 and not native:
        key = key.repeat_interleave(groups, dim=1)
        value = value.repeat_interleave(groups, dim=1)
    sizes = [family.tokens for family in families]
    outputs = []
    for family, q, k, v in zip(
        families, *(torch.split(each, sizes, dim=2) for each in (query, key, value)), strict=True
    ):
        if family.shared and dropout == 0 and kind == "cpu" and not _reaches(family, sliding_window):
            many = groups if native else 1
            k, v = (each.repeat_interleave(many, dim=1) if many > 1 else each for each in (k, v))
            outputs.append(_SharedAttention.apply(q, k, v, family, scaling))  # type: ignore[no-untyped-call]
            continue
        pieces = [family.shared, *family.own] if family.shared else list(family.own)
        cut = zip(*(torch.split(each, pieces, dim=2) for each in (q, k, v)), strict=True)
        for number, (own_q, own_k, own_v) in enumerate(cut):
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


def _reaches(family: Family, window: int | None) -> bool:
    """Whether a row is longer than the window, so that its end no longer sees its beginning."""
    return window is not None and family.shared + max(family.own) > window


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


class _SharedAttention(torch.autograd.Function):
    """One family on the CPU: all rows' own tokens look at the shared beginning at once, and each row at itself.

    The two softmaxes are merged by their log-sum-exps. Flash attention's backward needs no more of a softmax than its
    output and log-sum-exp; given the merged ones, each part gives its exact share of the gradient.
    """

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, family: Family, scale: float | None) -> Tensor:
        flash = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
        shared, ends = family.shared, family.tokens
        output = torch.empty_like(query)
        # [1, heads, tokens], in float32 whatever the rest is in
        norm = torch.empty(query.shape[:3], dtype=torch.float32)
        spans = [(0, shared), *_spans(family)]
        for start, stop in spans:
            part, sums = flash(*(each[:, :, start:stop] for each in (query, key, value)), 0.0, True, scale=scale)
            output[:, :, start:stop] = part
            norm[:, :, start:stop] = sums
        seen, sums = flash(query[:, :, shared:ends], key[:, :, :shared], value[:, :, :shared], 0.0, False, scale=scale)
        own, own_sums = output[:, :, shared:], norm[:, :, shared:]
        merged = torch.logaddexp(sums, own_sums)
        own.mul_((own_sums - merged).exp_().unsqueeze(-1)).add_(seen * (sums - merged).exp_().unsqueeze(-1))
        own_sums.copy_(merged)
        ctx.save_for_backward(query, key, value, output, norm)
        ctx.family, ctx.scale = family, scale
        return output

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[Any, ...]:
        flash = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward
        query, key, value, output, norm = ctx.saved_tensors
        family: Family = ctx.family
        shared, grad = family.shared, grads[0]
        found = [torch.empty_like(each) for each in (query, key, value)]
        for start, stop in [(0, shared), *_spans(family)]:
            parts = (each[:, :, start:stop] for each in (grad, query, key, value, output, norm))
            for whole, part in zip(found, flash(*parts, 0.0, True, scale=ctx.scale), strict=True):
                whole[:, :, start:stop] = part
        to_query, to_key, to_value = flash(
            grad[:, :, shared:],
            query[:, :, shared:],
            key[:, :, :shared],
            value[:, :, :shared],
            output[:, :, shared:],
            norm[:, :, shared:],
            0.0,
            False,
            scale=ctx.scale,
        )
        found[0][:, :, shared:] += to_query
        found[1][:, :, :shared] += to_key
        found[2][:, :, :shared] += to_value
        return (*found, None, None)


def _spans(family: Family) -> list[tuple[int, int]]:
    """Where each row's own tokens begin and end."""
    spans, start = [], family.shared
    for own in family.own:
        spans.append((start, start + own))
        start += own
    return spans


def register() -> str:
    """Make the attention known to transformers; returns its name."""
    from transformers import AttentionInterface

    AttentionInterface.register(NAME, packed_attention)
    return NAME
