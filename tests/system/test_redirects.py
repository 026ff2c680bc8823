"""A request that costs money, its rows and its key go to the configured host and nowhere else."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from llmtune.errors import LlmtuneError, TransientError

KEY = "redirect-canary-7731"


class Server(ThreadingHTTPServer):
    """Remembers what it is asked; sends everything on to `target`, where one is set."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.requests: list[str] = []
        self.target = ""
        self.status = 307
        threading.Thread(target=self.serve_forever, args=(0.05,), daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.server.requests.append(f"{self.command} {self.path} {self.headers} {body!r}")
        self.send_response(self.server.status if self.server.target else 200)
        if self.server.target:
            self.send_header("Location", self.server.target + self.path)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"{}")

    do_GET = do_POST

    def log_message(self, format: str, *args: Any) -> None: ...


@pytest.fixture
def servers() -> Iterator[tuple[Server, Server]]:
    """The service, and the host that it redirects to."""
    service, elsewhere = Server(), Server()
    service.target = elsewhere.url
    yield service, elsewhere
    for server in (service, elsewhere):
        server.shutdown()
        server.server_close()


def openai(url: str) -> Callable[[], object]:
    pytest.importorskip("openai")
    from llmtune_openai.provider import OpenAIProvider

    connection = OpenAIProvider(settings=OpenAIProvider.Settings(base_url=url))._connection
    return lambda: connection.request(
        lambda sdk: sdk.fine_tuning.jobs.with_raw_response.create(model="m", training_file="file-1")
    )


def azure(url: str) -> Callable[[], object]:
    pytest.importorskip("openai")
    from llmtune_azure.provider import AzureProvider

    connection = AzureProvider(settings=AzureProvider.Settings(endpoint=url))._connection
    return lambda: connection.request(
        lambda sdk: sdk.chat.completions.with_raw_response.create(
            model="m", messages=[{"role": "user", "content": "x"}]
        )
    )


def nebius(url: str) -> Callable[[], object]:
    pytest.importorskip("openai")
    from llmtune_nebius.provider import NebiusProvider

    connection = NebiusProvider(settings=NebiusProvider.Settings(base_url=url))._connection
    return lambda: connection.request(
        lambda sdk: sdk.files.with_raw_response.create(file=("a.jsonl", b"{}"), purpose="fine-tune")
    )


def together(url: str) -> Callable[[], object]:
    pytest.importorskip("together")
    from llmtune_together.provider import TogetherProvider

    connection = TogetherProvider(settings=TogetherProvider.Settings(base_url=url))._connection
    return lambda: connection.request(
        "submit",
        lambda sdk: sdk.chat.completions.create(model="m", messages=[{"role": "user", "content": "x"}]),
    )


def cohere(url: str) -> Callable[[], object]:
    pytest.importorskip("cohere")
    from llmtune_cohere.provider import CohereProvider

    provider: Any = CohereProvider(settings=CohereProvider.Settings(base_url=url))
    return lambda: provider.ask("ask", lambda sdk: sdk.chat(model="m", messages=[{"role": "user", "content": "x"}]))


def vertex(url: str) -> Callable[[], object]:
    pytest.importorskip("google.genai")
    from llmtune_vertex.client import Sdk
    from llmtune_vertex.settings import VertexSettings

    settings = VertexSettings(project="p", location="us-central1", token_env="REDIRECT_KEY", base_url=url)
    sdk = Sdk("vertex", settings)

    def ask() -> object:
        with sdk.translate_errors("asking"):
            return sdk.genai("us-central1").models.generate_content(model="m", contents="x")

    return ask


def http_client(url: str) -> Callable[[], object]:
    from llmtune.provider.http import Client

    return lambda: Client(url, key_env="REDIRECT_KEY").send("POST", "/v1/jobs", {"rows": [1]})


VENDORS = [openai, azure, nebius, together, cohere, vertex, http_client]


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
@pytest.mark.parametrize("vendor", VENDORS, ids=lambda vendor: vendor.__name__)
def test_a_paid_request_is_not_sent_on_to_another_host(
    servers: tuple[Server, Server], vendor: Any, status: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("OPENAI_API_KEY", "AZURE_OPENAI_API_KEY", "NEBIUS_API_KEY", "TOGETHER_API_KEY", "CO_API_KEY"):
        monkeypatch.setenv(name, KEY)
    monkeypatch.setenv("REDIRECT_KEY", KEY)
    service, elsewhere = servers
    service.status = status
    with pytest.raises(LlmtuneError) as caught:
        vendor(service.url)()
    assert len(service.requests) == 1
    assert KEY in service.requests[0]
    assert not elsewhere.requests
    # It is final: asking again would be answered in the same way.
    assert not isinstance(caught.value, TransientError)
