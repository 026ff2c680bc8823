"""Cohere: the managed service retired on 2025-09-15, endpoints that still serve its API, and its open trainer.

The `cohere` package is imported only when a call is made.
"""

from __future__ import annotations

from llmtune_cohere.managed import Managed
from llmtune_cohere.provider import CohereProvider
from llmtune_cohere.self_hosted import SelfHosted

__all__ = ["CohereProvider", "Managed", "SelfHosted"]
