"""Wire truth at the transport: what is declared is what the vendor receives through the real SDK, and nothing else."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from llmtune.provider.declarations import DECLARED_FIELDS
from llmtune.provider.receipt import Receipt
from llmtune.provider.translate import translate
from llmtune.provider.types import RunKey, Target
from llmtune.testing import FakeVendor
from llmtune.testing.wire_check import CANDIDATES, COMPANIONS, job_with, moved_paths
from llmtune_azure import AzureProvider
from llmtune_azure.fake.service import FakeAzure
from llmtune_azure.settings import AzureSettings
from llmtune_nebius.fake.service import FakeNebius
from llmtune_nebius.provider import NebiusProvider
from llmtune_nebius.settings import NebiusSettings
from llmtune_openai import OpenAIProvider
from llmtune_openai.fake.service import FakeOpenAI
from llmtune_openai.settings import OpenAISettings

KEY = RunKey("lt0123456789")
GPT = "gpt-4.1-mini-2025-04-14"
LLAMA = "meta-llama/Llama-3.3-70B-Instruct"
CASES = {
    "openai sft": (FakeOpenAI, GPT, "sft", "lora"),
    "openai dpo": (FakeOpenAI, GPT, "dpo", "lora"),
    "azure sft": (FakeAzure, GPT, "sft", "lora"),
    "azure dpo": (FakeAzure, GPT, "dpo", "lora"),
    "nebius lora": (FakeNebius, LLAMA, "sft", "lora"),
    "nebius full": (FakeNebius, LLAMA, "sft", "full"),
}


@pytest.fixture(params=CASES)
def case(request: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[FakeVendor, Any, Target]]:
    fake, model, method, adapter = CASES[request.param]
    for name in ("OPENAI_API_KEY", "AZURE_OPENAI_API_KEY", "NEBIUS_API_KEY"):
        monkeypatch.setenv(name, "key")
    with fake(api_key="key") as vendor:
        provider: Any = {
            "openai": lambda: OpenAIProvider("openai", OpenAISettings(base_url=f"{vendor.url}/v1")),
            "azure": lambda: AzureProvider("azure", AzureSettings(endpoint=vendor.url)),
            "nebius": lambda: NebiusProvider("nebius", NebiusSettings(base_url=f"{vendor.url}/v1")),
        }[vendor.name]()
        yield (
            vendor,
            provider,
            Target(provider=vendor.name, kind=vendor.name, model=model, method=method, adapter=adapter),
        )
        assert not vendor.complaints, "\n".join(vendor.complaints)


def test_declared_is_received(case: tuple[FakeVendor, Any, Target]) -> None:
    vendor, provider, target = case
    capabilities = provider.capabilities(target)
    files = {role: _uploaded(vendor, role) for role in ("train", "validation")}

    def receipt(fields: dict[str, Any]) -> Receipt:
        return translate(job_with(target, fields), target, capabilities, rows=1000)

    def received(job_receipt: Receipt) -> dict[str, Any]:
        provider.submit(provider.build(job_receipt, files), KEY)
        body: dict[str, Any] = vendor.requests[-1].data
        return body

    went_out = set()
    for field in DECLARED_FIELDS:
        companions = COMPANIONS.get(field, {})
        without = received(receipt(companions))
        for value in CANDIDATES[field][:2]:
            job_receipt = receipt({**companions, field: value})
            row = job_receipt[field]
            if job_receipt.refusals:
                continue
            moved = moved_paths(without, received(job_receipt))
            declared = {row.wire, *row.also} if row.is_sent and row.where == "training" and row.wire else set()
            strays = {
                path
                for path in moved
                if not any(path == prefix or path.startswith(f"{prefix}.") for prefix in declared)
            }
            assert not strays, f"{field}={value!r} moved {strays}, declared {declared}"
            if moved:
                went_out.add(field)
    silent = {
        field
        for field in capabilities.parameters.request_paths
        if receipt({})[field].support != "not_applicable" and field not in went_out
    }
    assert not silent, f"declared, and never received: {silent}"


def _within(path: str, declared: set[str]) -> bool:
    return any(path == prefix or path.startswith(f"{prefix}.") for prefix in declared)


def _uploaded(vendor: FakeVendor, role: str) -> Any:
    from llmtune.provider.types import UploadRef

    return UploadRef(id=vendor.new_file(b'{"messages": []}\n').id, role=role)
