"""Plain text files (.txt) as rows: a row is a paragraph, that is lines up to a blank one."""

from __future__ import annotations

from collections.abc import Iterator
from typing import IO

from llmtune.data.findings import Finding
from llmtune.data.io.base import Raw
from llmtune.data.io.charset import BOM, bom_finding, check_utf8

#: Bytes from which on a paragraph ends with the next line: a file without blank lines is never held as a whole.
LONGEST = 1 << 16


def read_paragraphs(stream: IO[bytes]) -> Iterator[Raw | Finding]:
    """Yield the paragraphs as rows of plain text, each with the number of its first line, one at a time in memory."""
    lines: list[bytes] = []
    size = first = 0
    for number, line in enumerate(_iterate_lines(stream), start=1):
        if number == 1 and line.startswith(BOM):
            line = line[len(BOM) :]
            yield bom_finding()
        if line.strip() and size < LONGEST:
            first = first if lines else number
            lines.append(line)
            size += len(line)
            continue
        yield from _make_row(lines, first)
        lines, size, first = ([line], len(line), number) if line.strip() else ([], 0, 0)
    yield from _make_row(lines, first)


def _iterate_lines(stream: IO[bytes]) -> Iterator[bytes]:
    """Yield the lines; one that is longer than `LONGEST` bytes in pieces, cut at a blank where there is one."""
    held = b""
    while piece := stream.readline(LONGEST):
        piece = held + piece
        held = b""
        if not piece.endswith(b"\n") and len(piece) >= LONGEST:
            cut = piece.rfind(b" ") + 1 or _find_character(piece)
            piece, held = piece[:cut], piece[cut:]
        yield piece
    if held:
        yield held


def _find_character(piece: bytes) -> int:
    """Return where the last character of UTF-8 begins, which a cut may have divided."""
    for start in range(len(piece) - 1, max(0, len(piece) - 5), -1):
        if piece[start] & 0xC0 != 0x80:
            return start
    return len(piece)


def _make_row(lines: list[bytes], first: int) -> Iterator[Raw | Finding]:
    if not lines:
        return
    for number, line in enumerate(lines, start=first):
        fault = check_utf8(line)
        if fault is not None:
            yield fault.at(None, number)
            return
    yield first, {"text": b"".join(lines).decode().replace("\r\n", "\n").rstrip("\n")}
