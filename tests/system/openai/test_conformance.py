"""OpenAI passes the suite that every provider passes."""

from __future__ import annotations

from typing import Any, ClassVar

import pytest

from llmtune.testing.conformance import ConformanceSuite
from llmtune_openai import OpenAIProvider
from llmtune_openai.fake.service import FakeOpenAI
from llmtune_openai.settings import OpenAISettings


class TestOpenAI(ConformanceSuite):
    model = "gpt-4.1-mini-2025-04-14"
    hyperparameters: ClassVar[dict[str, Any]] = {"epochs": 2, "batch_size": 8, "learning_rate_multiplier": 0.5}
    provider_options: ClassVar[dict[str, Any]] = {"wandb": {"project": "tickets"}}

    @pytest.fixture
    def provider(self, vendor: FakeOpenAI) -> OpenAIProvider:
        return OpenAIProvider("openai", OpenAISettings(base_url=f"{vendor.url}/v1", timeout=5))

    @pytest.fixture
    def vendor(self, monkeypatch: pytest.MonkeyPatch) -> Any:
        monkeypatch.setenv("OPENAI_API_KEY", "sk-test")
        with FakeOpenAI(api_key="sk-test") as fake:
            yield fake
