"""The training tokens a backend would bill for a file, by its published rule."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from llmtune.data.checks.stats import Stats
from llmtune.data.formats.registry import vendor, vendors


def billable(stats: Stats, epochs: int = 1, providers: Iterable[str] | None = None) -> dict[str, dict[str, Any]]:
    """Return the tokens billed per provider for `epochs` passes over a training file, with the rule and its source.

    `tokens` is None where a backend publishes no rule or bills nothing. They are estimates where the counts are.
    """
    names = list(providers) if providers is not None else [name for name, rows in vendors().items() if rows.billing]
    bills: dict[str, dict[str, Any]] = {}
    for name in names:
        rule = vendor(name).billing
        bills[name] = {
            "tokens": stats.total_tokens * epochs if rule else None,
            "exact": stats.exact,
            "rule": rule or "no rule is published",
        }
    return bills
