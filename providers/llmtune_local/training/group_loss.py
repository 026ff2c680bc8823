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

from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import torch
from torch.nn import functional

from llmtune_local.batching.sizes import chunk_rows

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


class _TokenLikelihoods(torch.autograd.Function):
    """log softmax((hidden W^T + b) / T)[target] and the entropy, in chunks.

    Backward computes each chunk's logits again instead of keeping them. The entropy carries no gradient.
    """

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, temperature: float
    ) -> tuple[Tensor, Tensor]:
        likelihoods = torch.empty(hidden.shape[0], dtype=torch.float32, device=hidden.device)
        entropy = torch.empty_like(likelihoods)
        for part in _chunks(hidden, weight):
            logits = functional.linear(hidden[part].to(weight.dtype), weight, bias).float()
            likelihoods[part], entropy[part] = _measure(logits, targets[part], temperature)
        ctx.save_for_backward(hidden, weight, bias, targets)
        ctx.temperature = temperature
        ctx.mark_non_differentiable(entropy)
        return likelihoods, entropy

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[Any, ...]:
        hidden, weight, bias, targets = ctx.saved_tensors
        wants_hidden, wants_weight, wants_bias = ctx.needs_input_grad[:3]
        to_hidden = torch.empty_like(hidden) if wants_hidden else None
        to_weight = torch.zeros_like(weight, dtype=torch.float32) if wants_weight else None
        to_bias = torch.zeros_like(bias, dtype=torch.float32) if wants_bias and bias is not None else None
        for part in _chunks(hidden, weight):
            piece = hidden[part].to(weight.dtype)
            logits = functional.linear(piece, weight, bias).float()
            grad = (logits / ctx.temperature).softmax(dim=1).neg_()
            grad.scatter_add_(1, targets[part].unsqueeze(1), torch.ones_like(grad[:, :1]))
            grad.mul_(grads[0][part].unsqueeze(1) / ctx.temperature)
            low = grad.to(weight.dtype)
            if to_hidden is not None:
                to_hidden[part] = (low @ weight).to(hidden.dtype)
            if to_weight is not None:
                to_weight.add_(low.t() @ piece)
            if to_bias is not None:
                to_bias.add_(grad.sum(dim=0))
        return to_hidden, to_weight, to_bias, None, None


def head_likelihoods(
    hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, temperature: float
) -> tuple[Tensor, Tensor]:
    """Return log-likelihood of each target and entropy at its position, in nats, from the input of a linear head."""
    likelihoods, entropy = _TokenLikelihoods.apply(hidden, weight, bias, targets, temperature)  # type: ignore[no-untyped-call]
    return likelihoods, entropy


def logits_likelihoods(logits: Tensor, targets: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """Return the same from logits [positions, vocabulary], for models whose head is more than a linear layer."""
    likelihoods, entropy = _measure(logits.float(), targets, temperature)
    return likelihoods, entropy.detach()


def _measure(logits: Tensor, targets: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    scores = (logits / temperature).log_softmax(dim=1)
    return scores.gather(1, targets.unsqueeze(1)).squeeze(1), torch.special.entr(scores.exp()).sum(dim=1)


def _chunks(hidden: Tensor, weight: Tensor) -> list[slice]:
    size = chunk_rows(weight.shape[0], hidden.device.type)
    return [slice(start, start + size) for start in range(0, hidden.shape[0], size)]
