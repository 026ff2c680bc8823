"""Together passes the suite that every provider passes."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from llmtune.testing.conformance import ConformanceSuite
from llmtune_together import TogetherProvider
from llmtune_together.account import TogetherSettings
from llmtune_together.fake import FakeTogether


class TestTogether(ConformanceSuite):
    model = "Qwen/Qwen3-8B"

    @pytest.fixture
    def vendor(self, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeTogether]:
        monkeypatch.setenv("TOGETHER_API_KEY", "key-for-tests")
        with FakeTogether(api_key="key-for-tests") as fake:
            yield fake

    @pytest.fixture
    def provider(self, vendor: FakeTogether) -> TogetherProvider:
        settings = TogetherSettings(base_url=vendor.url, project_id="proj-1", poll_interval=0.01, timeout=5)
        return TogetherProvider(settings=settings)
