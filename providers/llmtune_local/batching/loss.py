"""Cross-entropy from hidden states, in chunks, its gradient computed on the way forward.

The logits of all trained positions are never held at once: memory stays flat in the number of positions and the size
of the vocabulary. One pass over the head gives loss, gradient and accuracy.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch.nn import functional

from llmtune_local.batching.sizes import chunk_rows

if TYPE_CHECKING:
    from torch import Tensor


class LossSums(NamedTuple):
    """Sums over the trained positions of one micro-batch. Only `objective` carries a gradient.

    `objective` is the weighted loss (label smoothing included); `nll` and `correct` count completion tokens alone, each
    with weight 1; `tokens` is their number.
    """

    objective: Tensor
    nll: Tensor
    correct: Tensor
    tokens: Tensor


class _LinearCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        targets: Tensor,
        weights: Tensor,
        smoothing: float,
        learning: bool,
    ) -> tuple[Tensor, Tensor, Tensor]:
        wants_hidden, wants_weight, wants_bias = (learning and needs_grad for needs_grad in ctx.needs_input_grad[:3])
        count, vocabulary = hidden.shape[0], weight.shape[0]
        nll = torch.empty(count, dtype=torch.float32, device=hidden.device)
        correct = torch.empty(count, dtype=torch.bool, device=hidden.device)
        total = torch.zeros((), dtype=torch.float32, device=hidden.device)
        grad_hidden = torch.empty_like(hidden) if wants_hidden else None
        grad_weight = torch.zeros_like(weight, dtype=torch.float32) if wants_weight else None
        grad_bias = torch.zeros_like(bias, dtype=torch.float32) if wants_bias and bias is not None else None
        size = chunk_rows(vocabulary, hidden.device.type)
        for start in range(0, count, size):
            part = slice(start, start + size)
            piece = hidden[part].to(weight.dtype)
            logits = functional.linear(piece, weight, bias).float()
            goal = targets[part].unsqueeze(1)
            share = weights[part].unsqueeze(1)
            correct[part] = logits.argmax(dim=1) == targets[part]
            norm = torch.logsumexp(logits, dim=1, keepdim=True)
            picked = norm - logits.gather(1, goal)
            nll[part] = picked.squeeze(1)
            loss = picked
            if smoothing:
                loss = (1 - smoothing) * picked + smoothing * (norm - logits.mean(dim=1, keepdim=True))
            total += (share * loss).sum()
            if wants_hidden or wants_weight or wants_bias:
                # d loss / d logits = softmax - target distribution, in place of the logits
                grad = logits.sub_(norm).exp_()
                if smoothing:
                    grad.sub_(smoothing / vocabulary)
                grad.scatter_add_(1, goal, torch.full_like(share, smoothing - 1))
                grad.mul_(share)
                low = grad.to(weight.dtype)
                if grad_hidden is not None:
                    grad_hidden[part] = low @ weight
                if grad_weight is not None:
                    grad_weight.add_(low.t() @ piece)
                if grad_bias is not None:
                    grad_bias.add_(grad.sum(dim=0))
        ctx.save_for_backward(grad_hidden, grad_weight, grad_bias)
        ctx.mark_non_differentiable(nll, correct)
        return total, nll, correct

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[Any, ...]:
        hidden, weight, bias = ctx.saved_tensors
        scale = grads[0]
        return (
            None if hidden is None else hidden * scale,
            None if weight is None else weight * scale,
            None if bias is None else bias * scale,
            None,
            None,
            None,
            None,
        )


def linear_cross_entropy(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    targets: Tensor,
    weights: Tensor,
    completion: Tensor,
    *,
    smoothing: float = 0.0,
) -> LossSums:
    """Compute the loss of a linear head over `hidden`.

    `hidden` [positions, width], `weight` [vocabulary, width], `targets` [positions] token ids, `weights` [positions] of
    the loss, `completion` [positions] the number of completion tokens at each position.
    """
    total, nll, correct = _LinearCrossEntropy.apply(  # type: ignore[no-untyped-call]
        hidden, weight, bias, targets, weights, smoothing, torch.is_grad_enabled()
    )
    return _sums(total, nll, correct, completion)


def token_nll(hidden: Tensor, weight: Tensor, bias: Tensor | None, at: Tensor, targets: Tensor) -> Tensor:
    """Return the negative log-likelihood in nats of each target at its row of `hidden`, [targets], without a gradient.

    A row that several targets name is projected once, and the logits of all rows never exist at the same time.
    """
    nll = torch.empty(targets.shape, dtype=torch.float32, device=targets.device)
    step = chunk_rows(weight.shape[0], hidden.device.type)
    for first in range(0, hidden.shape[0], step):
        logits = torch.nn.functional.linear(hidden[first : first + step], weight, bias).float()
        in_chunk = ((at >= first) & (at < first + step)).nonzero().squeeze(1)
        row = at[in_chunk] - first
        nll[in_chunk] = logits.logsumexp(1)[row] - logits[row, targets[in_chunk]]
    return nll


def logits_cross_entropy(
    logits: Tensor, targets: Tensor, weights: Tensor, completion: Tensor, *, smoothing: float = 0.0
) -> LossSums:
    """Compute the same for models whose head is more than a linear layer, from logits [positions, vocabulary]."""
    logits = logits.float()
    norm = torch.logsumexp(logits, dim=1)
    nll = norm - logits.gather(1, targets.unsqueeze(1)).squeeze(1)
    loss = nll if not smoothing else (1 - smoothing) * nll + smoothing * (norm - logits.mean(dim=1))
    return _sums((weights * loss).sum(), nll.detach(), logits.argmax(dim=1) == targets, completion)


def _sums(objective: Tensor, nll: Tensor, correct: Tensor, completion: Tensor) -> LossSums:
    return LossSums(objective, (nll * completion).sum(), (correct * completion).sum(), completion.sum())
