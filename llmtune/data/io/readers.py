"""From a path to raw rows: containers (JSON lines, JSON, tables), compression and encoding. Streams, never loads.

`rows(path)` yields `(line, value)` pairs and the findings about what is not a row at all. What a value means is the
business of the row formats.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from pathlib import Path

from llmtune.data.findings import Finding, error
from llmtune.data.io.base import BROKEN, Raw, Sniffed, open_bytes
from llmtune.data.io.charset import head_fault
from llmtune.data.io.json_lines import json_rows, jsonl_rows


def rows(path: Path, sniffed: Sniffed, names: Collection[str] = ()) -> Iterator[Raw | Finding]:
    """The raw rows of a file, with findings about what is not a row. `names` are columns known to be there."""
    if sniffed.container == "folder":
        from llmtune.data.io.folders import folder_rows

        yield from folder_rows(path, lambda file, inner: rows(file, inner, names))
        return
    if sniffed.container in ("parquet", "arrow", "csv", "tsv"):
        from llmtune.data.io import tables

        yield from tables.rows(path, sniffed, names)
        return
    fault = head_fault(sniffed.head)
    if fault is not None:
        yield fault.at(None, 1)
        return
    try:
        with open_bytes(path, sniffed.compression) as stream:
            yield from json_rows(stream) if sniffed.container == "json" else jsonl_rows(stream)
    except BROKEN as broken:
        yield error("unreadable", f"the file breaks off: {broken}", "it is damaged or not whole: fetch it again")
