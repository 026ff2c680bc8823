"""Choosing the next token: greedy, or sampled with temperature, top-k and top-p, each row by its own settings."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor

    from llmtune.provider import GenerationRequest


class Sampler:
    """Draws for one request. With a seed the draws depend on nothing but it and the request."""

    def __init__(self, request: GenerationRequest) -> None:
        self.request = request
        self.generator = torch.Generator()
        if request.seed is None:
            self.generator.seed()
        else:
            self.generator.manual_seed(request.seed)

    @property
    def greedy(self) -> bool:
        """Whether it always takes the likeliest token."""
        return self.request.temperature == 0 or self.request.top_k == 1

    def next(self, logits: Tensor) -> int:
        """The next token from its logits [vocabulary]."""
        if self.greedy:
            return int(logits.argmax())
        probabilities = self.probabilities(logits.float().cpu())
        return int(torch.multinomial(probabilities, 1, generator=self.generator))

    def probabilities(self, logits: Tensor) -> Tensor:
        """What is drawn from: temperature first, then the k likeliest, then the nucleus."""
        logits = logits / self.request.temperature
        if self.request.top_k is not None and self.request.top_k < len(logits):
            floor = logits.topk(self.request.top_k).values[-1]
            logits = logits.masked_fill(logits < floor, -torch.inf)
        probabilities = logits.softmax(dim=0)
        if self.request.top_p is not None and self.request.top_p < 1:
            ordered, places = probabilities.sort(descending=True)
            # A token stays when those before it do not yet make up top_p: the likeliest always stays.
            gone = places[ordered.cumsum(0) - ordered >= self.request.top_p]
            probabilities[gone] = 0
            probabilities /= probabilities.sum()
        return probabilities
