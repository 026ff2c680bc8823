"""From a file to an evaluated report through Google's real clients, with one job whatever happens on the way."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from llmtune.job.spec import EvaluationSpec, Hyperparameters, TuningJob
from llmtune.provider.types import RunState
from llmtune.runs.api import start
from llmtune.runs.poller import PollInterval
from llmtune.testing import Fault, accept_then_drop, garbled, rate_limit, reset, server_error
from llmtune_vertex import VertexProvider
from llmtune_vertex.fake.service import FakeVertex
from tests.providers.llmtune_vertex.conftest import FLASH

PACE = PollInterval(first=0.01, most=0.05)


def job(tmp_path: Path, *, method: str = "sft") -> TuningJob:
    path = tmp_path / "rows.jsonl"
    rows = [{"prompt": f"question {n}", "completion": "yes" if n % 2 else "no"} for n in range(120)]
    if method == "dpo":
        rows = [{"prompt": f"question {n}", "chosen": "yes", "rejected": "no"} for n in range(120)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return TuningJob(
        name="whole way",
        dataset=str(path),
        model={"vertex": FLASH},
        method=method,  # type: ignore[arg-type]
        hyperparameters=Hyperparameters(epochs=2),
        evaluation=EvaluationSpec(max_rows=6),
    )


def test_a_gemini_job_is_tuned_asked_and_billed(vendor: FakeVertex, provider: VertexProvider, tmp_path: Path) -> None:
    vendor.teach([(f"question {n}", "yes" if n % 2 else "no") for n in range(120)])
    run = start(job(tmp_path), provider)
    report = run.wait(timeout=60, pace=PACE)
    assert run.state is RunState.SUCCEEDED
    assert report is not None
    assert report.evaluation is not None
    assert report.cost.billed_tokens == 2 * 96894
    assert report.cost.billed == pytest.approx(2 * 96894 / 1e6 * 5)
    asked = [call.params["model"] for call in vendor.requests if call.role == "generate"]
    assert sum("/endpoints/" in model for model in asked) == 6
    assert sum(model.endswith(f"models/{FLASH}") for model in asked) == 6
    assert vendor.complaints == []


def test_a_preference_job_goes_the_same_way(vendor: FakeVertex, provider: VertexProvider, tmp_path: Path) -> None:
    run = start(job(tmp_path, method="dpo"), provider)
    run.wait(timeout=60, pace=PACE)
    assert run.state is RunState.SUCCEEDED
    (made,) = vendor.jobs.values()
    uri = made.body["preferenceOptimizationSpec"]["trainingDatasetUri"]
    content = vendor.objects["my-bucket", uri.removeprefix("gs://my-bucket/")]["content"]
    first = json.loads(content.splitlines()[0])
    assert [answer["score"] for answer in first["completions"]] == [1.0, 0.0]
    assert vendor.complaints == []


@pytest.mark.parametrize("fault", [accept_then_drop(), garbled(), rate_limit(0.05), server_error(503, handled=True)])
def test_whatever_happens_to_the_submit_there_is_one_job(
    vendor: FakeVertex, provider: VertexProvider, tmp_path: Path, fault: Fault
) -> None:
    vendor.faults.add(fault, role="submit")
    run = start(job(tmp_path), provider)
    run.wait(timeout=60, pace=PACE)
    assert run.state is RunState.SUCCEEDED
    assert len(vendor.jobs) == 1


@pytest.mark.slow
def test_a_shaky_line_loses_nothing(vendor: FakeVertex, provider: VertexProvider, tmp_path: Path) -> None:
    vendor.faults.sprinkle([server_error(503), reset()], rate=0.15, seed=7, roles={"poll", "find", "upload"})
    run = start(job(tmp_path), provider)
    run.wait(timeout=120, pace=PACE)
    assert run.state is RunState.SUCCEEDED
    assert len(vendor.jobs) == 1
