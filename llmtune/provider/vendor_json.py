"""JSON of a vendor, read within bounds: what no field of ours can hold becomes null and a note, never a crash.

A vendor's answer is what somebody else wrote. `NaN`, `1e400`, integers of more than 64 bits, half a surrogate pair,
texts without end and nesting without end are all things that Python's reader lets through, or breaks on.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

from llmtune.config import note_secret

if TYPE_CHECKING:
    import httpx

#: Levels of nesting in one answer.
MOST_LEVELS = 100
#: Characters of one text.
MOST_CHARACTERS = 4 << 20

#: Different notes that are kept of one call.
_MAX_NOTES = 10

_notes: ContextVar[dict[str, None] | None] = ContextVar("llmtune_vendor_notes", default=None)


@contextmanager
def collect_notes() -> Iterator[dict[str, None]]:
    """Collect, in order and each once, a sentence for everything odd that this thread reads inside."""
    notes: dict[str, None] = {}
    token = _notes.set(notes)
    try:
        yield notes
    finally:
        _notes.reset(token)


def note(sentence: str) -> None:
    """Add a sentence to what `collect_notes` collects."""
    notes = _notes.get()
    if notes is not None and len(notes) < _MAX_NOTES:
        notes[sentence] = None


def load_json(content: bytes) -> Any:
    """Return what a vendor's JSON (`content`) holds, as `clean_json` has it. Raises `ValueError` for what is none."""
    try:
        data = json.loads(content, parse_int=_read_int)
    except RecursionError:
        raise ValueError("it is nested without end") from None
    return clean_json(data)


def clean_json(data: Any, where: str = "") -> Any:
    """Return the data without what no field of ours can hold; the same object where there is nothing of it.

    Each such value becomes null (half a surrogate pair the replacement character), with a note.
    """
    return _clean(data, where, 0)


def _read_int(digits: str) -> int | float:
    return int(digits) if len(digits) < 400 else math.inf


def _clean(value: Any, where: str, level: int) -> Any:
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        return clean_text(value, where)
    if isinstance(value, int):
        if -(1 << 63) <= value < 1 << 63:
            return value
        return _drop(where, "an integer of more than 64 bits")
    if isinstance(value, float):
        return value if math.isfinite(value) else _drop(where, "not a finite number")
    if not isinstance(value, dict | list | tuple):
        return value
    if level >= MOST_LEVELS:
        return _drop(where, f"nested more than {MOST_LEVELS} levels deep")
    if isinstance(value, dict):
        cleaned = {
            clean_text(name, where) if isinstance(name, str) else name: _clean(
                inner, f"{where}.{name}" if where else str(name), level + 1
            )
            for name, inner in value.items()
        }
        same = all(cleaned.get(name, cleaned) is inner for name, inner in value.items())
        return value if same else cleaned
    items = [_clean(inner, where, level + 1) for inner in value]
    if all(cleaned_inner is inner for cleaned_inner, inner in zip(items, value, strict=True)):
        return value
    return items if isinstance(value, list) else tuple(items)


def clean_text(text: str, where: str = "", max_length: int = MOST_CHARACTERS) -> str:
    """Return a vendor's text as valid UTF-8 of at most `max_length` characters, without NUL.

    Each change is noted as a warning; `where` is the field it names.
    """
    try:
        text.encode()
    except UnicodeEncodeError:
        note(f"{_quote_location(where)} holds half a surrogate pair, which is not a character")
        text = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    if len(text) > max_length:
        note(f"{_quote_location(where)} is longer than {max_length:,} characters and was cut")
        text = text[:max_length]
    return text.replace("\0", "\\x00") if "\0" in text else text


def _drop(where: str, problem: str) -> None:
    note(f"{_quote_location(where)} is {problem}, so it is not reported")


def _quote_location(where: str) -> str:
    name = where.encode("utf-8", "replace").decode()[-80:]
    return repr(name) if name else "a value"


def clean_content(content: bytes) -> bytes:
    """Return the `content` of an answer, JSON, cleaned; what is none as it is, for its reader to say so."""
    try:
        data = load_json(content)
    except ValueError:
        return content
    return json.dumps(data, ensure_ascii=False, separators=(",", ":")).encode()


def note_credential(headers: Mapping[str, str]) -> None:
    """Remember the credential in the headers of a request, so that it is taken out of every text from now on."""
    for name in ("authorization", "api-key", "x-api-key", "x-goog-api-key"):
        if value := headers.get(name):
            note_secret(value.rpartition(" ")[2])


def read_within_bounds(response: httpx.Response) -> None:
    """Put cleaned JSON in the place of an answer's: a response hook for an httpx client, after `bound_answer`.

    An SDK reads its answers itself, so they are cleaned before it does. What is not JSON passes as it is. The
    credential of the request is remembered, so that it is taken out of every text from now on.

        httpx.Client(event_hooks={"response": [keep_redirects_home, bound_answer, read_within_bounds]})
    """
    note_credential(response.request.headers)
    if "json" in response.headers.get("content-type", "").lower():
        response._content = clean_content(response.read())
