"""OpenAI, and services that speak its fine-tuning API. The vendor's SDK is imported when it is first needed."""

from __future__ import annotations

from llmtune_openai.adapter import OpenAIProvider
from llmtune_openai.nebius import NebiusProvider

__all__ = ["NebiusProvider", "OpenAIProvider"]
