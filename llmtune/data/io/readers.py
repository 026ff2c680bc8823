"""Raw rows of any container (JSON lines, JSON, tables, folders), compression and encoding, as a stream.

`read_raw(path)` yields `(line, value)` pairs and findings about what is not a row at all. The row formats interpret the
values.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from pathlib import Path

from llmtune.data.findings import Finding, error
from llmtune.data.io.base import BROKEN, Raw, Sniffed, open_bytes
from llmtune.data.io.charset import check_encoding
from llmtune.data.io.json_lines import read_json, read_json_lines
from llmtune.data.io.plain_text import read_paragraphs


def read_raw(path: Path, sniffed: Sniffed, names: Collection[str] = ()) -> Iterator[Raw | Finding]:
    """Yield the raw rows of a file, and findings about what is not a row. `names` are expected columns."""
    if sniffed.container == "folder":
        from llmtune.data.io.folders import read_folder

        yield from read_folder(path, lambda file, inner: read_raw(file, inner, names))
        return
    if sniffed.container in ("parquet", "arrow", "csv", "tsv"):
        from llmtune.data.io import tables

        yield from tables.read_table(path, sniffed, names)
        return
    fault = check_encoding(sniffed.head)
    if fault is not None:
        yield fault.at(None, 1)
        return
    try:
        with open_bytes(path, sniffed.compression) as stream:
            if sniffed.container == "txt":
                yield from read_paragraphs(stream)
            else:
                yield from read_json(stream) if sniffed.container == "json" else read_json_lines(stream)
    except BROKEN as broken:
        yield error("unreadable", f"the file breaks off: {broken}", "it is damaged or incomplete: fetch it again")
