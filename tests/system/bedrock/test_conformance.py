"""The suite that every provider passes, through the real boto3."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from llmtune.testing.conformance import ConformanceSuite
from llmtune_bedrock import BedrockProvider, inference
from llmtune_bedrock.fake.service import FakeBedrock
from tests.providers.llmtune_bedrock.conftest import NOVA, provider_at


class TestNova(ConformanceSuite):
    model = NOVA

    @pytest.fixture
    def provider(self, vendor: FakeBedrock, monkeypatch: pytest.MonkeyPatch) -> BedrockProvider:
        monkeypatch.setattr(inference, "LOOK_SECONDS", 0.01)
        return provider_at(vendor)

    @pytest.fixture
    def vendor(self) -> Iterator[FakeBedrock]:
        with FakeBedrock() as fake:
            yield fake


class TestHaikuOnBoughtThroughput(TestNova):
    """A base that cannot be served on demand: the deployment is bought, found and given back; before it has ended."""

    model = "anthropic.claude-3-haiku-20240307-v1:0:200k"

    @pytest.fixture
    def provider(self, vendor: FakeBedrock, monkeypatch: pytest.MonkeyPatch) -> BedrockProvider:
        monkeypatch.setattr(inference, "LOOK_SECONDS", 0.01)
        monkeypatch.setenv("LLMTUNE_TODAY", "2026-09-09")
        return provider_at(vendor, provisioned_units=1)
