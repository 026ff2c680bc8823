"""Datasets: any common format in, each vendor's format out, faults found before money is spent."""

from __future__ import annotations

from llmtune.data.example import (
    Content,
    Example,
    ImagePart,
    Message,
    OtherPart,
    Part,
    Preference,
    Role,
    TextPart,
    ToolCall,
    chat,
)
from llmtune.data.findings import Finding

__all__ = [
    "Content",
    "Example",
    "Finding",
    "ImagePart",
    "Message",
    "OtherPart",
    "Part",
    "Preference",
    "Role",
    "TextPart",
    "ToolCall",
    "chat",
]
