"""Rows of tables: CSV, TSV, Parquet and Arrow."""

from __future__ import annotations

import base64
import codecs
import csv
import re
import sys
from collections import Counter
from collections.abc import Collection, Iterator
from decimal import Decimal
from itertools import chain
from pathlib import Path
from shlex import quote
from typing import IO, Any

from llmtune.data.findings import Finding, error, warning
from llmtune.data.formats.instruct import Labelled
from llmtune.data.io.base import Raw, Sniffed, open_bytes
from llmtune.data.io.charset import BOM, bom_finding, check_encoding, check_utf8
from llmtune.errors import MissingExtra

_SAMPLE = 1000
#: How spreadsheets declare the delimiter of a file, and pandas' names of columns without one.
_SEP = re.compile(rb"sep=([^\r\n])\r?\n", re.IGNORECASE)
_UNNAMED = re.compile(r"|Unnamed: \d+")
#: A column name: a few words of letters and digits.
_NAME = re.compile(r"[^\W\d]\w*(?:[ .-]\w+){0,2}")
#: Column names by which a first row is recognised as a header.
_HEADERS = frozenset(
    (
        *Labelled.TEXTS,
        *Labelled.HEADINGS,
        *Labelled.LABELS,
        "prompt",
        "completion",
        "response",
        "question",
        "answer",
        "instruction",
    )
) | {"input", "output", "chosen", "rejected", "id", "idx", "index", "split", "label_text", "intents", "labels"}


def read_table(path: Path, sniffed: Sniffed, names: Collection[str] = ()) -> Iterator[Raw | Finding]:
    """Yield the rows of a table as objects, one per record. `names` are column names that the caller expects."""
    if sniffed.container in ("csv", "tsv"):
        return _read_delimited(path, sniffed, frozenset(names))
    return _read_arrow(path, sniffed.container)


class _Lines:
    """Decoded lines of a byte stream for the csv module, with their number and the first encoding fault."""

    def __init__(self, stream: IO[bytes], skip: int = 0) -> None:
        self._stream = stream
        self._skip = skip
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
            if self.line <= self._skip:
                continue
            try:
                yield decoder.decode(data)
            except UnicodeDecodeError:
                fault = check_utf8(data)
                self.fault = fault.at(None, self.line) if fault else None
                return


def _read_delimited(path: Path, sniffed: Sniffed, columns: frozenset[str]) -> Iterator[Raw | Finding]:
    fault = check_encoding(sniffed.head)
    if fault is not None:
        yield fault.at(None, 1)
        return
    declaration = _SEP.match(sniffed.head.removeprefix(BOM))
    delimiter = "\t" if sniffed.container == "tsv" else _detect_delimiter(sniffed.head)
    if declaration is not None:
        delimiter = declaration.group(1).decode()
    csv.field_size_limit(min(sys.maxsize, 2**31 - 1))
    with open_bytes(path, sniffed.compression) as stream:
        lines = _Lines(stream, skip=1 if declaration is not None else 0)
        reader = csv.reader(iter(lines), delimiter=delimiter, strict=True)
        records: Iterator[tuple[int, list[str]] | Finding] = _read_records(reader, lines)
        sample, faults = _take_sample(records)
        if lines.bom:
            yield bom_finding()
        if not sample:
            yield from faults
            return
        records = chain(sample, records)
        names = _find_header(sample[0][1], columns)
        if names is not None:
            next(records)
        else:
            named = _guess_columns([cells for _, cells in sample])
            if isinstance(named, Finding):
                yield named.at(None, sample[0][0])
                return
            names = named
            yield from _check_header_as_row([cells for _, cells in sample], names, sample[0][0])
        yield from faults
        blank = first = 0
        for record in records:
            if isinstance(record, Finding):
                yield record
            elif any(record[1]):
                yield _make_row(names, *record)
            else:
                blank += 1
                first = first or record[0]
        if blank:
            rows = "1 row without any text is" if blank == 1 else f"{blank:,} rows without any text are"
            yield warning("blank-line", f"{rows} skipped, the first of them here", "remove empty rows").at(None, first)


def _take_sample(
    records: Iterator[tuple[int, list[str]] | Finding],
) -> tuple[list[tuple[int, list[str]]], list[Finding]]:
    """Take the first `_SAMPLE` records, and the findings among them."""
    sample: list[tuple[int, list[str]]] = []
    faults: list[Finding] = []
    for record in records:
        if isinstance(record, Finding):
            faults.append(record)
            continue
        sample.append(record)
        if len(sample) >= _SAMPLE:
            break
    return sample, faults


def _read_records(reader: Any, lines: _Lines) -> Iterator[tuple[int, list[str]] | Finding]:
    """Yield records with the line each begins on; a quoted text may contain line ends of its own."""
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


def _make_row(names: list[str], line: int, cells: list[str]) -> Raw | Finding:
    while len(cells) > len(names) and not cells[-1]:
        cells.pop()  # spreadsheets write empty columns after the last one
    if len(cells) != len(names):
        return error(
            "csv",
            f"{len(cells)} cells where {len(names)} are expected ({', '.join(names)})",
            "quote texts that hold the delimiter",
        ).at(None, line)
    return line, {name: cell for name, cell in zip(names, cells, strict=True) if name}


def _detect_delimiter(head: bytes) -> str:
    """Return the delimiter that cuts most first records into the same number of cells; a comma when several do."""
    text = head.removeprefix(BOM).decode("utf-8", "replace")
    lines = text.splitlines(keepends=True)[:200]
    if len(head) >= 1 << 16 and len(lines) > 1:
        lines.pop()  # the last line may be cut

    def evenness(mark: str) -> float:
        counts = Counter(len(cells) for cells in csv.reader(lines, delimiter=mark) if cells)
        cells, records = counts.most_common(1)[0] if counts else (0, 0)
        return records / counts.total() if cells > 1 else 0.0

    return max((",", ";", "\t", "|"), key=lambda mark: (round(evenness(mark), 2), mark == ","))


def _find_header(cells: list[str], expected: frozenset[str]) -> list[str] | None:
    """Return the column names when a record is a header: short, distinct, and at least one of them known.

    A column without a name (an index, or an empty one after the last) has the name "".
    """
    names = [cell.strip() for cell in cells]
    while names and not names[-1]:
        names.pop()
    if expected:  # the caller names columns, so there is a header, and a name that is not in it is reported by row
        return ["" if _UNNAMED.fullmatch(name) and name not in expected else name for name in names]
    lowered = ["" if _UNNAMED.fullmatch(name) else name.lower() for name in names]
    named = [name for name in lowered if name]
    if any(len(name) > 64 for name in named) or len(set(named)) != len(named):
        return None
    if not any(name in _HEADERS for name in named):
        return None
    return [low if low in _HEADERS or not low else name for low, name in zip(lowered, names, strict=True)]


def _check_header_as_row(records: list[list[str]], names: list[str], line: int) -> Iterator[Finding]:
    """Yield a warning where the first record looks like a header: names that do not occur again in their column."""
    first, *following = records
    again = any(cell == row[column] for row in following for column, cell in enumerate(first))
    if again or not following or not all(_NAME.fullmatch(cell.strip()) for cell in first):
        return
    texts = [row[names.index("text")] for row in following]
    single = sum(" " in text.strip() for text in texts) * 2 < len(texts)
    if single and not any("_" in cell for cell in first):
        return  # texts of one word look like names themselves
    options = " ".join(f"--column {name}={quote(cell.strip())}" for name, cell in zip(names, first, strict=True))
    yield warning(
        "header-as-row",
        f"the first line ({', '.join(first)}) looks like a header, and was taken as a row of {' and '.join(names)}",
        f"if it is one, name the columns ({options}, or --column prompt={quote(first[0].strip())}"
        f" --column completion={quote(first[1].strip())}); else leave it",
    ).at(None, line)


def _guess_columns(records: list[list[str]]) -> list[str] | Finding:
    """Guess the names of the two columns of a table without a header: the label has few, short values."""
    if {len(cells) for cells in records} != {2}:
        first = [cell.strip() for cell in records[0] if cell.strip()]
        options = " ".join(
            f"--column {name}={quote(cell)}" for name, cell in zip(("text", "label"), first, strict=False)
        )
        named = all(_NAME.fullmatch(cell) for cell in first)
        return error(
            "csv",
            f"the first row ({', '.join(records[0])[:60]}) is no known header, and there are not two columns",
            f"if it is a header, name the columns, such as {options}" if named else "add a header such as text,label",
        )
    distinct = [len({cells[column] for cells in records}) for column in (0, 1)]
    lengths = [sum(len(cells[column]) for cells in records) for column in (0, 1)]
    scores = [distinct[column] * (lengths[column] + 1) for column in (0, 1)]
    if scores[0] == scores[1]:
        return error("csv", "there is no header, and either column could be the label", "add a header: text,label")
    return ["label", "text"] if scores[0] < scores[1] else ["text", "label"]


def _import_pyarrow() -> Any:
    try:
        import pyarrow
    except ImportError as fault:
        raise MissingExtra("data", "pyarrow", purpose="Parquet and Arrow files") from fault
    return pyarrow


def _read_arrow(path: Path, container: str, first: int = 0) -> Iterator[Raw | Finding]:
    pyarrow = _import_pyarrow()
    try:
        number = first
        for batch in _read_batches(path, container, pyarrow):
            names = _read_class_names(batch.schema)
            nested = [field.name for field in batch.schema if not _is_plain(field.type, pyarrow.types)]
            for row in batch.to_pylist():
                number += 1
                for key in nested:
                    row[key] = to_json_value(row[key])
                for key, labels in names.items():
                    value = row.get(key)
                    if isinstance(value, int) and 0 <= value < len(labels):
                        row[key] = labels[value]
                yield number, row
    except (pyarrow.ArrowException, OSError) as fault:
        yield error("unreadable", f"the {container} file cannot be read: {fault}", "it is damaged or incomplete")


def _is_plain(type_: Any, types: Any) -> bool:
    """Return whether values of an Arrow type are JSON values, too."""
    return bool(
        types.is_string(type_)
        or types.is_large_string(type_)
        or types.is_integer(type_)
        or types.is_floating(type_)
        or types.is_boolean(type_)
        or types.is_null(type_)
    )


def to_json_value(value: Any) -> Any:
    """Convert a value of a table to a JSON value: bytes (some writers mark no column as text), dates and decimals to
    text, and objects without nulls, as Arrow gives every object of a column the keys of all the others."""
    if isinstance(value, dict):
        return {key: to_json_value(part) for key, part in value.items() if part is not None}
    if isinstance(value, (list, tuple)):
        return [to_json_value(part) for part in value]
    if value is None or isinstance(value, (str, bool, int, float)):
        return value
    if isinstance(value, bytes):
        try:
            return value.decode()
        except UnicodeDecodeError:
            return base64.b64encode(value).decode()
    if isinstance(value, Decimal):
        return int(value) if value == value.to_integral_value() else str(value)
    return value.isoformat() if hasattr(value, "isoformat") else str(value)


def _read_batches(path: Path, container: str, pyarrow: Any) -> Iterator[Any]:
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


def _read_class_names(schema: Any) -> dict[str, list[str]]:
    """Return the class names of columns of integers, by the metadata that the datasets library writes."""
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
