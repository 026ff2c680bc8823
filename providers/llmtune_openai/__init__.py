"""OpenAI, and services that speak its fine-tuning API. The vendor's SDK is imported when it is first needed."""

from __future__ import annotations

from llmtune_openai.provider import OpenAIProvider

__all__ = ["OpenAIProvider"]
