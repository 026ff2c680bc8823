"""The prefix that many prompts share, computed once: a long system prompt, or examples before each question."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from torch import Tensor

    from llmtune_local.models.model_runner import Network

#: A shorter beginning is not worth a pass of its own.
LEAST = 16


class Prefix:
    """The key-value cache of a prefix. `length` is in tokens."""

    def __init__(self, network: Network, ids: Sequence[int]) -> None:
        self.length = len(ids)
        self._cache: Any = network.causal(
            input_ids=torch.tensor([list(ids)], device=network.device), use_cache=True, logits_to_keep=1
        ).past_key_values

    def rows(self, count: int) -> Any:
        """Return a copy of the cache for `count` rows behind the prefix."""
        cache = copy.deepcopy(self._cache)
        cache.batch_repeat_interleave(count)
        return cache


def shared_prefix(prompts: Sequence[tuple[int, ...]]) -> int:
    """Count the tokens that all prompts start with, leaving at least one of each; 0 where too few to be worth it."""
    if len(prompts) < 2:
        return 0
    first, last = min(prompts), max(prompts)
    length = 0
    for first_token, last_token in zip(first, last, strict=False):
        if first_token != last_token:
            break
        length += 1
    length = min(length, min(map(len, prompts)) - 1)
    return length if length >= LEAST else 0


def supports_prefix_cache(network: Network) -> bool:
    """Return whether rows behind a cached prefix give the same numbers as with it; tried on a few tokens.

    Not with sliding windows: padding between prefix and row would count in the window.
    """
    config = network.causal.config.get_text_config()
    if any(getattr(config, name, None) for name in ("sliding_window", "attention_chunk_size")):
        return False
    vocabulary = int(network.causal.get_input_embeddings().weight.shape[0])
    begin, suffix = (torch.tensor([[t % vocabulary for t in tokens]]) for tokens in ((5, 3, 8, 2), (7, 1, 9)))
    begin, suffix = begin.to(network.device), suffix.to(network.device)
    pad = torch.tensor([[0], [1]], device=network.device)  # the second row is one token shorter
    ids = torch.stack((suffix[0], torch.cat((suffix[0, :1], suffix[0, :2]))))
    mask = torch.cat((torch.ones((2, 4), dtype=torch.long, device=network.device), 1 - pad, pad * 0 + 1), dim=1)
    mask = torch.cat((mask, pad * 0 + 1), dim=1)

    def probe() -> tuple[Tensor, Tensor]:
        uncached: Tensor = network.causal(input_ids=torch.cat((begin, suffix), dim=1), use_cache=False).logits
        cached = Prefix(network, begin[0].tolist())
        behind: Tensor = network.causal(
            input_ids=ids,
            attention_mask=mask,
            position_ids=(mask.cumsum(1) - 1)[:, 4:],
            past_key_values=cached.rows(2),
            use_cache=True,
        ).logits
        return torch.cat((behind[0], behind[1, 1:])), torch.cat((uncached[0, 4:], uncached[0, 4:6]))

    with torch.no_grad(), network.autocast(), network.unpacked():
        return network.ways_agree(probe)
