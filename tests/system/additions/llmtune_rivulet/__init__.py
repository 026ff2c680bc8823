"""Rivulet, an invented service that speaks OpenAI's fine-tuning API."""

from __future__ import annotations

from llmtune_rivulet.provider import RivuletProvider

__all__ = ["RivuletProvider"]
