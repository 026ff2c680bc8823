"""Streaming readers of JSON lines and JSON arrays: raw rows with their lines, and findings about invalid ones."""

from __future__ import annotations

import json
from collections.abc import Generator, Iterator
from typing import IO, Any

import orjson

from llmtune.data.findings import Finding, error
from llmtune.data.io.base import BLOCK, Notes, Raw
from llmtune.data.io.charset import BOM, COMMENTS, bom_finding, check_utf8, comment_finding, explain_line

#: A row above this many bytes is reported and skipped, so that memory stays bounded whatever the file holds.
MAX_ROW = 256 << 20


#: How deep a row may be nested. The JSON writers stop at 250.
MAX_DEPTH = 200


TOO_LONG = b"...\x00 the row is too long"


def blocks(stream: IO[bytes], size: int = BLOCK) -> Iterator[bytes]:
    """Yield the stream in blocks of whole lines; the last one may lack its line end."""
    carry: list[bytes] = []
    held = 0
    while chunk := stream.read(size):
        cut = chunk.rfind(b"\n") + 1
        if not cut:
            carry.append(chunk)
            held += len(chunk)
            if held > MAX_ROW:
                carry = [carry[0][:100], TOO_LONG]  # enough to report the line
                held = 0
            continue
        carry.append(chunk[:cut])
        yield b"".join(carry)
        carry = [chunk[cut:]] if cut < len(chunk) else []
        held = len(chunk) - cut
    if carry:
        yield b"".join(carry)


def read_json_lines(stream: IO[bytes]) -> Iterator[Raw | Finding]:
    """Yield the rows of JSON lines. Only b"\\n" ends a line: U+2028 and other separators may be inside a row."""
    notes = Notes()
    line = 0
    for block in blocks(stream):
        if line == 0 and block.startswith(BOM):
            block = block[len(BOM) :]
            yield bom_finding()
        line = yield from read_block(block, line, notes)
    yield from notes.findings()


def read_block(block: bytes, line: int, notes: Notes) -> Generator[Raw | Finding, None, int]:
    """Yield the rows of one block of lines, after line number `line`; the value returned is the last line's number."""
    loads = orjson.loads
    if b"\r\n" in block:
        notes.crlf = True
    lines = block.split(b"\n")
    if not lines[-1]:
        lines.pop()
    for text in lines:
        line += 1
        try:
            row = loads(text)
        except orjson.JSONDecodeError as fault:
            if TOO_LONG in text:
                yield error(
                    "row-too-long", f"the row is longer than {MAX_ROW >> 20} MiB", "split it, or fix its line ends"
                ).at(None, line)
            elif text.strip():
                yield explain_line(text, fault).at(None, line)
            else:
                notes.blank += 1
                notes.first_blank = notes.first_blank or line
            continue
        yield (line, row) if not _is_too_deep(text, row) else _make_depth_error(line)
    return line


def _is_too_deep(text: bytes | str, row: Any) -> bool:
    """Return whether a row is nested deeper than can be written again; most rows have fewer brackets than that."""
    brackets = text.count(b"[") + text.count(b"{") if isinstance(text, bytes) else text.count("[") + text.count("{")
    if brackets <= MAX_DEPTH:
        return False
    depth, level = 0, [row]
    while level and depth <= MAX_DEPTH:
        depth += 1
        containers = [entry for entry in level if isinstance(entry, dict | list)]
        level = [child for entry in containers for child in (entry.values() if isinstance(entry, dict) else entry)]
    return depth > MAX_DEPTH


def _make_depth_error(line: int) -> Finding:
    return error("json", f"the row is nested more than {MAX_DEPTH} levels deep", "flatten it").at(None, line)


def read_json(stream: IO[bytes]) -> Iterator[Raw | Finding]:
    """Yield the elements of a JSON array, or concatenated JSON objects, each over any number of lines.

    The standard library finds where a value ends, which orjson cannot; orjson then parses it, so that all containers
    have the same definition of JSON. Line numbers are row numbers here.
    """
    buffer = _TextBuffer(stream)
    if buffer.bom:
        yield bom_finding()
    inside = buffer.peek() == "["
    if inside:
        buffer.skip(1)
    number = 0
    while True:
        mark = buffer.peek()
        if mark == "," and inside and number:
            buffer.skip(1)
            mark = buffer.peek()
        if mark == "" or (mark == "]" and inside):
            break
        number += 1
        text = buffer.read_value()
        if isinstance(text, Finding):
            yield text.at(None, number)
            return
        try:
            row = orjson.loads(text)
        except orjson.JSONDecodeError as fault:
            yield explain_line(text.encode("utf-8", "surrogatepass"), fault).at(None, number)
            continue
        yield (number, row) if not _is_too_deep(text, row) else _make_depth_error(number)
    if buffer.fault is not None:
        yield buffer.fault.at(None, number + 1)
    elif inside and mark == "":
        yield error("json", "the array is not closed: the file ends without ']'", "the file is incomplete").at(
            None, number
        )


class _TextBuffer:
    """A buffer of decoded text that grows until it holds one JSON value."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream
        self._pending = b""
        self._text = ""
        self._at = 0
        self._line = 1
        self._ended = False
        # It only finds where a value ends; as floats, numbers of 5,000 digits are no error.
        self._decoder = json.JSONDecoder(parse_int=float)
        self.fault: Finding | None = None
        self.bom = False
        self._fill()

    def peek(self) -> str:
        """Return the next character that is not white space; empty at the end."""
        while True:
            text, at = self._text, self._at
            while at < len(text) and text[at] in " \t\r\n":
                self._line += text[at] == "\n"
                at += 1
            self._at = at
            if at < len(text):
                return text[at]
            if not self._fill():
                return ""

    def skip(self, count: int) -> None:
        """Move forward by some characters."""
        self._at += count

    def read_value(self) -> str | Finding:
        """Return the text of the next JSON value and move behind it, or return what is wrong with it."""
        while True:
            try:
                _, end = self._decoder.raw_decode(self._text, self._at)
            except (json.JSONDecodeError, RecursionError) as fault:
                if len(self._text) - self._at > MAX_ROW:
                    return error("row-too-long", f"the row is longer than {MAX_ROW >> 20} MiB", "split it")
                if isinstance(fault, json.JSONDecodeError) and self._fill(double=True):
                    continue
                if self.fault is not None:
                    return self.fault
                return self._make_error(fault)
            if end == len(self._text) and self._fill():  # a number may continue
                continue
            text = self._text[self._at : end]
            self._line += text.count("\n")
            self._at = end
            return text

    def _make_error(self, fault: Exception) -> Finding:
        if not isinstance(fault, json.JSONDecodeError):
            return error("json", "the value is nested too deeply", "flatten it")
        before = self._text[self._at : fault.pos]
        line = self._line + before.count("\n")
        column = fault.pos - (self._text.rfind("\n", 0, fault.pos) + 1) + 1
        if self._text[fault.pos :].lstrip().startswith(COMMENTS):
            return comment_finding(f"line {line}, column {column} of the file")
        return error(
            "json",
            f"broken JSON in row at line {line}, column {column} of the file: {fault.msg}",
            "fix it there; what follows it in this file could not be read",
        )

    def _fill(self, *, double: bool = False) -> bool:
        """Read more text; return False at the end. With `double`, read at least as much as is buffered."""
        if self._ended:
            return False
        want = max(BLOCK, len(self._text) - self._at) if double else BLOCK
        data = self._pending + self._stream.read(want)
        first = not self._text and not self._pending
        self._ended = len(data) - len(self._pending) < want
        if first and data.startswith(BOM):
            data = data[len(BOM) :]
            self.bom = True
        try:
            text = data.decode("utf-8")
            self._pending = b""
        except UnicodeDecodeError as fault:
            if not self._ended and fault.end == len(data) and len(data) - fault.start < 4:
                text, self._pending = data[: fault.start].decode("utf-8"), data[fault.start :]
            else:
                self.fault = check_utf8(data)
                text = data[: fault.start].decode("utf-8")
                self._ended = True
        self._text = self._text[self._at :] + text
        self._at = 0
        return bool(text) or not self._ended
