"""Provider for Tinker (Thinking Machines): the service runs forward and backward passes, and the loop runs here."""

from __future__ import annotations

from llmtune_tinker.provider import TinkerProvider

__all__ = ["TinkerProvider"]
