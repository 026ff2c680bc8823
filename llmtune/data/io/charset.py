"""Findings about bytes that are not UTF-8, and about lines that are not JSON."""

from __future__ import annotations

import re

import orjson

from llmtune.data.findings import Finding, error, warning

BOM = b"\xef\xbb\xbf"
_CESU8 = re.compile(rb"\xed[\xa0-\xaf][\x80-\xbf]\xed[\xb0-\xbf][\x80-\xbf]")
_SURROGATE = re.compile(rb"\xed[\xa0-\xbf][\x80-\xbf]")


def check_encoding(head: bytes) -> Finding | None:
    """Return an error for a file whose first bytes show another encoding than UTF-8 (UTF-16, UTF-32)."""
    if head.startswith((b"\xff\xfe\x00\x00", b"\x00\x00\xfe\xff")):
        return _invalid_byte("UTF-32", 0, head[0], "UTF-32")
    if head.startswith((b"\xff\xfe", b"\xfe\xff")) and len(head) % 2 == 0:  # UTF-16 has an even number of bytes
        return _invalid_byte("UTF-16 (it begins with its byte order mark)", 0, head[0], "UTF-16")
    sample = head[:256]
    if sample.count(0) * 4 >= len(sample) > 1:  # every second byte of Latin text in UTF-16 is zero
        name = "UTF-16LE" if sample[0] else "UTF-16BE"
        return _invalid_byte(name, sample.index(0), 0, name)
    return None


def bom_finding() -> Finding:
    """Build the warning for a UTF-8 byte order mark, which the reader skips."""
    return warning(
        "byte-order-mark",
        "the file begins with a UTF-8 byte order mark (bytes EF BB BF), which is skipped",
        "save it as UTF-8 without BOM: some tools take the mark for part of the first row",
    )


def check_utf8(data: bytes) -> Finding | None:
    """Return an error that names the first byte that is not valid UTF-8; None when all are valid."""
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
    return _invalid_byte(f"UTF-8, maybe {'Windows-1252' if windows else 'Latin-1'}", at, data[at], name, no=True)


def _invalid_byte(what: str, at: int, byte: int, source: str, *, no: bool = False) -> Finding:
    is_not = f"the file is not {what}" if no else f"the file is {what}, not UTF-8"
    return error(
        "encoding",
        f"byte {at + 1} of the line is 0x{byte:02X}: {is_not}",
        f"convert it: iconv -f {source} -t UTF-8 OLD > NEW",
    )


#: Beginnings of comments that people write into JSON.
COMMENTS = ("//", "/*", "#")


def comment_finding(where: str) -> Finding:
    """Build the error for JSON with comments."""
    return error("json", f"this is JSON with comments, which JSON does not have ({where})", "take the comments out")


def explain_line(line: bytes, fault: orjson.JSONDecodeError) -> Finding:
    """Build the error for a line that orjson refused: its encoding, or its JSON with the column and a remedy."""
    wrong = check_utf8(line)
    if wrong is not None:
        return wrong
    text = line.decode("utf-8")
    column = fault.pos + 1
    excerpt = text[max(fault.pos - 12, 0) : fault.pos + 12].strip()
    if text[fault.pos :].startswith(COMMENTS):
        return comment_finding(f"column {column}, near {excerpt!r}")
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
    return error("json", f"broken JSON at column {column}, near {excerpt!r}: {fault.msg}", remedy)
