"""Datasets: any common format in, each vendor's format out, faults found before money is spent."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

#: Where each name is defined; it is imported when it is first used.
_HOME = {
    "BASIC": "llmtune.data.formats.row_features",
    "Content": "llmtune.data.example",
    "Dataset": "llmtune.data.dataset",
    "Example": "llmtune.data.example",
    "Finding": "llmtune.data.findings",
    "ImagePart": "llmtune.data.example",
    "Message": "llmtune.data.example",
    "OtherPart": "llmtune.data.example",
    "Part": "llmtune.data.example",
    "Preference": "llmtune.data.example",
    "Role": "llmtune.data.example",
    "RowFormat": "llmtune.data.formats.base",
    "TextPart": "llmtune.data.example",
    "ToolCall": "llmtune.data.example",
    "VendorRows": "llmtune.data.formats.base",
    "all_formats": "llmtune.data.formats.registry",
    "chat": "llmtune.data.example",
    "get_format": "llmtune.data.formats.registry",
    "load": "llmtune.data.io.reading",
    "read": "llmtune.data.io.reading",
    "register": "llmtune.data.formats.registry",
}

__all__ = [
    "BASIC",
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

if TYPE_CHECKING:
    from llmtune.data.dataset import Dataset as Dataset
    from llmtune.data.example import Content as Content
    from llmtune.data.example import Example as Example
    from llmtune.data.example import ImagePart as ImagePart
    from llmtune.data.example import Message as Message
    from llmtune.data.example import OtherPart as OtherPart
    from llmtune.data.example import Part as Part
    from llmtune.data.example import Preference as Preference
    from llmtune.data.example import Role as Role
    from llmtune.data.example import TextPart as TextPart
    from llmtune.data.example import ToolCall as ToolCall
    from llmtune.data.example import chat as chat
    from llmtune.data.findings import Finding as Finding
    from llmtune.data.formats.base import RowFormat as RowFormat
    from llmtune.data.formats.base import VendorRows as VendorRows
    from llmtune.data.formats.registry import all_formats as all_formats
    from llmtune.data.formats.registry import get_format as get_format
    from llmtune.data.formats.registry import register as register
    from llmtune.data.formats.row_features import BASIC as BASIC
    from llmtune.data.io.reading import load as load
    from llmtune.data.io.reading import read as read


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(_HOME[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
