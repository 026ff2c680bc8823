"""Datasets: any common format in, each vendor's format out, faults found before money is spent."""

from __future__ import annotations

from llmtune.data.dataset import Dataset
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
from llmtune.data.formats.base import RowFormat, VendorRows, all_formats, get_format, register
from llmtune.data.io.reading import load, read

__all__ = [
    "Content",
    "Dataset",
    "Example",
    "Finding",
    "ImagePart",
    "Message",
    "OtherPart",
    "Part",
    "Preference",
    "Role",
    "RowFormat",
    "TextPart",
    "ToolCall",
    "VendorRows",
    "all_formats",
    "chat",
    "get_format",
    "load",
    "read",
    "register",
]
