"""What Nebius Token Factory demands of a dataset; its rows are OpenAI's."""

from __future__ import annotations

from collections.abc import Iterable

from llmtune.data.findings import Finding, error
from llmtune.data.formats.base import FileFacts, VendorRows

SOURCE = "Nebius Token Factory, Dataset formats for fine-tuning, 2026"
MAX_BYTES = 50_000_000_000


def file_rules(facts: FileFacts) -> Iterable[Finding]:
    """Return the findings about the bytes of a file; nothing on rows beyond the chat shape is published (2026)."""
    if facts.size > MAX_BYTES:
        yield error("vendor-size", f"{facts.size / 1e9:,.1f} GB; at most 50 GB ({SOURCE})", "give fewer rows")


NEBIUS_ROWS = VendorRows(provider="nebius", defaults={"sft": "openai"}, file_rules=file_rules)
