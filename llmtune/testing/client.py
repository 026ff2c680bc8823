"""A small JSON-over-HTTP client on the standard library, with the errors an adapter owes the core.

It never repeats a request. What broke before anything was sent is `TransientError(sent=False)`; what may have reached
the service is `sent=True`; a refusal is `VendorError` in the service's own words.
"""

from __future__ import annotations

import http.client
import json
import os
import threading
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlencode, urlsplit

from llmtune.errors import MissingCredentials, QuotaExceeded, TransientError, VendorError

_kept = threading.local()


class Client:
    """Talks to one service; connections are kept per thread and used again for requests that may be repeated."""

    def __init__(self, base: str, *, timeout: float = 10.0, key_name: str = "LLMTUNE_FAKE_API_KEY") -> None:
        self.base = base.rstrip("/")
        self._netloc = urlsplit(self.base).netloc
        self._path = urlsplit(self.base).path
        self._timeout = timeout
        self._key_name = key_name

    def get(self, path: str, **query: str) -> Any:
        """GET, as JSON."""
        return self._json(self._exchange("GET", path + ("?" + urlencode(query) if query else ""), None, {}, safe=True))

    def content(self, path: str) -> bytes:
        """GET, as bytes."""
        return self._exchange("GET", path, None, {}, safe=True)

    def send(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        query: dict[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
        safe: bool = False,
    ) -> Any:
        """Any other method, as JSON; a body of bytes goes out as it is. `safe`: repeating it does no harm."""
        data = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
        path += "?" + urlencode(query) if query else ""
        return self._json(self._exchange(method, path, data, dict(headers or {}), safe=safe))

    def _exchange(self, method: str, path: str, data: bytes | None, headers: dict[str, str], *, safe: bool) -> bytes:
        connection, fresh = self._connection(fresh=not safe)
        if key := os.environ.get(self._key_name):
            headers = headers | {"Authorization": f"Bearer {key}"}
        try:
            if fresh:
                connection.connect()
        except OSError as error:
            self._drop()
            raise TransientError(f"cannot connect to {self._netloc}: {error}", sent=False) from None
        try:
            connection.request(method, self._path + path, data, headers)
            reply = connection.getresponse()
            content = reply.read()
        except (OSError, http.client.HTTPException) as error:
            connection.close()
            self._drop()
            raise TransientError(f"{method} {path}: {type(error).__name__}: {error}".rstrip(": ")) from None
        if not safe or reply.will_close:
            connection.close()
            self._drop()
        if reply.status >= 300:
            raise _refused(f"{method} {path.partition('?')[0]}", reply, content)
        return content

    def _connection(self, *, fresh: bool) -> tuple[http.client.HTTPConnection, bool]:
        pool: dict[str, http.client.HTTPConnection] = _kept.__dict__.setdefault("pool", {})
        if not fresh and self._netloc in pool:
            return pool[self._netloc], False
        connection = http.client.HTTPConnection(self._netloc, timeout=self._timeout)
        if not fresh:
            pool[self._netloc] = connection
        return connection, True

    def _drop(self) -> None:
        _kept.__dict__.setdefault("pool", {}).pop(self._netloc, None)

    @staticmethod
    def _json(content: bytes) -> Any:
        try:
            return json.loads(content) if content else {}
        except ValueError:
            raise TransientError("the answer is not JSON", raw=content[:200].decode("utf-8", "replace")) from None


def _refused(what: str, reply: http.client.HTTPResponse, content: bytes) -> Exception:
    try:
        told = json.loads(content)["error"]
        words, code = str(told["message"]), told.get("code")
    except (ValueError, KeyError, TypeError):
        words, code = content[:200].decode("utf-8", "replace"), None
    status = reply.status
    if status == 429:
        after = reply.headers.get("Retry-After")
        wait = float(after) if after and after.replace(".", "", 1).isdigit() else None
        return TransientError(words, retry_after=wait, sent=False, code=code, status=status, raw=words)
    if status >= 500:
        return TransientError(words, code=code, status=status, raw=words)
    if status in (401, 403):
        return MissingCredentials(f"{what}: {words}", hint="set LLMTUNE_FAKE_API_KEY")
    if code == "quota_exceeded":
        return QuotaExceeded(words)
    return VendorError(f"{what}: {words}", code=code, status=status, raw=words)
