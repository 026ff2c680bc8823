"""What every reader shares: bytes of a file, decompressed, and what container they are."""

from __future__ import annotations

import io
import lzma
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, Literal, NamedTuple, cast

import orjson

from llmtune.data.findings import Finding, error, warning
from llmtune.data.io.charset import BOM, COMMENTS, comment_finding, head_fault
from llmtune.errors import MissingExtra

Container = Literal["jsonl", "json", "csv", "tsv", "parquet", "arrow", "folder", "hub"]


CONTAINERS: tuple[str, ...] = ("jsonl", "json", "csv", "tsv", "parquet", "arrow")


BLOCK = 1 << 20

HUB = "hf://"


Raw = tuple[int, Any]


BROKEN = (OSError, EOFError, zlib.error, lzma.LZMAError)


_MAGIC: tuple[tuple[bytes, str], ...] = (
    (b"\x1f\x8b", "gzip"),
    (b"BZh", "bz2"),
    (b"\xfd7zXZ\x00", "xz"),
    (b"\x28\xb5\x2f\xfd", "zstd"),
)


_COMPRESSED = {".gz", ".bz2", ".xz", ".zst", ".zstd"}


_SUFFIXES: dict[str, Container] = {
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".jsonlines": "jsonl",
    ".csv": "csv",
    ".tsv": "tsv",
    ".parquet": "parquet",
    ".arrow": "arrow",
    ".feather": "arrow",
}


class Sniffed(NamedTuple):
    """What a path holds. `compression` is None for plain bytes; `head` are its first (uncompressed) bytes."""

    container: Container
    compression: str | None
    head: bytes


def compression_of(path: Path) -> str | None:
    """How a file is compressed, told by its first bytes and not by its name."""
    with path.open("rb") as file:
        head = file.read(6)
    return next((name for magic, name in _MAGIC if head.startswith(magic)), None)


def open_bytes(path: Path, compression: str | None) -> IO[bytes]:
    """The uncompressed bytes of a file, as a stream."""
    if compression == "gzip":
        import gzip

        return cast("IO[bytes]", gzip.open(path, "rb"))
    if compression == "bz2":
        import bz2

        return cast("IO[bytes]", bz2.open(path, "rb"))
    if compression == "xz":
        return cast("IO[bytes]", lzma.open(path, "rb"))
    if compression == "zstd":
        try:
            import zstandard
        except ImportError as fault:
            raise MissingExtra("data", "zstandard", purpose="zstd-compressed files") from fault
        # buffered, because its own reader knows no lines
        return cast("IO[bytes]", io.BufferedReader(cast("io.RawIOBase", zstandard.open(path, "rb")), BLOCK))
    return path.open("rb")


def sniff(path: Path, container: str = "auto") -> Sniffed | Finding:  # noqa: C901
    """What a path holds, or the finding that says why that cannot be told."""
    try:
        if path.is_dir():
            return Sniffed("folder", None, b"")
        if path.exists() and not path.is_file():
            problem = "this is no regular file but a pipe, a socket or a device"
            return error("unreadable", problem, "save the rows to a file and name that")
        compression = compression_of(path)
        with open_bytes(path, compression) as stream:
            head = stream.read(1 << 16)
    except FileNotFoundError:
        return error("unreadable", "the file does not exist", "check the path")
    except ValueError:  # a NUL or half a surrogate pair in the name
        return error("unreadable", "this is not the name of a file", "check the path")
    except BROKEN as fault:
        return error("unreadable", f"the file cannot be read: {fault}", "check its permissions and that it is whole")
    if not head:
        return error("empty-file", "the file is empty", "give a file with at least one row")
    if container != "auto":
        return Sniffed(cast("Container", container), compression, head)
    suffixes = [suffix.lower() for suffix in path.suffixes]
    if suffixes and suffixes[-1] in _COMPRESSED:
        suffixes.pop()
    if head.startswith(b"PAR1"):
        return Sniffed("parquet", compression, head)
    if head.startswith((b"ARROW1", b"\xff\xff\xff\xff")):
        return Sniffed("arrow", compression, head)
    if head.startswith(b"PK\x03\x04"):
        return error("container", "the file is a zip archive", "unpack it, and give the file inside")
    known = _SUFFIXES.get(suffixes[-1]) if suffixes else None
    if known in ("csv", "tsv"):
        return Sniffed(known, compression, head)
    text = head.removeprefix(BOM).lstrip()
    if text.startswith(b"["):
        return Sniffed("json", compression, head)
    if text.startswith(b"{"):
        return Sniffed("json" if _spans_lines(text) else "jsonl", compression, head)
    first = text.split(b"\n", 1)[0][:80].decode("utf-8", "replace")
    if first.startswith(COMMENTS):
        return comment_finding(f"the file begins {first!r}")
    if known is not None or (suffixes and suffixes[-1] == ".json") or head_fault(head) is not None:
        return Sniffed("jsonl", compression, head)
    return error(
        "container",
        f"the file is neither JSON lines, JSON, CSV, TSV, Parquet nor Arrow: it begins {head[:40]!r}",
        "name it .csv, .tsv or .jsonl after what it holds, or say so with --format",
    )


def _spans_lines(text: bytes) -> bool:
    """Whether JSON objects are laid out over several lines: the first line is sound but unfinished, and so is what
    follows it taken alone."""
    lines = [line for line in text.split(b"\n")[:3] if line.strip()]
    if len(lines) < 2:
        return False
    try:
        orjson.loads(lines[0])
    except orjson.JSONDecodeError as fault:
        if fault.msg != "unexpected end of data" and fault.pos < len(lines[0].rstrip()):
            return False
    else:
        return False
    try:
        return not isinstance(orjson.loads(lines[1]), dict)
    except orjson.JSONDecodeError:
        return True


class Notes:
    """What is true of a file of lines and worth one warning, not one a line."""

    __slots__ = ("blank", "crlf", "first_blank")

    def __init__(self) -> None:
        self.blank = 0
        self.first_blank = 0
        self.crlf = False

    def findings(self) -> Iterator[Finding]:
        if self.crlf:
            yield warning("line-endings", "lines end in CRLF (Windows); rows are read all the same", "dos2unix FILE")
        if self.blank:
            lines = "1 blank line is" if self.blank == 1 else f"{self.blank} blank lines are"
            first = "" if self.blank == 1 else ", the first of them"
            yield warning(
                "blank-line", f"{lines} skipped{first} here", "remove blank lines: some vendors refuse them"
            ).at(None, self.first_blank)
