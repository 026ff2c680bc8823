"""The suite that every provider passes, through Google's real clients."""

from __future__ import annotations

from collections.abc import Iterator

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


class TestOpenModels(TestGemini):
    """Open models end as weights in the bucket, and answer once they are deployed from there."""

    model = "meta/llama3_1@llama-3.1-8b-instruct"
