"""A fake of Nebius on a loopback port, and the real adapter pointed at it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from llmtune_nebius.fake.service import FakeNebius
from llmtune_nebius.provider import NebiusProvider
from llmtune_nebius.settings import NebiusSettings

LLAMA = "meta-llama/Llama-3.3-70B-Instruct"


@pytest.fixture
def nebius_vendor(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeNebius]:
    monkeypatch.setenv("NEBIUS_API_KEY", "nb-test")
    with FakeNebius(api_key="nb-test") as fake:
        yield fake
        assert not fake.complaints, "\n".join(fake.complaints)


@pytest.fixture
def nebius(nebius_vendor: FakeNebius) -> NebiusProvider:
    return NebiusProvider("nebius", NebiusSettings(base_url=f"{nebius_vendor.url}/v1", timeout=2))
