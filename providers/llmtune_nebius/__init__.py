"""Nebius Token Factory: OpenAI's fine-tuning calls, open models, and LoRA adapters whose shape can be chosen."""

from __future__ import annotations

from llmtune_nebius.provider import NebiusProvider

__all__ = ["NebiusProvider"]
