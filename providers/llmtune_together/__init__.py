"""Together AI: open models tuned as a service, with the most knobs of any living job API.

The `together` package is imported only when a call is made.
"""

from __future__ import annotations

from llmtune_together.provider import TogetherProvider

__all__ = ["TogetherProvider"]
