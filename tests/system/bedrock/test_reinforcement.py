"""Reinforcement jobs at Bedrock: Nova 2 Lite, and open models at its OpenAI-compatible endpoint."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, ClassVar

import pytest

from llmtune.errors import InvalidData, LlmtuneError, NotTranslatable, RunFailed
from llmtune.graders import Answer, GraderProcess, make_grader, scoring
from llmtune.job.spec import TuningJob
from llmtune.provider.types import RunState
from llmtune.runs.api import start
from llmtune.runs.plans import plan
from llmtune.runs.poller import PollInterval
from llmtune.testing.http import Call
from llmtune.testing.request_schema import Required
from llmtune_bedrock import BedrockProvider
from llmtune_bedrock.fake.service import FakeBedrock
from llmtune_bedrock.graders import MOST_FAILURES, read_score
from llmtune_bedrock.mantle import MANTLE
from llmtune_openai import OpenAIProvider, services
from llmtune_openai.settings import OpenAISettings
from tests.providers.llmtune_bedrock.conftest import NOVA
from tests.system.openai.test_leave_out import FakeMantle

NOVA_2 = "amazon.nova-2-lite-v1:0:256k"
FUNCTION = "arn:aws:lambda:us-east-1:123456789012:function:grade"
NUMERIC = {"kind": "match", "operation": "numeric", "reference": "answer"}
OPTIONS: dict[str, Any] = {"bedrock": {"grader_function": FUNCTION}}
PACE = PollInterval(first=0.01, most=0.03)
pytestmark = pytest.mark.usefixtures("no_long_pauses")


def make_sums(count: int = 200) -> list[dict[str, Any]]:
    return [
        {"messages": [{"role": "user", "content": f"What is {n} plus {n + 3}, and why?"}], "answer": f"{2 * n + 3}"}
        for n in range(count)
    ]


def make_job(folder: Path, grader: Any = NUMERIC, rows: list[dict[str, Any]] | None = None, **fields: Any) -> TuningJob:
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows or make_sums()))
    data = {"name": "sums", "dataset": str(path), "model": NOVA_2, "method": "reinforcement", "grader": grader}
    return TuningJob.model_validate(data | {"provider_options": OPTIONS} | fields)


def begin(job: TuningJob, provider: BedrockProvider) -> Any:
    return start(job, provider, yes=True, allow_unknown_cost=True)


def deploy(vendor: FakeBedrock, provider: BedrockProvider, grader: Any = NUMERIC) -> None:
    """What the user does with the source that llmtune writes."""
    vendor.functions[FUNCTION] = provider.write_grader_source(make_grader(grader))


@pytest.fixture
def functions(provider: BedrockProvider, monkeypatch: pytest.MonkeyPatch) -> None:
    """Graders of kind lambda are called with the account of `provider`."""
    monkeypatch.setattr(
        scoring, "open_function", lambda grader: provider.open_function(grader, grader.function, grader.seconds)
    )


def test_a_whole_run(provider: BedrockProvider, vendor: FakeBedrock, tmp_path: Path) -> None:
    deploy(vendor, provider)
    options = {"bedrock": {**OPTIONS["bedrock"], "samples_per_prompt": 4, "reasoning_effort": "high"}}
    job = make_job(
        tmp_path,
        hyperparameters={"epochs": 2, "batch_size": 16, "learning_rate": 5e-5, "eval_every": 10},
        provider_options=options,
        evaluation={"deploy": False},
    )
    run = begin(job, provider)
    report = run.wait(timeout=60, pace=PACE)
    assert run.state is RunState.SUCCEEDED
    (sent,) = [call.data for call in vendor.requests if call.route == "create_job"]
    assert sent["customizationType"] == "REINFORCEMENT_FINE_TUNING"
    assert "hyperParameters" not in sent
    assert sent["customizationConfig"]["rftConfig"] == {
        "graderConfig": {"lambdaGrader": {"lambdaArn": FUNCTION}},
        "hyperParameters": {
            "epochCount": 2,
            "batchSize": 16,
            "learningRate": 5e-5,
            "evalInterval": 10,
            "trainingSamplePerPrompt": 4,
            "reasoningEffort": "high",
        },
    }
    bucket, _, key = sent["trainingDataConfig"]["s3Uri"].removeprefix("s3://").partition("/")
    row = json.loads(vendor.objects[bucket, key]["content"].splitlines()[0])
    assert [turn["role"] for turn in row["messages"]] == ["user"]
    assert row["reference_answer"] == row["answer"]
    calls = [call.route for call in vendor.requests]
    assert calls.index("invoke") < calls.index("create_job")
    rewards = [point.value for point in run.metrics() if point.series == "train/reward"]
    assert rewards[-1] > rewards[0]
    assert any(point.series == "validation/reward" for point in run.metrics())
    assert "reward" in report.to_markdown()
    assert vendor.complaints == []


@pytest.mark.slow
def test_a_failed_job_says_why(provider: BedrockProvider, vendor: FakeBedrock, tmp_path: Path) -> None:
    deploy(vendor, provider)
    vendor.outcome = "failure"
    with pytest.raises(RunFailed, match="is not a valid record"):
        begin(make_job(tmp_path), provider).wait(timeout=60, pace=PACE)


def test_a_function_of_another_grader_is_found_before_the_job(
    provider: BedrockProvider, vendor: FakeBedrock, tmp_path: Path
) -> None:
    deploy(vendor, provider, {"kind": "regex", "pattern": "never"})
    with pytest.raises(LlmtuneError, match="the Lambda function pays 0 for the right answer of a row, and llmtune 1"):
        begin(make_job(tmp_path), provider)
    assert not vendor.jobs


@pytest.mark.slow
@pytest.mark.usefixtures("functions")
def test_a_function_of_the_users_own_is_the_grader(
    provider: BedrockProvider, vendor: FakeBedrock, tmp_path: Path
) -> None:
    vendor.functions[FUNCTION] = (
        "def lambda_handler(event, context):\n"
        "    return [{'id': i['id'], 'aggregate_reward_score': float(i['messages'][-1]['content'] =="
        " i['reference_answer']), 'metrics_list': [{'name': 'a', 'value': 1, 'type': 'Metric'}]} for i in event]"
    )
    grader = {"kind": "lambda", "function": FUNCTION, "reference": "answer"}
    begin(make_job(tmp_path, grader, make_sums(130), provider_options={}), provider).cancel()
    (sent,) = [call.data for call in vendor.requests if call.route == "create_job"]
    assert sent["customizationConfig"]["rftConfig"]["graderConfig"]["lambdaGrader"]["lambdaArn"] == FUNCTION


@pytest.mark.usefixtures("functions")
def test_a_function_that_fails_or_is_not_there_gives_no_score(vendor: FakeBedrock) -> None:
    row = make_sums(1)[0]
    with GraderProcess(make_grader({"kind": "lambda", "function": FUNCTION})) as process:
        errors = {process.score(row, Answer("3")).error for _ in range(MOST_FAILURES + 5)}
    assert len(errors) == 1
    assert "Function not found" in errors.pop()
    assert sum(call.route == "invoke" for call in vendor.requests) == MOST_FAILURES
    vendor.functions[FUNCTION] = "def lambda_handler(event, context):\n    raise ValueError('no such field')"
    with GraderProcess(make_grader({"kind": "lambda", "function": FUNCTION})) as process:
        assert process.score(row, Answer("3")).error == "the function failed: no such field"


@pytest.mark.parametrize(
    ("content", "error"),
    [
        (b"not json", "is not JSON"),
        (b"[" * 50_000, "is not JSON"),
        (b"[]", "no list with one"),
        (b'[{"aggregate_reward_score": "1"}]', "no list with one"),
        (b'[{"aggregate_reward_score": true}]', "no list with one"),
        (b'[{"aggregate_reward_score": NaN}]', "is nan"),
        (b'[{"aggregate_reward_score": 1' + b"0" * 400 + b"}]", "is inf"),
        (b'{"statusCode": 200, "body": "x"}', "is not JSON"),
    ],
)
def test_odd_answers_of_a_function(content: bytes, error: str) -> None:
    value, problem = read_score(content)
    assert value is None
    assert error in problem


def test_both_forms_of_an_answer_are_read() -> None:
    entry = [{"id": "1", "aggregate_reward_score": 0.5}]
    assert read_score(json.dumps(entry).encode()) == (0.5, "")
    assert read_score(json.dumps({"statusCode": 200, "body": json.dumps(entry)}).encode()) == (0.5, "")


def test_without_a_function_it_says_how_to_make_one(provider: BedrockProvider, tmp_path: Path) -> None:
    job = make_job(tmp_path, provider_options={})
    (refusal,) = plan(job, provider).refusals
    assert "--source-for bedrock" in refusal
    assert "provider_options.bedrock.grader_function" in refusal
    with pytest.raises(NotTranslatable, match="a Lambda function of yours"):
        begin(job, provider)


def test_other_models_and_too_few_rows_are_refused(provider: BedrockProvider, tmp_path: Path) -> None:
    assert any(
        "Nova 2 Lite by reinforcement" in text for text in plan(make_job(tmp_path, model=NOVA), provider).refusals
    )
    with pytest.raises(InvalidData, match="100"):
        begin(make_job(tmp_path, rows=make_sums(60)), provider)


def test_the_price_is_unknown_and_said_so(provider: BedrockProvider, tmp_path: Path) -> None:
    assert "no training price of reinforcement fine-tuning" in str(plan(make_job(tmp_path), provider).to_json())


# --- open models, at the OpenAI-compatible endpoint ------------------------------------------------------------------
class FakeReinforcing(FakeMantle):
    """An endpoint that scores by the function which a job names."""

    job_shape: ClassVar[dict[str, Any]] = {
        **FakeMantle.job_shape,
        "method": Required(
            {
                "type": Required({"reinforcement"}),
                "reinforcement": Required(
                    {
                        "grader": Required({"type": Required({"lambda"}), "lambda": {"function": Required(str)}}),
                        "hyperparameters": {"n_epochs": int, "batch_size": int, "learning_rate_multiplier": float},
                    }
                ),
            }
        ),
    }
    functions: ClassVar[dict[str, str]] = {}

    def check_job(self, call: Call, body: Any) -> None:
        super().check_job(call, body)
        names: dict[str, Any] = {}
        exec(self.functions[body["method"]["reinforcement"]["grader"]["lambda"]["function"]], names)
        for line in self.files[body["training_file"]].content.splitlines():
            row = json.loads(line)
            assert row["messages"][-1]["role"] == "user"
            answered = {
                **row,
                "id": "1",
                "messages": [*row["messages"], {"role": "assistant", "content": row["answer"]}],
            }
            (result,) = names["lambda_handler"]([answered], None)
            assert result["aggregate_reward_score"] == 1.0

    def measured(self, job: Any, step: int) -> dict[str, Any]:
        return {"step": step, "total_steps": 5, "critic_rewards_mean": 0.1 * step, "response_length_mean": 30.0}


@pytest.mark.slow
@pytest.mark.usefixtures("functions")
def test_an_open_model_is_tuned_with_the_users_function(
    provider: BedrockProvider, vendor: FakeBedrock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    deploy(vendor, provider)
    monkeypatch.setattr(services, "_other_services", lambda: (MANTLE,))
    monkeypatch.setattr(FakeReinforcing, "functions", vendor.functions)
    monkeypatch.setenv("AWS_BEARER_TOKEN_BEDROCK", "key")
    job = make_job(
        tmp_path,
        {"kind": "lambda", "function": FUNCTION, "reference": "answer"},
        model="qwen.qwen3-32b",
        provider_options={},
        hyperparameters={"epochs": 1, "batch_size": 4, "learning_rate_multiplier": 1.0},
        evaluation={"max_rows": 2},
    )
    with FakeReinforcing(api_key="key") as endpoint:
        settings = OpenAISettings(base_url=f"{endpoint.url}/v1", profile="bedrock-mantle")
        mantle = OpenAIProvider("mantle", settings)
        with pytest.warns(UserWarning, match="not sent"):
            run = start(job, mantle, yes=True, allow_unknown_cost=True)
        run.wait(timeout=60, pace=PACE)
        assert run.state is RunState.SUCCEEDED
        (sent,) = [call.data for call in endpoint.requests if call.route == "create_job"]
        assert endpoint.complaints == []
        assert any(point.series == "train/reward" for point in run.metrics())
        (refusal,) = plan(make_job(tmp_path, model="qwen.qwen3-32b", provider_options={}), mantle).refusals
        assert "--source-for bedrock" in refusal
        assert "a grader of kind lambda" in refusal
    assert set(sent) == {"model", "training_file", "validation_file", "method"}
    assert sent["method"] == {
        "type": "reinforcement",
        "reinforcement": {
            "grader": {"type": "lambda", "lambda": {"function": FUNCTION}},
            "hyperparameters": {"n_epochs": 1, "batch_size": 4, "learning_rate_multiplier": 1.0},
        },
    }
