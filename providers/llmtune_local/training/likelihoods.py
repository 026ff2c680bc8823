"""Log-likelihoods of single tokens, for losses whose gradient is not known in the forward pass.

A pair's loss depends on both of its answers, an update by reinforcement on what sampled them. Logits are made in chunks
and once more in the backward pass, instead of being kept.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch.nn import functional

from llmtune_local.batching.sizes import chunk_rows

if TYPE_CHECKING:
    from torch import Tensor


class _TokenLikelihoods(torch.autograd.Function):
    """log softmax((hidden W^T + b) / T)[target], and the entropy, which carries no gradient; empty where not wanted."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        targets: Tensor,
        temperature: float,
        wants_entropy: bool,
    ) -> tuple[Tensor, Tensor]:
        count = hidden.shape[0]
        likelihoods = torch.empty(count, dtype=torch.float32, device=hidden.device)
        entropy = likelihoods.new_empty(count if wants_entropy else 0)
        for part in _chunks(hidden, weight):
            logits = functional.linear(hidden[part].to(weight.dtype), weight, bias).float()
            if wants_entropy:
                likelihoods[part], entropy[part] = _measure(logits, targets[part], temperature)
            else:
                scores = logits.div_(temperature)
                chosen = scores.gather(1, targets[part].unsqueeze(1)).squeeze(1)
                likelihoods[part] = chosen - torch.logsumexp(scores, dim=1)
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
            scores = functional.linear(piece, weight, bias).float().div_(ctx.temperature)
            grad = scores.softmax(dim=1).neg_()
            grad.scatter_add_(1, targets[part].unsqueeze(1), torch.ones_like(grad[:, :1]))
            grad.mul_(grads[0][part].unsqueeze(1) / ctx.temperature)
            low = grad.to(weight.dtype)
            if to_hidden is not None:
                to_hidden[part] = (low @ weight).to(hidden.dtype)
            if to_weight is not None:
                to_weight.add_(low.t() @ piece)
            if to_bias is not None:
                to_bias.add_(grad.sum(dim=0))
        return to_hidden, to_weight, to_bias, None, None, None


def token_log_likelihoods(hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor) -> Tensor:
    """Return the log-likelihood of each target in nats, with its gradient, from the input of a linear head."""
    likelihoods, _ = _TokenLikelihoods.apply(hidden, weight, bias, targets, 1.0, False)  # type: ignore[no-untyped-call]
    return likelihoods  # type: ignore[no-any-return]


def head_likelihoods(
    hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, temperature: float
) -> tuple[Tensor, Tensor]:
    """Return log-likelihood of each target and entropy at its position, in nats, from the input of a linear head."""
    likelihoods, entropy = _TokenLikelihoods.apply(hidden, weight, bias, targets, temperature, True)  # type: ignore[no-untyped-call]
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
