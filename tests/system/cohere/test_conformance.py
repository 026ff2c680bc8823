"""Both of Cohere's transports pass the suite that every provider passes, through the real SDK and over httpx."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

import pytest

from llmtune.testing.conformance import ConformanceSuite
from llmtune.testing.markers import Mark, never
from llmtune_cohere import CohereProvider
from llmtune_cohere.fake.service import FakeCohere, FakeCohereFinetune
from llmtune_cohere.settings import CohereSettings


class TestApi(ConformanceSuite):
    """The fine-tuning API at an endpoint that still serves it, through `cohere.ClientV2`."""

    model = "command-r-08-2024"
    marks: ClassVar[dict[str, Mark]] = {
        "test_find_upload_finds_the_same_content": never(
            "a dataset holds training and validation rows; one digest does not name both"
        ),
        "test_metrics_are_reported": never("the API reports evaluations only, no training loss"),
        "test_a_failed_job_tells_why_in_the_vendors_words": never("the API has no field for a reason"),
    }

    @pytest.fixture
    def vendor(self, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeCohere]:
        monkeypatch.setenv("CO_API_KEY", "key-for-tests")
        with FakeCohere(api_key="key-for-tests") as fake:
            yield fake

    @pytest.fixture
    def provider(self, vendor: FakeCohere) -> CohereProvider:
        return CohereProvider(settings=CohereSettings(base_url=vendor.url, poll_interval=0.01, timeout=5))


class TestClassification(TestApi):
    """A classifier over the same API."""

    model = "classify"
    method = "classification"


class TestSelfHosted(ConformanceSuite):
    """cohere-finetune in a container of one's own, over httpx."""

    model = "aya-expanse-8b"
    marks: ClassVar[dict[str, Mark]] = {
        "test_the_job_is_found_by_its_key_or_submitted_again_without_harm": never("the trainer does one job at a time"),
        "test_metrics_are_reported": never("the trainer has no metrics endpoint"),
    }

    @pytest.fixture
    def vendor(self, tmp_path: Path) -> Iterator[FakeCohereFinetune]:
        root = tmp_path / "finetuning"
        root.mkdir()
        with FakeCohereFinetune(root) as fake:
            yield fake

    @pytest.fixture
    def provider(self, vendor: FakeCohereFinetune) -> CohereProvider:
        return CohereProvider(
            settings=CohereSettings(service_url=vendor.url, inference_url=vendor.url, data_root=vendor.root, timeout=5)
        )
