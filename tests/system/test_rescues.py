"""Models leave Vertex AI and Bedrock as well, through the vendors' real clients, found by their own ids."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import llmtune
from llmtune.evaluation.results import EvaluationResult
from llmtune.job.spec import DatasetSpec, EvaluationSpec, Hyperparameters, TuningJob
from llmtune.metrics.points import NotReported
from llmtune.rescues.results import GoldenSet
from llmtune.runs.api import start
from llmtune.runs.poller import PollInterval
from llmtune.testing.generic_vendor import Fake
from tests.llmtune.rescues.helpers import save, tickets


def tuned_elsewhere(provider: Any, model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The id of a model whose run this machine's store does not know."""
    with monkeypatch.context() as elsewhere:
        elsewhere.setenv("LLMTUNE_HOME", str(tmp_path / "elsewhere"))
        job = TuningJob(
            name="ticket-router",
            dataset=DatasetSpec(
                train=str(save(tmp_path / "sent-train.jsonl", tickets(60))),
                validation=str(save(tmp_path / "sent-validation.jsonl", tickets(24, first=60))),
                split=(1.0, 0.0, 0.0),
            ),
            model=model,
            hyperparameters=Hyperparameters(epochs=2),
            evaluation=EvaluationSpec(max_rows=2),
        )
        run = start(job, provider, yes=True, allow_unknown_cost=True)
        run.wait(timeout=60, pace=PollInterval(first=0.01, most=0.05))
        ref = run.model_ref
    assert ref is not None
    return ref.id


def follow(run: Any) -> Any:
    return run.wait(timeout=60, pace=PollInterval(first=0.01, most=0.05))


def same_rows(found: Path, wanted: list[dict[str, Any]]) -> bool:
    return [json.loads(line) for line in found.read_text().splitlines()] == wanted


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Any:
    with Fake() as vendor:
        monkeypatch.setenv("LLMTUNE_FAKE_BASE_URL", vendor.url)
        yield vendor
        assert not vendor.complaints, "\n".join(vendor.complaints)


@pytest.mark.slow
def test_from_vertex(fake: Fake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("google.genai")
    from llmtune_vertex import VertexProvider
    from llmtune_vertex.fake.service import FakeVertex
    from llmtune_vertex.settings import VertexSettings

    monkeypatch.setenv("LLMTUNE_TEST_TOKEN", "fake-token")
    with FakeVertex() as vendor:
        settings: dict[str, Any] = {
            "project": "my-project",
            "location": "us-central1",
            "bucket": "my-bucket",
            "base_url": vendor.url,
            "storage_url": vendor.url,
            "token_env": "LLMTUNE_TEST_TOKEN",
        }
        for name, value in settings.items():
            monkeypatch.setenv(f"LLMTUNE_VERTEX_{name.upper()}", value)
        provider = VertexProvider(settings=VertexSettings(**settings))
        old = tuned_elsewhere(provider, "gemini-2.5-flash", tmp_path, monkeypatch)
        before = sum(call.role == "generate" for call in vendor.requests)
        out = tmp_path / "out"
        found = llmtune.rescue(old, "fake", model="m-1", source_provider="vertex", out=out, follow=follow)
        asked = sum(call.role == "generate" for call in vendor.requests) - before
        assert not vendor.complaints
    assert found.source is not None
    assert found.source.base == "gemini-2.5-flash"
    assert found.source.hyperparameters["epochs"] == 2
    assert same_rows(out / "data/train.jsonl", tickets(60))
    assert same_rows(out / "data/test.jsonl", tickets(24, first=60))
    assert isinstance(found.golden, GoldenSet)
    assert found.golden.answered == asked == 24
    assert found.report is not None
    assert isinstance(found.report.agreement, EvaluationResult)


@pytest.mark.slow
def test_from_bedrock_whose_models_answer_only_when_deployed(
    fake: Fake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("boto3")
    from llmtune_bedrock import BedrockProvider
    from llmtune_bedrock.fake.service import FakeBedrock
    from llmtune_bedrock.settings import BedrockSettings

    for name in ("AWS_PROFILE", "AWS_REGION", "AWS_DEFAULT_REGION", "AWS_SESSION_TOKEN", "AWS_BEARER_TOKEN_BEDROCK"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIAFAKE")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "fake")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    with FakeBedrock() as vendor:
        settings: dict[str, Any] = {
            "region": "us-east-1",
            "bucket": "my-bucket",
            "role_arn": "arn:aws:iam::123456789012:role/llmtune",
            "base_url": vendor.url,
            "storage_url": vendor.storage_url,
        }
        for name, value in settings.items():
            monkeypatch.setenv(f"LLMTUNE_BEDROCK_{name.upper()}", value)
        provider = BedrockProvider(settings=BedrockSettings(**settings))
        old = tuned_elsewhere(provider, "amazon.nova-micro-v1:0:128k", tmp_path, monkeypatch)
        out = tmp_path / "out"
        found = llmtune.rescue(old, "fake", model="m-1", source_provider="bedrock", out=out, follow=follow)
    assert found.source is not None
    assert found.source.base == "amazon.nova-micro-v1:0:128k"
    assert same_rows(out / "data/train.jsonl", tickets(60))
    assert isinstance(found.golden, NotReported)
    assert "deployment" in found.golden.reason
    assert found.report is not None
    assert isinstance(found.report.labels, EvaluationResult)
