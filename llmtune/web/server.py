"""The server behind the pages: loopback only, answers GET and HEAD, and nobody but a page of its own address."""

from __future__ import annotations

import io
import logging
import socket
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self
from urllib.parse import parse_qs, urlsplit

from llmtune._safety.browser import host_name, is_foreign_page, is_loopback
from llmtune.errors import LlmtuneError
from llmtune.runs.store.store import Store, open_store
from llmtune.web.pages import Pages, Reply

log = logging.getLogger("llmtune")

HOST = "127.0.0.1"
PORT = 8420
#: Seconds in which a request must be here.
REQUEST_SECONDS = 30.0

_HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "frame-ancestors 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


class Server:
    """Serves the pages of a store until it is closed.

    Args:
        port: TCP port on loopback; 0 takes any that is free.
        store: which store; None opens the configured one.

    Raises:
        LlmtuneError: the port is taken.
    """

    def __init__(self, port: int = PORT, *, store: Store | None = None) -> None:
        pages = Pages(store or open_store())
        try:
            self._http = _Http((HOST, port), pages)
        except OSError as error:
            raise LlmtuneError(
                f"port {port} of this machine cannot be used: {error.strerror}",
                hint="llmtune ui --port 0 takes a free one",
            ) from None
        self._thread: threading.Thread | None = None

    @property
    def url(self) -> str:
        """Where the pages are."""
        return f"http://{HOST}:{self._http.server_address[1]}/"

    def serve(self) -> None:
        """Answer until `close` or Ctrl-C."""
        self._http.serve_forever(poll_interval=0.2)

    def close(self) -> None:
        """Answer no more."""
        if self._thread is not None:
            self._http.shutdown()
            self._thread.join()
        self._http.server_close()

    def __enter__(self) -> Self:
        self._thread = threading.Thread(target=self.serve, name="llmtune-ui", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class _Http(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, address: tuple[str, int], pages: Pages) -> None:
        self.pages = pages
        super().__init__(address, _Handler)

    def handle_error(self, request: Any, client_address: Any) -> None:
        log.debug("a browser left while it was answered", exc_info=True)


class _DeadlineReader(io.RawIOBase):
    """Bytes of a socket, up to a moment that is set for each request."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self.deadline = 0.0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        remaining = self.deadline - time.monotonic()
        if remaining <= 0:
            raise TimeoutError("the request did not come in time")
        self._connection.settimeout(remaining)
        return self._connection.recv_into(buffer)


class _Handler(BaseHTTPRequestHandler):
    server: _Http
    protocol_version = "HTTP/1.1"

    def setup(self) -> None:
        """Read with a deadline: a socket's own timeout begins anew with every byte that dribbles in."""
        super().setup()
        self._raw = _DeadlineReader(self.connection)
        self.rfile = io.BufferedReader(self._raw)

    def handle_one_request(self) -> None:
        """Answer a request whose header is here in time, the wait for its beginning included."""
        self._raw.deadline = time.monotonic() + REQUEST_SECONDS
        super().handle_one_request()

    def do_GET(self) -> None:
        self._answer(body=True)

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def _answer(self, *, body: bool) -> None:
        self.connection.settimeout(REQUEST_SECONDS)
        reply = self._reply()
        self.send_response(reply.status)
        self.send_header("Content-Type", reply.type)
        self.send_header("Content-Length", str(len(reply.body)))
        for name, value in _HEADERS.items():
            self.send_header(name, value)
        self.end_headers()
        if body:
            self.wfile.write(reply.body)

    def _reply(self) -> Reply:
        host = self.headers.get("Host", "")
        # Another site's name may be made to point at this machine: its pages must not read ours.
        if not is_loopback(host_name(host)):
            return self.server.pages.trouble(403, "These pages answer on loopback only.")
        if is_foreign_page(self.headers.get("Origin"), host, self.headers.get("Sec-Fetch-Site")):
            return self.server.pages.trouble(403, "A page of another site asks for this one: type its address instead.")
        asked = urlsplit(self.path)
        try:
            return self.server.pages.answer(asked.path, parse_qs(asked.query))
        except LlmtuneError as error:
            return self.server.pages.trouble(500, error.message)
        except Exception as error:
            log.exception("the page %s broke", asked.path)
            return self.server.pages.trouble(500, f"This page broke: {type(error).__name__}: {error}")

    def log_message(self, format: str, *args: Any) -> None:
        log.debug("ui: " + format, *args)
