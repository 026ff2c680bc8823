"""Writing rows to disk: JSON lines, JSON, CSV and Parquet, compressed or not, completely or not at all."""

from __future__ import annotations

import hashlib
import io
import os
import re
import tempfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import IO, Any, BinaryIO, NamedTuple, cast

import orjson

from llmtune.data.findings import Finding, FindingLog, error, invalid_data, warning
from llmtune.data.formats.base import RowFormat
from llmtune.errors import InvalidData, LlmtuneError, MissingExtra

_TABLES = (".csv", ".tsv")


_COMPRESSED = (".gz", ".bz2", ".xz", ".zst")
#: Lines that are joined before they are written.
_CHUNK = 512


class Written(NamedTuple):
    """A file that was written: its rows, its size in bytes, the sha256 of its content, and the findings."""

    path: str
    rows: int
    size: int
    sha256: str
    format: str
    findings: tuple[Finding, ...] = ()


def write_file(lines: Iterator[bytes], path: Path, fmt: RowFormat, log: FindingLog, overwrite: bool) -> Written:
    """Write the lines in the container that the suffix of `path` names; when it fails, nothing is written.

    Raises `InvalidData` for errors in the log or no rows, `LlmtuneError` where the file exists and `overwrite` is not
    set.
    """
    if path.exists() and not overwrite:
        raise LlmtuneError(f"{path} is already there", hint="name another file, or allow overwriting (--overwrite)")
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-")
    try:
        with os.fdopen(handle, "wb") as raw:
            hashed = _Hashed(raw)
            if _is_table(path):
                lines = _note_formulas(lines, log)
            rows = _choose_writer(path)(lines, cast("IO[bytes]", hashed), path)
        if log.errors:
            raise invalid_data(log.in_order())
        if rows == 0:
            raise InvalidData(f"{path}: there are no rows to write")
        if path.parent.stat().st_mode & 0o077:  # in a folder that only the user may read, so are the files
            Path(name).chmod(0o666 & ~_get_umask())
        Path(name).replace(path)
    except BaseException:
        with suppress(FileNotFoundError):
            Path(name).unlink()
        raise
    digest, size = hashed.digest.hexdigest(), hashed.size
    return Written(str(path), rows, size, digest, fmt.name, tuple(log.in_order()))


#: A text in a line of JSON that a spreadsheet would run as a formula: https://owasp.org/www-community/attacks/CSV_Injection
_FORMULA = re.compile(rb'(?<!\\)":"([=+@]|\\[tr]|-(?!\s|[\d.,]*"))')


def _is_table(path: Path) -> bool:
    return any(suffix.lower() in _TABLES for suffix in path.suffixes[-2:])


def _note_formulas(lines: Iterator[bytes], log: FindingLog) -> Iterator[bytes]:
    """Pass the lines on; log a warning at the end where a spreadsheet would run texts as formulas.

    The texts are not escaped: they are trained on, and a sign put before them would be learned.
    """
    first = count = 0
    for number, line in enumerate(lines, 1):
        if _FORMULA.search(line):
            count, first = count + 1, first or number
        yield line
    if count:
        log.add(
            warning(
                "formula-cells",
                f"{count:,} rows hold a text that a spreadsheet runs as a formula (it begins with =, +, - or @)",
                "import the file into a spreadsheet as text, or write .jsonl; the rows are written as they are",
            ).at(None, first)
        )


def _get_umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


class _Hashed(io.RawIOBase):
    """A stream that counts and hashes what is written through it."""

    def __init__(self, stream: IO[bytes]) -> None:
        super().__init__()
        self._stream = stream
        self.digest = hashlib.sha256()
        self.size = 0

    def writable(self) -> bool:
        return True

    def tell(self) -> int:
        return self.size

    def write(self, data: Any) -> int:
        self._stream.write(data)
        self.digest.update(data)
        size = len(data)
        self.size += size
        return size


_Sink = Callable[[Iterator[bytes], IO[bytes], Path], int]


def _choose_writer(path: Path) -> _Sink:
    suffixes = [suffix.lower() for suffix in path.suffixes]
    packed = suffixes.pop() if suffixes and suffixes[-1] in _COMPRESSED else None
    last = suffixes[-1] if suffixes else ".jsonl"
    sinks: dict[str, _Sink] = {".json": _write_json, ".csv": _write_table, ".tsv": _write_table}
    if last == ".parquet":
        return _write_parquet
    sink = sinks.get(last, _write_lines)
    if packed is None:
        return sink

    def compressed(lines: Iterator[bytes], raw: IO[bytes], path: Path) -> int:
        with _open_compressor(packed, raw) as stream:
            return sink(lines, stream, path)

    return compressed


def _open_compressor(suffix: str, raw: IO[bytes]) -> IO[bytes]:
    if suffix == ".gz":
        import gzip

        # without a time in the header, equal rows are equal files
        return cast("IO[bytes]", gzip.GzipFile(filename="", fileobj=raw, mode="wb", mtime=0))
    if suffix == ".bz2":
        import bz2

        return cast("IO[bytes]", bz2.BZ2File(raw, "wb"))
    if suffix == ".xz":
        import lzma

        return cast("IO[bytes]", lzma.LZMAFile(raw, "wb"))
    try:
        import zstandard
    except ImportError as fault:
        raise MissingExtra("data", "zstandard", purpose="zstd-compressed files") from fault
    return cast("IO[bytes]", zstandard.open(cast("BinaryIO", raw), "wb", closefd=False))


def _write_lines(lines: Iterator[bytes], raw: IO[bytes], path: Path) -> int:
    count = 0
    held: list[bytes] = []
    for line in lines:
        held.append(line)
        if len(held) == _CHUNK:
            raw.write(b"".join(held))
            count += len(held)
            held.clear()
    raw.write(b"".join(held))
    return count + len(held)


def _write_json(lines: Iterator[bytes], raw: IO[bytes], path: Path) -> int:
    count = 0
    for line in lines:
        raw.write(b"[\n" if count == 0 else b",\n")
        raw.write(line.rstrip(b"\n"))
        count += 1
    raw.write(b"\n]\n" if count else b"[]\n")
    return count


def _parse_flat_row(line: bytes) -> dict[str, Any]:
    row: dict[str, Any] = orjson.loads(line)
    for key, value in row.items():
        if not isinstance(value, (str, int, float, type(None))):
            raise invalid_data(
                [
                    error(
                        "cannot-table",
                        f"{key!r} holds more than a text, which a table of this kind cannot carry",
                        "write .jsonl or .parquet; or convert to labelled or prompt_completion rows",
                    )
                ]
            )
    return row


def _write_table(lines: Iterator[bytes], raw: IO[bytes], path: Path) -> int:
    import csv

    text = io.TextIOWrapper(raw, encoding="utf-8", newline="", write_through=True)
    delimiter = "\t" if ".tsv" in (suffix.lower() for suffix in path.suffixes) else ","
    writer: csv.DictWriter[str] | None = None
    count = 0
    for line in lines:
        row = _parse_flat_row(line)
        if writer is None:
            # as in RFC 4180; with another line end the module would leave a bare CR unquoted
            writer = csv.DictWriter(text, list(row), delimiter=delimiter, lineterminator="\r\n")
            writer.writeheader()
        if unknown := [key for key in row if key not in writer.fieldnames]:
            raise invalid_data(
                [error("cannot-table", f"{unknown[0]!r} is not a column of the first row", "write .jsonl or .parquet")]
            )
        writer.writerow(row)
        count += 1
    text.flush()
    text.detach()
    return count


def _write_parquet(lines: Iterator[bytes], raw: IO[bytes], path: Path) -> int:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as fault:
        raise MissingExtra("data", "pyarrow", purpose="Parquet files") from fault
    count = 0
    writer: Any = None
    held: list[dict[str, Any]] = []

    def flush() -> None:
        nonlocal writer
        try:
            if writer is None:
                table = pyarrow.Table.from_pylist(held)
                writer = parquet.ParquetWriter(raw, table.schema)
            else:
                table = pyarrow.Table.from_pylist(held, schema=writer.schema)
            writer.write_table(table)
        except pyarrow.ArrowException as fault:
            raise invalid_data(
                [error("cannot-table", f"the rows do not share one set of columns: {fault}", "write .jsonl")]
            ) from fault
        held.clear()

    for line in lines:
        held.append(orjson.loads(line))
        count += 1
        if len(held) >= 20_000:
            flush()
    if held:
        flush()
    if writer is not None:
        writer.close()
    return count
