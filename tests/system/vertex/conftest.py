"""The same fake and the same provider as in tests/providers/llmtune_vertex."""

from __future__ import annotations

from tests.providers.llmtune_vertex.conftest import google, provider, vendor

__all__ = ["google", "provider", "vendor"]
