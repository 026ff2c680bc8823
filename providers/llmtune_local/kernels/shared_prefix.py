"""A prefix that more rows of a step share than fit one micro-batch: computed once per step.

A pass over the prefix stores each layer's keys and values. Micro-batches behind it attend to copies that are detached
from the graph and collect gradients; after the last of them, these gradients go back through the pass. The gradient is
that of rows that each begin with their own copy.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor


class SharedPrefix:
    """Keys and values of a prefix of `tokens` tokens, by layer."""

    def __init__(self, tokens: int) -> None:
        self.tokens = tokens
        self._outputs: dict[int, tuple[Tensor, Tensor]] = {}
        self._copies: dict[int, tuple[Tensor, Tensor]] = {}

    def before(self, layer: int, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor, int]:
        """Return a layer's keys and values with the prefix's in front, and how many those are.

        In the pass over the prefix itself they are stored and returned as they are.
        """
        if layer not in self._copies:
            self._outputs[layer] = (key, value)
            self._copies[layer] = (_cut_off(key), _cut_off(value))
            return key, value, 0
        before = self._copies[layer]
        return torch.cat([before[0], key], dim=2), torch.cat([before[1], value], dim=2), self.tokens

    def backward(self) -> None:
        """Send the gradients of the copies back through the pass over the prefix."""
        pairs = [
            (output, copy.grad)
            for layer, copies in self._copies.items()
            for output, copy in zip(self._outputs[layer], copies, strict=True)
            if copy.grad is not None
        ]
        if pairs:
            torch.autograd.backward([output for output, _ in pairs], [grad for _, grad in pairs])
        self._outputs.clear()
        self._copies.clear()


def _cut_off(tensor: Tensor) -> Tensor:
    return tensor.detach().requires_grad_(tensor.requires_grad)
