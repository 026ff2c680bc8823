"""Rows from tables and dataset folders: CSV, TSV, Parquet, Arrow, a saved Hugging Face dataset, and the hub."""

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
from llmtune.data.io.charset import BOM, bom_finding, bytes_fault, head_fault
from llmtune.errors import MissingExtra

_SAMPLE = 1000
#: How spreadsheets say by which mark a file is cut, and what pandas calls a column without a name.
_SEP = re.compile(rb"sep=([^\r\n])\r?\n", re.IGNORECASE)
_UNNAMED = re.compile(r"|Unnamed: \d+")
#: What column names look like: a few words of letters and digits.
_NAME = re.compile(r"[^\W\d]\w*(?:[ .-]\w+){0,2}")
#: Column names that show that a first row is a header.
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


def rows(path: Path, sniffed: Sniffed, names: Collection[str] = ()) -> Iterator[Raw | Finding]:
    """The rows of a table as objects, one a record. `names` are column names that the caller knows to be there."""
    if sniffed.container in ("csv", "tsv"):
        return _delimited(path, sniffed, frozenset(names))
    return _arrow_rows(path, sniffed.container)


class _Lines:
    """Decoded lines of a byte stream for the csv module, which counts bytes and keeps the first encoding fault."""

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
                fault = bytes_fault(data)
                self.fault = fault.at(None, self.line) if fault else None
                return


def _delimited(path: Path, sniffed: Sniffed, known: frozenset[str]) -> Iterator[Raw | Finding]:  # noqa: C901
    fault = head_fault(sniffed.head)
    if fault is not None:
        yield fault.at(None, 1)
        return
    said = _SEP.match(sniffed.head.removeprefix(BOM))
    delimiter = "\t" if sniffed.container == "tsv" else _delimiter(sniffed.head)
    if said is not None:
        delimiter = said.group(1).decode()
    csv.field_size_limit(min(sys.maxsize, 2**31 - 1))
    with open_bytes(path, sniffed.compression) as stream:
        lines = _Lines(stream, skip=1 if said is not None else 0)
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
        records = chain(sample, records)
        names = _header(sample[0][1], known)
        if names is not None:
            next(records)
        else:
            named = _guess_columns([cells for _, cells in sample])
            if isinstance(named, Finding):
                yield named.at(None, sample[0][0])
                return
            names = named
            yield from _header_taken_as_row([cells for _, cells in sample], names, sample[0][0])
        yield from found
        blank = first = 0
        for record in records:
            if isinstance(record, Finding):
                yield record
            elif any(record[1]):
                yield _as_row(names, *record)
            else:
                blank += 1
                first = first or record[0]
        if blank:
            rows = "1 row without any text is" if blank == 1 else f"{blank:,} rows without any text are"
            yield warning("blank-line", f"{rows} skipped, the first of them here", "remove empty rows").at(None, first)


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
    while len(cells) > len(names) and not cells[-1]:
        cells.pop()  # spreadsheets write empty columns behind the last
    if len(cells) != len(names):
        return error(
            "csv",
            f"{len(cells)} cells where {len(names)} are expected ({', '.join(names)})",
            "quote texts that hold the delimiter",
        ).at(None, line)
    return line, {name: cell for name, cell in zip(names, cells, strict=True) if name}


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
    """The column names when a record is a header: short, distinct, and at least one of them known. A column without
    a name (an index, or an empty one behind the last) has the name ""."""
    names = [cell.strip() for cell in cells]
    while names and not names[-1]:
        names.pop()
    if known:  # the caller names columns, so there is a header, and a name that is not in it is reported by row
        return ["" if _UNNAMED.fullmatch(name) and name not in known else name for name in names]
    lowered = ["" if _UNNAMED.fullmatch(name) else name.lower() for name in names]
    named = [name for name in lowered if name]
    if any(len(name) > 64 for name in named) or len(set(named)) != len(named):
        return None
    if not any(name in _HEADERS for name in named):
        return None
    return [low if low in _HEADERS or not low else name for low, name in zip(lowered, names, strict=True)]


def _header_taken_as_row(records: list[list[str]], names: list[str], line: int) -> Iterator[Finding]:
    """A warning where the first record looks like a header: names, none of which comes again in its column."""
    first, *others = records
    again = any(cell == row[column] for row in others for column, cell in enumerate(first))
    if again or not others or not all(_NAME.fullmatch(cell.strip()) for cell in first):
        return
    texts = [row[names.index("text")] for row in others]
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
    """Names for the two columns of a table without a header: the one with few short repeated values is the label."""
    if {len(cells) for cells in records} != {2}:
        first = [cell.strip() for cell in records[0] if cell.strip()]
        options = " ".join(
            f"--column {ours}={quote(cell)}" for ours, cell in zip(("text", "label"), first, strict=False)
        )
        named = all(_NAME.fullmatch(cell) for cell in first)
        return error(
            "csv",
            f"the first row ({', '.join(records[0])[:60]}) is no header llmtune knows, and there are not two columns",
            f"if it is a header, name the columns, such as {options}" if named else "add a header such as text,label",
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
            others = [field.name for field in batch.schema if not _is_plain(field.type, pyarrow.types)]
            for row in batch.to_pylist():
                number += 1
                for key in others:
                    row[key] = as_json(row[key])
                for key, labels in names.items():
                    value = row.get(key)
                    if isinstance(value, int) and 0 <= value < len(labels):
                        row[key] = labels[value]
                yield number, row
    except (pyarrow.ArrowException, OSError) as fault:
        yield error("unreadable", f"the {container} file cannot be read: {fault}", "it is damaged or not whole")


def _is_plain(type_: Any, types: Any) -> bool:
    """Whether values of an Arrow type are what JSON has, too."""
    return bool(
        types.is_string(type_)
        or types.is_large_string(type_)
        or types.is_integer(type_)
        or types.is_floating(type_)
        or types.is_boolean(type_)
        or types.is_null(type_)
    )


def as_json(value: Any) -> Any:
    """A value of a table as JSON has it: text for bytes (some writers mark no column as text), dates and decimals; and
    no nulls in objects, as Arrow gives every object of a column the keys of all the others."""
    if isinstance(value, dict):
        return {key: as_json(part) for key, part in value.items() if part is not None}
    if isinstance(value, (list, tuple)):
        return [as_json(part) for part in value]
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
