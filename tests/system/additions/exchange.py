"""Rows of one exchange: what a customer wrote, and what the agent answered."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from llmtune.data.example import Example
from llmtune.data.findings import Finding
from llmtune.data.formats import row_features as f
from llmtune.data.formats.base import RowFormat
from llmtune.data.formats.instruct import pair, question_of, take_text


class Exchange(RowFormat):
    """`{"customer": ..., "agent": ...}`."""

    name = "exchange"
    title = '{"customer": "...", "agent": "..."}'
    supports = f.CHAT
    relocates = f.SYSTEM

    def detect(self, row: Mapping[str, Any]) -> bool:
        return "customer" in row and "agent" in row

    def read(self, row: dict[str, Any], line: int | None, faults: list[Finding]) -> Example:
        return Example(pair(take_text(row, "customer", faults), take_text(row, "agent", faults)), line=line)

    def write(self, example: Example) -> dict[str, Any]:
        return {"customer": question_of(example), "agent": example.completion()}


FORMATS: tuple[RowFormat, ...] = (Exchange(),)
