"""Telling what is wrong with bytes that are not UTF-8, or with a line that is not JSON."""

from __future__ import annotations

import re

import orjson

from llmtune.data.findings import Finding, error, warning

BOM = b"\xef\xbb\xbf"
_CESU8 = re.compile(rb"\xed[\xa0-\xaf][\x80-\xbf]\xed[\xb0-\xbf][\x80-\xbf]")
_SURROGATE = re.compile(rb"\xed[\xa0-\xbf][\x80-\xbf]")


def head_fault(head: bytes) -> Finding | None:
    """The fault of a file whose first bytes show an encoding that is not UTF-8 at all (UTF-16, UTF-32)."""
    if head.startswith((b"\xff\xfe\x00\x00", b"\x00\x00\xfe\xff")):
        return _wrong("UTF-32", 0, head[0], "UTF-32")
    if head.startswith((b"\xff\xfe", b"\xfe\xff")) and len(head) % 2 == 0:  # an odd length is no UTF-16
        return _wrong("UTF-16 (it begins with its byte order mark)", 0, head[0], "UTF-16")
    sample = head[:256]
    if sample.count(0) * 4 >= len(sample) > 1:  # every second byte of Latin text in UTF-16 is zero
        name = "UTF-16LE" if sample[0] else "UTF-16BE"
        return _wrong(name, sample.index(0), 0, name)
    return None


def bom_finding() -> Finding:
    """The warning for a UTF-8 byte order mark; the reader skips it."""
    return warning(
        "byte-order-mark",
        "the file begins with a UTF-8 byte order mark (bytes EF BB BF), which is skipped",
        "save it as UTF-8 without BOM: some tools take the mark for part of the first row",
    )


def bytes_fault(data: bytes) -> Finding | None:
    """The fault of bytes that are not valid UTF-8, naming the first wrong byte; None when they are valid."""
    try:
        data.decode("utf-8")
    except UnicodeDecodeError as fault:
        at = fault.start
    else:
        return None
    if _CESU8.match(data, at):
        return error(
            "encoding",
            f"byte {at + 1} of the line (0x{data[at]:02X}) begins a surrogate pair: the file is CESU-8, not UTF-8",
            "convert it: uconv -f CESU-8 -t UTF-8 OLD > NEW",
        )
    if _SURROGATE.match(data, at):
        return error(
            "encoding",
            f"byte {at + 1} of the line (0x{data[at]:02X}) begins half of a surrogate pair, which no UTF-8 may hold",
            "the character was cut in two when the file was made: write the row again",
        )
    windows = any(0x80 <= byte < 0xA0 for byte in data[at : at + 200])
    name = "WINDOWS-1252" if windows else "ISO-8859-1"
    return _wrong(f"UTF-8, maybe {'Windows-1252' if windows else 'Latin-1'}", at, data[at], name, no=True)


def _wrong(what: str, at: int, byte: int, source: str, *, no: bool = False) -> Finding:
    is_not = f"the file is not {what}" if no else f"the file is {what}, not UTF-8"
    return error(
        "encoding",
        f"byte {at + 1} of the line is 0x{byte:02X}: {is_not}",
        f"convert it: iconv -f {source} -t UTF-8 OLD > NEW",
    )


#: How a comment begins where people write them into JSON.
COMMENTS = ("//", "/*", "#")


def comment_finding(where: str) -> Finding:
    """The fault of JSON with comments."""
    return error("json", f"this is JSON with comments, which JSON does not have ({where})", "take the comments out")


def line_fault(line: bytes, fault: orjson.JSONDecodeError) -> Finding:
    """What is wrong with a line that orjson refused: its bytes, or its JSON with the column and what was expected."""
    wrong = bytes_fault(line)
    if wrong is not None:
        return wrong
    text = line.decode("utf-8")
    column = fault.pos + 1
    shown = text[max(fault.pos - 12, 0) : fault.pos + 12].strip()
    if text[fault.pos :].startswith(COMMENTS):
        return comment_finding(f"column {column}, near {shown!r}")
    if "\r" in line.decode("utf-8").strip():
        remedy = "if its lines end in a bare CR, convert them: tr '\\r' '\\n' < OLD > NEW"
    elif "no low surrogate" in fault.msg or "surrogate" in fault.msg:
        remedy = "half of a \\u surrogate pair is missing: write the row again from its source"
    elif fault.msg == "unexpected end of data":
        remedy = "a row is one JSON object on one line: join the lines, or close what is open"
    elif text[fault.pos : fault.pos + 1] == "'":
        remedy = 'JSON strings stand in double quotes ("), not in single ones'
    elif text[fault.pos :].startswith(("NaN", "Infinity", "-Infinity", "True", "False", "None")):
        remedy = "JSON knows true, false, null and finite numbers only"
    else:
        remedy = "fix the JSON at that column; write rows with a JSON library, one object per line"
    return error("json", f"broken JSON at column {column}, near {shown!r}: {fault.msg}", remedy)
