"""What Nebius Token Factory demands of a dataset; its rows are OpenAI's."""

from __future__ import annotations

from collections.abc import Iterable

from llmtune.data.example import Example
from llmtune.data.findings import Finding
from llmtune.data.formats.base import VendorRows


def nebius_row_rules(example: Example, method: str, model: str | None) -> Iterable[Finding]:
    """Nothing beyond the chat shape is published (2026)."""
    return ()


NEBIUS_ROWS = VendorRows(provider="nebius", defaults={"sft": "openai"}, row_rules=nebius_row_rules)
