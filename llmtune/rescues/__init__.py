"""The way out: move a tuned model whose vendor is closing to another backend, with proof of what changed."""

from __future__ import annotations

from llmtune.rescues.rescue import rescue
from llmtune.rescues.results import GoldenSet, Rescue, RescueReport, Source

__all__ = ["GoldenSet", "Rescue", "RescueReport", "Source", "rescue"]
