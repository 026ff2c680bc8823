"""/v1/files: uploads are streamed to disk and named by their content before the request is answered."""

from __future__ import annotations

import asyncio
import json
import secrets
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from llmtune.server.protocol import RequestError
from llmtune.server.tuning.audit import AuditLog
from llmtune.server.tuning.keys import Key, Keys, refuse_keys
from llmtune.server.tuning.query import check_same_request
from llmtune.server.tuning.quotas import storage_full
from llmtune.server.tuning.receive import MAX_PARALLEL, ReceivedFile, receive_form
from llmtune.server.tuning.state import Attempt, FileRecord, TuningState, digest_of, new_id

if TYPE_CHECKING:
    from starlette.requests import Request

#: Bytes that a file may have which is sent in one piece.
MAX_FILE_BYTES = 512 << 20
#: Bytes that the first row of a file may have: it is read to see whether the file is JSON Lines.
MAX_ROW_BYTES = 64 << 20
PURPOSE = "fine-tune"
_FIELDS = ("purpose", "expires_after[anchor]", "expires_after[seconds]")


class Files:
    """The files of all owners; each sees its own only. `remaining` gives the bytes that an owner may still store."""

    def __init__(self, state: TuningState, keys: Keys, audit: AuditLog, remaining: Callable[[Key], int | None]) -> None:
        self.state = state
        self._keys, self._audit, self._remaining = keys, audit, remaining
        self._receiving: Counter[str] = Counter()

    async def receive(self, request: Request, key: Key, attempt: Attempt) -> FileRecord:
        """Read an upload to its end and store the file for the key's owner.

        Raises:
            RequestError: the body is none, the file is too large, cannot be trained on, or has no space left, or too
                many files of an owner whose storage is limited are under way: each may fill what is left of it.
        """
        if key.max_stored_gb is not None and self._receiving[key.owner] >= MAX_PARALLEL:
            raise RequestError(
                429, f"{MAX_PARALLEL} files are under way already: try again", code="rate_limit_exceeded", wait=1
            )
        limit, remaining = MAX_FILE_BYTES, self._remaining(key)
        error = RequestError(413, f"a file may have at most {limit >> 20} MB", param="file", code="request_too_large")
        if remaining is not None and remaining < limit:
            limit, error = remaining, storage_full(key)
        path = self.state.content / f".upload-{secrets.token_hex(8)}.tmp"
        received = ReceivedFile(path, "file", _FIELDS, limit=limit, too_large=error)
        self._receiving[key.owner] += 1
        try:
            await receive_form(request, received)
            expires = await asyncio.to_thread(_check, received)
            refuse_keys(self._keys, received.filename or "", "file")
            return await asyncio.to_thread(self._store, received, key, expires, attempt)
        finally:
            self._receiving[key.owner] -= 1
            received.close()

    def find(self, file_id: str, key: Key) -> FileRecord:
        """Return the owner's file of that id. Raises `RequestError` (404)."""
        record = self.state.file(file_id, key.owner)
        if record is None:
            raise _missing(file_id)
        return record

    def open(self, file_id: str, key: Key) -> tuple[FileRecord, BinaryIO]:
        """Return the owner's file of that id, and its content to read. Raises `RequestError` (404)."""
        record = self.find(file_id, key)
        try:
            return record, self.state.path(record).open("rb")
        except FileNotFoundError:  # deleted this moment
            raise _missing(file_id) from None

    def delete(self, file_id: str, key: Key) -> None:
        """Delete the owner's file of that id. Raises `RequestError` (404)."""
        record = self.find(file_id, key)
        self._audit.record(key, "file.delete", id=file_id)
        self.state.delete_file(record)

    def _store(self, received: ReceivedFile, key: Key, expires: float | None, attempt: Attempt) -> FileRecord:
        digest = digest_of([received.sha256, received.filename, expires])
        with self.state.creating(key.owner):
            earlier = self.state.find_retried(
                self.state.files(key.owner), digest=digest, retry=attempt.retry, key=attempt.idempotency_key
            )
            if earlier is not None:
                check_same_request(earlier, digest, "file")
                earlier = earlier.model_copy(update={"retries": max(earlier.retries, attempt.retry)})
                self.state.update_file(earlier)
                return earlier
            remaining = self._remaining(key)
            if remaining is not None and received.size > remaining:  # others were stored meanwhile
                raise storage_full(key)
            now = time.time()
            record = FileRecord(
                id=new_id("file-"),
                created=now,
                owner=key.owner,
                digest=digest,
                idempotency_key=attempt.idempotency_key,
                sha256=received.sha256,
                bytes=received.size,
                filename=received.filename or "",
                purpose=PURPOSE,
                expires=None if expires is None else now + expires,
            )
            self._audit.record(key, "file.create", id=record.id, bytes=record.bytes, sha256=record.sha256)
            return self.state.add_file(received.path, record)


def _missing(file_id: str) -> RequestError:
    return RequestError(404, f"No such File object: {file_id}", param="id", code="not_found")


def _check(received: ReceivedFile) -> float | None:
    """Refuse a file that cannot be trained on; return the seconds until it expires, None for never."""
    check_purpose(received.fields.get("purpose", b"").decode(errors="replace"))
    if received.filename is None or received.size == 0:
        raise RequestError(400, "file is missing or empty", param="file", code="invalid_value")
    check_rows(received.path)
    anchor, seconds = received.fields.get("expires_after[anchor]"), received.fields.get("expires_after[seconds]")
    if anchor is None and seconds is None:
        return None
    number = int(seconds) if seconds is not None and seconds.isdigit() else None
    return read_expiry(None if anchor is None else anchor.decode(errors="replace"), number)


def check_purpose(purpose: str) -> None:
    """Refuse a file that is for something else than tuning. Raises `RequestError` (400)."""
    if purpose != PURPOSE:
        raise RequestError(
            400,
            f"purpose must be '{PURPOSE}', the only one that is served here"
            + (f", not '{purpose}'" if purpose else ""),
            param="purpose",
            code="invalid_value",
        )


def check_rows(path: Path) -> None:
    """Refuse a file whose first line is no row. Raises `RequestError` (400)."""
    with path.open("rb") as content:
        line = content.readline(MAX_ROW_BYTES).removeprefix(b"\xef\xbb\xbf")
        while line and not line.strip():
            line = content.readline(MAX_ROW_BYTES)
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        row = None
    if not isinstance(row, dict):
        raise RequestError(
            400,
            "the file is not JSON Lines: its first line is not a JSON object",
            param="file",
            code="invalid_file_format",
        )


def read_expiry(anchor: Any, seconds: Any) -> float:
    """Return the seconds that a file is kept. Raises `RequestError` (400)."""
    if anchor != "created_at":
        raise RequestError(
            400, "expires_after.anchor must be 'created_at'", param="expires_after", code="invalid_value"
        )
    if not isinstance(seconds, int) or isinstance(seconds, bool) or not 3600 <= seconds <= 2592000:
        raise RequestError(
            400,
            "expires_after.seconds must be a whole number from 3600 to 2592000",
            param="expires_after",
            code="invalid_value",
        )
    return float(seconds)


def file_object(record: FileRecord) -> dict[str, Any]:
    """Build the file object of the API."""
    body: dict[str, Any] = {
        "id": record.id,
        "object": "file",
        "bytes": record.bytes,
        "created_at": int(record.created),
        "filename": record.filename,
        "purpose": record.purpose,
        "status": "processed",
    }
    if record.expires is not None:
        body["expires_at"] = int(record.expires)
    return body
