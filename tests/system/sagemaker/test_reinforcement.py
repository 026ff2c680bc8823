"""Reinforcement jobs (RLVR) at SageMaker, from the job to the report, against the fake."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from llmtune.errors import LlmtuneError, NotTranslatable, RunFailed
from llmtune.graders import make_grader
from llmtune.job.spec import TuningJob
from llmtune.provider.types import RunState
from llmtune.runs.api import start
from llmtune.runs.plans import plan
from llmtune.runs.poller import PollInterval
from llmtune_sagemaker import SageMakerProvider
from llmtune_sagemaker.fake.service import FakeSageMaker
from tests.providers.llmtune_sagemaker.conftest import LLAMA, MLFLOW, NOVA, QWEN, provider_at

FUNCTION = "arn:aws:lambda:us-east-1:123456789012:function:grade"
EVALUATOR = "arn:aws:sagemaker:us-east-1:123456789012:hub-content/mine/JsonDoc/grade/1.0.0"
NUMERIC = {"kind": "match", "operation": "numeric", "reference": "answer"}
OPTIONS = {"sagemaker": {"evaluator_arn": EVALUATOR}}
PACE = PollInterval(first=0.01, most=0.03)
pytestmark = pytest.mark.usefixtures("no_long_pauses")


@pytest.fixture
def sagemaker(vendor: FakeSageMaker) -> SageMakerProvider:
    return provider_at(vendor, mlflow_arn=MLFLOW)


def make_sums(count: int = 200) -> list[dict[str, Any]]:
    return [
        {"messages": [{"role": "user", "content": f"What is {n} plus {n + 3}, and why?"}], "answer": f"{2 * n + 3}"}
        for n in range(count)
    ]


def make_job(folder: Path, grader: Any = NUMERIC, **fields: Any) -> TuningJob:
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in make_sums()))
    data = {"name": "sums", "dataset": str(path), "model": QWEN, "method": "reinforcement", "grader": grader}
    return TuningJob.model_validate(data | {"provider_options": OPTIONS} | fields)


def begin(job: TuningJob, provider: SageMakerProvider) -> Any:
    return start(job, provider, yes=True, allow_unknown_cost=True)


def deploy(vendor: FakeSageMaker, provider: SageMakerProvider, grader: Any = NUMERIC) -> None:
    """What the user does with the source that llmtune writes."""
    vendor.functions[FUNCTION] = provider.write_grader_source(make_grader(grader))
    vendor.evaluators[EVALUATOR] = FUNCTION


def test_a_whole_run(sagemaker: SageMakerProvider, vendor: FakeSageMaker, tmp_path: Path) -> None:
    deploy(vendor, sagemaker)
    run = begin(make_job(tmp_path, hyperparameters={"epochs": 2, "batch_size": 128}), sagemaker)
    report = run.wait(timeout=60, pace=PACE)
    assert run.state is RunState.SUCCEEDED
    (sent,) = [call.data for call in vendor.requests if call.route == "create_training_job"]
    assert sent["ServerlessJobConfig"]["CustomizationTechnique"] == "RLVR"
    assert sent["ServerlessJobConfig"]["EvaluatorArn"] == EVALUATOR
    assert sent["ServerlessJobConfig"]["Peft"] == "LORA"
    assert sent["HyperParameters"] == {"max_epochs": "2", "global_batch_size": "128"}
    calls = [call.route for call in vendor.requests]
    assert calls.index("invoke") < calls.index("create_training_job")
    rewards = [point.value for point in run.metrics() if point.series == "train/reward"]
    assert rewards[-1] > rewards[0]
    assert any(point.series == "validation/reward" for point in run.metrics())
    assert "reward" in report.to_markdown()
    assert vendor.complaints == []


@pytest.mark.slow
def test_a_failed_job_says_why(sagemaker: SageMakerProvider, vendor: FakeSageMaker, tmp_path: Path) -> None:
    deploy(vendor, sagemaker)
    vendor.outcome = "failure"
    with pytest.raises(RunFailed, match="is not a valid record"):
        begin(make_job(tmp_path), sagemaker).wait(timeout=60, pace=PACE)


def test_a_function_of_another_grader_is_found_before_the_job(
    sagemaker: SageMakerProvider, vendor: FakeSageMaker, tmp_path: Path
) -> None:
    deploy(vendor, sagemaker, {"kind": "regex", "pattern": "never"})
    with pytest.raises(LlmtuneError, match="the Lambda function pays 0 for the right answer of a row, and llmtune 1"):
        begin(make_job(tmp_path), sagemaker)
    vendor.functions[FUNCTION] = "def lambda_handler(event, context):\n    raise KeyError('answer')"
    with pytest.raises(LlmtuneError, match="the function failed: 'answer'"):
        begin(make_job(tmp_path), sagemaker)
    vendor.evaluators.clear()
    with pytest.raises(LlmtuneError, match="there is no evaluator"):
        begin(make_job(tmp_path), sagemaker)
    assert not vendor.jobs


def test_a_function_that_may_not_be_called_is_a_warning(
    sagemaker: SageMakerProvider, vendor: FakeSageMaker, tmp_path: Path
) -> None:
    deploy(vendor, sagemaker)
    source = vendor.functions.pop(FUNCTION)
    job = make_job(tmp_path)
    with pytest.warns(UserWarning, match="the function could not be tried"), pytest.raises(LlmtuneError):
        begin(job, sagemaker)
    vendor.functions[FUNCTION] = source


def test_without_an_evaluator_it_says_how_to_make_one(sagemaker: SageMakerProvider, tmp_path: Path) -> None:
    job = make_job(tmp_path, provider_options={})
    (refusal,) = plan(job, sagemaker).refusals
    assert "--source-for sagemaker" in refusal
    assert "provider_options.sagemaker.evaluator_arn" in refusal
    with pytest.raises(NotTranslatable, match="a Lambda function of yours"):
        begin(job, sagemaker)


@pytest.mark.parametrize(
    ("grader", "reason"),
    [
        ({"kind": "similarity"}, "cannot run there"),
        ({"kind": "http", "url": "https://a.example/"}, "call no endpoint"),
        (
            {"kind": "lambda", "function": FUNCTION, "answer_from": {"regex": "x"}, "reference": "answer"},
            "leave answer_from out",
        ),
    ],
)
def test_a_grader_that_no_function_can_run_is_refused(
    sagemaker: SageMakerProvider, tmp_path: Path, grader: Any, reason: str
) -> None:
    (refusal,) = plan(make_job(tmp_path, grader), sagemaker).refusals
    assert reason in refusal


def test_models_without_a_recipe_are_refused(sagemaker: SageMakerProvider, tmp_path: Path) -> None:
    assert any("no RLVR recipe" in text for text in plan(make_job(tmp_path, model=NOVA), sagemaker).refusals)
    licensed = {"sagemaker": {**OPTIONS["sagemaker"], "accept_eula": True}}
    assert plan(make_job(tmp_path, model=LLAMA, provider_options=licensed), sagemaker).refusals == ()


def test_the_cost_is_unknown_until_the_tokens_are_written(sagemaker: SageMakerProvider, tmp_path: Path) -> None:
    receipt = plan(make_job(tmp_path), sagemaker)
    assert "depends on the answers that the model writes" in str(receipt.to_json())
