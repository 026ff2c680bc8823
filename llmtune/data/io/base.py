"""Opening data files: decompression, and recognising the container by the first bytes."""

from __future__ import annotations

import io
import lzma
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, Literal, NamedTuple, cast

import orjson

from llmtune.data.findings import Finding, error, warning
from llmtune.data.io.charset import BOM, COMMENTS, check_encoding, comment_finding
from llmtune.errors import MissingExtra

Container = Literal["jsonl", "json", "csv", "tsv", "parquet", "arrow", "txt", "folder", "hub"]

#: The containers that a caller may name; a folder and the hub are recognised by the path.
CONTAINERS: tuple[str, ...] = ("jsonl", "json", "csv", "tsv", "parquet", "arrow", "txt")

#: Bytes that are read at a time.
BLOCK = 1 << 20

#: How the address of a dataset of the Hugging Face Hub begins.
HUB = "hf://"

#: A row as it was read, with its 1-based line (or its row number where rows are not lines).
Raw = tuple[int, Any]

#: The exceptions of reading a damaged or truncated file.
BROKEN = (OSError, EOFError, zlib.error, lzma.LZMAError)

_HEAD_BYTES = 1 << 16

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
    """The format of a data file. `compression` is None for plain bytes; `head` are its first (uncompressed) bytes."""

    container: Container
    compression: str | None
    head: bytes


def compression_of(path: Path) -> str | None:
    """Return how a file is compressed, by its first bytes and not by its name; None where it is not."""
    with path.open("rb") as file:
        head = file.read(6)
    return next((name for magic, name in _MAGIC if head.startswith(magic)), None)


def open_bytes(path: Path, compression: str | None) -> IO[bytes]:
    """Open a file as a stream of uncompressed bytes. Raises `MissingExtra` for zstd without its library."""
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
        # buffered, because its own reader cannot iterate over lines
        return cast("IO[bytes]", io.BufferedReader(cast("io.RawIOBase", zstandard.open(path, "rb")), BLOCK))
    return path.open("rb")


def sniff(path: Path, container: str = "auto") -> Sniffed | Finding:
    """Return the container and compression of a path, or the finding that says why it cannot be read.

    Both are recognised by the first bytes; the suffix only decides where these leave it open, as CSV does. With a
    `container` other than "auto" only the compression is.
    """
    opened = _read_head(path)
    if isinstance(opened, Finding):
        return opened
    compression, head = opened
    if head is None:
        return Sniffed("folder", None, b"")
    if not head:
        return error("empty-file", "the file is empty", "give a file with at least one row")
    detected = cast("Container", container) if container != "auto" else _detect_container(path, head)
    return detected if isinstance(detected, Finding) else Sniffed(detected, compression, head)


def _read_head(path: Path) -> tuple[str | None, bytes | None] | Finding:
    """Return the compression and the first uncompressed bytes of a file; no bytes, but None, for a folder."""
    try:
        if path.is_dir():
            return None, None
        if path.exists() and not path.is_file():
            problem = "this is not a regular file but a pipe, a socket or a device"
            return error("unreadable", problem, "save the rows to a file and name that")
        compression = compression_of(path)
        with open_bytes(path, compression) as stream:
            return compression, stream.read(_HEAD_BYTES)
    except FileNotFoundError:
        return error("unreadable", "the file does not exist", "check the path")
    except ValueError:  # a NUL or half a surrogate pair in the name
        return error("unreadable", "this is not the name of a file", "check the path")
    except BROKEN as fault:
        return error("unreadable", f"the file cannot be read: {fault}", "check its permissions and that it is complete")


def _detect_container(path: Path, head: bytes) -> Container | Finding:
    suffixes = [suffix.lower() for suffix in path.suffixes]
    if suffixes and suffixes[-1] in _COMPRESSED:
        suffixes.pop()
    if head.startswith(b"PAR1"):
        return "parquet"
    if head.startswith((b"ARROW1", b"\xff\xff\xff\xff")):
        return "arrow"
    if head.startswith(b"PK\x03\x04"):
        return error("container", "the file is a zip archive", "unpack it, and give the file inside")
    by_suffix = _SUFFIXES.get(suffixes[-1]) if suffixes else None
    if by_suffix == "csv" or by_suffix == "tsv":
        return by_suffix
    text = head.removeprefix(BOM).lstrip()
    if suffixes and suffixes[-1] == ".txt" and not text.startswith((b"{", b"[{")):
        return "txt"
    if text.startswith(b"["):
        return "json"
    if text.startswith(b"{"):
        return "json" if _spans_lines(text) else "jsonl"
    first = text.split(b"\n", 1)[0][:80].decode("utf-8", "replace")
    if first.startswith(COMMENTS):
        return comment_finding(f"the file begins {first!r}")
    if by_suffix is not None or (suffixes and suffixes[-1] == ".json") or check_encoding(head) is not None:
        return "jsonl"  # reading it reports what is wrong, with the line
    return error(
        "container",
        f"the file is neither JSON lines, JSON, CSV, TSV, Parquet, Arrow nor text (.txt): it begins {head[:40]!r}",
        "name it .csv, .tsv or .jsonl after its content, or name the format with --format",
    )


def _spans_lines(text: bytes) -> bool:
    """Return whether JSON objects span several lines: the first line is valid JSON that is not complete, and the second
    is no object by itself."""
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
    """Properties of a file of lines that are reported once per file, not once per line."""

    __slots__ = ("blank", "crlf", "first_blank")

    def __init__(self) -> None:
        self.blank = 0
        self.first_blank = 0
        self.crlf = False

    def findings(self) -> Iterator[Finding]:
        """Yield a warning for CRLF line ends and one for blank lines, at the first of them."""
        if self.crlf:
            yield warning("line-endings", "lines end in CRLF (Windows); rows are read all the same", "dos2unix FILE")
        if self.blank:
            lines = "1 blank line is" if self.blank == 1 else f"{self.blank} blank lines are"
            first = "" if self.blank == 1 else ", the first of them"
            yield warning(
                "blank-line", f"{lines} skipped{first} here", "remove blank lines: some vendors refuse them"
            ).at(None, self.first_blank)
