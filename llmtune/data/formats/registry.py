"""The registry of row formats: the general ones and the vendors', and detection of a row's format."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

from llmtune.data.formats.base import RowFormat, VendorRows
from llmtune.errors import UnknownName

GROUP = "llmtune.formats"


_registered: list[VendorRows] = []


def register(rows: VendorRows) -> None:
    """Register a vendor's rows in this process, as its entry point would. Later ones replace earlier ones."""
    _registered[:] = [registered for registered in _registered if registered.provider != rows.provider] + [rows]
    vendors.cache_clear()
    _formats.cache_clear()


@cache
def vendors() -> Mapping[str, VendorRows]:
    """Return every vendor's rows by provider name: from entry points, and those registered with `register`."""
    from importlib.metadata import entry_points  # not at the top: it costs 25 ms

    by_provider: dict[str, VendorRows] = {}
    for point in sorted(entry_points(group=GROUP), key=lambda point: point.name):
        try:
            rows = point.load()
        except (ImportError, AttributeError) as fault:  # one broken plug-in must not take the others away
            logging.getLogger("llmtune").warning("the row formats of %s could not be loaded: %s", point.value, fault)
            continue
        by_provider[rows.provider] = rows
    for rows in _registered:
        by_provider[rows.provider] = rows
    return by_provider


def vendor(provider: str) -> VendorRows:
    """Return one vendor's rows. Raises `UnknownName`."""
    by_provider = vendors()
    if provider not in by_provider:
        raise UnknownName("provider of row formats", provider, by_provider)
    return by_provider[provider]


@cache
def general_formats() -> tuple[RowFormat, ...]:
    """Return the formats of this package, in the order of detection."""
    from llmtune.data.formats import instruct, preference
    from llmtune.data.formats.chat import CHAT
    from llmtune.data.formats.prompt_turns import PROMPT_TURNS
    from llmtune.data.formats.sharegpt import SHAREGPT

    return (*preference.FORMATS, SHAREGPT, CHAT, PROMPT_TURNS, *instruct.FORMATS)


@cache
def _formats() -> Mapping[str, RowFormat]:
    # Vendors' formats are narrower than the general ones and share keys with them, so they are tried first.
    formats = [*(fmt for rows in vendors().values() for fmt in rows.formats), *general_formats()]
    return {fmt.name: fmt for fmt in formats}


def all_formats() -> Mapping[str, RowFormat]:
    """Return every known row format by name, in the order of detection."""
    return _formats()


def get_format(name: str, *, method: str = "sft", model: str | None = None, source: str = "") -> RowFormat:
    """Return a row format by its name, or the format that a provider of that name takes for rows of format `source`.

    Raises `UnknownName`.
    """
    formats = _formats()
    if name in vendors():  # a provider may have a format of its own name, which is that of one method
        return formats[vendors()[name].format_for(method, model, source)]
    if name in formats:
        return formats[name]
    raise UnknownName("row format", name, [*formats, *vendors()])


def detect(row: Any, among: Sequence[RowFormat] | None = None) -> RowFormat | None:
    """Return the first format that detects the row as its own, or None."""
    if not isinstance(row, dict):
        return None
    return next((fmt for fmt in (among or _formats().values()) if fmt.detect(row)), None)


def get_writer(name: str, *, method: str = "sft", model: str | None = None) -> RowFormat:
    """Return a row format as `get_format` does, but prefer a format to a provider of the same name, as `Limits.format`
    needs."""
    formats = _formats()
    return formats[name] if name in formats else get_format(name, method=method, model=model)
