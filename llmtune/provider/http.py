"""A small JSON-over-HTTP client on httpx, with the errors that a provider owes the core.

For vendors without an SDK, or whose SDK is not worth its imports. It never repeats a request. What broke before
anything was sent is `TransientError(sent=False)`; what may have reached the service is `sent=True`; a refusal is
`VendorError` in the service's own words. httpx is imported when the first request is made.

An answer that is read whole has a bound in time and in bytes (`bound_answer`): a time-out of httpx, and of every SDK
on it, is one for each read, which a byte now and then never reaches.
"""

from __future__ import annotations

import json
import math
import ssl
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode, urljoin, urlsplit

from llmtune.config import read_secret
from llmtune.errors import (
    InvalidSettings,
    LimitKind,
    LlmtuneError,
    MissingCredentials,
    QuotaExceeded,
    TransientError,
    VendorError,
)
from llmtune.provider.vendor_json import clean_content, load_json, note_credential, read_within_bounds

if TYPE_CHECKING:
    import httpx


def retry_after(headers: Mapping[str, str] | None) -> float | None:
    """Return the seconds that a service asks to wait: `retry-after-ms`, or `retry-after` in seconds or as a date.

    None when the `headers` of its answer hold neither.
    """
    values = {name.lower(): value for name, value in (headers or {}).items()}
    for name, scale in (("retry-after-ms", 0.001), ("retry-after", 1.0)):
        if name not in values:
            continue
        try:
            seconds = float(values[name]) * scale
            if math.isfinite(seconds):
                return max(0.0, seconds)
            continue
        except ValueError:
            pass
        from email.utils import parsedate_to_datetime

        try:
            return max(0.0, parsedate_to_datetime(values[name]).timestamp() - time.time())
        except (TypeError, ValueError):
            continue
    return None


#: Seconds that one whole answer may take.
ANSWER_SECONDS = 600.0

#: Bytes that are kept of one answer: what is longer is streamed to a file.
ANSWER_BYTES = 64 * 1024**2


def bound_answer(response: Any) -> None:
    """Let no answer take longer than `ANSWER_SECONDS` or `ANSWER_BYTES`: a response hook for an httpx client.

    Only reading it whole is bounded, unpacked as it comes; a file that is streamed is the reader's to bound. Breaking
    off raises an error of httpx, as any other answer that did not come whole does.

        httpx.Client(event_hooks={"response": [bound_answer]})
    """
    response.read = partial(_read_bounded, response, time.monotonic() + ANSWER_SECONDS)


def _read_bounded(response: Any, deadline: float) -> bytes:
    import httpx

    if not hasattr(response, "_content"):
        pieces: list[bytes] = []
        size = 0
        for piece in response.iter_bytes():
            pieces.append(piece)
            size += len(piece)
            if size > ANSWER_BYTES:
                problem: httpx.TransportError = httpx.ReadError(
                    f"the answer is longer than {ANSWER_BYTES // 1024**2} MB; it was not read on"
                )
            elif time.monotonic() > deadline:
                problem = httpx.ReadTimeout(f"the answer was not whole within {ANSWER_SECONDS:g} s")
            else:
                continue
            response.close()
            pieces.clear()  # the error keeps this frame, and may itself be kept for a while
            raise problem
        response._content = b"".join(pieces)
    return bytes(response._content)


#: Seconds that one file may take that is streamed from an object store to the disk.
DOWNLOAD_SECONDS = 4 * 3600.0
#: Bytes that it may have.
DOWNLOAD_BYTES = 128 * 1024**3

#: Pages of one list that are read.
_MAX_PAGES = 1000
#: Bytes that are read at once from a body of urllib3.
_PIECE = 65536


def bound_body(raw: Any, *, streamed: bool) -> None:
    """Keep the body of a urllib3 response, which requests and boto3 read, within the bounds of an answer.

    `raw` is the urllib3 response; with `streamed` the bounds are those of a file. The body is read as it comes, so that
    a byte now and then does not keep a reader waiting for a whole piece. What exceeds the bounds raises
    `TransientError`, which neither SDK retries.
    """
    seconds, max_bytes = (DOWNLOAD_SECONDS, DOWNLOAD_BYTES) if streamed else (ANSWER_SECONDS, ANSWER_BYTES)
    deadline = time.monotonic() + seconds
    raw_read: Callable[..., bytes] = raw.read
    read_available = getattr(raw, "read1", None) or (lambda amount, **options: raw_read(min(amount, 1024), **options))
    size = 0

    def read_piece(amount: int, decode_content: bool | None) -> bytes:
        nonlocal size
        piece: bytes = read_available(amount, decode_content=decode_content)
        size += len(piece)
        if size > max_bytes:
            problem = f"the answer is longer than {max_bytes // 1024**2} MB; it was not read on"
        elif piece and time.monotonic() > deadline:
            problem = f"the answer was not whole within {seconds:g} s"
        else:
            return piece
        raw.close()
        raise TransientError(problem)

    def read(amt: int | None = None, decode_content: bool | None = None, **_: Any) -> bytes:
        if amt is not None:
            return read_piece(amt, decode_content)
        return b"".join(stream(decode_content=decode_content))

    def stream(amt: int = _PIECE, decode_content: bool | None = None) -> Iterator[bytes]:
        while piece := read_piece(amt or _PIECE, decode_content):
            yield piece

    raw.read, raw.stream = read, stream


def bound_requests_answer(response: Any, *args: Any, stream: bool = False, **options: Any) -> None:
    """Read an answer of `requests` within the bounds of `bound_answer`, and clean it: a response hook for a session.

    With `stream`, as for a file, the bounds are those of a download. `args` and `options` are what requests passes
    besides, which is not used.

        session.hooks["response"].append(bound_requests_answer)
    """
    bound_body(response.raw, streamed=stream)
    if stream:
        return
    note_credential(response.request.headers)
    if "json" in response.headers.get("content-type", "").lower():
        response._content = clean_content(response.content)


def join_within_bounds(pieces: Iterable[bytes]) -> bytes:
    """Return the pieces of one answer as a whole, within the bounds of `bound_answer`. Raises `TransientError`."""
    deadline = time.monotonic() + ANSWER_SECONDS
    joined: list[bytes] = []
    size = 0
    for piece in pieces:
        joined.append(piece)
        size += len(piece)
        if size > ANSWER_BYTES or time.monotonic() > deadline:
            joined.clear()  # the error keeps this frame, and may itself be kept for a while
        if size > ANSWER_BYTES:
            raise TransientError(f"the answer is longer than {ANSWER_BYTES // 1024**2} MB; it was not read on")
        if time.monotonic() > deadline:
            raise TransientError(f"the answer was not whole within {ANSWER_SECONDS:g} s")
    return b"".join(joined)


#: What a redirect that is not followed is called in errors.
NOT_FOLLOWED = "it redirects to another address, which is not followed"


def keep_redirects_home(response: Any) -> None:
    """Take the address out of a redirect that is not to be followed: a response hook for an httpx client.

    A request that may cost money, with its rows or its key, goes to the configured host and nowhere else; one that
    only reads may be sent on to the storage behind a service, but never from https to http.

        httpx.Client(event_hooks={"response": [keep_redirects_home]})
    """
    target = response.headers.get("location")
    if target is None or not response.has_redirect_location:
        return
    origin = urlsplit(str(response.request.url))
    try:
        address = urlsplit(urljoin(origin.geturl(), target))
        same_host = (address.hostname, address.port) == (origin.hostname, origin.port)
    except ValueError:
        address, same_host = urlsplit(""), False
    downgrade = origin.scheme == "https" and address.scheme != "https"
    if downgrade or not (same_host or response.request.method in ("GET", "HEAD")):
        del response.headers["location"]


def check_vendor_url(url: str, *, base: str, hosts: Sequence[str]) -> None:
    """Refuse to fetch an address that a vendor's answer names, unless it leads where the vendor keeps its files.

    An answer is what somebody else wrote: it may name a service of the user's own network.

    Args:
        url: the address.
        base: the configured address of the service; whatever it serves itself is fetched.
        hosts: hosts over https, each with its subdomains.

    Raises:
        VendorError: it leads elsewhere.
    """
    try:
        address, home = urlsplit(url), urlsplit(base)
        host = address.hostname or ""
        same = (address.scheme, host, address.port) == (home.scheme, home.hostname, home.port)
    except ValueError:
        host, same = "", False
    if same or (
        host and address.scheme == "https" and any(f".{host}".endswith(f".{vendor_host}") for vendor_host in hosts)
    ):
        return
    raise VendorError(f"the service names an address at {host or 'no host'} that is not fetched")


def read_refusal(body: Any) -> tuple[str | None, str | None]:
    """Return the words and the code in the JSON `body` of a refusal.

    Known are `{"error": {"message", "code"}}`, `{"error": "words"}`, `{"message"}` and `{"detail"}`.
    """
    body = body if isinstance(body, Mapping) else {}
    inner = body.get("error", body)
    if not isinstance(inner, Mapping):
        inner = {"message": inner, "code": body.get("code")}
    message = inner.get("message") or inner.get("detail")
    code = inner.get("code")
    return (str(message) if message else None, str(code) if code else None)


def refused_answer(
    name: str, action: str, status: int, body: Any, headers: Mapping[str, str] | None, *, otherwise: str = ""
) -> LlmtuneError:
    """Return the error for an answer that is no success.

    Args:
        name: the configured instance.
        action: what was being done: "create the job".
        status: the HTTP status.
        body: its body, parsed or as text.
        headers: its headers.
        otherwise: the words where the body has none.
    """
    if isinstance(body, str):
        try:
            body = json.loads(body)
        except ValueError:
            body = {"message": body.strip()[:500]}
    message, code = read_refusal(body)
    message = message or otherwise or f"HTTP {status}"
    text = f"{name}: {action}: {message} (HTTP {status})"
    if status in (401, 498):
        return MissingCredentials(f"{name}: the service did not accept the API key: {message}")
    if status == 402:
        return QuotaExceeded(text, limit="spending")
    facts: dict[str, Any] = {"code": code, "status": status, "raw": str(body)[:2000] if body else otherwise}
    if 300 <= status < 400:
        return VendorError(f"{name}: {action}: {NOT_FOLLOWED} (HTTP {status})", **facts)
    if status < 400:
        return TransientError(f"{name}: {action}: an answer that cannot be read", **facts)
    if status in (408, 429) or (status >= 500 and status != 501):
        limit: LimitKind | None = "rate" if status == 429 else None
        wait = retry_after(headers)
        return TransientError(text, retry_after=wait, sent=status not in (408, 429), limit=limit, **facts)
    return VendorError(text, **facts)


def may_have_arrived(error: BaseException) -> bool:
    """Return whether the request behind an error of httpx, or of an SDK that calls it, may have arrived: not where no
    connection was made."""
    cause: BaseException | None = error
    while cause is not None:
        if type(cause).__name__ in ("ConnectError", "ConnectTimeout", "PoolTimeout"):
            return False
        cause = cause.__cause__
    return True


class Client:
    """A JSON client of one service. Requests that may be repeated share connections; a paid one gets a new one.

    The key is read from the environment when a request is made, goes out as `Authorization: Bearer KEY`, and is
    neither kept nor shown. HTTPS is verified against the system's certificates (`SSL_CERT_FILE` names others), and
    `HTTPS_PROXY` and `NO_PROXY` are followed. Safe for several threads.

    Args:
        base: address of the service, with any path that all its calls share: "https://api.acme.example/v1".
        key_env: name of the environment variable that holds the key; None where the service wants none.
        timeout: seconds that connecting, and each wait for an answer, may take. > 0. A whole answer may take longer,
            up to `ANSWER_SECONDS`.

    Raises:
        InvalidSettings: the address is not an http or https one.
    """

    def __init__(self, base: str, *, key_env: str | None = None, timeout: float = 10.0) -> None:
        self.base = base.rstrip("/")
        self.key_env = key_env
        self._timeout = timeout
        self._transports: dict[bool, httpx.Client] = {}
        parts = urlsplit(self.base)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise InvalidSettings(f"{base!r} is not an address; write it as https://host or http://host:port")
        self._secure = parts.scheme == "https"
        self._host = parts.netloc.rpartition("@")[2]
        self._url = f"{parts.scheme}://{self._host}{parts.path}"

    def get(self, path: str, **query: str) -> Any:
        """Send a GET request with the parameters in `query` and return the JSON. Raises as `send` does."""
        return self.send("GET", path, query=query, safe=True)

    def get_pages(self, path: str, **query: str) -> Iterator[Any]:
        """Send GET requests, the first with the parameters in `query`, and yield the JSON of each page of a list.

        An answer names the next page in its header `Link: <address>; rel="next"` (RFC 8288).

        Raises as `send` does, and `VendorError` for a next page at another address, and for a list without an end.
        """
        path += "?" + urlencode(query) if query else ""
        for _ in range(_MAX_PAGES):
            response = self._request("GET", path, None, {}, safe=True)
            yield _parse_answer(response.content)
            link = response.links.get("next", {}).get("url")
            if not link:
                return
            try:
                address = urljoin(self._url + path, link)
            except ValueError:
                raise VendorError(f"GET {path.partition('?')[0]}: the address of the next page is none") from None
            check_vendor_url(address, base=self._url, hosts=())
            if not address.startswith(f"{self._url}/"):
                raise VendorError(f"GET {path.partition('?')[0]}: the next page is at another address")
            path = address.removeprefix(self._url)
        raise VendorError(f"GET {path.partition('?')[0]}: the list has no end: {_MAX_PAGES:,} pages were read")

    def content(self, path: str) -> bytes:
        """Send a GET request and return the bytes. Raises as `send` does."""
        return self._request("GET", path, None, {}, safe=True).content

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
        """Send a request of any method and return the JSON.

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
        path += "?" + urlencode(query) if query else ""
        return _parse_answer(self.receive(method, path, body, headers=headers, safe=safe))

    def receive(
        self, method: str, path: str, body: Any = None, *, headers: Mapping[str, str] | None = None, safe: bool = False
    ) -> bytes:
        """Send a request of any method and return the bytes of the answer, read to its end: those of a stream, say.

        `method`, `path`, `body`, `headers` and `safe` are as in `send`, which reads JSON. Raises as `send` does.
        """
        data, sent_headers = body, dict(headers or {})
        if body is not None and not isinstance(body, bytes):
            data = json.dumps(body).encode()
            sent_headers = {"Content-Type": "application/json"} | sent_headers
        return self._request(method, path, data, sent_headers, safe=safe).content

    def parse_refusal(self, body: Any) -> tuple[str | None, str | None]:
        """Return the message and the code in the JSON of a refusal (`body`); override for another shape.

        Known are `{"error": {"message", "code"}}`, `{"error": "words"}`, `{"message"}` and `{"detail"}`.
        """
        return read_refusal(body)

    def _request(
        self, method: str, path: str, data: bytes | None, headers: dict[str, str], *, safe: bool
    ) -> httpx.Response:
        import httpx

        if self.key_env and (key := read_secret(self.key_env)):
            headers = {"Authorization": f"Bearer {key}"} | headers
        try:
            response = self._get_transport(safe=safe).request(method, self._url + path, content=data, headers=headers)
        except httpx.InvalidURL as error:
            raise InvalidSettings(f"{self._host} is no address of a server: {error}") from None
        except (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout, httpx.ProxyError) as error:
            if certificate := _find_certificate_error(error):
                raise VendorError(
                    f"the certificate of {self._host} cannot be verified: {certificate.verify_message}",
                    hint="SSL_CERT_FILE names a file of certificates to trust",
                ) from None
            raise TransientError(f"cannot connect to {self._host}: {error}", sent=False) from None
        except httpx.HTTPError as error:
            raise TransientError(f"{method} {path}: {type(error).__name__}: {error}".rstrip(": ")) from None
        if response.status_code >= 300:
            raise self._refusal_error(f"{method} {path.partition('?')[0]}", response)
        return response

    def _get_transport(self, *, safe: bool) -> httpx.Client:
        """Return the httpx client for requests that may be repeated, or the one that opens a connection for each.

        A kept connection may be dead by now, and a request that dies on it may have arrived or not.
        """
        import httpx

        if safe not in self._transports:
            self._transports[safe] = httpx.Client(
                timeout=self._timeout,
                verify=ssl.create_default_context() if self._secure else False,
                trust_env=self._secure,  # HTTPS_PROXY and NO_PROXY; plain HTTP is for services on this machine
                limits=httpx.Limits(max_keepalive_connections=None if safe else 0),
                event_hooks={"response": [bound_answer, read_within_bounds]},
            )
        return self._transports[safe]

    def _refusal_error(self, action: str, response: httpx.Response) -> Exception:
        try:
            message, code = self.parse_refusal(json.loads(response.content))
        except ValueError:
            message, code = None, None
        message = message or response.content[:200].decode("utf-8", "replace") or response.reason_phrase
        status = response.status_code
        if status == 429:
            wait = retry_after(response.headers)
            facts: dict[str, Any] = {"code": code, "status": status, "raw": message}
            return TransientError(message, retry_after=wait, sent=False, limit="rate", **facts)
        if status >= 500:
            return TransientError(message, code=code, status=status, raw=message)
        if status in (401, 403):
            return MissingCredentials(f"{action}: {message}", hint=f"set {self.key_env}" if self.key_env else None)
        if code == "quota_exceeded":
            return QuotaExceeded(message)
        return VendorError(f"{action}: {message}", code=code, status=status, raw=message)


def _parse_answer(content: bytes) -> Any:
    """Return the JSON of an answer; of an empty one, {}. Raises `TransientError` for what is not JSON."""
    try:
        return load_json(content) if content else {}
    except ValueError:
        raise TransientError("the answer is not JSON", raw=content[:200].decode("utf-8", "replace")) from None


def _find_certificate_error(error: BaseException) -> ssl.SSLCertVerificationError | None:
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ssl.SSLCertVerificationError):
            return cause
        cause = cause.__cause__ or cause.__context__
    return None
