"""Choosing the next token: greedy, or sampled with temperature, top-k and top-p, each row by its own settings."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor

    from llmtune.provider import GenerationRequest


class Sampler:
    """The random draws of one request. With a seed they depend on nothing but it and the request."""

    def __init__(self, request: GenerationRequest) -> None:
        self.request = request
        self.generator = torch.Generator()
        if request.seed is None:
            self.generator.seed()
        else:
            self.generator.manual_seed(request.seed)

    @property
    def greedy(self) -> bool:
        """Return whether the most likely token is always taken."""
        return self.request.temperature == 0 or self.request.top_k == 1

    def next(self, logits: Tensor) -> int:
        """Return the next token from its logits [vocabulary]."""
        if self.greedy:
            return int(logits.argmax())
        probabilities = self.probabilities(logits.float().cpu())
        return int(torch.multinomial(probabilities, 1, generator=self.generator))

    def probabilities(self, logits: Tensor) -> Tensor:
        """Return the distribution that is drawn from: temperature first, then top-k, then top-p."""
        logits = logits / self.request.temperature
        if self.request.top_k is not None and self.request.top_k < len(logits):
            floor = logits.topk(self.request.top_k).values[-1]
            logits = logits.masked_fill(logits < floor, -torch.inf)
        probabilities = logits.softmax(dim=0)
        if self.request.top_p is not None and self.request.top_p < 1:
            ordered, token_ids = probabilities.sort(descending=True)
            # A token stays when those before it do not yet make up top_p: the likeliest always stays.
            dropped = token_ids[ordered.cumsum(0) - ordered >= self.request.top_p]
            probabilities[dropped] = 0
            probabilities /= probabilities.sum()
        return probabilities
