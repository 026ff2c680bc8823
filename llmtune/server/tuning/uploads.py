"""/v1/uploads: a large file in parts, which lie on the disk until they are joined to one file in one step.

https://platform.openai.com/docs/api-reference/uploads (2026-11). Of a part its bytes are all that is stored, in a file
with the part's id: a part whose answer was lost is never named when the upload is completed, and goes with the others.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import os
import re
import shutil
import threading
import time
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmtune._safety.private_files import make_private_folder, open_private
from llmtune.runs.failpoints import failpoint
from llmtune.server.protocol import RequestError
from llmtune.server.tuning.audit import AuditLog
from llmtune.server.tuning.files import PURPOSE, check_purpose, check_rows, file_object, read_expiry
from llmtune.server.tuning.keys import GIGABYTE, Key, Keys, refuse_keys
from llmtune.server.tuning.query import check_same_request
from llmtune.server.tuning.quotas import storage_full
from llmtune.server.tuning.receive import MAX_PARALLEL, ReceivedFile, receive_form
from llmtune.server.tuning.state import (
    Attempt,
    FileRecord,
    TuningState,
    UploadRecord,
    derive_id,
    digest_of,
    new_id,
    newest_first,
    read_records,
    write_file,
)

if TYPE_CHECKING:
    from starlette.requests import Request

#: Bytes that one part, and all parts of an upload together, may have.
MAX_PART_BYTES, MAX_UPLOAD_BYTES = 64 << 20, 8 << 30
#: Seconds from its creation within which an upload must be completed, and for which it is remembered afterwards.
UPLOAD_LIFETIME, REMEMBERED = 3600.0, 86400.0
#: Uploads of one owner that may be pending.
MAX_PENDING = 20
#: Parts that an upload may have: one for every byte is no upload.
MAX_PARTS = 10000
_BLOCK = 1 << 20
_PART = re.compile(r"part_[A-Za-z0-9]{22}")
_FIELDS = ("filename", "purpose", "bytes", "mime_type", "expires_after")


@dataclass(frozen=True)
class _Announced:
    """The body of a request for an upload."""

    bytes: int
    filename: str
    expires: float | None


class Uploads:
    """The uploads in parts, of all owners; each sees its own only."""

    def __init__(self, state: TuningState, keys: Keys, audit: AuditLog) -> None:
        self._state, self._keys, self._audit = state, keys, audit
        self._lock = threading.RLock()
        self._completing: dict[str, threading.Lock] = {}
        self._receiving: Counter[str] = Counter()
        self._records = {record.id: record for record in read_records(state.uploads, UploadRecord)}
        for folder in state.uploads.iterdir():
            if folder.is_dir() and not self._pending(self._records.get(folder.name)):
                shutil.rmtree(folder, ignore_errors=True)
        self.remove_expired()

    def remaining_bytes(self, key: Key) -> int | None:
        """Return how many bytes the key's owner may still store, as files or uploads in parts; None for no limit."""
        if key.max_stored_gb is None:
            return None
        with self._lock:
            records = [record for record in self._records.values() if record.owner == key.owner]
            stored = sum(record.bytes for record in records if self._pending(record))
        stored += sum(file.bytes for file in self._state.files(key.owner))
        return max(0, int(key.max_stored_gb * GIGABYTE) - stored)

    # --- requests ----------------------------------------------------------------------------------------------------
    def create(self, body: Mapping[str, Any], key: Key, attempt: Attempt) -> dict[str, Any]:
        """Announce an upload. Raises `RequestError`: a field is wrong, or no space, or too many uploads."""
        announced = _read_create(body)
        refuse_keys(self._keys, announced.filename, "filename")
        digest = digest_of([announced.bytes, announced.filename, announced.expires])
        with self._state.creating(key.owner):
            self.remove_expired()
            records = [record for record in self._records.values() if record.owner == key.owner]
            earlier = self._state.find_retried(
                newest_first(records), digest=digest, retry=attempt.retry, key=attempt.idempotency_key
            )
            if earlier is not None:
                check_same_request(earlier, digest, "upload")
                return self._describe(self._save(earlier, retries=max(earlier.retries, attempt.retry)))
            if sum(self._pending(record) for record in records) >= MAX_PENDING:
                raise RequestError(
                    429,
                    f"{MAX_PENDING} uploads are pending already: complete or cancel one",
                    code="upload_limit_exceeded",
                    wait=30,
                )
            remaining = self.remaining_bytes(key)
            if remaining is not None and announced.bytes > remaining:
                raise storage_full(key)
            record = UploadRecord(
                id=new_id("upload_"),
                created=time.time(),
                owner=key.owner,
                digest=digest,
                idempotency_key=attempt.idempotency_key,
                bytes=announced.bytes,
                filename=announced.filename,
                purpose=PURPOSE,
                expires=announced.expires,
            )
            self._audit.record(key, "upload.create", id=record.id, bytes=record.bytes)
            make_private_folder(self._folder(record))
            return self._describe(self._save(record))

    async def add_part(self, request: Request, upload_id: str, key: Key) -> dict[str, Any]:
        """Receive a part. Raises `RequestError`: the upload is not pending, or the part too large."""
        record = self._find_pending(upload_id, key.owner)
        if self._receiving[upload_id] >= MAX_PARALLEL:
            raise RequestError(
                429,
                f"{MAX_PARALLEL} parts of this upload are under way already: try again",
                code="rate_limit_exceeded",
                wait=1,
            )
        part_id = new_id("part_")
        self._receiving[upload_id] += 1
        try:
            await self._receive_part(request, record, part_id)
        except FileNotFoundError:  # cancelled, and its folder removed
            raise self._not_pending(self._find(upload_id, key.owner)) from None
        finally:
            self._receiving[upload_id] -= 1
        failpoint("part-kept")
        return {"id": part_id, "object": "upload.part", "created_at": int(time.time()), "upload_id": upload_id}

    def complete(self, body: Mapping[str, Any], upload_id: str, key: Key) -> dict[str, Any]:
        """Join the parts to a file. Asked again with the same parts, return the same file.

        Raises:
            RequestError: the upload is not pending, a part is unknown, or the bytes are not those announced.
        """
        part_ids, md5 = _read_complete(body)
        with self._lock:
            record = self._find(upload_id, key.owner)
            completing = self._completing.setdefault(upload_id, threading.Lock())
        with completing:
            record = self._find(upload_id, key.owner)
            if record.status == "completed" and record.part_ids == part_ids:
                return self._describe(record)
            record = self._find_pending(upload_id, key.owner)
            # Named by the upload: one that was joined right before a kill is found again, and is no second file.
            file_id = derive_id("file-", f"upload {upload_id}")
            file = self._state.file(file_id, key.owner)
            if file is None:
                file = self._join(record, part_ids, md5, file_id, key)
            elif file.digest != digest_of(part_ids):
                raise RequestError(
                    400,
                    "other parts were joined to the file of this upload already",
                    param="part_ids",
                    code="invalid_value",
                )
            failpoint("parts-joined")
            record = self._save(record, status="completed", part_ids=part_ids, file=file)
            failpoint("upload-completed")
            shutil.rmtree(self._folder(record), ignore_errors=True)
            return self._describe(record)

    def cancel(self, upload_id: str, key: Key) -> dict[str, Any]:
        """Cancel an upload and remove its parts. Raises `RequestError` when it is not pending."""
        with self._lock:
            record = self._find(upload_id, key.owner)
            if record.status == "cancelled":
                return self._describe(record)
            completing = self._completing.setdefault(upload_id, threading.Lock())
        with completing:
            record = self._find_pending(upload_id, key.owner)
            self._audit.record(key, "upload.cancel", id=upload_id)
            with self._lock:
                record = self._save(record, status="cancelled")
            shutil.rmtree(self._folder(record), ignore_errors=True)
        return self._describe(record)

    def remove_expired(self) -> None:
        """Remove the parts of uploads that were not completed in time, and forget those that ended long ago."""
        now = time.time()
        with self._lock:
            for record in list(self._records.values()):
                if now > record.created + UPLOAD_LIFETIME + REMEMBERED:
                    self._records.pop(record.id)
                    self._completing.pop(record.id, None)
                    self._path(record).unlink(missing_ok=True)
                completing = self._completing.get(record.id)
                if not self._pending(record) and not (completing and completing.locked()):
                    shutil.rmtree(self._folder(record), ignore_errors=True)

    async def _receive_part(self, request: Request, record: UploadRecord, part_id: str) -> None:
        folder = self._folder(record)
        size, count = await asyncio.to_thread(_measure, folder)
        if count >= MAX_PARTS:
            raise RequestError(400, f"an upload may have at most {MAX_PARTS} parts", param="data", code="invalid_value")
        # Twice the size leaves space for parts that are sent again after a lost answer.
        limit = min(MAX_PART_BYTES, max(0, 2 * record.bytes - size))
        too_large = RequestError(
            413,
            f"a part may have at most {MAX_PART_BYTES >> 20} MB, and all parts at most twice the"
            f" {record.bytes} bytes of the upload, of which {size} are here",
            param="data",
            code="request_too_large",
        )
        received = ReceivedFile(folder / f".{part_id}.tmp", "data", limit=limit, too_large=too_large)
        try:
            await receive_form(request, received)
            if received.size == 0:
                raise RequestError(400, "data is missing or empty", param="data", code="invalid_value")
            with self._lock:
                self._find_pending(record.id, record.owner)  # it may have been cancelled meanwhile
                received.path.replace(folder / part_id)
        finally:
            received.close()

    # --- one upload --------------------------------------------------------------------------------------------------
    def _join(
        self, record: UploadRecord, part_ids: tuple[str, ...], md5: str | None, file_id: str, key: Key
    ) -> FileRecord:
        """Copy the parts into one file, check it, and add it to the owner's files in one step."""
        folder = self._folder(record)
        paths = [folder / part_id for part_id in part_ids]
        for part_id, path in zip(part_ids, paths, strict=True):
            if not _PART.fullmatch(part_id) or not path.is_file():
                raise RequestError(
                    400, f"{part_id} is not a part of this upload", param="part_ids", code="invalid_value"
                )
        size = sum(path.stat().st_size for path in paths)
        if size != record.bytes:
            raise RequestError(
                400,
                f"the parts have {size} bytes, and the upload was announced with {record.bytes}",
                param="part_ids",
                code="invalid_value",
            )
        joined = self._state.content / f".{record.id}.tmp"
        try:
            sha256, actual = _copy(paths, joined)
            if md5 is not None and not hmac.compare_digest(md5, actual):
                raise RequestError(400, f"the file has the md5 {actual}, not {md5}", param="md5", code="invalid_value")
            check_rows(joined)
            now = time.time()
            file = FileRecord(
                id=file_id,
                created=now,
                owner=record.owner,
                digest=digest_of(part_ids),
                sha256=sha256,
                bytes=size,
                filename=record.filename,
                purpose=record.purpose,
                expires=None if record.expires is None else now + record.expires,
            )
            self._audit.record(key, "file.create", id=file_id, bytes=size, sha256=sha256, upload=record.id)
            return self._state.add_file(joined, file)
        finally:
            joined.unlink(missing_ok=True)

    def _find(self, upload_id: str, owner: str) -> UploadRecord:
        with self._lock:
            record = self._records.get(upload_id)
        if record is None or record.owner != owner:
            raise RequestError(404, f"No such Upload object: {upload_id}", param="upload_id", code="not_found")
        return record

    def _find_pending(self, upload_id: str, owner: str) -> UploadRecord:
        record = self._find(upload_id, owner)
        if not self._pending(record):
            raise self._not_pending(record)
        return record

    def _not_pending(self, record: UploadRecord) -> RequestError:
        return RequestError(
            400, f"the upload is {_status(record)}, not pending", param="upload_id", code="upload_not_pending"
        )

    def _pending(self, record: UploadRecord | None) -> bool:
        return record is not None and _status(record) == "pending"

    def _save(self, record: UploadRecord, **fields: Any) -> UploadRecord:
        record = record.model_copy(update=fields)
        with self._lock:
            write_file(self._path(record), record.model_dump_json(exclude_defaults=True).encode())
            self._records[record.id] = record
        return record

    def _path(self, record: UploadRecord) -> Path:
        return self._state.uploads / f"{record.id}.json"

    def _folder(self, record: UploadRecord) -> Path:
        return self._state.uploads / record.id

    def _describe(self, record: UploadRecord) -> dict[str, Any]:
        """Build the upload object of the API."""
        body: dict[str, Any] = {
            "id": record.id,
            "object": "upload",
            "bytes": record.bytes,
            "created_at": int(record.created),
            "filename": record.filename,
            "purpose": record.purpose,
            "status": _status(record),
            "expires_at": int(record.created + UPLOAD_LIFETIME),
        }
        if record.file is not None:
            body["file"] = file_object(record.file)
        return body


def _status(record: UploadRecord) -> str:
    if record.status == "pending" and time.time() > record.created + UPLOAD_LIFETIME:
        return "expired"
    return record.status


def _measure(folder: Path) -> tuple[int, int]:
    """Return the bytes and the number of the parts that are here."""
    sizes = []
    with suppress(FileNotFoundError):  # the upload was cancelled
        for entry in os.scandir(folder):
            with suppress(FileNotFoundError):  # a part that was received this moment has its name now
                sizes.append(entry.stat().st_size)
    return sum(sizes), len(sizes)


def _copy(paths: list[Path], joined: Path) -> tuple[str, str]:
    """Write the parts one after the other; return the SHA-256 and the MD5 of the whole. Holds one block in memory."""
    sha256, md5 = hashlib.sha256(), hashlib.md5(usedforsecurity=False)
    with open_private(joined, "wb") as target:
        for path in paths:
            with path.open("rb") as part:
                while block := part.read(_BLOCK):
                    sha256.update(block)
                    md5.update(block)
                    target.write(block)
        target.flush()
        os.fsync(target.fileno())
    return sha256.hexdigest(), md5.hexdigest()


def _read_create(body: Mapping[str, Any]) -> _Announced:
    for name in body:
        if name not in _FIELDS:
            raise RequestError(
                400, f"{name} is not a parameter of this request here", param=name, code="unknown_parameter"
            )
    size = body.get("bytes")
    if not isinstance(size, int) or isinstance(size, bool) or not 1 <= size <= MAX_UPLOAD_BYTES:
        raise _invalid("bytes", f"the size of the file, a whole number from 1 to {MAX_UPLOAD_BYTES}")
    for name in ("filename", "mime_type"):
        text = body.get(name)
        if not isinstance(text, str) or not 1 <= len(text) <= 255:
            raise _invalid(name, "a text of 1 to 255 characters")
    purpose = body.get("purpose")
    check_purpose(purpose if isinstance(purpose, str) else "")
    expires, after = None, body.get("expires_after")
    if after is not None:
        if not isinstance(after, dict) or not after.keys() <= {"anchor", "seconds"}:
            raise _invalid("expires_after", "an object with anchor and seconds")
        expires = read_expiry(after.get("anchor"), after.get("seconds"))
    return _Announced(size, Path(body["filename"]).name or "file.jsonl", expires)


def _read_complete(body: Mapping[str, Any]) -> tuple[tuple[str, ...], str | None]:
    for name in body:
        if name not in ("part_ids", "md5"):
            raise RequestError(
                400, f"{name} is not a parameter of this request here", param=name, code="unknown_parameter"
            )
    part_ids, md5 = body.get("part_ids"), body.get("md5")
    if not isinstance(part_ids, list) or not part_ids or not all(isinstance(part_id, str) for part_id in part_ids):
        raise _invalid("part_ids", "the ids of the parts, in order")
    if len(set(part_ids)) < len(part_ids) or len(part_ids) > MAX_PARTS:
        raise _invalid("part_ids", f"the ids of at most {MAX_PARTS} parts, each once")
    if md5 is not None and not (isinstance(md5, str) and re.fullmatch(r"[0-9a-fA-F]{32}", md5)):
        raise _invalid("md5", "the checksum of the file in 32 hexadecimal digits")
    return tuple(part_ids), None if md5 is None else md5.lower()


def _invalid(field: str, expected: str) -> RequestError:
    return RequestError(400, f"{field} must be {expected}", param=field, code="invalid_value")
