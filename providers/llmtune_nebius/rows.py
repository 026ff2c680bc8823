"""The rows of Nebius Token Factory, and what it demands of a dataset.

Source: Nebius Token Factory, Dataset formats for fine-tuning (three copies, 2026): rows of messages, of
`{"prompt", "completion"}`, and of `{"text"}` for continued pre-training; at most 5 GB a file. Pre-tokenised rows are
taken there too, and not written here.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from llmtune.data.example import Example
from llmtune.data.findings import Finding, error
from llmtune.data.formats import row_features as f
from llmtune.data.formats.base import FileFacts, RowFormat, VendorRows
from llmtune.data.formats.instruct import PromptCompletion
from llmtune.provider import catalog
from llmtune_openai.rows import OpenAIRows

SOURCE = "Nebius Token Factory, Dataset formats for fine-tuning, 2026"
MAX_BYTES = 5_000_000_000
CATALOG = Path(__file__).with_name("catalog.toml")
CHAT_ROWS, PROMPT_ROWS = "nebius", "nebius_prompt_completion"


class NebiusRows(OpenAIRows):
    """OpenAI's rows of messages, or `{"text": ...}` where a row is plain text."""

    name = CHAT_ROWS
    title = '{"messages": [...], "tools": [...]} or {"text": ...}'
    supports = OpenAIRows.supports | f.TEXT

    def read(self, row: dict[str, Any], line: int | None, faults: list[Finding]) -> Example:
        from llmtune.data.formats.registry import detect, general_formats

        fmt = detect(row, general_formats())
        return fmt.read(row, line, faults) if fmt is not None else super().read(row, line, faults)

    def write(self, example: Example) -> dict[str, Any]:
        return {"text": example.text} if example.text is not None else super().write(example)


class NebiusPromptRows(PromptCompletion):
    """`{"prompt": ..., "completion": ...}` or `{"text": ...}`: for base models, which have no chat template."""

    name = PROMPT_ROWS
    title = '{"prompt": "...", "completion": "..."} or {"text": "..."}'
    supports = f.CHAT | f.TEXT

    def detect(self, row: Mapping[str, Any]) -> bool:
        return False  # rows read from files are of the general formats

    def read(self, row: dict[str, Any], line: int | None, faults: list[Finding]) -> Example:
        from llmtune.data.formats.registry import detect, general_formats

        fmt = detect(row, general_formats())
        return fmt.read(row, line, faults) if fmt is not None else super().read(row, line, faults)

    def write(self, example: Example) -> dict[str, Any]:
        if example.text is not None:
            return {"text": example.text}
        return super().write(example.replace(extra=None))


def choose(method: str, model: str | None) -> str:
    """Return the row format of a model: messages, or prompt and completion where it has no chat template."""
    entry = catalog.load("nebius", CATALOG).models.get(model or "")
    return PROMPT_ROWS if entry is not None and entry.facts.get("chat_template") is False else CHAT_ROWS


def file_rules(facts: FileFacts) -> Iterable[Finding]:
    """Return the findings about the bytes of a file; nothing on rows beyond their shape is published (2026)."""
    if facts.size > MAX_BYTES:
        yield error("vendor-size", f"{facts.size / 1e9:,.1f} GB; at most 5 GB ({SOURCE})", "give fewer rows")


FORMATS: tuple[RowFormat, ...] = (NebiusRows(), NebiusPromptRows())
NEBIUS_ROWS = VendorRows(
    provider="nebius",
    formats=FORMATS,
    defaults={"sft": CHAT_ROWS},
    file_rules=file_rules,
    choose=choose,
    billing="tokens that the job reports as trained_tokens, every epoch counted (the vendor's cookbook, 2025-12)",
)
