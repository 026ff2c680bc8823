"""A fake Vertex AI for each test, and the provider that talks to it through Google's real clients."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from llmtune.provider.receipt import Receipt
from llmtune.provider.translate import translate
from llmtune.provider.types import EncodedFile, Target
from llmtune.testing.wire_check import job_with
from llmtune_vertex import VertexProvider
from llmtune_vertex.fake.service import FakeVertex
from llmtune_vertex.settings import VertexSettings

FLASH = "gemini-2.5-flash"
LLAMA = "meta/llama3_1@llama-3.1-8b-instruct"


@pytest.fixture(autouse=True)
def google(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("GOOGLE_CLOUD_PROJECT", "GOOGLE_CLOUD_LOCATION", "GOOGLE_CLOUD_REGION", "STORAGE_EMULATOR_HOST"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("LLMTUNE_TEST_TOKEN", "fake-token")


@pytest.fixture
def vendor() -> Iterator[FakeVertex]:
    with FakeVertex() as fake:
        yield fake


@pytest.fixture
def provider(vendor: FakeVertex) -> VertexProvider:
    return provider_at(vendor)


def provider_at(vendor: FakeVertex, **more: Any) -> VertexProvider:
    values: dict[str, Any] = {
        "project": "my-project",
        "location": "us-central1",
        "bucket": "my-bucket",
        "base_url": vendor.url,
        "storage_url": vendor.url,
        "token_env": "LLMTUNE_TEST_TOKEN",
        "timeout": 5.0,
    }
    return VertexProvider(settings=VertexSettings(**(values | more)))


def encoded(tmp_path: Path, role: Any = "train", content: bytes = b'{"contents": []}\n') -> EncodedFile:
    digest = hashlib.sha256(content).hexdigest()
    path = tmp_path / f"{role}-{digest[:16]}.jsonl"
    path.write_bytes(content)
    return EncodedFile(role=role, path=path, sha256=digest, rows=1, bytes=len(content), format="test")


def receipt_for(provider: VertexProvider, model: str = FLASH, **fields: Any) -> Receipt:
    target = Target(
        provider=provider.name,
        kind="vertex",
        model=model,
        method=fields.pop("method", "sft"),
        adapter=fields.pop("adapter", "lora"),
        options=fields.pop("options", {}),
    )
    rows = fields.pop("rows", 1000)
    return translate(job_with(target, fields), target, provider.capabilities(target), rows=rows)
