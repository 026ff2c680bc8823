"""Which backend for this data? Several at once, on one held-out split, on one board."""

from __future__ import annotations

from llmtune.comparisons.compare import Plans, compare, plan_members
from llmtune.comparisons.members import Member

__all__ = ["Member", "Plans", "compare", "plan_members"]
