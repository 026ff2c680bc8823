"""Nebius passes the suite that every provider passes."""

from __future__ import annotations

from typing import Any, ClassVar

import pytest

from llmtune.testing.conformance import ConformanceSuite
from llmtune_nebius.fake.service import FakeNebius
from llmtune_nebius.provider import NebiusProvider


class TestNebius(ConformanceSuite):
    model = "meta-llama/Llama-3.3-70B-Instruct"
    hyperparameters: ClassVar[dict[str, Any]] = {"epochs": 2, "lora_rank": 16, "learning_rate": 2e-5}

    @pytest.fixture
    def vendor(self, monkeypatch: pytest.MonkeyPatch) -> Any:
        monkeypatch.setenv("NEBIUS_API_KEY", "nb-test")
        with FakeNebius(api_key="nb-test") as fake:
            yield fake

    @pytest.fixture
    def provider(self, vendor: FakeNebius) -> NebiusProvider:
        return NebiusProvider("nebius", NebiusProvider.Settings(base_url=f"{vendor.url}/v1", timeout=5))
