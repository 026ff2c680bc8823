"""A beginning that more rows of a step share than go through the model at once: computed once a step.

A pass over the beginning keeps each layer's keys and values. Micro-batches behind it attend to copies that are cut off
from the graph and collect gradients; when the last of them is done, what was collected goes back through the pass. The
gradient is that of rows that each begin with their own copy.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor


class Beginning:
    """Keys and values of `tokens` tokens, by layer."""

    def __init__(self, tokens: int) -> None:
        self.tokens = tokens
        self._made: dict[int, tuple[Tensor, Tensor]] = {}
        self._kept: dict[int, tuple[Tensor, Tensor]] = {}

    def before(self, layer: int, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor, int]:
        """A layer's keys and values with the beginning's in front, and how many those are. In the pass over the
        beginning itself: as they are, and kept."""
        if layer not in self._kept:
            self._made[layer] = (key, value)
            self._kept[layer] = (_cut_off(key), _cut_off(value))
            return key, value, 0
        before = self._kept[layer]
        return torch.cat([before[0], key], dim=2), torch.cat([before[1], value], dim=2), self.tokens

    def backward(self) -> None:
        """Send what the copies collected back through the pass over the beginning."""
        pairs = [
            (made, kept.grad)
            for layer, kept_here in self._kept.items()
            for made, kept in zip(self._made[layer], kept_here, strict=True)
            if kept.grad is not None
        ]
        if pairs:
            torch.autograd.backward([made for made, _ in pairs], [grad for _, grad in pairs])
        self._made.clear()
        self._kept.clear()


def _cut_off(tensor: Tensor) -> Tensor:
    return tensor.detach().requires_grad_(tensor.requires_grad)
