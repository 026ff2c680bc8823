"""The same server and client as in tests/llmtune/server/tuning."""

from __future__ import annotations

from tests.llmtune.server.tuning.conftest import api, quick, server, vendor

__all__ = ["api", "quick", "server", "vendor"]
