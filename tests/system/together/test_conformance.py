"""Together passes the suite that every provider passes."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from llmtune.evaluation.results import EvaluationResult
from llmtune.job.spec import EvaluationSpec, TuningJob
from llmtune.runs.api import tune
from llmtune.runs.poller import PollInterval
from llmtune.testing.conformance import ConformanceSuite
from llmtune_together import TogetherProvider
from llmtune_together.fake.service import FakeTogether
from llmtune_together.settings import TogetherSettings


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

    def test_an_evaluation_deploys_when_it_is_allowed_to_and_leaves_nothing(
        self, vendor: FakeTogether, provider: TogetherProvider, job: TuningJob
    ) -> None:
        asked = job.model_copy(update={"evaluation": EvaluationSpec(deploy=True, max_rows=4)})
        report = tune(asked, provider, pace=PollInterval(first=0.01, most=0.05))
        assert report.succeeded
        assert isinstance(report.evaluation, EvaluationResult)
        assert vendor.counts["create_deployment"] == 1
        assert vendor.standing == []
        assert not [name for name in vendor.models if name.startswith("endpoint:")]
        assert vendor.complaints == []
