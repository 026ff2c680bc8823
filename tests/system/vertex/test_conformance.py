"""The suite that every provider passes, through Google's real clients."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar

import pytest

from llmtune.testing.conformance import ConformanceSuite
from llmtune_vertex import VertexProvider
from llmtune_vertex.fake.service import FakeVertex
from tests.providers.llmtune_vertex.conftest import FLASH, provider_at


class TestGemini(ConformanceSuite):
    model = FLASH

    @pytest.fixture
    def vendor(self) -> Iterator[FakeVertex]:
        with FakeVertex() as fake:
            yield fake

    @pytest.fixture
    def provider(self, vendor: FakeVertex) -> VertexProvider:
        return provider_at(vendor)


@pytest.mark.slow
class TestReinforcement(TestGemini):
    """Reinforcement jobs of Gemini, whose grader Google runs."""

    model = "gemini-3.5-flash"
    method = "reinforcement"
    test_the_whole_way_past_a_fault = None  # the same code as for the other methods
    hyperparameters: ClassVar[dict[str, Any]] = {"epochs": 2, "eval_every": 2}
    provider_options: ClassVar[dict[str, Any]] = {"thinking_level": "MINIMAL", "samples_per_prompt": 4}


class TestOpenModels(TestGemini):
    """Open models end as weights in the bucket, and answer once they are deployed from there."""

    model = "meta/llama3_1@llama-3.1-8b-instruct"
