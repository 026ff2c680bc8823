"""Which row formats there are, which of them a file is in, and which a vendor takes."""

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
    """Make a vendor's rows known to this process, as its entry point would. Later ones replace earlier ones."""
    _registered[:] = [known for known in _registered if known.provider != rows.provider] + [rows]
    vendors.cache_clear()
    _known.cache_clear()


@cache
def vendors() -> Mapping[str, VendorRows]:
    """Every vendor's rows by provider name: from entry points, and what was registered by hand."""
    from importlib.metadata import entry_points  # not at the top: it costs 25 ms

    found: dict[str, VendorRows] = {}
    for point in sorted(entry_points(group=GROUP), key=lambda point: point.name):
        try:
            rows = point.load()
        except (ImportError, AttributeError) as fault:  # one broken plug-in must not take the others away
            logging.getLogger("llmtune").warning("the row formats of %s could not be loaded: %s", point.value, fault)
            continue
        found[rows.provider] = rows
    for rows in _registered:
        found[rows.provider] = rows
    return found


def vendor(provider: str) -> VendorRows:
    """One vendor's rows. Raises `UnknownName`."""
    known = vendors()
    if provider not in known:
        raise UnknownName("provider of row formats", provider, known)
    return known[provider]


@cache
def general_formats() -> tuple[RowFormat, ...]:
    """The formats of this package, in the order in which they are asked whether a row is theirs."""
    from llmtune.data.formats import instruct, preference
    from llmtune.data.formats.chat import CHAT
    from llmtune.data.formats.prompt_turns import PROMPT_TURNS
    from llmtune.data.formats.sharegpt import SHAREGPT

    return (*preference.FORMATS, SHAREGPT, CHAT, PROMPT_TURNS, *instruct.FORMATS)


@cache
def _known() -> Mapping[str, RowFormat]:
    # Vendors' formats are narrower than the general ones and share keys with them, so they are asked first.
    formats = [*(fmt for rows in vendors().values() for fmt in rows.formats), *general_formats()]
    return {fmt.name: fmt for fmt in formats}


def all_formats() -> Mapping[str, RowFormat]:
    """Every known row format by name, in the order of detection."""
    return _known()


def get_format(name: str, *, method: str = "sft", model: str | None = None) -> RowFormat:
    """A row format by its name, or the format a provider of that name takes. Raises `UnknownName`."""
    known = _known()
    if name in vendors():  # a provider may have a format of its own name, which is that of one method
        return known[vendors()[name].format_for(method, model)]
    if name in known:
        return known[name]
    raise UnknownName("row format", name, [*known, *vendors()])


def detect(row: Any, among: Sequence[RowFormat] | None = None) -> RowFormat | None:
    """The format whose row this is meant to be, or None."""
    if not isinstance(row, dict):
        return None
    return next((fmt for fmt in (among or _known().values()) if fmt.detect(row)), None)


def get_writer(name: str, *, method: str = "sft", model: str | None = None) -> RowFormat:
    """`get_format`, where a name that is both a format's and a provider's means the format: so `Limits.format` does."""
    known = _known()
    return known[name] if name in known else get_format(name, method=method, model=model)
