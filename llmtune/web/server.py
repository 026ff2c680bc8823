"""The server of the pages: loopback only, GET and HEAD only, and closed to pages of other sites."""

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
#: Seconds within which a request must arrive.
REQUEST_SECONDS = 30.0

_HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "frame-ancestors 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


class Server:
    """A server of the pages of a store, on loopback.

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
        """The address of the pages."""
        return f"http://{HOST}:{self._http.server_address[1]}/"

    def serve(self) -> None:
        """Serve requests until `close` or Ctrl-C."""
        self._http.serve_forever(poll_interval=0.2)

    def close(self) -> None:
        """Stop serving and free the port."""
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
    """Bytes of a socket, up to a deadline that is set for each request."""

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
        """Read with a deadline: a socket's own timeout starts anew with every byte that arrives."""
        super().setup()
        self._raw = _DeadlineReader(self.connection)
        self.rfile = io.BufferedReader(self._raw)

    def handle_one_request(self) -> None:
        """Answer a request if its header arrives in time, counted from the start of the wait."""
        self._raw.deadline = time.monotonic() + REQUEST_SECONDS
        super().handle_one_request()

    def do_GET(self) -> None:
        self._send_reply(body=True)

    def do_HEAD(self) -> None:
        self._send_reply(body=False)

    def _send_reply(self, *, body: bool) -> None:
        self.connection.settimeout(REQUEST_SECONDS)
        reply = self._get_reply()
        self.send_response(reply.status)
        self.send_header("Content-Type", reply.type)
        self.send_header("Content-Length", str(len(reply.body)))
        for name, value in _HEADERS.items():
            self.send_header(name, value)
        self.end_headers()
        if body:
            self.wfile.write(reply.body)

    def _get_reply(self) -> Reply:
        host = self.headers.get("Host", "")
        # Another site's name may be made to point at this machine: its pages must not read ours.
        if not is_loopback(host_name(host)):
            return self.server.pages.error_page(403, "These pages answer on loopback only.")
        if is_foreign_page(self.headers.get("Origin"), host, self.headers.get("Sec-Fetch-Site")):
            return self.server.pages.error_page(
                403, "A page of another site asks for this one: type its address instead."
            )
        url = urlsplit(self.path)
        try:
            return self.server.pages.answer(url.path, parse_qs(url.query))
        except LlmtuneError as error:
            return self.server.pages.error_page(500, error.message)
        except Exception as error:
            log.exception("the page %s broke", url.path)
            return self.server.pages.error_page(500, f"This page broke: {type(error).__name__}: {error}")

    def log_message(self, format: str, *args: Any) -> None:
        log.debug("ui: " + format, *args)
