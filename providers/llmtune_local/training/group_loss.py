"""The loss of Group Relative Policy Optimization (arXiv:2402.03300), token by token.

    loss of a token = -min(ratio * A, clip(ratio, 1 - c, 1 + c) * A) + beta * KL
    ratio = p(token) / p_sampling(token),   KL = q - log q - 1 with q = p_reference(token) / p(token)

A is the answer's advantage: its reward beside those of the other answers to its prompt. p is the distribution that is
sampled from, at the sampling's temperature. How tokens are weighed is the normalisation:

    grpo     each answer weighs the same, its tokens share its weight (arXiv:2402.03300)
    dapo     each token of the step weighs the same (arXiv:2503.14476)
    dr_grpo  each token weighs 1 / (answers x longest answer allowed), and advantages are not divided by the deviation
             of their group (arXiv:2503.20783)
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, NamedTuple

import torch

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

Normalisation = Literal["grpo", "dapo", "dr_grpo"]

#: Added to a group's deviation before rewards are divided by it; that of TRL.
_LEAST_DEVIATION = 1e-4


def compute_advantages(rewards: Tensor, normalisation: Normalisation) -> Tensor:
    """Return the advantage of each answer from the rewards [groups, answers]; 0 in a group that is rewarded alike.

    The deviation is that of a sample (n - 1).
    """
    centred = rewards - rewards.mean(dim=1, keepdim=True)
    if normalisation != "dr_grpo":
        centred = centred / (rewards.std(dim=1, keepdim=True) + _LEAST_DEVIATION)
    return torch.where(is_dead(rewards).unsqueeze(1), torch.zeros_like(rewards), centred)


def is_dead(rewards: Tensor) -> Tensor:
    """Return which groups [groups] of rewards [groups, answers] teach nothing: all of their rewards are equal."""
    return (rewards == rewards[:, :1]).all(dim=1)


def weigh_tokens(lengths: Sequence[int], normalisation: Normalisation, longest: int) -> Tensor:
    """Return the weight of each token of answers with these lengths, in their order; `longest` is the most allowed."""
    counts = torch.tensor(lengths)
    if normalisation == "grpo":
        per_answer = 1.0 / (len(lengths) * counts.double())
    elif normalisation == "dapo":
        per_answer = torch.full((len(lengths),), 1.0 / float(counts.sum()), dtype=torch.float64)
    else:
        per_answer = torch.full((len(lengths),), 1.0 / (len(lengths) * longest), dtype=torch.float64)
    return per_answer.repeat_interleave(counts).float()


class TokenLosses(NamedTuple):
    """One value per token. `loss` carries the gradient; `kl` is in nats; `clipped` says where there is none from A."""

    loss: Tensor
    kl: Tensor
    clipped: Tensor


def token_losses(
    policy: Tensor, sampling: Tensor, reference: Tensor, advantages: Tensor, *, clip: float, beta: float
) -> TokenLosses:
    """Return the losses from log-likelihoods in nats and advantages, all [tokens]; only `policy` has a gradient."""
    ratio = torch.exp(policy - sampling)
    clamped = ratio.clamp(1 - clip, 1 + clip)
    objective = torch.minimum(ratio * advantages, clamped * advantages)
    log_ratio = reference - policy
    kl = torch.exp(log_ratio) - log_ratio - 1
    clipped = (clamped * advantages < ratio * advantages).detach()
    return TokenLosses(beta * kl - objective, kl.detach(), clipped)
