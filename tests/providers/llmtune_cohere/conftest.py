"""A fake of Cohere's API and of its open trainer, and providers that talk to them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from llmtune.provider.receipt import Receipt
from llmtune.provider.translate import translate
from llmtune.provider.types import EncodedFile, Target
from llmtune.testing.wire_check import job_with
from llmtune_cohere import CohereProvider
from llmtune_cohere.fake.service import FakeCohere, FakeCohereFinetune
from llmtune_cohere.managed import pair_name
from llmtune_cohere.settings import CohereSettings

MODEL = "command-r-08-2024"


@pytest.fixture
def vendor(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeCohere]:
    monkeypatch.setenv("CO_API_KEY", "key-for-tests")
    with FakeCohere(api_key="key-for-tests") as fake:
        yield fake
        assert fake.complaints == []


@pytest.fixture
def provider(vendor: FakeCohere) -> CohereProvider:
    return CohereProvider(settings=CohereSettings(base_url=vendor.url, poll_interval=0.01, dataset_wait=1, timeout=5))


@pytest.fixture
def trainer(tmp_path: Path) -> Iterator[FakeCohereFinetune]:
    root = tmp_path / "finetuning"
    root.mkdir()
    with FakeCohereFinetune(root) as fake:
        yield fake
        assert fake.complaints == []


@pytest.fixture
def trainer_provider(trainer: FakeCohereFinetune) -> CohereProvider:
    settings = CohereSettings(service_url=trainer.url, inference_url=trainer.url, data_root=trainer.root, timeout=5)
    return CohereProvider(settings=settings)


@pytest.fixture
def receipt_for() -> Callable[..., Receipt]:
    def make(
        provider: CohereProvider,
        fields: dict[str, Any] | None = None,
        *,
        method: str = "sft",
        adapter: str = "lora",
        options: dict[str, Any] | None = None,
    ) -> Receipt:
        target = Target(
            provider=provider.name, kind="cohere", model=MODEL, method=method, adapter=adapter, options=options or {}
        )
        return translate(job_with(target, fields or {}), target, provider.capabilities(target), rows=1000)

    return make


@pytest.fixture
def rows(tmp_path: Path) -> Callable[..., EncodedFile]:
    def write(role: str = "train", count: int = 6, *, paired: bool = False, labels: bool = False) -> EncodedFile:
        def content(role: str) -> bytes:
            examples = [
                {"text": f"{role} {at}", "label": "yes"}
                if labels
                else {"messages": [{"role": "User", "content": f"{role} {at}"}, {"role": "Chatbot", "content": "yes"}]}
                for at in range(count)
            ]
            return "".join(json.dumps(row) + "\n" for row in examples).encode()

        text = content(role)
        digest = hashlib.sha256(text).hexdigest()
        path = tmp_path / f"{role}-{digest[:16]}.jsonl"
        if paired:
            validation = content("validation")
            named = hashlib.sha256(validation).hexdigest()
            (tmp_path / f"validation-{named[:16]}.jsonl").write_bytes(validation)
            path = tmp_path / pair_name(digest, named)
        path.write_bytes(text)
        return EncodedFile(
            role=role,  # type: ignore[arg-type]
            path=path,
            sha256=digest,
            rows=count,
            bytes=len(text),
            format="cohere_chat",
        )

    return write
