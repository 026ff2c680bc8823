"""Writing examples in a row format, and converting one file into another: streamed, whole or not at all."""

from __future__ import annotations

import hashlib
import io
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import IO, Any, BinaryIO, NamedTuple, cast

import orjson

from llmtune.data.checks.left_out import LeftOut
from llmtune.data.checks.per_row import check_example, is_simple
from llmtune.data.example import Example
from llmtune.data.findings import Finding, FindingLog, error, refuse
from llmtune.data.formats.base import RowFormat, get_format
from llmtune.data.io.reading import Reading
from llmtune.errors import InvalidData, LlmtuneError, MissingExtra

_CHUNK = 512
_TABLES = (".csv", ".tsv")
_COMPRESSED = (".gz", ".bz2", ".xz", ".zst")


class Written(NamedTuple):
    """A file that was written: its rows, its size in bytes, the sha256 of its content, and what was found."""

    path: str
    rows: int
    size: int
    sha256: str
    format: str
    findings: tuple[Finding, ...] = ()


def refuses(finding: Finding, *, allow_lossy: bool) -> bool:
    """Whether a problem of writing stops it: a loss does unless it is allowed, an impossibility always does."""
    return finding.is_error and not (allow_lossy and finding.code.startswith("lost-"))


def encode(
    examples: Iterable[Example], format: str | RowFormat, *, allow_lossy: bool = False, log: FindingLog | None = None
) -> Iterator[bytes]:
    """Examples as lines of a row format, each with its line end. What cannot be carried goes to the log, by line;
    keys that are left out, at the end and in one finding.

    With `allow_lossy` a loss is a warning there; otherwise it is an error and its row is left out, as is every row
    the format cannot express at all. Without a log, the first such row raises `InvalidData`.
    """
    fmt = get_format(format) if isinstance(format, str) else format
    pairs = ((example, is_simple(example)) for example in examples)
    return _encode(pairs, fmt, allow_lossy=allow_lossy, log=log)


def _encode(
    examples: Iterable[tuple[Example, bool]], fmt: RowFormat, *, allow_lossy: bool, log: FindingLog | None
) -> Iterator[bytes]:
    """`encode`, for examples of which it is known whether they are plain conversations."""
    takes, write, dumps = fmt.takes_plain(), fmt.write, orjson.dumps
    left_out = LeftOut()
    option = orjson.OPT_APPEND_NEWLINE
    for example, simple in examples:
        if not (simple and takes(example)):
            stops = False
            for finding in left_out.problems(fmt, example):
                stopped = refuses(finding, allow_lossy=allow_lossy)
                stops = stops or stopped
                placed = finding.at(None, example.line)
                if not stopped and finding.is_error:
                    placed = placed._replace(severity="warning")
                if log is not None:
                    log.add(placed)
                elif stopped:
                    raise refuse([placed])
            if stops:
                continue
        yield dumps(write(example), option=option)
    if log is not None:
        log.extend(left_out.findings())


def write(
    examples: Iterable[Example],
    path: str | os.PathLike[str],
    format: str | RowFormat = "chat",
    *,
    allow_lossy: bool = False,
    overwrite: bool = True,
) -> Written:
    """Write examples to a file of JSON lines (or .json, .csv, .tsv, .parquet, each also compressed: .gz .zst ...).

    The file appears whole or not at all. Raises `InvalidData` with every row that the format cannot carry.
    """
    fmt = get_format(format) if isinstance(format, str) else format
    log = FindingLog()
    return _write_file(encode(examples, fmt, allow_lossy=allow_lossy, log=log), Path(path), fmt, log, overwrite)


def convert(
    source: str | os.PathLike[str],
    target: str | os.PathLike[str],
    to: str,
    *,
    format: str = "auto",
    columns: Mapping[str, str] | None = None,
    label_column: str | None = None,
    allow_lossy: bool = False,
    overwrite: bool = False,
    method: str = "sft",
    model: str | None = None,
) -> Written:
    """Convert a file to another row format (or to the one a provider takes), in one pass and bounded memory.

    Raises `InvalidData` with all findings when a row of the source is wrong or cannot be carried; then nothing is
    written. Warnings are in the result.
    """
    fmt = get_format(to, method=method, model=model)
    log = FindingLog()
    reading = Reading(source, format, columns=columns, label_column=label_column)

    def sound() -> Iterator[tuple[Example, bool]]:
        for item in reading:
            if item.__class__ is not Example:
                log.add(item)  # type: ignore[arg-type]
                continue
            simple = is_simple(item)
            if not simple:
                for fault in check_example(item):
                    log.add(fault.at(reading.path, item.line))
            yield item, simple

    lossy = _Placed(log, reading.path)
    lines = _encode(sound(), fmt, allow_lossy=allow_lossy, log=lossy)
    return _write_file(lines, Path(target), fmt, log, overwrite)


class _Placed(FindingLog):
    """Passes findings on with the name of the file they are about."""

    def __init__(self, log: FindingLog, file: str) -> None:
        super().__init__()
        self._log = log
        self._file = file

    def add(self, finding: Finding) -> None:
        self._log.add(finding.at(self._file, finding.line))


def _write_file(lines: Iterator[bytes], path: Path, fmt: RowFormat, log: FindingLog, overwrite: bool) -> Written:
    if path.exists() and not overwrite:
        raise LlmtuneError(f"{path} is already there", hint="name another file, or allow overwriting (--overwrite)")
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-")
    try:
        with os.fdopen(handle, "wb") as raw:
            hashed = _Hashed(raw)
            rows = _container(path)(lines, cast("IO[bytes]", hashed), path)
        if log.errors:
            raise refuse(log.in_order())
        if rows == 0:
            raise InvalidData(f"{path}: there are no rows to write")
        Path(name).chmod(0o666 & ~_umask())
        Path(name).replace(path)
    except BaseException:
        with suppress(FileNotFoundError):
            Path(name).unlink()
        raise
    digest, size = hashed.digest.hexdigest(), hashed.size
    return Written(str(path), rows, size, digest, fmt.name, tuple(log.in_order()))


def _umask() -> int:
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


def _container(path: Path) -> _Sink:
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
        with _compressor(packed, raw) as stream:
            return sink(lines, stream, path)

    return compressed


def _compressor(suffix: str, raw: IO[bytes]) -> IO[bytes]:
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


def _flat(line: bytes) -> dict[str, Any]:
    row: dict[str, Any] = orjson.loads(line)
    for key, value in row.items():
        if not isinstance(value, (str, int, float, type(None))):
            raise refuse(
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
        row = _flat(line)
        if writer is None:
            # as RFC 4180 has it; with another line end the module would leave a bare CR unquoted
            writer = csv.DictWriter(text, list(row), delimiter=delimiter, lineterminator="\r\n")
            writer.writeheader()
        if unknown := [key for key in row if key not in writer.fieldnames]:
            raise refuse(
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
            raise refuse(
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
