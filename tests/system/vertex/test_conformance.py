"""The suite that every provider passes, through Google's real clients."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

import pytest

from llmtune.testing.conformance import ConformanceSuite
from llmtune.testing.markers import Mark, never
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


class TestOpenModels(TestGemini):
    """Open models end as weights in the bucket: nothing of theirs is served or listed as an endpoint."""

    model = "meta/llama3_1@llama-3.1-8b-instruct"
    marks: ClassVar[dict[str, Mark]] = {
        "test_the_tuned_model_answers_and_the_base_model_does_or_says_why_not": never(
            "weights of open models land in the bucket; deploying them is the user's"
        ),
    }
