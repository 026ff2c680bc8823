"""The way out: move a tuned model whose vendor is closing to another backend, with proof of what changed."""

from __future__ import annotations

from llmtune.rescuing.model import GoldenSet, Rescue, RescueReport, Source
from llmtune.rescuing.steps import rescue

__all__ = ["GoldenSet", "Rescue", "RescueReport", "Source", "rescue"]
