"""The same fake and the same provider as in tests/providers/llmtune_together."""

from __future__ import annotations

from tests.providers.llmtune_together.conftest import provider, vendor

__all__ = ["provider", "vendor"]
