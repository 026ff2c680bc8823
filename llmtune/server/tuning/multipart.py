"""A streaming parser of multipart/form-data (RFC 7578): a file of any size takes a few kilobytes of memory."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from email.message import Message

from llmtune.server.protocol import RequestError

#: Bytes that the headers of one part may have.
HEADER_BYTES = 8192


@dataclass(frozen=True)
class PartStart:
    """The start of a part: its field name, and its file name if it is a file."""

    name: str
    filename: str | None


@dataclass(frozen=True)
class PartData:
    """Bytes of the part that began last."""

    data: bytes


class MultipartReader:
    """Splits a body into parts. Raises `RequestError` (400) for anything that is not multipart/form-data."""

    def __init__(self, content_type: str) -> None:
        header = Message()
        header["content-type"] = content_type
        boundary = header.get_param("boundary")
        if header.get_content_type() != "multipart/form-data" or not isinstance(boundary, str) or not boundary:
            raise RequestError(400, "the body must be multipart/form-data, with the file in the field 'file'")
        try:
            self._delimiter = b"\r\n--" + boundary.encode("ascii")
        except UnicodeEncodeError:
            raise _broken() from None
        self._buffer = b"\r\n"  # the first delimiter needs no line before it
        self._inside = False
        self._headers = False
        self.ended = False

    def feed(self, data: bytes) -> Iterator[PartStart | PartData]:
        """Take the next bytes of the body, and yield the parts and data that they complete."""
        self._buffer += data
        while not self.ended:
            if self._headers:
                end = self._buffer.find(b"\r\n\r\n")
                if end < 0:
                    if len(self._buffer) > HEADER_BYTES:
                        raise _broken()
                    return
                header, self._buffer = self._buffer[:end], self._buffer[end + 4 :]
                self._headers, self._inside = False, True
                yield _start(header)
                continue
            end = self._buffer.find(self._delimiter)
            if end < 0:
                ready = len(self._buffer) - len(self._delimiter) + 1
                if ready > 0:
                    if self._inside:
                        yield PartData(self._buffer[:ready])
                    self._buffer = self._buffer[ready:]
                return
            after = self._buffer[end + len(self._delimiter) :]
            if len(after) < 2:
                return
            if self._inside and end:
                yield PartData(self._buffer[:end])
            self._inside = False
            if after[:2] == b"--":
                self.ended = True
            elif after[:2] == b"\r\n":
                self._buffer, self._headers = after[2:], True
            else:
                raise _broken()

    def close(self) -> None:
        """End the body. Raises `RequestError` when the last part is incomplete."""
        if not self.ended:
            raise _broken()


def _start(header: bytes) -> PartStart:
    fields = Message()
    for line in header.decode("utf-8", errors="replace").split("\r\n"):
        header_name, colon, value = line.partition(":")
        if colon and header_name.strip().lower() == "content-disposition":
            fields["content-disposition"] = value.strip()
    name = fields.get_param("name", header="content-disposition")
    if fields.get_content_disposition() != "form-data" or not isinstance(name, str):
        raise _broken()
    filename = fields.get_filename()
    try:
        # A part's header may name a charset (RFC 2231) in which half a surrogate pair can be written.
        f"{name}{filename}".encode()
    except UnicodeEncodeError:
        raise _broken() from None
    return PartStart(name, filename)


def _broken() -> RequestError:
    return RequestError(400, "the body is not complete multipart/form-data")
