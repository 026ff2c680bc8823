"""Multipart bodies with one file, streamed to disk: memory does not grow with the file."""

from __future__ import annotations

import asyncio
import errno
import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from llmtune._safety.private_files import open_private
from llmtune.server.protocol import RequestError
from llmtune.server.tuning.multipart import MultipartReader, PartStart

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from starlette.requests import Request

#: Seconds within which a body with a file must arrive.
UPLOAD_SECONDS = 600.0
#: Files of one owner, and parts of one upload, that may be under way at the same time.
MAX_PARALLEL = 16
_FIELD_BYTES = 4096


class ReceivedFile:
    """The file of a body on its way to a temporary file, hashed as it comes, and the text fields beside it.

    Args:
        path: the temporary file; removed by `close`, unless it was moved away.
        field: name of the field that is the file.
        names: names of the text fields that are taken.
        too_large: raised when the file has more than `limit` bytes.
    """

    def __init__(
        self, path: Path, field: str, names: tuple[str, ...] = (), *, limit: int, too_large: RequestError
    ) -> None:
        self.path, self.fields = path, dict[str, bytes]()
        self.filename: str | None = None
        self.size = 0
        self._field, self._names = field, names
        self._limit, self._too_large = limit, too_large
        self._hash = hashlib.sha256()
        self._file: BinaryIO | None = None

    @property
    def sha256(self) -> str:
        """Hash of the bytes so far, as a hexadecimal string."""
        return self._hash.hexdigest()

    def start(self, part: PartStart) -> None:
        """Begin a field. Raises `RequestError` for one that is not taken, or was there before."""
        if part.name != self._field and part.name not in self._names:
            raise RequestError(
                400,
                f"{part.name} is not a parameter of this request here",
                param=part.name,
                code="unknown_parameter",
            )
        if part.name in self.fields or (part.name == self._field and self.filename is not None):
            raise RequestError(400, f"{part.name} is sent twice", param=part.name, code="invalid_value")
        if part.name == self._field:
            self.filename = Path(part.filename or "").name or "file.jsonl"
        else:
            self.fields[part.name] = b""

    def write(self, field: str, data: bytes) -> None:
        """Append bytes of a field. Raises `RequestError` when it grows too large."""
        if field != self._field:
            self.fields[field] += data
            if len(self.fields[field]) > _FIELD_BYTES:
                raise RequestError(400, f"{field} is too long", param=field, code="invalid_value")
            return
        self.size += len(data)
        if self.size > self._limit:
            raise self._too_large
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


async def receive_form(request: Request, received: ReceivedFile) -> None:
    """Read a multipart body to its end, and flush its file to disk. Raises `RequestError`."""
    reader = MultipartReader(request.headers.get("content-type", ""))
    try:
        async with asyncio.timeout(UPLOAD_SECONDS):
            field = ""
            async for data in _stream(request):
                for part in reader.feed(data):
                    if isinstance(part, PartStart):
                        field = part.name
                        received.start(part)
                    else:
                        received.write(field, part.data)
            reader.close()
    except TimeoutError:
        raise RequestError(408, f"the file did not arrive within {UPLOAD_SECONDS:.0f} seconds") from None
    await asyncio.to_thread(received.flush)


@contextmanager
def disk_errors() -> Iterator[None]:
    """Convert the error of a full disk to the API's: it is no fault of the request."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise RequestError(507, "the disk of this endpoint is full: tell whoever runs it", code="disk_full") from error


async def _stream(request: Request) -> AsyncIterator[bytes]:
    from starlette.requests import ClientDisconnect

    try:
        async for data in request.stream():
            yield data
    except ClientDisconnect:
        raise RequestError(400, "the client disconnected") from None
