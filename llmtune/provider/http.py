"""A small JSON-over-HTTP client on the standard library, with the errors an adapter owes the core.

For vendors without an SDK, or whose SDK is not worth its imports. It never repeats a request. What broke before
anything was sent is `TransientError(sent=False)`; what may have reached the service is `sent=True`; a refusal is
`VendorError` in the service's own words.
"""

from __future__ import annotations

import http.client
import json
import ssl
import threading
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlencode, urlsplit
from urllib.request import getproxies, proxy_bypass

from llmtune.config import read_secret
from llmtune.errors import InvalidSettings, MissingCredentials, QuotaExceeded, TransientError, VendorError

_kept = threading.local()


class Client:
    """Talks to one service; connections are kept per thread and used again for requests that may be repeated.

    The key is read from the environment when a request is made, goes out as `Authorization: Bearer KEY`, and is
    neither kept nor shown. HTTPS is verified against the system's certificates (`SSL_CERT_FILE` names others), and
    `HTTPS_PROXY` and `NO_PROXY` are followed.

    Args:
        base: address of the service, with any path that all its calls share: "https://api.acme.example/v1".
        key_env: name of the environment variable that holds the key; None where the service wants none.
        timeout: seconds that connecting, and each wait for an answer, may take. > 0.

    Raises:
        InvalidSettings: the address is not an http or https one.
    """

    def __init__(self, base: str, *, key_env: str | None = None, timeout: float = 10.0) -> None:
        self.base = base.rstrip("/")
        self.key_env = key_env
        split = urlsplit(self.base)
        if split.scheme not in ("http", "https") or not split.hostname:
            raise InvalidSettings(f"{base!r} is not an address; write it as https://host or http://host:port")
        self._secure, self._netloc, self._host, self._path = (
            split.scheme == "https",
            split.netloc.rpartition("@")[2],
            split.hostname,
            split.path,
        )
        self._timeout = timeout

    def get(self, path: str, **query: str) -> Any:
        """GET of a path with the parameters in `query`, as JSON. Raises as `send` does."""
        return self._json(self._exchange("GET", path + ("?" + urlencode(query) if query else ""), None, {}, safe=True))

    def content(self, path: str) -> bytes:
        """GET, as bytes. Raises as `send` does."""
        return self._exchange("GET", path, None, {}, safe=True)

    def send(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        query: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
        safe: bool = False,
    ) -> Any:
        """Any other method, as JSON.

        Args:
            method: "POST", "DELETE", ...
            path: what is appended to the base address.
            body: bytes go out as they are, anything else as JSON; None is no body.
            query: parameters of the address.
            headers: further headers.
            safe: repeating it does no harm, so that a kept connection may carry it. Leave it off for what is paid.

        Raises:
            TransientError: nobody can be reached, no whole answer came, 429 or 5xx; `sent` says whether it may have
                arrived.
            MissingCredentials: 401 or 403.
            QuotaExceeded: the code is "quota_exceeded".
            VendorError: any other refusal, or a certificate that cannot be verified.
        """
        data, more = body, dict(headers or {})
        if body is not None and not isinstance(body, bytes):
            data = json.dumps(body).encode()
            more = {"Content-Type": "application/json"} | more
        path += "?" + urlencode(query) if query else ""
        return self._json(self._exchange(method, path, data, more, safe=safe))

    def said(self, told: Any) -> tuple[str | None, str | None]:
        """The words and the code in the JSON of a refusal (`told`); override for another shape.

        Known are `{"error": {"message", "code"}}`, `{"error": "words"}`, `{"message"}` and `{"detail"}`.
        """
        told = told if isinstance(told, Mapping) else {}
        inner = told.get("error", told)
        if not isinstance(inner, Mapping):
            inner = {"message": inner, "code": told.get("code")}
        words = inner.get("message") or inner.get("detail")
        code = inner.get("code")
        return (str(words) if words else None, str(code) if code else None)

    def _exchange(self, method: str, path: str, data: bytes | None, headers: dict[str, str], *, safe: bool) -> bytes:
        connection, fresh = self._connection(fresh=not safe)
        if self.key_env and (key := read_secret(self.key_env)):
            headers = {"Authorization": f"Bearer {key}"} | headers
        try:
            if fresh:
                connection.connect()
        except ssl.SSLCertVerificationError as error:
            self._drop()
            raise VendorError(
                f"the certificate of {self._netloc} cannot be verified: {error.verify_message}",
                hint="SSL_CERT_FILE names a file of certificates to trust",
            ) from None
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
            raise self._refused(f"{method} {path.partition('?')[0]}", reply, content)
        return content

    def _connection(self, *, fresh: bool) -> tuple[http.client.HTTPConnection, bool]:
        pool: dict[str, http.client.HTTPConnection] = _kept.__dict__.setdefault("pool", {})
        if not fresh and self._place in pool:
            return pool[self._place], False
        connection = self._new()
        if not fresh:
            pool[self._place] = connection
        return connection, True

    def _new(self) -> http.client.HTTPConnection:
        if not self._secure:
            return http.client.HTTPConnection(self._netloc, timeout=self._timeout)
        context = ssl.create_default_context()
        proxy = None if proxy_bypass(self._host) else getproxies().get("https")
        if proxy is None:
            return http.client.HTTPSConnection(self._netloc, timeout=self._timeout, context=context)
        through = urlsplit(proxy if "//" in proxy else f"//{proxy}").netloc.rpartition("@")[2]
        connection = http.client.HTTPSConnection(through, timeout=self._timeout, context=context)
        connection.set_tunnel(self._netloc)
        return connection

    @property
    def _place(self) -> str:
        return f"{self._secure} {self._netloc}"

    def _drop(self) -> None:
        _kept.__dict__.setdefault("pool", {}).pop(self._place, None)

    @staticmethod
    def _json(content: bytes) -> Any:
        try:
            return json.loads(content) if content else {}
        except ValueError:
            raise TransientError("the answer is not JSON", raw=content[:200].decode("utf-8", "replace")) from None

    def _refused(self, what: str, reply: http.client.HTTPResponse, content: bytes) -> Exception:
        try:
            words, code = self.said(json.loads(content))
        except ValueError:
            words, code = None, None
        words = words or content[:200].decode("utf-8", "replace") or reply.reason
        status = reply.status
        if status == 429:
            after = reply.headers.get("Retry-After")
            wait = float(after) if after and after.replace(".", "", 1).isdigit() else None
            return TransientError(words, retry_after=wait, sent=False, code=code, status=status, raw=words)
        if status >= 500:
            return TransientError(words, code=code, status=status, raw=words)
        if status in (401, 403):
            return MissingCredentials(f"{what}: {words}", hint=f"set {self.key_env}" if self.key_env else None)
        if code == "quota_exceeded":
            return QuotaExceeded(words)
        return VendorError(f"{what}: {words}", code=code, status=status, raw=words)
