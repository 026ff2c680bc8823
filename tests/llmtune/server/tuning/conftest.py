"""A tuning server before the fake service, and OpenAI's own client pointed at it."""

from __future__ import annotations

import io
import json
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from llmtune.runs import finalize, poller
from llmtune.runs.planned import StartOptions
from llmtune.runs.poller import PollInterval
from llmtune.server.tuning.server import TuningServer
from llmtune.testing.generic_vendor import Fake

KEY = "tuning-canary-81c2"
BASE = "gpt-4.1-mini-2025-04-14"
ENDED = ("succeeded", "failed", "cancelled")


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """A key, and runs that are looked at as often as a test wants; skipped where the extra is not installed."""
    for module in ("openai", "starlette", "uvicorn"):
        pytest.importorskip(module)
    monkeypatch.setenv("LLMTUNE_SERVE_KEY", KEY)
    monkeypatch.setattr(poller, "HOSTED", PollInterval(first=0.01, most=0.05))
    monkeypatch.setattr(finalize, "DEPLOYMENT_LAG", 0.2)
    monkeypatch.setattr(poller, "_poller", poller.Poller(polls_per_second=500))


@pytest.fixture
def vendor(monkeypatch: pytest.MonkeyPatch) -> Iterator[Fake]:
    """The service behind the provider `fake`."""
    with Fake() as fake:
        monkeypatch.setenv("LLMTUNE_FAKE_BASE_URL", fake.url)
        yield fake
        assert not fake.complaints, "\n".join(fake.complaints)


@pytest.fixture
def server(vendor: Fake) -> Iterator[TuningServer]:
    """The endpoint, which tunes at the fake service."""
    with TuningServer({BASE: "fake:m-1"}, port=0, spending=StartOptions(yes=True)) as running:
        yield running


@pytest.fixture
def api(server: TuningServer) -> Iterator[Any]:
    """OpenAI's client."""
    with client(server) as opened:
        yield opened


def client(server: TuningServer, key: str = KEY, **options: Any) -> Any:
    """OpenAI's client, which tries each request once."""
    import httpx  # noqa: F401 - the client looks into it at every answer, and the server's thread imports it late
    import openai

    return openai.OpenAI(base_url=server.url, api_key=key, **({"max_retries": 0, "timeout": 60} | options))


def rows(count: int = 24, subject: str = "case") -> bytes:
    """Chat rows as JSON Lines."""
    lines = (
        {"messages": [{"role": "user", "content": f"{subject} {at}"}, {"role": "assistant", "content": "yn"[at % 2]}]}
        for at in range(count)
    )
    return "".join(json.dumps(line) + "\n" for line in lines).encode()


def upload(api: Any, content: bytes | None = None, name: str = "train.jsonl") -> Any:
    """A training file at the endpoint."""
    return api.files.create(file=(name, io.BytesIO(rows() if content is None else content)), purpose="fine-tune")


def until(check: Callable[[], Any], seconds: float = 60) -> Any:
    """Wait until `check` is true, and return it."""
    deadline = time.monotonic() + seconds
    while not (result := check()):
        assert time.monotonic() < deadline, "it took too long"
        time.sleep(0.02)
    return result


def wait(api: Any, job_id: str, seconds: float = 60) -> Any:
    """The job, once it has ended."""

    def ended() -> Any:
        job = api.fine_tuning.jobs.retrieve(job_id)
        return job if job.status in ENDED else None

    return until(ended, seconds)
