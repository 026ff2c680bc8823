"""LoRA layers as one function of the autograd graph: y = x W^T + s (x A^T) B^T.

PEFT's forward makes four nodes: the frozen product, two small ones and a sum, each with a result of full width. Fused,
the small products are added in place to the large one's result, and only x and x A^T are saved for backward. A fused
layer checks at each call whether it is a linear layer with one plain adapter and no dropout, which is what this
computes exactly, and calls PEFT's own forward otherwise.
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


class _FusedLora(torch.autograd.Function):
    """The layer's function: `lora_a` [rank, in] and `lora_b` [out, rank] are trained, weight and bias are frozen."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, lora_a: Tensor, lora_b: Tensor, scale: float
    ) -> Tensor:
        flat = x.reshape(-1, x.shape[-1])
        projected = flat @ lora_a.t()
        output = functional.linear(flat, weight, bias)
        output.addmm_(projected, lora_b.t(), alpha=scale)
        ctx.save_for_backward(flat, weight, lora_a, lora_b, projected)
        ctx.scale, ctx.shape = scale, x.shape
        return output  # flat: the model could not change a view made in here in place

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[Any, ...]:
        flat, weight, lora_a, lora_b, projected = ctx.saved_tensors
        grad = grads[0]
        grad_projected = (grad @ lora_b).mul_(ctx.scale)
        grad_x = None
        if ctx.needs_input_grad[0]:
            grad_x = (grad @ weight).addmm_(grad_projected, lora_a).view(ctx.shape)
        grad_lora_b = (projected.t() @ grad).t().mul_(ctx.scale)
        grad_lora_a = grad_projected.t() @ flat
        return grad_x, None, None, grad_lora_a, grad_lora_b, None


def fuse(network: nn.Module) -> bool:
    """Fuse every layer of the network that can be; return whether there was one."""
    layers = _fusible_layers(network)
    for layer in layers:
        if "_plain_forward" not in layer.__dict__:
            layer.__dict__["_plain_forward"] = layer.forward
            layer.forward = types.MethodType(_fused_forward, layer)
    return bool(layers)


def unfuse(network: nn.Module) -> None:
    """Restore PEFT's own forward in every layer."""
    for layer in network.modules():
        if "_plain_forward" in layer.__dict__:
            del layer.__dict__["_plain_forward"], layer.__dict__["forward"]


@contextlib.contextmanager
def nonzero_adapters(network: nn.Module) -> Iterator[None]:
    """Make every adapter differ from zero while the context lasts.

    The second matrix of a new adapter is zero, which would hide a wrong product when fused and plain layers are
    compared.
    """
    weights = [layer.lora_B[layer.active_adapters[0]].weight for layer in _fusible_layers(network)]
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


def _fusible_layers(network: nn.Module) -> list[Any]:
    """Return the linear LoRA layers that can be fused."""
    from peft.tuners.lora import Linear

    return [
        layer
        for layer in network.modules()
        if isinstance(layer, Linear) and type(layer.base_layer) is nn.Linear and _is_fusible(layer)
    ]


def _is_fusible(layer: Any) -> bool:
    """Return whether the layer has one active, unmerged adapter without dropout, bias or a variant such as DoRA."""
    if layer.disable_adapters or layer.merged or len(layer.active_adapters) != 1:
        return False
    if any(parameter.requires_grad for parameter in layer.base_layer.parameters()):
        return False
    name = layer.active_adapters[0]
    if name not in layer.lora_A or name in layer.lora_variant or layer.lora_bias.get(name):
        return False
    return isinstance(layer.lora_dropout[name], nn.Identity) or not layer.lora_dropout[name].p


def _fused_forward(layer: Any, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """Compute the layer with the fused function, in the precision of autocast, where it is fusible; as PEFT does
    otherwise."""
    output: Tensor
    if args or kwargs or not _is_fusible(layer):
        output = layer._plain_forward(x, *args, **kwargs)
        return output
    name = layer.active_adapters[0]
    base, lora_a, lora_b = layer.base_layer, layer.lora_A[name].weight, layer.lora_B[name].weight
    device = x.device.type
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else base.weight.dtype
    # Outside the function, so that autograd (and autocast's cache of weights) sees the casts.
    parts = (_cast(x, dtype), base.weight.to(dtype), None if base.bias is None else base.bias.to(dtype))
    with torch.autocast(device, enabled=False):
        flat = _FusedLora.apply(*parts, lora_a.to(dtype), lora_b.to(dtype), layer.scaling[name])  # type: ignore[no-untyped-call]
    output = flat.view(*x.shape[:-1], base.weight.shape[0])
    return output


#: The last input that was cast, its state then, and the result: several layers get the same input in turn.
_last: tuple[weakref.ref[Tensor], tuple[Any, ...], Tensor] | None = None


def _cast(x: Tensor, dtype: torch.dtype) -> Tensor:
    """Cast `x`, once for all layers that get the same `x`: one copy is kept for backward, not one per layer."""
    global _last
    if x.dtype == dtype:
        return x
    state = (x._version, dtype, torch.is_grad_enabled())
    last = _last  # another thread may put its own there at any time
    if last is None or last[0]() is not x or last[1] != state:
        last = _last = (weakref.ref(x), state, x.to(dtype))
    return last[2]


def clear_cache() -> None:
    """Drop the last cast, and with it the graph behind it."""
    global _last
    _last = None
