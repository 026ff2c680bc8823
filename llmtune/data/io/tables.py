"""Rows from tables and dataset folders: CSV, TSV, Parquet, Arrow, a saved Hugging Face dataset, and the hub."""

from __future__ import annotations

import codecs
import csv
import sys
from collections import Counter
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import IO, Any

from llmtune.data.findings import Finding, error
from llmtune.data.formats.instruct import Labelled
from llmtune.data.io.base import Raw, Sniffed, open_bytes
from llmtune.data.io.charset import BOM, bom_finding, bytes_fault, head_fault
from llmtune.errors import MissingExtra

_SAMPLE = 1000
#: Column names that show that a first row is a header.
_HEADERS = frozenset(
    (*Labelled.TEXTS, *Labelled.LABELS, "prompt", "completion", "response", "question", "answer", "instruction")
) | {"input", "output", "chosen", "rejected", "id", "idx", "index", "split", "label_text", "intents", "labels"}


def rows(path: Path, sniffed: Sniffed, names: Collection[str] = ()) -> Iterator[Raw | Finding]:
    """The rows of a table as objects, one a record. `names` are column names that the caller knows to be there."""
    if sniffed.container in ("csv", "tsv"):
        return _delimited(path, sniffed, frozenset(names))
    return _arrow_rows(path, sniffed.container)


class _Lines:
    """Decoded lines of a byte stream for the csv module, which counts bytes and keeps the first encoding fault."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream
        self.line = 0
        self.fault: Finding | None = None
        self.bom = False

    def __iter__(self) -> Iterator[str]:
        decoder = codecs.getincrementaldecoder("utf-8")()
        for data in self._stream:
            self.line += 1
            if self.line == 1 and data.startswith(BOM):
                self.bom = True
                data = data[len(BOM) :]
            try:
                yield decoder.decode(data)
            except UnicodeDecodeError:
                fault = bytes_fault(data)
                self.fault = fault.at(None, self.line) if fault else None
                return


def _delimited(path: Path, sniffed: Sniffed, known: frozenset[str]) -> Iterator[Raw | Finding]:
    fault = head_fault(sniffed.head)
    if fault is not None:
        yield fault.at(None, 1)
        return
    delimiter = "\t" if sniffed.container == "tsv" else _delimiter(sniffed.head)
    csv.field_size_limit(min(sys.maxsize, 2**31 - 1))
    with open_bytes(path, sniffed.compression) as stream:
        lines = _Lines(stream)
        reader = csv.reader(iter(lines), delimiter=delimiter, strict=True)
        records: Iterator[tuple[int, list[str]] | Finding] = _records(reader, lines)
        sample: list[tuple[int, list[str]]] = []
        found: list[Finding] = []
        for record in records:
            if isinstance(record, Finding):
                found.append(record)
                continue
            sample.append(record)
            if len(sample) >= _SAMPLE:
                break
        if lines.bom:
            yield bom_finding()
        if not sample:
            yield from found
            return
        names = _header(sample[0][1], known)
        if names is not None:
            sample.pop(0)
        else:
            named = _guess_columns([cells for _, cells in sample])
            if isinstance(named, Finding):
                yield named.at(None, 1)
                return
            names = named
        yield from found
        for line, cells in sample:
            yield _as_row(names, line, cells)
        for record in records:
            yield record if isinstance(record, Finding) else _as_row(names, *record)


def _records(reader: Any, lines: _Lines) -> Iterator[tuple[int, list[str]] | Finding]:
    """Records with the line each begins on; a quoted text may hold line ends of its own."""
    while True:
        begin = lines.line + 1
        try:
            cells = next(reader)
        except StopIteration:
            break
        except csv.Error as fault:
            yield error("csv", f"broken CSV: {fault}", 'double a quote inside quotes ("")').at(None, begin)
            continue
        if cells:
            yield begin, cells
    if lines.fault is not None:
        yield lines.fault


def _as_row(names: list[str], line: int, cells: list[str]) -> Raw | Finding:
    if len(cells) != len(names):
        return error(
            "csv",
            f"{len(cells)} cells where {len(names)} are expected ({', '.join(names)})",
            "quote texts that hold the delimiter",
        ).at(None, line)
    return line, dict(zip(names, cells, strict=True))


def _delimiter(head: bytes) -> str:
    """The mark that cuts most of the first records into the same number of cells; a comma when several do."""
    text = head.removeprefix(BOM).decode("utf-8", "replace")
    lines = text.splitlines(keepends=True)[:200]
    if len(head) >= 1 << 16 and len(lines) > 1:
        lines.pop()  # the last line may be cut

    def evenness(mark: str) -> float:
        counts = Counter(len(cells) for cells in csv.reader(lines, delimiter=mark) if cells)
        cells, records = counts.most_common(1)[0] if counts else (0, 0)
        return records / counts.total() if cells > 1 else 0.0

    return max((",", ";", "\t", "|"), key=lambda mark: (round(evenness(mark), 2), mark == ","))


def _header(cells: list[str], known: frozenset[str]) -> list[str] | None:
    """The column names when a record is a header: short, distinct, and at least one of them known."""
    names = [cell.strip() for cell in cells]
    if known and known <= set(names):
        return names
    lowered = [name.lower() for name in names]
    if any(not name or len(name) > 64 for name in names) or len(set(lowered)) != len(names):
        return None
    if not any(name in _HEADERS for name in lowered):
        return None
    return [low if low in _HEADERS else name for low, name in zip(lowered, names, strict=True)]


def _guess_columns(records: list[list[str]]) -> list[str] | Finding:
    """Names for the two columns of a table without a header: the one with few short repeated values is the label."""
    if {len(cells) for cells in records} != {2}:
        return error(
            "csv",
            f"the first row ({', '.join(records[0])[:60]}) is no header llmtune knows, and there are not two columns",
            "add a header such as text,label; or name the columns",
        )
    distinct = [len({cells[column] for cells in records}) for column in (0, 1)]
    lengths = [sum(len(cells[column]) for cells in records) for column in (0, 1)]
    scores = [distinct[column] * (lengths[column] + 1) for column in (0, 1)]
    if scores[0] == scores[1]:
        return error("csv", "there is no header, and either column could be the label", "add a header: text,label")
    return ["label", "text"] if scores[0] < scores[1] else ["text", "label"]


def _pyarrow() -> Any:
    try:
        import pyarrow
    except ImportError as fault:
        raise MissingExtra("data", "pyarrow", purpose="Parquet and Arrow files") from fault
    return pyarrow


def _arrow_rows(path: Path, container: str, first: int = 0) -> Iterator[Raw | Finding]:
    pyarrow = _pyarrow()
    try:
        number = first
        for batch in _batches(path, container, pyarrow):
            names = _class_names(batch.schema)
            for row in batch.to_pylist():
                number += 1
                for key, labels in names.items():
                    value = row.get(key)
                    if isinstance(value, int) and 0 <= value < len(labels):
                        row[key] = labels[value]
                yield number, row
    except (pyarrow.ArrowException, OSError) as fault:
        yield error("unreadable", f"the {container} file cannot be read: {fault}", "it is damaged or not whole")


def _batches(path: Path, container: str, pyarrow: Any) -> Iterator[Any]:
    if container == "parquet":
        from pyarrow import parquet

        with parquet.ParquetFile(path) as table:
            yield from table.iter_batches(batch_size=1024)
        return
    from pyarrow import ipc

    with pyarrow.memory_map(str(path), "r") as mapped:
        try:
            reader = ipc.open_stream(mapped)
        except pyarrow.ArrowInvalid:
            file = ipc.open_file(mapped)
            yield from (file.get_batch(index) for index in range(file.num_record_batches))
            return
        for batch in reader:
            for start in range(0, batch.num_rows, 1024):
                yield batch.slice(start, 1024)


def _class_names(schema: Any) -> dict[str, list[str]]:
    """Columns whose integers stand for class names, by the metadata that the datasets library writes."""
    import orjson

    raw = (schema.metadata or {}).get(b"huggingface")
    if raw is None:
        return {}
    try:
        features = orjson.loads(raw)["info"]["features"]
        return {
            key: feature["names"]
            for key, feature in features.items()
            if isinstance(feature, dict) and feature.get("_type") == "ClassLabel"
        }
    except (orjson.JSONDecodeError, KeyError, TypeError, AttributeError):
        return {}
