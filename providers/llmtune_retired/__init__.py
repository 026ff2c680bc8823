"""Vendors whose fine-tuning is gone, known by name: each answers with the fact, the date, the source and the way on."""

from __future__ import annotations

from llmtune_retired.adapter import (
    DatabricksProvider,
    GoogleAIStudioProvider,
    GroqProvider,
    MistralProvider,
    RetiredProvider,
)

__all__ = ["DatabricksProvider", "GoogleAIStudioProvider", "GroqProvider", "MistralProvider", "RetiredProvider"]
