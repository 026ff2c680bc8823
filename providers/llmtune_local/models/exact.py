"""Conditions under which two ways to compute a model can be compared: float32, and windows of a few tokens.

A rounding in bfloat16 is as large as what a soft-cap of the logits changes, so nothing is compared in it alone.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

import torch
from torch.overrides import TorchFunctionMode

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor, nn

_HALF = (torch.bfloat16, torch.float16)

#: Relative to the largest element, in float32 and a model of eight layers; deeper ones round more.
_TOLERANCE = 2e-4
_LAYERS = 8

#: Lengths in a configuration (and in modules that copied them) from which on attention is another.
_WINDOWS = ("sliding_window", "attention_chunk_size", "original_max_position_embeddings")
#: Between the lengths of two rows that are tried: the longer one leaves it, and the other must not notice.
_SHORT = 6


def _widen(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return value.float() if value.dtype in _HALF else value
    if isinstance(value, torch.dtype):
        return torch.float32 if value in _HALF else value
    if type(value) in (tuple, list):  # nothing that only looks like one, such as a shape
        return type(value)(map(_widen, value))
    return {key: _widen(entry) for key, entry in value.items()} if type(value) is dict else value


#: Set while what is computed is none of the model (`sharding`).
paused = False


class _Float32(TorchFunctionMode):
    """A mode in which every torch function gets float32 for half precision, and is asked for float32 instead of it."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if paused:
            return func(*args, **(kwargs or {}))
        return _widen(func(*_widen(args), **_widen(kwargs or {})))


@contextlib.contextmanager
def float32(device: str) -> Iterator[None]:
    """Run a model in float32 although its weights are not; each weight is converted when it is used."""
    with torch.autocast(device, enabled=False), _Float32():
        yield


@contextlib.contextmanager
def short_windows(network: nn.Module, *, longest: int | None = None) -> Iterator[None]:
    """Set every attention window to a few tokens, apart from those that no row reaches anyway."""
    holders: dict[int, Any] = {id(module): module for module in network.modules()}
    for module in list(holders.values()):
        config = getattr(module, "config", None)
        if config is not None:
            holders[id(config)] = config
    before: list[tuple[Any, str, int]] = []
    for holder in holders.values():
        for name in _WINDOWS:
            value = holder.__dict__.get(name)
            if isinstance(value, int) and not isinstance(value, bool) and _SHORT < value < (longest or value + 1):
                before.append((holder, name, value))
                setattr(holder, name, _SHORT)
        parameters = holder.__dict__.get("rope_parameters")
        value = parameters.get(_WINDOWS[2]) if isinstance(parameters, dict) else None
        if isinstance(value, int) and _SHORT < value < (longest or value + 1):
            before.append((parameters, _WINDOWS[2], value))
            parameters[_WINDOWS[2]] = _SHORT
    try:
        yield
    finally:
        for holder, name, value in before:
            if isinstance(holder, dict):
                holder[name] = value
            else:
                setattr(holder, name, value)


def largest_agree(actual: Tensor, expected: Tensor, layers: int) -> bool:
    """Return whether no element differs by more than float32 rounds, relative to the largest element of its row."""
    if actual.shape != expected.shape:
        return False
    actual, expected = actual.float(), expected.float()
    if not (torch.isfinite(actual).all() and torch.isfinite(expected).all()):
        return False
    scale = expected.abs().amax(-1, keepdim=True).clamp_min(1e-6)
    allowed = _TOLERANCE * max(1.0, layers / _LAYERS) ** 0.5
    return bool(((actual - expected).abs() <= allowed * scale).all())
