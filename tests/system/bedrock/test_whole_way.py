"""From a file to an evaluated report, with a deployment that is gone afterwards, whatever happens in between."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from llmtune.job.spec import EvaluationSpec, Hyperparameters, TuningJob
from llmtune.provider.types import RunState
from llmtune.runs.api import start
from llmtune.runs.poller import PollInterval
from llmtune.testing import Fault, accept_then_drop, garbled, rate_limit, refusal, server_error
from llmtune_bedrock import BedrockProvider, inference
from llmtune_bedrock.fake.service import FakeBedrock
from tests.providers.llmtune_bedrock.conftest import NOVA, provider_at

HAIKU = "anthropic.claude-3-haiku-20240307-v1:0:200k"


def job(tmp_path: Path, model: str, *, deploy: bool = True) -> TuningJob:
    path = tmp_path / "rows.jsonl"
    rows = [{"prompt": f"question {n}", "completion": "yes" if n % 2 else "no"} for n in range(120)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return TuningJob(
        name="whole way",
        dataset=str(path),
        model={"bedrock": model},
        hyperparameters=Hyperparameters(epochs=2),
        evaluation=EvaluationSpec(deploy=deploy, max_rows=6),
    )


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inference, "LOOK_SECONDS", 0.01)


PACE = PollInterval(first=0.01, most=0.05)


def test_the_tuned_model_is_asked_and_its_deployment_is_gone(
    vendor: FakeBedrock, provider: BedrockProvider, tmp_path: Path
) -> None:
    vendor.teach([(f"question {n}", "yes" if n % 2 else "no") for n in range(120)])
    run = start(job(tmp_path, NOVA), provider)
    report = run.wait(timeout=60, pace=PACE)
    assert report is not None
    assert run.state is RunState.SUCCEEDED
    assert report.evaluation is not None
    assert len(vendor.deployments) == 1
    assert vendor.standing == []
    asked = [call.params["model"] for call in vendor.requests if call.role == "generate"]
    assert sum(model.startswith("arn:") for model in asked) == 6  # the tuned model, behind its deployment
    assert sum(model == "amazon.nova-micro-v1:0" for model in asked) == 6  # the base, under its inference id
    assert vendor.complaints == []


def test_without_permission_nothing_is_deployed(vendor: FakeBedrock, provider: BedrockProvider, tmp_path: Path) -> None:
    run = start(job(tmp_path, NOVA, deploy=False), provider)
    run.wait(timeout=60, pace=PACE)
    assert run.state is RunState.SUCCEEDED
    assert vendor.counts["deploy"] == 0


def test_a_base_that_needs_bought_throughput_succeeds_without_it(
    vendor: FakeBedrock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LLMTUNE_TODAY", "2026-09-09")  # the last day on which the model was tuned
    run = start(job(tmp_path, HAIKU), provider_at(vendor))
    report = run.wait(timeout=60, pace=PACE)
    assert run.state is RunState.SUCCEEDED
    assert vendor.counts["deploy"] == 0
    assert report is not None
    assert "provisioned_units" in report.model_dump_json()


@pytest.mark.slow
@pytest.mark.parametrize("fault", [refusal(400, "no", "ValidationException"), server_error(500)])
def test_an_evaluation_that_breaks_leaves_no_deployment(
    vendor: FakeBedrock, provider: BedrockProvider, tmp_path: Path, fault: object
) -> None:
    vendor.faults.add(fault, role="generate", times=2)  # type: ignore[arg-type]
    run = start(job(tmp_path, NOVA), provider)
    run.wait(timeout=60, pace=PACE)
    assert run.state is RunState.SUCCEEDED
    assert vendor.standing == []


def test_a_teardown_that_is_refused_at_first_is_tried_again(
    vendor: FakeBedrock, provider: BedrockProvider, tmp_path: Path
) -> None:
    vendor.faults.add(refusal(400, "The deployment is being created", "ConflictException"), role="undeploy")
    run = start(job(tmp_path, NOVA), provider)
    run.wait(timeout=60, pace=PACE)
    assert vendor.counts["undeploy"] == 2
    assert vendor.standing == []


@pytest.mark.slow
@pytest.mark.parametrize("fault", [accept_then_drop(), garbled(), rate_limit(0.05), server_error(503, handled=True)])
def test_whatever_happens_to_the_submit_there_is_one_job(
    vendor: FakeBedrock, provider: BedrockProvider, tmp_path: Path, fault: Fault
) -> None:
    vendor.faults.add(fault, role="submit", times=2)
    run = start(job(tmp_path, NOVA, deploy=False), provider)
    run.wait(timeout=60, pace=PACE)
    assert run.state is RunState.SUCCEEDED
    assert len(vendor.jobs) == 1
