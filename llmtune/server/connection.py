"""HTTP connections with a deadline for headers: uvicorn limits the time between requests, but not within a header."""

from __future__ import annotations

import asyncio
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from llmtune.redaction.documents import dump_json
from llmtune.server.protocol import RequestError

#: Seconds within which a request's header, or the rest of a body that is no longer read, must arrive.
HEADER_SECONDS = 20.0


class Connection(H11Protocol):
    """A connection that is closed when a request's header takes longer than `HEADER_SECONDS`, even if bytes arrive."""

    _deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        """Start the deadline of the first header."""
        super().connection_made(transport)
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        """Cancel the deadline."""
        self._unwatch()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Receive bytes; the deadline stays until the header is complete."""
        super().data_received(data)
        if self._answering():
            self._unwatch()
        else:
            self._watch()

    def on_response_complete(self) -> None:
        """Start the deadline for the rest of this request, or for the next one if part of it is here."""
        super().on_response_complete()
        if self._answering():
            self._unwatch()
        elif self.conn.their_state is not h11.IDLE or self.conn.trailing_data[0]:
            self._watch()

    def send_400_response(self, msg: str) -> None:
        """Answer a malformed request with an error object of the API."""
        self._refuse(RequestError(400, "this is not a valid HTTP request"))

    def _answering(self) -> bool:
        """Return whether a request is being answered, which has its own deadlines."""
        return self.cycle is not None and not self.cycle.response_complete

    def _watch(self) -> None:
        if self._deadline is None:
            self._deadline = self.loop.call_later(HEADER_SECONDS, self._expire)

    def _unwatch(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _expire(self) -> None:
        self._deadline = None
        if self.transport.is_closing():
            return
        if self.cycle is None or self.conn.their_state is h11.IDLE:
            self._refuse(RequestError(408, f"the request's header did not arrive within {HEADER_SECONDS:.0f} seconds"))
        else:
            self.transport.close()

    def _refuse(self, error: RequestError) -> None:
        body = dump_json(error.body, indent=False).encode()
        head = f"HTTP/1.1 {error.status} Refused\r\ncontent-type: application/json\r\nconnection: close\r\n"
        self.transport.write(f"{head}content-length: {len(body)}\r\n\r\n".encode() + body)
        self.transport.close()
