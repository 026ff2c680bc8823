"""Rotary positions on the CPU with fewer passes over memory.

Autograd takes the published formula apart: halves are cut, negated and put together, and each part has a gradient of
full size. As one function, forward and backward are one product and two sums in place. It is put where the model looks
the formula up, and only where that formula is the common one: both are tried on random numbers first.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from torch import Tensor

_NAME = "apply_rotary_pos_emb"


def use_fast_rotary(network: Any) -> bool:
    """Have this model (and others of its module in this process) turn queries and keys by `rotate`, where that is what
    it does; whether it is."""
    home = vars(sys.modules[type(network).__module__])
    plain = home.get(_NAME)
    if plain is None or plain is rotate or hasattr(plain, "plain"):  # none, done, or a choice between devices (`liger`)
        return plain is rotate
    draw = torch.Generator().manual_seed(1)
    query, key, cos, sin = (
        torch.randn(size, generator=draw) for size in ((1, 4, 3, 8), (1, 2, 3, 8), (1, 3, 8), (1, 3, 8))
    )
    with torch.autocast("cpu", enabled=False):
        expected = _tried(plain, query, key, cos, sin)
        partly = _tried(plain, query, key, cos[..., :4], sin[..., :4])  # turns a part of each head where asked to
        if expected is None or partly is not None or not all(map(_alike, expected, rotate(query, key, cos, sin))):
            return False
    home[_NAME] = rotate
    return True


def rotate(query: Tensor, key: Tensor, cos: Tensor, sin: Tensor, unsqueeze_dim: int = 1) -> tuple[Tensor, Tensor]:
    """Queries and keys [rows, heads, tokens, width] turned by their positions; `cos` and `sin` [rows, tokens, width].
    Under autocast in its precision, which is what attention takes."""
    cos, sin = cos.unsqueeze(unsqueeze_dim), sin.unsqueeze(unsqueeze_dim)
    kind = query.device.type
    low = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else None
    turned: tuple[Tensor, Tensor] = (_Rotate.apply(query, cos, sin, low), _Rotate.apply(key, cos, sin, low))  # type: ignore[no-untyped-call]
    return turned


class _Rotate(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, cos: Tensor, sin: Tensor, low: torch.dtype | None) -> Tensor:
        ctx.save_for_backward(cos, sin)
        ctx.dtype = x.dtype
        turned = _turn(x, cos, sin, back=False)
        return turned if low is None else turned.to(low)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[Any, ...]:
        cos, sin = ctx.saved_tensors
        return _turn(grads[0], cos, sin, back=True).to(ctx.dtype), None, None, None


def _turn(x: Tensor, cos: Tensor, sin: Tensor, *, back: bool) -> Tensor:
    """x cos + (-second half of x, first half of x) sin; or, `back`, the transpose of that."""
    x = x.to(torch.promote_types(x.dtype, cos.dtype))
    turned = x * cos
    (one, other), (to_one, to_other), (sin_one, sin_other) = (each.chunk(2, dim=-1) for each in (x, turned, sin))
    if back:
        sin_one, sin_other = -sin_other, -sin_one
    to_one.addcmul_(other, sin_one, value=-1)
    to_other.addcmul_(one, sin_other)
    return turned


def _tried(rotary: Any, *parts: Tensor) -> tuple[Tensor, Tensor] | None:
    try:
        query, key = rotary(*parts)
    except (TypeError, ValueError, RuntimeError, AttributeError, IndexError):
        return None
    return query, key


def _alike(one: Tensor, other: Tensor) -> bool:
    return one.shape == other.shape and torch.allclose(one, other, rtol=1e-5, atol=1e-6)
