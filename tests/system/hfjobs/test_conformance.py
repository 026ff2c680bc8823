"""Hugging Face Jobs pass the suite that every provider passes; the first job of it is trained, in a process here."""

from __future__ import annotations

from typing import Any, ClassVar

import pytest

from llmtune.testing.conformance import ConformanceSuite
from llmtune_hfjobs import HfJobsProvider
from llmtune_hfjobs.fake.service import FakeHfJobs
from tests.providers.llmtune_hfjobs.conftest import TOKEN, TRAINED, provider_at


@pytest.mark.slow
class TestHfJobs(ConformanceSuite):
    model = "tiny"
    rows = 40
    hyperparameters: ClassVar[dict[str, Any]] = {"max_steps": 3}
    settle = 0.5

    @pytest.fixture
    def vendor(self, monkeypatch: pytest.MonkeyPatch) -> Any:
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        with FakeHfJobs(api_key=TOKEN, results=TRAINED) as fake:
            yield fake

    @pytest.fixture
    def provider(self, vendor: FakeHfJobs) -> HfJobsProvider:
        return provider_at(vendor)
