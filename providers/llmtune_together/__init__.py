"""Together AI: open models tuned as a service, with the most parameters of any job API that still takes jobs.

The `together` package is imported only when a call is made.
"""

from __future__ import annotations

from llmtune_together.provider import TogetherProvider

__all__ = ["TogetherProvider"]
