"""The HTTP client for adapters: what it raises, over plain HTTP, HTTPS and a proxy. (Its way with broken answers is
tested by the conformance suite of the fake provider.)"""

from __future__ import annotations

import datetime
import ipaddress
import socketserver
import ssl
import threading
import tracemalloc
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from llmtune.errors import InvalidSettings, MissingCredentials, QuotaExceeded, TransientError, VendorError
from llmtune.provider import http
from llmtune.provider.http import Client, check_vendor_url, keep_redirects_home, may_have_arrived, refused_answer
from llmtune.testing import Call, FakeVendor, Refusal, Reply, endless, route


class Service(FakeVendor):
    @route("GET", "/v1/echo")
    def echo(self, call: Call) -> Any:
        return {"query": call.query, "authorization": call.headers.get("authorization")}

    @route("POST", "/v1/refuse/{status}")
    def refuse(self, call: Call) -> Any:
        body = call.body.decode()
        return Reply(body.encode(), int(call.params["status"]), {"Content-Type": "application/json"})

    @route("GET", "/v1/numbers")
    def numbers(self, call: Call) -> Any:
        after = {
            "0": "?at=1&word=a+b",
            "1": f"{self.url}/v1/numbers?at=2",
            "elsewhere": "http://127.0.0.2:1/v1/numbers",
        }
        after |= {"outside": f"{self.url}/v2/numbers", "round": "?at=round", "broken": "http://["}
        page = call.query.get("at", "0")
        link = {"Link": f'<{after[page]}>; rel="next"'} if page in after else {}
        return Reply([page, call.query.get("word")], headers=link)

    @route("POST", "/v1/later")
    def later(self, call: Call) -> Any:
        raise Refusal(429, "Slow down.", headers={"Retry-After": "1.5"})


@pytest.fixture
def service() -> Iterator[Service]:
    with Service() as running:
        yield running


def test_the_key_is_read_when_it_is_needed_and_goes_out_as_a_bearer(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = Client(f"{service.url}/v1/", key_env="SOME_KEY")
    assert client.get("/echo", a="1 2") == {"query": {"a": "1 2"}, "authorization": None}
    monkeypatch.setenv("SOME_KEY", "secret-1")
    assert client.get("/echo")["authorization"] == "Bearer secret-1"
    assert "secret-1" not in repr(vars(client))


def test_a_list_is_read_page_by_page_to_its_end(service: Service) -> None:
    client = Client(f"{service.url}/v1")
    assert list(client.get_pages("/numbers", word="a b")) == [["0", "a b"], ["1", "a b"], ["2", None]]


@pytest.mark.parametrize(
    ("page", "sentence"),
    [
        ("elsewhere", "not fetched"),
        ("outside", "at another address"),
        ("round", "the list has no end"),
        ("broken", "the address of the next page is none"),
    ],
)
def test_a_next_page_that_leads_astray_is_not_read(service: Service, page: str, sentence: str) -> None:
    with pytest.raises(VendorError, match=sentence):
        list(Client(f"{service.url}/v1", key_env="SOME_KEY").get_pages("/numbers", at=page))


@pytest.mark.parametrize(
    ("body", "message", "code"),
    [
        (b'{"error": {"message": "No.", "code": "c"}}', "No.", "c"),
        (b'{"error": "No."}', "No.", None),
        (b'{"message": "No.", "code": 7}', "No.", "7"),
        (b'{"detail": "No."}', "No.", None),
        (b"plain words", "plain words", None),
        (b'["odd"]', '["odd"]', None),
    ],
)
def test_a_refusal_is_told_in_the_services_words(service: Service, body: bytes, message: str, code: str | None) -> None:
    with pytest.raises(VendorError) as caught:
        Client(service.url).send("POST", "/v1/refuse/400", body)
    assert not isinstance(caught.value, TransientError)
    assert (caught.value.raw, caught.value.code, caught.value.status) == (message, code, 400)


def test_each_status_has_its_class(service: Service) -> None:
    client = Client(service.url, key_env="SOME_KEY")
    with pytest.raises(MissingCredentials) as unknown:
        client.send("POST", "/v1/refuse/401", b'{"message": "Who?"}')
    assert unknown.value.hint == "set SOME_KEY"
    with pytest.raises(QuotaExceeded):
        client.send("POST", "/v1/refuse/400", b'{"message": "Full.", "code": "quota_exceeded"}')
    with pytest.raises(TransientError) as down:
        client.send("POST", "/v1/refuse/502", b"")
    assert (down.value.sent, down.value.status) == (True, 502)
    with pytest.raises(TransientError) as later:
        client.send("POST", "/v1/later")
    assert (later.value.sent, later.value.retry_after) == (False, 1.5)


@pytest.mark.parametrize("base", ["api.acme.example", "ftp://acme.example", "https://", ""])
def test_what_is_no_address_is_said_at_once(base: str) -> None:
    with pytest.raises(InvalidSettings, match="is not an address"):
        Client(base)


# --- HTTPS -----------------------------------------------------------------------------------------------------------
class _Hello(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"{}")

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def secure(tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """Start an HTTPS service; yield its address and the certificate that it shows."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.now(datetime.UTC)
    address = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(address, critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    pem, private = tmp_path / "certificate.pem", tmp_path / "key.pem"
    pem.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    private.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pem, private)

    class Quiet(HTTPServer):
        def handle_error(self, *_: Any) -> None:
            """Ignore a client that does not trust us and hangs up."""

    server = Quiet(("127.0.0.1", 0), _Hello)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"https://127.0.0.1:{server.server_port}", pem
    server.shutdown()
    server.server_close()


def test_https_is_verified(secure: tuple[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    url, certificate = secure
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with pytest.raises(VendorError, match=r"the certificate of 127\.0\.0\.1:\d+ cannot be verified") as caught:
        Client(url).get("/")
    assert not isinstance(caught.value, TransientError)
    assert "SSL_CERT_FILE" in (caught.value.hint or "")
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    assert Client(url).get("/") == {}


def test_https_goes_through_the_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    requests: list[bytes] = []

    class Proxy(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            requests.append(self.rfile.readline().strip())
            self.wfile.write(b"HTTP/1.1 403 Forbidden\r\n\r\n")

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Proxy) as proxy:
        threading.Thread(target=proxy.serve_forever, daemon=True).start()
        monkeypatch.setenv("HTTPS_PROXY", f"http://127.0.0.1:{proxy.server_address[1]}")
        monkeypatch.setenv("https_proxy", f"http://127.0.0.1:{proxy.server_address[1]}")
        for name in ("NO_PROXY", "no_proxy"):
            monkeypatch.delenv(name, raising=False)
        with pytest.raises(TransientError) as caught:
            Client("https://api.acme.example").send("POST", "/v1/tunes", {})
        proxy.shutdown()
    assert caught.value.sent is False
    assert [line.split()[:2] for line in requests] == [[b"CONNECT", b"api.acme.example:443"]]


@pytest.mark.parametrize(
    ("status", "kind", "sent"),
    [
        (401, MissingCredentials, None),
        (402, QuotaExceeded, None),
        (403, VendorError, None),
        (429, TransientError, False),
        (503, TransientError, True),
        (501, VendorError, None),
        (200, TransientError, True),
    ],
)
def test_a_status_decides_the_error(status: int, kind: type[Exception], sent: bool | None) -> None:
    error = refused_answer("acme", "bake", status, {"error": {"message": "no flour", "code": "empty"}}, {})
    assert type(error) is kind
    if isinstance(error, TransientError):
        assert error.sent is sent
    if status not in (200, 401, 402):
        assert "acme: bake: no flour" in str(error)


def test_a_refusal_without_json_is_its_text_and_one_without_text_its_status() -> None:
    assert "oven is off" in str(refused_answer("acme", "bake", 400, "oven is off", None))
    assert "HTTP 400" in str(refused_answer("acme", "bake", 400, None, None))


def test_without_a_connection_nothing_has_arrived() -> None:
    import httpx

    lost = RuntimeError("the call failed")
    lost.__cause__ = httpx.ConnectError("refused")
    assert not may_have_arrived(lost)
    assert may_have_arrived(httpx.ReadTimeout("late"))


STORAGE = ("storage.example", "files.example")


@pytest.mark.parametrize(
    "url",
    [
        "https://api.acme.example/v1/parts/1",
        "https://storage.example/a?signature=1",
        "https://bucket.storage.example:8443/a",
        "https://FILES.example/a",
    ],
)
def test_addresses_of_the_vendor_are_fetched(url: str) -> None:
    check_vendor_url(url, base="https://api.acme.example", hosts=STORAGE)


@pytest.mark.parametrize(
    "url",
    [
        "http://api.acme.example/a",
        "http://storage.example/a",
        "https://notstorage.example/a",
        "https://storage.example.evil.example/a",
        "https://storage.example@evil.example/a",
        "https://169.254.169.254/latest/meta-data",
        "http://127.0.0.1:8799/a",
        "http://[::1]/a",
        "https://[/a",
        "https:///a",
        "file:///etc/passwd",
        "ftp://storage.example/a",
        "//storage.example/a",
        "/etc/passwd",
        "",
    ],
)
def test_addresses_elsewhere_are_not(url: str) -> None:
    with pytest.raises(VendorError, match="that is not fetched"):
        check_vendor_url(url, base="https://api.acme.example", hosts=STORAGE)


def test_a_service_of_this_machine_names_its_own_files() -> None:
    check_vendor_url("http://127.0.0.1:8799/parts/1", base="http://127.0.0.1:8799", hosts=())
    with pytest.raises(VendorError):
        check_vendor_url("http://127.0.0.1:8800/parts/1", base="http://127.0.0.1:8799", hosts=())


@pytest.mark.parametrize(
    ("method", "url", "target", "followed"),
    [
        ("POST", "https://a.example/x", "https://a.example/y", True),
        ("POST", "https://a.example/x", "/y", True),
        ("POST", "https://a.example/x", "https://b.example/y", False),
        ("POST", "https://a.example/x", "//b.example/y", False),
        ("POST", "https://a.example/x", "https://a.example:8443/y", False),
        ("POST", "https://a.example/x", "http://a.example/y", False),
        ("DELETE", "https://a.example/x", "https://b.example/y", False),
        ("GET", "https://a.example/x", "https://b.example/y", True),
        ("GET", "https://a.example/x", "http://b.example/y", False),
        ("GET", "https://a.example/x", "https://[/", False),
        ("GET", "http://127.0.0.1:1/x", "http://127.0.0.1:2/y", True),
    ],
)
def test_only_reading_is_sent_on_to_another_host(method: str, url: str, target: str, followed: bool) -> None:
    httpx = pytest.importorskip("httpx")
    response = httpx.Response(307, headers={"location": target}, request=httpx.Request(method, url))
    keep_redirects_home(response)
    assert response.has_redirect_location is followed


class Pouring:
    """A stream of pieces without end; it says how much was taken, and stops a reader that takes too much of it."""

    def __init__(self, max_chunks: int, *, on_chunk: Callable[[], None] = lambda: None) -> None:
        self.taken, self._most, self._each = 0, max_chunks, on_chunk
        self.closed = False

    def __iter__(self) -> Iterator[bytes]:
        while True:
            assert self.taken < self._most, "nobody said stop"
            self._each()
            self.taken += 1 << 20
            yield bytes(1 << 20)

    def close(self) -> None:
        self.closed = True


def poured(stream: Pouring, **options: Any) -> Any:
    """Return an httpx client whose every answer is that stream, with the hook in place."""
    httpx = pytest.importorskip("httpx")

    class Stream(httpx.SyncByteStream):  # type: ignore[misc, name-defined]
        def __iter__(self) -> Iterator[bytes]:
            return iter(stream)

        def close(self) -> None:
            stream.close()

    transport = httpx.MockTransport(lambda _: httpx.Response(200, stream=Stream()))
    return httpx.Client(transport=transport, event_hooks={"response": [http.bound_answer]}, **options)


def test_an_endless_answer_is_broken_off_and_little_of_it_is_kept() -> None:
    httpx = pytest.importorskip("httpx")
    stream = Pouring(4 * http.ANSWER_BYTES)
    tracemalloc.start()
    try:
        with poured(stream) as client, pytest.raises(httpx.ReadError, match="longer than 64 MB"):
            client.get("http://vendor.example/file")
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 200 * 1024**2
    assert stream.closed


def test_an_answer_that_never_becomes_whole_is_broken_off(monkeypatch: pytest.MonkeyPatch) -> None:
    httpx = pytest.importorskip("httpx")
    clock = [0.0]
    monkeypatch.setattr(http, "time", SimpleNamespace(monotonic=lambda: clock[0]))

    def wait() -> None:
        clock[0] += 45.0

    stream = Pouring(40 << 20, on_chunk=wait)
    with poured(stream) as client, pytest.raises(httpx.ReadTimeout, match="not whole within 600 s"):
        client.get("http://vendor.example/file")
    assert clock[0] == 630.0


def test_a_file_that_is_streamed_is_the_readers_to_bound() -> None:
    stream = Pouring(200 << 20)
    with poured(stream) as client, client.stream("GET", "http://vendor.example/weights") as response:
        for read, _piece in enumerate(response.iter_bytes(1 << 20)):
            if read == 100:
                break
    assert stream.taken > http.ANSWER_BYTES


def test_the_client_takes_an_endless_answer_for_one_that_did_not_come() -> None:
    with Service() as service:
        client = Client(service.url, timeout=60)
        service.faults.add(endless(2 * http.ANSWER_BYTES))
        with pytest.raises(TransientError, match="longer than 64 MB"):
            client.content("/v1/echo")
        assert client.get("/v1/echo")["query"] == {}


def test_an_address_that_cannot_be_one_is_named_in_a_sentence() -> None:
    client = Client("http://127.0.0.1:9/\x1b[31m")
    with pytest.raises(InvalidSettings, match="is no address of a server"):
        client.send("GET", "/v1/models")
