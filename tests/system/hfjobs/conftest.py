"""The fake of the service and its provider, as the room's own tests have them."""

from __future__ import annotations

from tests.providers.llmtune_hfjobs.conftest import provider, vendor

__all__ = ["provider", "vendor"]
