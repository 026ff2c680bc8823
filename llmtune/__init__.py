"""llmtune: one typed fine-tuning job, any backend, one report."""

from __future__ import annotations

__version__ = "0.1.0"
