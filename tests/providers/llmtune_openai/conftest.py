"""A fake of OpenAI on a loopback port, and the real adapter pointed at it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from llmtune.job.spec import TuningJob
from llmtune.planning.plan import build_target
from llmtune.provider.receipt import Receipt
from llmtune.provider.translate import translate
from llmtune.provider.types import EncodedFile
from llmtune_openai import OpenAIProvider
from llmtune_openai.fake.service import FakeOpenAI
from llmtune_openai.settings import OpenAISettings

MODEL = "gpt-4.1-mini-2025-04-14"
ROWS = [(f"Where is order {at}?", f"Order {at} is under way.") for at in range(12)]


@pytest.fixture
def vendor(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeOpenAI]:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-test")
    with FakeOpenAI(api_key="sk-test") as fake:
        yield fake
        assert not fake.complaints, "\n".join(fake.complaints)


@pytest.fixture
def openai(vendor: FakeOpenAI) -> OpenAIProvider:
    return OpenAIProvider("openai", OpenAISettings(base_url=f"{vendor.url}/v1", timeout=2))


def encoded(folder: Path, role: Any = "train", rows: int = 12) -> EncodedFile:
    """Write a file of chat rows."""
    lines = [
        json.dumps({"messages": [{"role": "user", "content": ask}, {"role": "assistant", "content": answer}]})
        for ask, answer in (ROWS * (rows // len(ROWS) + 1))[:rows]
    ]
    content = ("\n".join(lines) + "\n").encode()
    path = folder / f"{role}.jsonl"
    path.write_bytes(content)
    digest = hashlib.sha256(content).hexdigest()
    return EncodedFile(role=role, path=path, sha256=digest, rows=rows, bytes=len(content), format="chat")


def receipt(provider: Any, model: str, **job: Any) -> Receipt:
    """Return the receipt of a job at a provider."""
    tuning_job = TuningJob.model_validate({"name": "router", "dataset": "rows.jsonl", "model": model, **job})
    target = build_target(tuning_job, provider)
    return translate(tuning_job, target, provider.capabilities(target), rows=1000)
