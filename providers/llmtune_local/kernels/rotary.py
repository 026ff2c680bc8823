"""Rotary embeddings on the CPU with fewer passes over memory.

Autograd takes the published formula apart: halves are cut, negated and put together, and each part has a gradient of
full size. As one function, forward and backward are one product and two sums in place. It replaces the formula where
the model looks it up, and only where that formula is the common one: both are tried on random numbers first.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from torch import Tensor

_NAME = "apply_rotary_pos_emb"


def use_fast_rotary(network: Any) -> bool:
    """Have this model (and others of its module in this process) apply `rotate`; return whether it does.

    That is done only where the model's own formula gives the same.
    """
    home = vars(sys.modules[type(network).__module__])
    plain = home.get(_NAME)
    if plain is None or plain is rotate or hasattr(plain, "plain"):  # none, done, or a choice between devices (`liger`)
        return plain is rotate
    draw = torch.Generator().manual_seed(1)
    query, key, cos, sin = (
        torch.randn(size, generator=draw) for size in ((1, 4, 3, 8), (1, 2, 3, 8), (1, 3, 8), (1, 3, 8))
    )
    with torch.autocast("cpu", enabled=False):
        expected = _try_rotary(plain, query, key, cos, sin)
        partly = _try_rotary(plain, query, key, cos[..., :4], sin[..., :4])  # turns a part of each head where asked to
        if expected is None or partly is not None or not all(map(_all_close, expected, rotate(query, key, cos, sin))):
            return False
    home[_NAME] = rotate
    return True


def rotate(query: Tensor, key: Tensor, cos: Tensor, sin: Tensor, unsqueeze_dim: int = 1) -> tuple[Tensor, Tensor]:
    """Rotate queries and keys [rows, heads, tokens, width] by their positions; `cos` and `sin` [rows, tokens, width].

    Under autocast the result has its precision, which attention takes.
    """
    cos, sin = cos.unsqueeze(unsqueeze_dim), sin.unsqueeze(unsqueeze_dim)
    kind = query.device.type
    dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else None
    rotated: tuple[Tensor, Tensor] = (_Rotate.apply(query, cos, sin, dtype), _Rotate.apply(key, cos, sin, dtype))  # type: ignore[no-untyped-call]
    return rotated


class _Rotate(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, cos: Tensor, sin: Tensor, dtype: torch.dtype | None) -> Tensor:
        ctx.save_for_backward(cos, sin)
        ctx.dtype = x.dtype
        rotated = _rotate(x, cos, sin, back=False)
        return rotated if dtype is None else rotated.to(dtype)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[Any, ...]:
        cos, sin = ctx.saved_tensors
        return _rotate(grads[0], cos, sin, back=True).to(ctx.dtype), None, None, None


def _rotate(x: Tensor, cos: Tensor, sin: Tensor, *, back: bool) -> Tensor:
    """Return x cos + (-second half of x, first half of x) sin; or, `back`, the transpose of that."""
    x = x.to(torch.promote_types(x.dtype, cos.dtype))
    rotated = x * cos
    (first, second), (to_first, to_second), (sin_first, sin_second) = (
        tensor.chunk(2, dim=-1) for tensor in (x, rotated, sin)
    )
    if back:
        sin_first, sin_second = -sin_second, -sin_first
    to_first.addcmul_(second, sin_first, value=-1)
    to_second.addcmul_(first, sin_second)
    return rotated


def _try_rotary(rotary: Any, *parts: Tensor) -> tuple[Tensor, Tensor] | None:
    try:
        query, key = rotary(*parts)
    except (TypeError, ValueError, RuntimeError, AttributeError, IndexError):
        return None
    return query, key


def _all_close(actual: Tensor, expected: Tensor) -> bool:
    return actual.shape == expected.shape and torch.allclose(actual, expected, rtol=1e-5, atol=1e-6)
