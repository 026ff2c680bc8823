"""From a file to a report, whatever breaks in between: one job, and nothing that is paid for by the hour."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from llmtune.job.spec import EvaluationSpec, Hyperparameters, TuningJob
from llmtune.provider.types import RunState
from llmtune.runs.api import attach, start
from llmtune.runs.failpoints import FAILPOINTS
from llmtune.runs.poller import PollInterval
from llmtune.runs.store.store import open_store
from llmtune.testing import Fault, accept_then_drop, garbled, rate_limit, server_error, truncated
from llmtune_sagemaker import SageMakerProvider
from llmtune_sagemaker.fake.service import FakeSageMaker
from tests.providers.llmtune_sagemaker.conftest import LLAMA, MLFLOW, QWEN, provider_at

PACE = PollInterval(first=0.01, most=0.05)


def job(tmp_path: Path, **fields: Any) -> TuningJob:
    path = tmp_path / "rows.jsonl"
    if fields.get("method") == "dpo":
        rows = [{"prompt": f"question {n}", "chosen": "yes, please", "rejected": "no"} for n in range(120)]
    else:
        rows = [{"prompt": f"question {n}", "completion": "yes" if n % 2 else "no"} for n in range(120)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    values: dict[str, Any] = {
        "name": "whole way",
        "dataset": str(path),
        "model": {"sagemaker": QWEN},
        "hyperparameters": Hyperparameters(epochs=2),
        "evaluation": EvaluationSpec(max_rows=6),
    }
    return TuningJob(**(values | fields))


def test_a_run_tells_what_it_took(vendor: FakeSageMaker, tmp_path: Path) -> None:
    run = start(job(tmp_path), provider_at(vendor, mlflow_arn=MLFLOW))
    report = run.wait(timeout=60, pace=PACE)
    assert report is not None
    assert run.state is RunState.SUCCEEDED
    assert report.cost.billed_tokens == 10_000
    assert vendor.counts["deploy"] == 0
    assert "evaluate_locally" in report.model_dump_json()
    assert vendor.complaints == []


def test_preferences_go_the_whole_way(vendor: FakeSageMaker, provider: SageMakerProvider, tmp_path: Path) -> None:
    fields = {"method": "dpo", "adapter": "full", "hyperparameters": Hyperparameters(epochs=1, dpo_beta=0.05)}
    run = start(job(tmp_path, **fields), provider)
    run.wait(timeout=60, pace=PACE)
    assert run.state is RunState.SUCCEEDED
    (made,) = vendor.jobs.values()
    assert made.body["ServerlessJobConfig"]["CustomizationTechnique"] == "DPO"
    assert made.body["HyperParameters"] == {"max_epochs": "1", "adam_beta": "0.05"}
    uri = made.body["InputDataConfig"][0]["DataSource"]["S3DataSource"]["S3Uri"]
    bucket, _, key = uri.removeprefix("s3://").partition("/")
    row = json.loads(vendor.objects[bucket, key]["content"].splitlines()[0])
    assert set(row) == {"prompt", "chosen", "rejected"}
    assert row["chosen"] == [{"role": "assistant", "content": "yes, please"}]
    assert vendor.complaints == []


def test_a_licence_that_was_not_accepted_stops_before_anything_is_sent(
    vendor: FakeSageMaker, provider: SageMakerProvider, tmp_path: Path
) -> None:
    with pytest.raises(Exception, match="licence is accepted"):
        start(job(tmp_path, model={"sagemaker": LLAMA}), provider).wait(timeout=60, pace=PACE)
    assert vendor.jobs == {}
    assert vendor.counts["submit"] == 0


@pytest.mark.slow
@pytest.mark.parametrize("fault", [accept_then_drop(), garbled(), rate_limit(0.05), server_error(503, handled=True)])
def test_whatever_happens_to_the_submit_there_is_one_job(
    vendor: FakeSageMaker, provider: SageMakerProvider, tmp_path: Path, fault: Fault
) -> None:
    vendor.faults.add(fault, role="submit", times=2)
    run = start(job(tmp_path), provider)
    run.wait(timeout=60, pace=PACE)
    assert run.state is RunState.SUCCEEDED
    assert len(vendor.jobs) == 1


def test_faults_everywhere_lose_no_point(vendor: FakeSageMaker, tmp_path: Path) -> None:
    provider = provider_at(vendor, mlflow_arn=MLFLOW)
    vendor.faults.sprinkle(
        [rate_limit(0.005), server_error(), accept_then_drop(), truncated(), garbled()],
        rate=0.3,
        seed=1,
        roles={"poll", "find", "submit", "upload"},
    )
    run = start(job(tmp_path), provider)
    run.wait(timeout=120, pace=PACE)
    assert run.state is RunState.SUCCEEDED
    assert len(vendor.jobs) == 1
    steps = {point.step for point in open_store().points(run.id) if point.series == "train/loss"}
    assert steps == set(range(10))


#: What a process does that is killed at the arrow that its last argument names.
CHILD = """
import os, signal, sys
from llmtune.job.spec import TuningJob
from llmtune.runs import failpoints
from llmtune.runs.api import start
from llmtune.runs.poller import PollInterval
from llmtune_sagemaker import SageMakerProvider
from llmtune_sagemaker.settings import SageMakerSettings

job, settings, arrow = sys.argv[1:]
failpoints.failpoint_hook = lambda name: os.kill(os.getpid(), signal.SIGKILL) if name == arrow else None
provider = SageMakerProvider(settings=SageMakerSettings.model_validate_json(settings))
run = start(TuningJob.model_validate_json(job), provider)
run.wait(timeout=60, pace=PollInterval(first=0.01, most=0.05))
"""

#: There are no deployments here, and so no arrows of them.
ARROWS = [name for name in FAILPOINTS if "deploy" not in name]


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGKILL")
@pytest.mark.parametrize("arrow", ARROWS)
def test_a_kill_at_any_arrow_leaves_one_job(
    vendor: FakeSageMaker, provider: SageMakerProvider, tmp_path: Path, arrow: str
) -> None:
    made = job(tmp_path)
    arguments = [made.model_dump_json(), provider.settings.model_dump_json(exclude_none=True), arrow]
    child = subprocess.run(
        [sys.executable, "-c", CHILD, *arguments],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
        capture_output=True,
        timeout=120,
        check=False,
    )
    assert child.returncode == -signal.SIGKILL, child.stderr.decode()[-2000:]
    (record,) = open_store().runs()
    run = attach(record.id, provider=provider)
    run.wait(timeout=60, pace=PACE)
    assert run.state is RunState.SUCCEEDED
    assert len(vendor.jobs) == 1
    assert len(vendor.files) == 2  # training and validation rows
