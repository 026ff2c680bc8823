"""Query parameters, pages, and the headers by which a client's retry is recognised."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from llmtune.server.protocol import RequestError
from llmtune.server.tuning.state import Attempt, FileRecord, JobRecord, UploadRecord

if TYPE_CHECKING:
    from starlette.requests import Request

#: Largest page size of each list.
_MAX_PAGE = {"files": 10000, "jobs": 100, "events": 100, "checkpoints": 100}
#: The query parameter with which clients of a cloud's deployment name the version of the API; versions differ in
#: nothing that is served here.
API_VERSION = "api-version"


def read_attempt(request: Request) -> Attempt:
    """Return which attempt of its request this is. An idempotency key is hashed: it may hold anything."""
    count = request.headers.get("x-stainless-retry-count", "0")
    retry = int(count) if count.isdecimal() and count.isascii() and len(count) < 4 else 0
    key = request.headers.get("idempotency-key")
    return Attempt(retry, hashlib.sha256(key.encode()).hexdigest() if key else None)


def check_same_request(earlier: FileRecord | UploadRecord | JobRecord, digest: str, noun: str) -> None:
    """Refuse a request whose idempotency key created something else before. Raises `RequestError` (409)."""
    if earlier.digest != digest:
        raise RequestError(409, f"that Idempotency-Key was used for another {noun}", code="idempotency_error")


def read_query(request: Request, *names: str, prefixes: tuple[str, ...] = ()) -> dict[str, str]:
    """Return the query parameters. Raises `RequestError` for one that is not supported."""
    query = dict(request.query_params)
    if not request.scope["path"].startswith("/v1/"):
        query.pop(API_VERSION, None)
    for name in query:
        if name not in names and not (name.startswith(prefixes) and name.endswith("]")):
            raise RequestError(
                400, f"{name} is not a parameter of this request here", param=name, code="unknown_parameter"
            )
    return query


def read_choice(query: dict[str, str], name: str, values: tuple[str, ...]) -> str | None:
    """Return a query parameter that is one of a few values; None where it is not set. Raises `RequestError`."""
    if query.get(name) not in (None, *values):
        raise RequestError(400, f"{name} must be {' or '.join(values)}", param=name, code="invalid_value")
    return query.get(name)


def paginate(
    entries: Sequence[Any], query: dict[str, str], kind: str, default: int, get_id: Callable[[Any], str]
) -> tuple[list[Any], bool]:
    """Return the entries after the one named by `after`, up to `limit`, and whether there are more."""
    text, limit = query.get("limit", str(default)), _MAX_PAGE[kind]
    if not (text.isdecimal() and text.isascii()) or not 1 <= int(text[:9]) <= limit:
        raise RequestError(400, f"limit must be a whole number from 1 to {limit}", param="limit", code="invalid_value")
    start = 0
    if (after := query.get("after")) is not None:
        position = next((index for index, entry in enumerate(entries) if get_id(entry) == after), None)
        if position is None:
            raise RequestError(404, f"there is no {after} in this list", param="after", code="not_found")
        start = position + 1
    end = start + int(text[:9])
    return list(entries[start:end]), len(entries) > end
