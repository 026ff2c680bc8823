"""What day it is: asked in one place, so that a test can stand in the future."""

from __future__ import annotations

import os
from datetime import UTC, date, datetime


def today() -> date:
    """Today's date in UTC; `LLMTUNE_TODAY=YYYY-MM-DD` sets another (what will this plan say in January?)."""
    override = os.environ.get("LLMTUNE_TODAY")
    return date.fromisoformat(override) if override else datetime.now(UTC).date()
