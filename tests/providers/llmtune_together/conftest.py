"""A fake Together, and a provider that talks to it through the real SDK."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from llmtune.job.spec import TuningJob
from llmtune.provider.receipt import Receipt
from llmtune.provider.translate import translate
from llmtune.provider.types import EncodedFile, Request, Target, UploadRef
from llmtune.testing.wire_check import job_with
from llmtune_together import TogetherProvider
from llmtune_together.fake.service import FakeTogether
from llmtune_together.settings import TogetherSettings

MODEL = "Qwen/Qwen3-8B"


@pytest.fixture
def vendor(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeTogether]:
    monkeypatch.setenv("TOGETHER_API_KEY", "key-for-tests")
    with FakeTogether(api_key="key-for-tests") as fake:
        yield fake
        assert fake.complaints == []


@pytest.fixture
def provider(vendor: FakeTogether) -> TogetherProvider:
    return TogetherProvider(
        settings=TogetherSettings(
            base_url=vendor.url, project_id="proj-1", poll_interval=0.01, file_wait=2, endpoint_wait=2, timeout=5
        )
    )


def make_receipt(
    provider: TogetherProvider,
    fields: dict[str, Any] | None = None,
    *,
    method: str = "sft",
    adapter: str = "lora",
    options: dict[str, Any] | None = None,
    rows: int = 1000,
) -> Receipt:
    target = Target(
        provider=provider.name, kind="together", model=MODEL, method=method, adapter=adapter, options=options or {}
    )
    job: TuningJob = job_with(target, fields or {})
    return translate(job, target, provider.capabilities(target), rows=rows)


@pytest.fixture(name="receipt_for")
def _receipt_for() -> Callable[..., Receipt]:
    return make_receipt


@pytest.fixture
def rows(tmp_path: Path) -> Callable[..., EncodedFile]:
    def write(role: str = "train", count: int = 12) -> EncodedFile:
        turns = [
            {"messages": [{"role": "user", "content": f"{role} {at}"}, {"role": "assistant", "content": "yes it is"}]}
            for at in range(count)
        ]
        content = "".join(json.dumps(turn) + "\n" for turn in turns).encode()
        digest = hashlib.sha256(content).hexdigest()
        path = tmp_path / f"{role}-{digest[:16]}.jsonl"
        path.write_bytes(content)
        return EncodedFile(
            role=role,  # type: ignore[arg-type]
            path=path,
            sha256=digest,
            rows=count,
            bytes=len(content),
            format="chat",
        )

    return write


@pytest.fixture
def uploaded(provider: TogetherProvider, rows: Callable[..., EncodedFile]) -> dict[str, UploadRef]:
    return {role: provider.upload(rows(role)) for role in ("train", "validation")}


@pytest.fixture
def request_for(provider: TogetherProvider, uploaded: dict[str, UploadRef]) -> Callable[..., Request]:
    def make(fields: dict[str, Any] | None = None, *, validation: bool = True, **kwargs: Any) -> Request:
        files = uploaded if validation else {"train": uploaded["train"]}
        return provider.build(make_receipt(provider, fields, **kwargs), files)

    return make
