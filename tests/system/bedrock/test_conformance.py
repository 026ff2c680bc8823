"""The suite that every provider passes, through the real boto3."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar

import pytest

from llmtune.graders import make_grader
from llmtune.testing.conformance import ConformanceSuite
from llmtune_bedrock import BedrockProvider, inference
from llmtune_bedrock.fake.service import FakeBedrock
from llmtune_bedrock.graders import write_grader_source
from tests.providers.llmtune_bedrock.conftest import NOVA, provider_at
from tests.system.bedrock.test_reinforcement import FUNCTION, NOVA_2


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


@pytest.mark.slow
class TestReinforcement(TestNova):
    """Reinforcement jobs of Nova 2 Lite, whose answers a Lambda function of the user's scores."""

    model = NOVA_2
    method = "reinforcement"
    test_the_whole_way_past_a_fault = None  # the same code as for the other methods
    provider_options: ClassVar[dict[str, Any]] = {"grader_function": FUNCTION, "reasoning_effort": "low"}
    hyperparameters: ClassVar[dict[str, Any]] = {"epochs": 2, "batch_size": 16, "eval_every": 2}
    rows = 200

    @pytest.fixture
    def vendor(self) -> Iterator[FakeBedrock]:
        with FakeBedrock() as fake:
            fake.functions[FUNCTION] = write_grader_source(make_grader(self.grader))
            yield fake


class TestHaikuOnBoughtThroughput(TestNova):
    """A base that cannot be served on demand: the deployment is bought, found and given back; before it has ended."""

    model = "anthropic.claude-3-haiku-20240307-v1:0:200k"

    @pytest.fixture
    def provider(self, vendor: FakeBedrock, monkeypatch: pytest.MonkeyPatch) -> BedrockProvider:
        monkeypatch.setattr(inference, "LOOK_SECONDS", 0.01)
        monkeypatch.setenv("LLMTUNE_TODAY", "2026-09-09")
        return provider_at(vendor, provisioned_units=1)
