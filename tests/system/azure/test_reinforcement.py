"""Reinforcement jobs at Azure OpenAI, from the job to the report, against the fake resource."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from llmtune.errors import InvalidData, InvalidJob, LlmtuneWarning, NotTranslatable, RunFailed
from llmtune.evaluation.judge.measure import JudgeSource
from llmtune.job.spec import TuningJob
from llmtune.provider.types import RunState
from llmtune.runs.api import start
from llmtune.runs.plans import plan
from llmtune_azure import AzureProvider
from llmtune_azure.fake.service import FakeAzure
from tests.judge_server import Judge, give, read_prompt
from tests.llmtune.evaluation.conftest import Scripted
from tests.system.azure.test_conformance import settings_for

MODEL = "o4-mini-2025-04-16"
NUMERIC = {"kind": "match", "operation": "numeric", "reference": "answer"}
pytestmark = pytest.mark.usefixtures("no_long_pauses")


@pytest.fixture
def vendor(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeAzure]:
    monkeypatch.setenv("AZURE_OPENAI_API_KEY", "az-test")
    monkeypatch.setenv("ARM_TOKEN", "az-test")
    with FakeAzure(api_key="az-test") as fake:
        yield fake
        assert not fake.complaints, "\n".join(fake.complaints)


@pytest.fixture
def azure(vendor: FakeAzure) -> AzureProvider:
    return AzureProvider("azure", settings_for(vendor))


def make_job(folder: Path, grader: Any = NUMERIC, rows: list[dict[str, Any]] | None = None, **fields: Any) -> TuningJob:
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows or make_sums()))
    data = {"name": "sums", "dataset": str(path), "model": MODEL, "method": "reinforcement", "grader": grader}
    return TuningJob.model_validate(data | fields)


def make_sums(count: int = 60) -> list[dict[str, Any]]:
    return [
        {"messages": [{"role": "user", "content": f"What is {n} plus {n + 3}, and why?"}], "answer": f"{2 * n + 3}"}
        for n in range(count)
    ]


def make_call(n: int) -> dict[str, Any]:
    return {"id": "c1", "type": "function", "function": {"name": "find", "arguments": json.dumps({"n": n})}}


def test_a_whole_run(azure: AzureProvider, vendor: FakeAzure, tmp_path: Path) -> None:
    job = make_job(
        tmp_path,
        hyperparameters={"epochs": 2, "eval_every": 2},
        provider_options={"azure": {"reasoning_effort": "high", "eval_samples": 3}},
    )
    run = start(job, azure, yes=True, allow_unknown_cost=True)
    report = run.wait()
    assert run.state is RunState.SUCCEEDED
    (sent,) = [call.data for call in vendor.requests if call.route == "create_job"]
    method = sent["method"]
    assert method["type"] == "reinforcement"
    assert method["reinforcement"]["hyperparameters"] == {
        "n_epochs": 2,
        "eval_interval": 2,
        "eval_samples": 3,
        "reasoning_effort": "high",
    }
    rows = [json.loads(line) for line in vendor.files[sent["training_file"]].content.splitlines()]
    assert all(row["messages"][-1]["role"] == "user" for row in rows)
    assert {row["answer"] for row in rows} <= {f"{2 * n + 3}" for n in range(60)}
    rewards = [point.value for point in run.metrics() if point.series == "train/reward"]
    assert rewards[-1] > rewards[0]
    assert any(point.series == "validation/reward" for point in run.metrics())
    assert "reward" in report.to_markdown()


def test_a_failed_job_says_why(azure: AzureProvider, vendor: FakeAzure, tmp_path: Path) -> None:
    vendor.outcome = "failure"
    run = start(make_job(tmp_path), azure, yes=True, allow_unknown_cost=True)
    with pytest.raises(RunFailed, match=re.escape(vendor.failure_message)):
        run.wait()


def test_rows_that_end_in_the_right_answer_are_sent_without_it(
    azure: AzureProvider, vendor: FakeAzure, tmp_path: Path
) -> None:
    rows = [
        {
            "messages": [
                {"role": "user", "content": f"Find {n}"},
                {"role": "assistant", "tool_calls": [make_call(n)]},
            ],
            "tools": [{"type": "function", "function": {"name": "find", "parameters": {"type": "object"}}}],
        }
        for n in range(60)
    ]
    run = start(make_job(tmp_path, {"kind": "tool_call"}, rows), azure, yes=True, allow_unknown_cost=True)
    (sent,) = [call.data for call in vendor.requests if call.route == "create_job"]
    row = json.loads(vendor.files[sent["training_file"]].content.splitlines()[0])
    assert [turn["role"] for turn in row["messages"]] == ["user"]
    names: dict[str, Any] = {}
    exec(sent["method"]["reinforcement"]["grader"]["source"], names)
    right = {"output_text": "", "output_tools": row["right_answer"]["tool_calls"]}
    assert names["grade"](right, row) == 1.0
    assert names["grade"]({"output_text": "", "output_tools": []}, row) == 0.0
    run.cancel()


def test_a_grader_that_pays_for_nothing_is_refused_before_anything_is_sent(
    azure: AzureProvider, vendor: FakeAzure, tmp_path: Path
) -> None:
    grader = {"kind": "match", "reference": "answer", "answer_from": {"regex": "never there"}}
    with pytest.raises(InvalidJob, match="grader: a job would learn the wrong thing: every answer scores 0"):
        start(make_job(tmp_path, grader), azure, yes=True, allow_unknown_cost=True)
    assert not vendor.requests


@pytest.mark.parametrize("grader", [{"kind": "similarity"}, {"kind": "schema", "json_schema": {}}])
def test_a_grader_that_azure_cannot_run_is_refused(azure: AzureProvider, tmp_path: Path, grader: Any) -> None:
    receipt = plan(make_job(tmp_path, grader), azure)
    assert receipt["grader"].support == "invalid"
    (refusal,) = receipt.refusals
    assert refusal.startswith(f"grader: a grader of kind {grader['kind']} cannot run there")
    with pytest.raises(NotTranslatable, match="cannot run there"):
        start(make_job(tmp_path, grader), azure, yes=True, allow_unknown_cost=True)


def test_rows_without_a_right_answer_are_refused(azure: AzureProvider, tmp_path: Path) -> None:
    rows = [{"messages": [{"role": "user", "content": f"{n}?"}], "solution": "a"} for n in range(60)]
    with pytest.raises(InvalidData, match=r"no right answer.*") as caught:
        start(make_job(tmp_path, rows=rows), azure, yes=True, allow_unknown_cost=True)
    assert "solution" in f"{caught.value.findings[0]} {caught.value.hint}"


def test_a_field_of_the_name_that_is_written_is_refused(azure: AzureProvider, tmp_path: Path) -> None:
    rows = [row | {"right_answer": "mine"} for row in make_sums()]
    assert "'right_answer'" in plan(make_job(tmp_path, rows=rows), azure).data.lossy[0]


def test_other_models_and_methods_refuse_each_other(azure: AzureProvider, tmp_path: Path) -> None:
    receipt = plan(make_job(tmp_path, model="gpt-4.1-2025-04-14"), azure)
    assert receipt.refusals == ("gpt-4.1-2025-04-14 is not offered for reinforcement",)
    rows = [{"messages": [*row["messages"], {"role": "assistant", "content": "x"}]} for row in make_sums()]
    supervised = make_job(tmp_path, None, rows, method="sft", provider_options={"azure": {"reasoning_effort": "low"}})
    receipt = plan(supervised, azure)
    assert receipt.refusals == ("o4-mini-2025-04-16 is not offered for sft",)
    assert any("reasoning_effort is not sent" in warning for warning in receipt.warnings)


def test_the_price_is_by_the_hour(azure: AzureProvider, tmp_path: Path) -> None:
    assert "billed by the hour of training, at 100 USD" in plan(make_job(tmp_path), azure).cost.sentence()


def test_warnings_of_the_trial_are_passed_on(azure: AzureProvider, tmp_path: Path) -> None:
    source = "def grade(row, answer):\n    return float(answer == row['answer'])"
    grader = {"kind": "python", "reference": "answer", "source": source}
    with pytest.warns(LlmtuneWarning, match="grader: "):
        start(make_job(tmp_path, grader), azure, yes=True, allow_unknown_cost=True).cancel()


# --- a judge ---------------------------------------------------------------------------------------------------------
JUDGE = {"kind": "judge", "model": "azure:grader-1", "rubric": "The sum is right.", "reference": "answer"}


def ask_here(monkeypatch: pytest.MonkeyPatch, judge: Judge) -> Scripted:
    """Let a scripted model stand for every judge of a trial."""
    scripted = Scripted(lambda user: judge(*read_prompt(user)))
    source = JudgeSource(scripted, "azure:grader-1", "azure", "judge azure", True, None)
    monkeypatch.setattr("llmtune.runs.judge.open_source", lambda judge: source)
    return scripted


def compare(material: dict[str, Any], id: str) -> str:
    """Judge as the rubric says."""
    points = 5 if material["answer"].split() == [material["right_answer"]] else 1
    return json.dumps({"id": id, "score": points})


def test_a_judge_is_tried_here_and_sent_as_a_model_of_the_service(
    azure: AzureProvider, vendor: FakeAzure, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = ask_here(monkeypatch, compare)
    run = start(make_job(tmp_path, JUDGE), azure, yes=True, allow_unknown_cost=True)
    (sent,) = [call.data for call in vendor.requests if call.route == "create_job"]
    run.cancel()
    assert 50 < len(asked.requests) <= 70  # ten rows in seven ways
    grader = sent["method"]["reinforcement"]["grader"]
    assert (grader["type"], grader["model"], grader["range"]) == ("score_model", "grader-1", [1.0, 5.0])
    system, user = (message["content"] for message in grader["input"])
    assert "The sum is right." in system
    assert re.findall(r"{{.*?}}", user) == ["{{item.messages}}", "{{item.answer}}", "{{sample.output_text}}"]


def test_a_judge_that_pays_any_number_is_refused_before_anything_is_sent(
    azure: AzureProvider, vendor: FakeAzure, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ask_here(monkeypatch, give(lambda answer: 5 if re.fullmatch(r"\s*\d+\s*", answer) else 1))
    with pytest.raises(InvalidJob, match="the right answer of another row earns 5: as much as the right answer"):
        start(make_job(tmp_path, JUDGE), azure, yes=True, allow_unknown_cost=True)
    assert not vendor.requests


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"model": "openai:gpt-4.1"}, "openai:gpt-4.1 is none: name one as azure:MODEL"),
        ({"model": "https://judge.example/v1"}, "name one as azure:MODEL"),
        ({"answer_from": {"regex": "x"}}, "leave out answer_from"),
        ({"rubric": "Pays {{item.answer}}."}, "{{ begins a variable there"),
    ],
)
def test_a_judge_that_azure_cannot_ask_is_refused(
    azure: AzureProvider, tmp_path: Path, changed: dict[str, Any], reason: str
) -> None:
    receipt = plan(make_job(tmp_path, JUDGE | changed), azure)
    assert receipt["grader"].support == "invalid"
    assert reason in receipt.refusals[0]


def test_the_plan_says_where_the_rows_of_a_trial_go(azure: AzureProvider, tmp_path: Path) -> None:
    weighted = {"kind": "weighted", "parts": [{"weight": 1.0, "grader": JUDGE}]}
    assert "a judge inside a weighted grader is not translated" in plan(make_job(tmp_path, weighted), azure).refusals[0]
    receipt = plan(make_job(tmp_path, JUDGE | {"price": {"input": 1.0, "output": 2.0}}), azure)
    assert any(
        warning.startswith("grader: 10 training rows with answers to them are sent to azure:grader-1 at azure")
        for warning in receipt.warnings
    )
    line = next(line for line in receipt.cost.lines if line.name == "trial of the grader")
    assert line.high is not None
    assert line.high > 70 * 300 * 2.0 / 1e6
    here = plan(make_job(tmp_path, JUDGE | {"model": "local:tiny"}), azure)
    assert not any("are sent to" in warning for warning in here.warnings)
