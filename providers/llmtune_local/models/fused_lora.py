"""LoRA layers as one step of the autograd graph: y = x W^T + s (x A^T) B^T.

PEFT's own forward makes four: the frozen product, two small ones and a sum, each with a result of full width. Fused,
the small products are added into the large one's result, and backward keeps x and x A^T and nothing else. It is used
for what it computes exactly (a linear layer with one plain adapter that drops nothing out) and steps aside, at each
call, for everything else.
"""

from __future__ import annotations

import contextlib
import types
import weakref
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.nn import functional

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor


class _Fused(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, down: Tensor, up: Tensor, scale: float
    ) -> Tensor:
        flat = x.reshape(-1, x.shape[-1])
        small = flat @ down.t()
        output = functional.linear(flat, weight, bias)
        output.addmm_(small, up.t(), alpha=scale)
        ctx.save_for_backward(flat, weight, down, up, small)
        ctx.scale, ctx.shape = scale, x.shape
        return output  # flat: a view made in here could not be changed in place by the model

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[Any, ...]:
        flat, weight, down, up, small = ctx.saved_tensors
        grad = grads[0]
        to_small = (grad @ up).mul_(ctx.scale)
        to_x = None
        if ctx.needs_input_grad[0]:
            to_x = (grad @ weight).addmm_(to_small, down).view(ctx.shape)
        to_up = (small.t() @ grad).t().mul_(ctx.scale)
        return to_x, None, None, to_small.t() @ flat, to_up, None


def fuse(network: nn.Module) -> bool:
    """Fuse every layer of the network that can be; whether there was one."""
    found = False
    for layer in _layers(network):
        if "_plain_forward" not in layer.__dict__:
            layer.__dict__["_plain_forward"] = layer.forward
            layer.forward = types.MethodType(_forward, layer)
        found = True
    return found


def unfuse(network: nn.Module) -> None:
    """Give every layer its own forward back."""
    for layer in network.modules():
        if "_plain_forward" in layer.__dict__:
            del layer.__dict__["_plain_forward"], layer.__dict__["forward"]


@contextlib.contextmanager
def woken(network: nn.Module) -> Iterator[None]:
    """For as long as it lasts, no adapter is near zero: a fresh one's second matrix is, and would hide a difference."""
    weights = [layer.lora_B[layer.active_adapters[0]].weight for layer in _layers(network)]
    before = [weight.data.clone() for weight in weights]
    for number, weight in enumerate(weights):
        pattern = torch.arange(weight.numel(), device=weight.device).remainder(13 + number % 5).sub(6)
        weight.data.copy_(pattern.view_as(weight) * 1e-2)
    torch.clear_autocast_cache()  # which holds what the weights were
    try:
        yield
    finally:
        for weight, value in zip(weights, before, strict=True):
            weight.data.copy_(value)
        torch.clear_autocast_cache()


def _layers(network: nn.Module) -> list[Any]:
    from peft.tuners.lora import Linear

    return [
        layer
        for layer in network.modules()
        if isinstance(layer, Linear) and type(layer.base_layer) is nn.Linear and _plain(layer)
    ]


def _plain(layer: Any) -> bool:
    """One adapter, switched on and not merged, without dropout, bias or another variant's parts."""
    if layer.disable_adapters or layer.merged or len(layer.active_adapters) != 1:
        return False
    if any(parameter.requires_grad for parameter in layer.base_layer.parameters()):
        return False
    name = layer.active_adapters[0]
    if name not in layer.lora_A or name in layer.lora_variant or layer.lora_bias.get(name):
        return False
    return isinstance(layer.lora_dropout[name], nn.Identity) or not layer.lora_dropout[name].p


def _forward(layer: Any, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    output: Tensor
    if args or kwargs or not _plain(layer):
        output = layer._plain_forward(x, *args, **kwargs)
        return output
    name = layer.active_adapters[0]
    base, down, up = layer.base_layer, layer.lora_A[name].weight, layer.lora_B[name].weight
    kind = x.device.type
    dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else base.weight.dtype
    # Outside the function, so that autograd (and autocast's cache of weights) sees the casts.
    parts = (_cast(x, dtype), base.weight.to(dtype), None if base.bias is None else base.bias.to(dtype))
    with torch.autocast(kind, enabled=False):
        flat = _Fused.apply(*parts, down.to(dtype), up.to(dtype), layer.scaling[name])  # type: ignore[no-untyped-call]
    output = flat.view(*x.shape[:-1], base.weight.shape[0])
    return output


#: The last input that was cast, what it was then, and the result: several layers are given the same one in turn.
_last: tuple[weakref.ref[Tensor], tuple[Any, ...], Tensor] | None = None


def _cast(x: Tensor, dtype: torch.dtype) -> Tensor:
    """`x` in another precision, once for all layers that are given it: one copy is kept for backward, not several."""
    global _last
    if x.dtype == dtype:
        return x
    state = (x._version, dtype, torch.is_grad_enabled())
    last = _last  # another thread may put its own there at any time
    if last is None or last[0]() is not x or last[1] != state:
        last = _last = (weakref.ref(x), state, x.to(dtype))
    return last[2]


def forget() -> None:
    """Let go of the last cast, and of the graph behind it."""
    global _last
    _last = None
