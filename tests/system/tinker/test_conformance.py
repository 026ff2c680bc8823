"""Tinker passes the suite that every provider passes, through the real SDK; its loops run in threads."""

from __future__ import annotations

from typing import Any, ClassVar

import pytest

import llmtune.provider as core
from llmtune.testing.conformance import ConformanceSuite, never
from llmtune_tinker.fake.service import FakeTinker
from llmtune_tinker.provider import TinkerProvider
from tests.providers.llmtune_tinker.conftest import QWEN, threads, tinker, tinker_vendor

__all__ = ["threads", "tinker", "tinker_vendor"]


@pytest.mark.slow
class TestTinker(ConformanceSuite):
    model = QWEN
    hyperparameters: ClassVar[dict[str, Any]] = {"epochs": 1, "batch_size": 32, "learning_rate": 0.05}
    provider_options: ClassVar[dict[str, Any]] = {"tokenizer": "tiny"}
    settle = 0.1
    marks = {
        "test_find_upload_finds_the_same_content": never("rows go out step by step: no file is uploaded"),
        "test_a_searchable_job_shows_up_within_the_window_when_lists_lag": never(
            "the run's folder on this machine names its session at once"
        ),
    }

    @pytest.fixture
    def vendor(self, tinker_vendor: FakeTinker) -> FakeTinker:
        return tinker_vendor

    @pytest.fixture
    def provider(self, tinker: TinkerProvider) -> TinkerProvider:
        return tinker

    def unlike(self, request: core.Request) -> core.Request:
        return request.model_copy(update={"body": request.body | {"no_such_field_of_yours": 1}})
