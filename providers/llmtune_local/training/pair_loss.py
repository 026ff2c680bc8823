"""The loss of Direct Preference Optimization (arXiv:2305.18290), from log-likelihoods that any model has computed.

    loss = -(1 - e) log s(m) - e log s(-m),   m = reward(preferred) - reward(rejected),
    reward(answer) = beta * (log p(answer | prompt) - log p_reference(answer | prompt))

s is the logistic function, e the label smoothing (0 is DPO as published; above, it is the conservative form for pairs
of which a share e may be the wrong way round). Likelihoods are summed over the answer's tokens, its end-of-turn token
included. The loss of a step is the mean over its pairs, so how they are cut into micro-batches changes nothing.
"""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch.nn import functional

from llmtune_local.run_state.run_dir import write_atomically

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray
    from torch import Tensor

#: Beta where the request leaves it open; the paper's own default.
BETA = 0.1


class PairLosses(NamedTuple):
    """One value per pair. `rewards` [pairs, 2] are those of the preferred and of the rejected answer."""

    loss: Tensor
    rewards: Tensor

    @property
    def margins(self) -> Tensor:
        """Return the reward of the preferred answer minus that of the rejected one, [pairs]."""
        return self.rewards[:, 0] - self.rewards[:, 1]


def pair_losses(policy: Tensor, reference: Tensor, *, beta: float, smoothing: float = 0.0) -> PairLosses:
    """Return the loss of each pair from log-likelihoods in nats, both [pairs, 2]: preferred and rejected answer."""
    rewards = beta * (policy - reference)
    margin = rewards[:, 0] - rewards[:, 1]
    loss = -(1 - smoothing) * functional.logsigmoid(margin) - smoothing * functional.logsigmoid(-margin)
    return PairLosses(loss, rewards)


def mean_metrics(part: str, losses: Sequence[PairLosses], pairs: int) -> dict[str, float]:
    """Return means over `pairs`, of which `losses` are some or all, so that the means of all parts add up.

    They are loss, margin, the share of pairs whose margin is positive, and both rewards.
    """
    loss = torch.cat([batch_losses.loss.cpu() for batch_losses in losses]) if losses else torch.zeros(0)
    rewards = torch.cat([batch_losses.rewards.cpu() for batch_losses in losses]) if losses else torch.zeros(0, 2)
    margins = rewards[:, 0] - rewards[:, 1]
    return {
        f"{part}/loss": float(loss.sum()) / pairs,
        f"{part}/reward_margin": float(margins.sum()) / pairs,
        f"{part}/reward_accuracy": float((margins > 0).sum()) / pairs,
        f"{part}/reward_preferred": float(rewards[:, 0].sum()) / pairs,
        f"{part}/reward_rejected": float(rewards[:, 1].sum()) / pairs,
    }


def read_reference(path: Path, pairs: int) -> NDArray[np.float64] | None:
    """Return the reference's log-likelihoods [pairs, 2] of an earlier attempt; None where there are none, or the file
    is damaged or of another number of pairs."""
    try:
        stored = np.load(path)
    except (OSError, ValueError, EOFError):  # a crash may have damaged it: it is taken again
        return None
    if not isinstance(stored, np.ndarray) or stored.shape != (pairs, 2) or not np.isfinite(stored).all():
        return None
    return stored.astype(np.float64)


def write_reference(path: Path, likelihoods: NDArray[np.float64]) -> None:
    """Write the reference's log-likelihoods [pairs, 2], whole or not at all."""
    written = io.BytesIO()
    np.save(written, likelihoods.astype(np.float64))
    write_atomically(path, written.getvalue())
