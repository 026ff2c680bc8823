"""Which backend for this data? Several at once, on one held-out split, on one board."""

from __future__ import annotations

from llmtune.comparing.members import Member
from llmtune.comparing.running import Plans, compare, plan_members

__all__ = ["Member", "Plans", "compare", "plan_members"]
