"""Files to and from the service: named by content, large ones in parts, and waited for until they can be used."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from llmtune.errors import InvalidData, LlmtuneError, TransientError, VendorError
from llmtune.provider import EncodedFile, UploadRef, growing_pauses, unix_seconds
from llmtune_openai import metrics
from llmtune_openai.client import Connection
from llmtune_openai.services import Service

PURPOSE: Literal["fine-tune"] = "fine-tune"
PART = 64 * 1024**2
LONGEST_WAIT = 1800.0

#: Seconds that sending or fetching one file (or part) may take: 512 MB want more than a poll.
TIMEOUT = 600.0

#: Files a page, where looking for one of ours; accounts hold thousands.
PAGE = 1000

#: Seconds that a file must still have to live to be taken for a new job, which may wait in a queue before it reads it.
EXPIRY_MARGIN = 7 * 86400.0

_READY = frozenset({"processed"})
_BROKEN = frozenset({"error", "deleted", "deleting"})


def name_of(digest: str) -> str:
    """Return the name a file is uploaded under: its content's hash, so that it is found again."""
    return f"llmtune-{digest}.jsonl"


def find_upload(connection: Connection, service: Service, digest: str) -> UploadRef | None:
    """Find a file of that content that is usable and stays so until a job has read it."""
    good_until = time.time() + EXPIRY_MARGIN
    files = connection.pages(lambda sdk, paging: sdk.files.with_raw_response.list(purpose=PURPOSE, **paging), size=PAGE)
    for file in files:
        if file.get("filename") != name_of(digest) or file.get("status") in _BROKEN:
            continue
        expires = file.get("expires_at")
        # What cannot be read as a time is no reason to trust the file.
        if expires is None or (unix_seconds(expires) or 0.0) > good_until:
            wait(connection, service, file, name_of(digest))
            return UploadRef(id=str(file["id"]), digest=digest)
    return None


def upload(
    connection: Connection, service: Service, file: EncodedFile, expires_days: int | Literal["never"] = "never"
) -> UploadRef:
    """Send one file and wait until the service accepts it. Raises `InvalidData` with its words when it does not.

    The service removes it after `expires_days`, where it has a field for that.
    """
    more: dict[str, Any] = {}
    if expires_days != "never" and service.upload_days is not None:
        shortest, longest = service.upload_days
        more["expires_after"] = {"anchor": "created_at", "seconds": min(max(expires_days, shortest), longest) * 86400}
    timeout = connection.timeout or TIMEOUT
    limit = service.upload_in_parts_above
    if limit is not None and file.bytes > limit:
        sent = _upload_in_parts(connection, file, more)
    else:
        with file.path.open("rb") as stream:
            sent = connection.request(
                lambda sdk: sdk.files.with_raw_response.create(
                    file=(name_of(file.sha256), stream, "application/jsonl"), purpose=PURPOSE, timeout=timeout, **more
                )
            )
    wait(connection, service, sent, str(file.path))
    return UploadRef(id=str(sent["id"]), digest=file.sha256, role=file.role)


def _upload_in_parts(connection: Connection, file: EncodedFile, more: Mapping[str, Any]) -> Mapping[str, Any]:
    started = connection.request(
        lambda sdk: sdk.uploads.with_raw_response.create(
            bytes=file.bytes, filename=name_of(file.sha256), mime_type="text/jsonl", purpose=PURPOSE, **more
        )
    )
    id = str(started["id"])
    try:
        parts = []
        with file.path.open("rb") as stream:
            while piece := stream.read(PART):
                part = connection.request(
                    lambda sdk, piece=piece: sdk.uploads.parts.with_raw_response.create(  # type: ignore[misc]
                        id, data=piece, timeout=connection.timeout or TIMEOUT
                    )
                )
                parts.append(str(part["id"]))
        done = connection.request(lambda sdk: sdk.uploads.with_raw_response.complete(id, part_ids=parts))
    except BaseException:
        _cancel_upload(connection, id)
        raise
    uploaded = done.get("file")
    if not isinstance(uploaded, Mapping):
        raise VendorError(f"{connection.title} completed the upload {id} without naming a file", raw=str(done)[:500])
    return uploaded


def _cancel_upload(connection: Connection, id: str) -> None:
    try:
        connection.request(lambda sdk: sdk.uploads.with_raw_response.cancel(id))
    except LlmtuneError:
        return  # it expires by itself after an hour; what went wrong before is what matters


def wait(connection: Connection, service: Service, file: Mapping[str, Any], filename: str) -> None:
    """Wait until an uploaded file can be used. A job made earlier is refused, at Azure always.

    Raises:
        InvalidData: the service cannot use the file; carries its words.
        TransientError: it is still not ready after half an hour.
    """
    ready = _READY | ({"uploaded"} if service.uploaded_is_ready else set())
    id = str(file["id"])
    for seconds in growing_pauses(LONGEST_WAIT, first=0.05, longest=5.0):
        if seconds:
            file = connection.request(lambda sdk: sdk.files.with_raw_response.retrieve(id))
        status = file.get("status")
        if status is None or status in ready:
            return
        if status in _BROKEN:
            why = file.get("status_details") or f"its state is {status!r}"
            raise InvalidData(f"{connection.title} cannot use {filename} ({id}): {why}")
    raise TransientError(f"{connection.title} still has {filename} ({id}) in the state {status!r}", sent=False)


def download(connection: Connection, id: str, into: Path) -> Path:
    """Download a file under its own name; a result file is written as plain CSV."""
    facts = connection.request(lambda sdk: sdk.files.with_raw_response.retrieve(id))
    content = connection.content(
        lambda sdk: sdk.files.with_raw_response.content(id, timeout=connection.timeout or TIMEOUT)
    )
    if facts.get("purpose") == "fine-tune-results" and (text := metrics.decoded(content)) is not None:
        content = text.encode()
    into.mkdir(parents=True, exist_ok=True)
    target = into / (Path(str(facts.get("filename") or id)).name or id)
    target.write_bytes(content)
    return target
