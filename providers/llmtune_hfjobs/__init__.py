"""Hugging Face Jobs: llmtune's own trainer on a machine that is rented by the minute."""

from __future__ import annotations

from llmtune_hfjobs.provider import HfJobsProvider

__all__ = ["HfJobsProvider"]
