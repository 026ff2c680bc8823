"""/v1/files: uploads are streamed to disk and named by their content before the request is answered."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import secrets
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from llmtune._safety.private_files import open_private
from llmtune.server.protocol import RequestError
from llmtune.server.tuning.multipart import MultipartReader, PartStart
from llmtune.server.tuning.state import FileRecord, TuningState, digest_of, new_file_id

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from starlette.requests import Request

#: Bytes that a file may have, and seconds within which it must arrive.
MAX_FILE_BYTES, UPLOAD_SECONDS = 512 << 20, 600.0
_FIELD_BYTES = 4096
_PURPOSE = "fine-tune"
_FIELDS = ("purpose", "file", "expires_after[anchor]", "expires_after[seconds]")


class _Upload:
    """An upload in progress: written to a temporary file in the content folder, and hashed on the way."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / f".upload-{secrets.token_hex(8)}.tmp"
        self.fields: dict[str, bytes] = {}
        self.filename: str | None = None
        self.size = 0
        self._hash = hashlib.sha256()
        self._file: BinaryIO | None = None

    @property
    def sha256(self) -> str:
        """Hash of the bytes so far, as a hexadecimal string."""
        return self._hash.hexdigest()

    def write(self, field: str, data: bytes) -> None:
        """Append bytes of a field. Raises `RequestError` when it grows too large."""
        if field != "file":
            self.fields[field] = self.fields[field] + data
            if len(self.fields[field]) > _FIELD_BYTES:
                raise RequestError(400, f"{field} is too long", param=field, code="invalid_value")
            return
        self.size += len(data)
        if self.size > MAX_FILE_BYTES:
            raise RequestError(
                413, f"a file may have at most {MAX_FILE_BYTES >> 20} MB", param="file", code="request_too_large"
            )
        if self._file is None:
            self._file = open_private(self.path, "wb")
        self._hash.update(data)
        self._file.write(data)

    def flush(self) -> None:
        """Flush the file to disk and close it."""
        if self._file is not None:
            self._file.flush()
            os.fsync(self._file.fileno())
            self._file.close()
            self._file = None

    def close(self) -> None:
        """Close and remove the temporary file, unless it was moved to its final name."""
        if self._file is not None:
            self._file.close()
        self.path.unlink(missing_ok=True)


async def receive_file(request: Request, state: TuningState, *, retry: int, key: str | None) -> FileRecord:
    """Read an upload to its end and store the file. Raises `RequestError`."""
    upload = _Upload(state.content)
    try:
        async with asyncio.timeout(UPLOAD_SECONDS):
            await _read(_stream(request), MultipartReader(request.headers.get("content-type", "")), upload)
        expires = _check(upload)
        return await asyncio.to_thread(_store, upload, state, expires, retry, key)
    except TimeoutError:
        raise RequestError(408, f"the file did not arrive within {UPLOAD_SECONDS:.0f} seconds") from None
    finally:
        upload.close()


async def _stream(request: Request) -> AsyncIterator[bytes]:
    from starlette.requests import ClientDisconnect

    try:
        async for data in request.stream():
            yield data
    except ClientDisconnect:
        raise RequestError(400, "the client disconnected") from None


async def _read(stream: AsyncIterator[bytes], reader: MultipartReader, upload: _Upload) -> None:
    field = ""
    async for data in stream:
        for part in reader.feed(data):
            if not isinstance(part, PartStart):
                upload.write(field, part.data)
                continue
            field = part.name
            if field not in _FIELDS:
                raise RequestError(
                    400, f"{field} is not a parameter of this request here", param=field, code="unknown_parameter"
                )
            if field in upload.fields or (field == "file" and upload.filename is not None):
                raise RequestError(400, f"{field} is sent twice", param=field, code="invalid_value")
            if field == "file":
                upload.filename = Path(part.filename or "file.jsonl").name
            else:
                upload.fields[field] = b""
    reader.close()


def _check(upload: _Upload) -> float | None:
    """Refuse a file that cannot be trained on; return the seconds until it expires, None for never."""
    purpose = upload.fields.get("purpose", b"").decode(errors="replace")
    if purpose != _PURPOSE:
        raise RequestError(
            400,
            f"purpose must be '{_PURPOSE}', the only one that is served here"
            + (f", not '{purpose}'" if purpose else ""),
            param="purpose",
            code="invalid_value",
        )
    if upload.filename is None or upload.size == 0:
        raise RequestError(400, "file is missing or empty", param="file", code="invalid_value")
    upload.flush()
    with upload.path.open("rb") as content:
        line = next((line for line in content if line.strip()), b"").removeprefix(b"\xef\xbb\xbf")
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
    anchor, seconds = upload.fields.get("expires_after[anchor]"), upload.fields.get("expires_after[seconds]")
    if anchor is None and seconds is None:
        return None
    if anchor != b"created_at":
        raise RequestError(
            400, "expires_after.anchor must be 'created_at'", param="expires_after", code="invalid_value"
        )
    if seconds is None or not seconds.isdigit() or not 3600 <= int(seconds) <= 2592000:
        raise RequestError(
            400,
            "expires_after.seconds must be a whole number from 3600 to 2592000",
            param="expires_after",
            code="invalid_value",
        )
    return float(seconds)


def _store(upload: _Upload, state: TuningState, expires: float | None, retry: int, key: str | None) -> FileRecord:
    digest = digest_of([upload.sha256, upload.filename, expires])
    earlier = state.find_retried(state.files(), digest=digest, retry=retry, key=key)
    if earlier is not None:
        earlier = earlier.model_copy(update={"retries": max(earlier.retries, retry)})
        state.update_file(earlier)
        return earlier
    now = time.time()
    record = FileRecord(
        id=new_file_id(),
        created=now,
        digest=digest,
        idempotency_key=key,
        sha256=upload.sha256,
        bytes=upload.size,
        filename=upload.filename or "",
        purpose=_PURPOSE,
        expires=None if expires is None else now + expires,
    )
    return state.add_file(upload.path, record)


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


def find_file(state: TuningState, file_id: str, *, param: str = "id") -> FileRecord:
    """Return the file of that id. Raises `RequestError` (404)."""
    record = state.file(file_id)
    if record is None:
        raise RequestError(404, f"No such File object: {file_id}", param=param, code="not_found")
    return record
