"""Vendors whose fine-tuning is gone, known by name: each answers with the fact, the date, the source and the way on."""

from __future__ import annotations

from llmtune_retired.provider import Databricks, GoogleAIStudio, Groq, Mistral, RetiredProvider

__all__ = ["Databricks", "GoogleAIStudio", "Groq", "Mistral", "RetiredProvider"]
