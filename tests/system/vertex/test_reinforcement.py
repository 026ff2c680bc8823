"""Reinforcement jobs at Vertex AI, from the job to the report, against the fake."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from llmtune.errors import InvalidData, LlmtuneError, NotTranslatable, RunFailed
from llmtune.job.spec import TuningJob
from llmtune.provider.types import RunState
from llmtune.runs.api import start
from llmtune.runs.plans import plan
from llmtune.runs.poller import PollInterval
from llmtune_vertex import VertexProvider
from llmtune_vertex.fake.service import FakeVertex
from tests.providers.llmtune_vertex.conftest import provider_at

MODEL = "gemini-3.5-flash"
NUMERIC = {"kind": "match", "operation": "numeric", "reference": "answer"}
URL = "https://grader-1234.run.app/score"
PACE = PollInterval(first=0.01, most=0.03)
pytestmark = pytest.mark.usefixtures("no_long_pauses")


@pytest.fixture
def vertex(vendor: FakeVertex) -> VertexProvider:
    return provider_at(vendor)


def make_sums(count: int = 60) -> list[dict[str, Any]]:
    return [
        {"messages": [{"role": "user", "content": f"What is {n} plus {n + 3}, and why?"}], "answer": f"{2 * n + 3}"}
        for n in range(count)
    ]


def make_job(folder: Path, grader: Any = NUMERIC, rows: list[dict[str, Any]] | None = None, **fields: Any) -> TuningJob:
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows or make_sums()))
    data = {"name": "sums", "dataset": str(path), "model": MODEL, "method": "reinforcement", "grader": grader}
    return TuningJob.model_validate(data | fields)


def begin(job: TuningJob, provider: VertexProvider) -> Any:
    return start(job, provider, yes=True, allow_unknown_cost=True)


def test_a_whole_run(vertex: VertexProvider, vendor: FakeVertex, tmp_path: Path) -> None:
    job = make_job(
        tmp_path,
        hyperparameters={"max_steps": 8, "eval_every": 2, "lora_rank": 16, "batch_size": 16},
        provider_options={"vertex": {"samples_per_prompt": 4, "thinking_level": "HIGH", "max_output_tokens": 900}},
    )
    run = begin(job, vertex)
    report = run.wait(timeout=60, pace=PACE)
    assert run.state is RunState.SUCCEEDED
    (sent,) = [call.data for call in vendor.requests if call.route == "create_job"]
    assert sent["reinforcementTuningSpec"]["hyperParameters"] == {
        "stepCount": 8,
        "evaluateInterval": 2,
        "adapterSize": "ADAPTER_SIZE_SIXTEEN",
        "batchSize": 16,
        "samplesPerPrompt": 4,
        "thinkingLevel": "HIGH",
        "maxOutputTokens": 900,
    }
    calls = [call.route for call in vendor.requests]
    assert calls.index("validate_reward") < calls.index("create_job")
    uri = sent["reinforcementTuningSpec"]["trainingDatasetUri"]
    bucket, _, name = uri.removeprefix("gs://").partition("/")
    row = json.loads(vendor.objects[bucket, name]["content"].splitlines()[0])
    assert [content["role"] for content in row["contents"]] == ["user"]
    assert json.loads(row["references"]["right_answer"])["content"] == row["references"]["answer"]
    rewards = [point.value for point in run.metrics() if point.series == "train/reward"]
    assert rewards[-1] > rewards[0]
    assert any(point.series == "validation/reward" for point in run.metrics())
    assert "reward" in report.to_markdown()
    assert vendor.complaints == []


@pytest.mark.slow
def test_a_failed_job_says_why(vertex: VertexProvider, vendor: FakeVertex, tmp_path: Path) -> None:
    vendor.outcome = "failure"
    run = begin(make_job(tmp_path), vertex)
    with pytest.raises(RunFailed, match="contents must end with a model turn"):
        run.wait(timeout=60, pace=PACE)


def test_fields_that_are_no_texts_arrive_as_they_were(
    vertex: VertexProvider, vendor: FakeVertex, tmp_path: Path
) -> None:
    source = (
        "def grade(row, answer):\n"
        "    assert row['n'] == int(row['text']) and row['parts'] == [row['n'], None], row\n"
        "    return float(answer == row['text'])"
    )
    rows = [
        {"messages": [{"role": "user", "content": f"{n}?"}], "text": str(n), "n": n, "parts": [n, None]}
        for n in range(60)
    ]
    begin(make_job(tmp_path, {"kind": "python", "reference": "text", "source": source}, rows), vertex).cancel()
    assert vendor.complaints == []  # the fake runs the grader on every row


def test_tool_calls_are_taken_from_geminis_parts(vertex: VertexProvider, vendor: FakeVertex, tmp_path: Path) -> None:
    def call(n: int) -> dict[str, Any]:
        return {"id": "c1", "type": "function", "function": {"name": "find", "arguments": json.dumps({"n": n})}}

    parameters = {"type": "object", "properties": {"n": {"type": ["integer", "null"]}}, "additionalProperties": False}
    rows = [
        {
            "messages": [
                {"role": "user", "content": f"Find {n}"},
                {"role": "assistant", "tool_calls": [call(n)]},
            ],
            "tools": [{"type": "function", "function": {"name": "find", "parameters": parameters}}],
        }
        for n in range(60)
    ]
    begin(make_job(tmp_path, {"kind": "tool_call"}, rows), vertex).cancel()  # the dry run pays the right call
    (tried,) = [call.data for call in vendor.requests if call.route == "validate_reward"]
    assert tried["sampleResponse"]["parts"][0]["functionCall"]["name"] == "find"


def serve(question: Mapping[str, Any]) -> dict[str, Any]:
    """What a service on Cloud Run has to answer."""
    text = "".join(part.get("text", "") for part in question["response"]["parts"])
    return {"reward": float(text == question["example"]["references"]["answer"])}


class _Same:
    """The same service, as llmtune asks it."""

    def __init__(self, grader: Any) -> None: ...

    def __enter__(self) -> _Same:
        return self

    def __exit__(self, *error: object) -> None: ...

    def grade(self, row: dict[str, Any], answer: str, tool_calls: Any) -> tuple[float, str]:
        return float(answer == row["answer"]), ""


HTTP = {"kind": "http", "url": URL, "reference": "answer"}


def test_a_service_on_cloud_run_is_tried_by_google_first(
    vertex: VertexProvider, vendor: FakeVertex, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("llmtune.graders.scoring.HttpEndpoint", _Same)
    vendor.cloud_run[URL] = lambda question: {"reward": 0.5}
    with pytest.raises(LlmtuneError, match=r"Google pays 0\.5 for the right answer of a row, and llmtune 1"):
        begin(make_job(tmp_path, HTTP), vertex)
    assert not vendor.jobs
    vendor.cloud_run[URL] = serve
    begin(make_job(tmp_path, HTTP), vertex).cancel()
    (sent,) = [call.data for call in vendor.requests if call.route == "create_job"]
    reward = sent["reinforcementTuningSpec"]["singleRewardConfig"]
    assert reward["cloudRunRewardScorer"] == {"cloud_run_uri": URL}


def test_a_service_that_fails_at_google_is_refused(
    vertex: VertexProvider, vendor: FakeVertex, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("llmtune.graders.scoring.HttpEndpoint", _Same)
    vendor.cloud_run[URL] = lambda question: {"score": 1}
    with pytest.raises(LlmtuneError, match="Google cannot score the right answer of a row: KeyError"):
        begin(make_job(tmp_path, HTTP), vertex)


@pytest.mark.parametrize(
    ("grader", "reason"),
    [
        ({"kind": "similarity"}, "cannot run there"),
        ({"kind": "schema", "json_schema": {}}, "cannot run there"),
        ({"kind": "http", "url": "https://mine.example/score"}, "services on Cloud Run alone"),
        ({"kind": "http", "url": URL, "answer_from": {"regex": "x"}}, "without answer_from"),
        ({"kind": "python", "source": "def grade(row, answer):\n    return 3", "highest": 5}, "clips what is paid"),
    ],
)
def test_a_grader_that_google_cannot_run_is_refused(
    vertex: VertexProvider, tmp_path: Path, grader: Any, reason: str
) -> None:
    receipt = plan(make_job(tmp_path, grader), vertex)
    (refusal,) = receipt.refusals
    assert reason in refusal
    with pytest.raises(NotTranslatable, match=reason):
        begin(make_job(tmp_path, grader), vertex)


def test_steps_and_epochs_exclude_each_other(vertex: VertexProvider, tmp_path: Path) -> None:
    receipt = plan(make_job(tmp_path, hyperparameters={"max_steps": 8, "epochs": 2}), vertex)
    assert receipt["max_steps"].support == "invalid"


def test_a_field_of_the_name_that_is_written_is_refused(vertex: VertexProvider, tmp_path: Path) -> None:
    rows = [row | {"json_fields": "mine"} for row in make_sums()]
    assert "'json_fields'" in plan(make_job(tmp_path, rows=rows), vertex).data.lossy[0]


def test_other_models_and_methods_refuse_it(vertex: VertexProvider, tmp_path: Path) -> None:
    for model in ("gemini-2.5-flash", "meta/llama3_1@llama-3.1-8b-instruct"):
        assert len(plan(make_job(tmp_path, model=model), vertex).refusals) == 1
    rows = [{"messages": [*row["messages"], {"role": "assistant", "content": "x"}]} for row in make_sums()]
    supervised = make_job(tmp_path, None, rows, method="sft", provider_options={"vertex": {"thinking_level": "HIGH"}})
    receipt = plan(supervised, vertex)
    assert receipt.refusals == ()
    assert any("thinking_level is not sent" in warning for warning in receipt.warnings)


def test_the_price_is_unknown_and_said_so(vertex: VertexProvider, tmp_path: Path) -> None:
    sentence = plan(make_job(tmp_path), vertex).cost.sentence()
    assert "unknown" in sentence or "not" in sentence
    with pytest.raises(LlmtuneError, match="allow"):
        start(make_job(tmp_path), vertex, yes=True, budget=5.0)


def test_rows_without_a_right_answer_are_refused(vertex: VertexProvider, tmp_path: Path) -> None:
    rows = [{"messages": [{"role": "user", "content": f"{n}?"}], "solution": "a"} for n in range(60)]
    with pytest.raises(InvalidData, match="no right answer"):
        begin(make_job(tmp_path, rows=rows), vertex)
