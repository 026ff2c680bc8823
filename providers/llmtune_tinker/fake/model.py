"""The model that the stand-in really trains: one bias for each token, by softmax and AdamW.

Small, and honest in what matters to a loop: its loss falls by the gradient that was sent, a saved state continues
exactly, and each state remembers the updates that have led to it.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

#: Tokens that the model tells apart; a larger number is taken modulo this one.
BINS = 1024

_Vector = NDArray[np.float64]


def _zeros() -> _Vector:
    return np.zeros(BINS)


@dataclass(frozen=True)
class Update:
    """One optimizer step: the sum of a hash of its targets, so that the rows of two steps can be compared, and its
    rate."""

    rows: int
    rate: float


@dataclass(frozen=True)
class State:
    """Weights, AdamW's moments, and the updates that have led here."""

    bias: _Vector = field(default_factory=_zeros)
    first: _Vector = field(default_factory=_zeros)
    second: _Vector = field(default_factory=_zeros)
    updates: tuple[Update, ...] = ()

    def log_likelihoods(self, targets: NDArray[np.int64]) -> _Vector:
        """Return the log-likelihood of each target."""
        highest = self.bias.max()
        total = highest + np.log(np.exp(self.bias - highest).sum())
        chosen: _Vector = self.bias[targets % BINS] - total
        return chosen

    def gradient(self, targets: NDArray[np.int64], weights: NDArray[np.float32]) -> _Vector:
        """Return the gradient of the weighted negative log-likelihood."""
        likelihood = np.exp(self.bias - self.bias.max())
        likelihood /= likelihood.sum()
        observed = np.bincount(targets % BINS, weights=weights.astype(np.float64), minlength=BINS)
        result: _Vector = likelihood * float(weights.astype(np.float64).sum()) - observed
        return result

    def update(self, gradient: _Vector, rows: int, settings: dict[str, Any]) -> State:
        """Return the state after one step of AdamW."""
        norm, limit = float(np.linalg.norm(gradient)), settings["grad_clip_norm"]
        if limit > 0 and norm > limit:
            gradient = gradient * (limit / norm)
        beta1, beta2, rate, count = (
            settings["beta1"],
            settings["beta2"],
            settings["learning_rate"],
            len(self.updates) + 1,
        )
        first = beta1 * self.first + (1 - beta1) * gradient
        second = beta2 * self.second + (1 - beta2) * gradient**2
        step = (first / (1 - beta1**count)) / (np.sqrt(second / (1 - beta2**count)) + settings["eps"])
        bias = self.bias * (1 - rate * settings["weight_decay"]) - rate * step
        return replace(self, bias=bias, first=first, second=second, updates=(*self.updates, Update(rows, rate)))
