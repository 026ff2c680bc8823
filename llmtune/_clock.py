"""Today's date, read in one place, so that a test can set another."""

from __future__ import annotations

import os
from datetime import UTC, date, datetime


def today() -> date:
    """Return today's date in UTC; `LLMTUNE_TODAY=YYYY-MM-DD` sets another, to see a plan as of that day."""
    override = os.environ.get("LLMTUNE_TODAY")
    return date.fromisoformat(override) if override else datetime.now(UTC).date()
