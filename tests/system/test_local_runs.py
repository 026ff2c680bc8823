"""Local runs on the same lifecycle: killed, they end as if nobody had disturbed them."""

from __future__ import annotations

import importlib.util
import os
import signal
import sys
import time
from pathlib import Path
from types import ModuleType

import pytest
from typer.testing import CliRunner

from llmtune.cli.app import app
from llmtune.errors import InvalidData, RunFailed
from llmtune.evaluation.results import EvaluationResult
from llmtune.job.spec import TuningJob
from llmtune.metrics.decisions import DecisionRules
from llmtune.metrics.points import Series
from llmtune.provider.generation import Unavailable
from llmtune.provider.types import RunState
from llmtune.runs.api import start
from llmtune_local.run_state import process
from llmtune_local.run_state.run_dir import RunDir

pytestmark = pytest.mark.usefixtures("no_long_pauses")

pytest.importorskip("torch")
pytest.importorskip("peft")


@pytest.fixture(scope="module")
def trials() -> ModuleType:
    path = Path(__file__).resolve().parents[2] / "benchmarks" / "crash_local.py"
    spec = importlib.util.spec_from_file_location("crash_local", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["crash_local"] = module
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
def test_a_killed_worker_and_a_killed_parent_end_with_the_same_losses(trials: ModuleType) -> None:
    calm = trials.run_local_trial("none:0")
    assert calm.fault is None
    assert sorted(calm.losses) == list(range(1, trials.STEPS + 1))
    for victim in ("worker:3", "parent:after-submit", "both:4"):
        outcome = trials.run_local_trial(victim, calm.losses)
        assert outcome.fault is None
        assert (outcome.killed, outcome.jobs, outcome.orphans) == (1, 1, 0)


@pytest.mark.slow
def test_a_run_of_the_model_in_the_package_is_evaluated_again_on_other_rows(tmp_path: Path) -> None:
    labels = ("billing", "shipping")

    def rows(path: Path, numbers: range) -> Path:
        path.write_text("".join(f'{{"text": "case {n}", "label": "{labels[n % 2]}"}}\n' for n in numbers))
        return path

    job = TuningJob.model_validate(
        {
            "name": "cases",
            "dataset": {"path": str(rows(tmp_path / "cases.jsonl", range(24))), "split": [0.5, 0.0, 0.5]},
            "model": "tiny",
            "hyperparameters": {"max_steps": 1, "batch_size": 4},
            "evaluation": {"max_rows": 2, "baselines": []},
        }
    )
    run = start(job, "local")
    first = run.wait()
    report = run.evaluate(rows(tmp_path / "new.jsonl", range(100, 103)))
    assert isinstance(first.evaluation, EvaluationResult)
    assert isinstance(report.evaluation, EvaluationResult)
    assert report.evaluation.rows == 2
    assert report.evaluated_on.endswith("new.jsonl")
    assert [each.rows for each in report.earlier_evaluations] == [first.evaluation.rows]
    assert run.report() == report


@pytest.mark.slow
def test_a_reinforcement_run_from_prompts_to_its_report(tmp_path: Path) -> None:
    """With a Python grader from a file of its own; prompts without an answer of their own."""
    grader = tmp_path / "grade.py"
    grader.write_text("def grade(row, answer):\n    return answer.count(row['letter']) / max(4, len(answer))\n")
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text(
        "".join(
            f'{{"messages": [{{"role": "user", "content": "write {letter} {n}"}}], "letter": "{letter}"}}\n'
            for n, letter in enumerate("aeio" * 6)
        )
    )
    job = TuningJob.model_validate(
        {
            "name": "letters",
            "dataset": {"path": str(prompts), "split": [0.5, 0.25, 0.25]},
            "model": "tiny",
            "method": "reinforcement",
            "adapter": "lora",
            "grader": {
                "kind": "python",
                "file": str(grader),
                "reference": "letter",
                "right_answer": "{reference}{reference}{reference}{reference}",
            },
            "hyperparameters": {"max_steps": 4, "batch_size": 4, "learning_rate": 1e-3, "eval_every": 2},
            "provider_options": {"local": {"samples_per_prompt": 4, "answer_tokens": 8}},
            "evaluation": {"max_rows": 4, "baselines": []},
        }
    )
    run = start(job, "local")
    report = run.wait()
    assert run.state is RunState.SUCCEEDED
    rewards = report.series["train/reward"]
    assert isinstance(rewards, Series)
    assert [point.step for point in rewards.points] == [1, 2, 3, 4]
    assert report.final["validation/reward"]
    assert str(report.series["train/loss"]) == "not reported (method reinforcement is measured by rewards)"
    assert "validation reward" in report.to_html()
    assert not [event for _, event in run.events() if event.level == "warning"]
    with run.model() as model:
        assert model.generate("write a 1", max_tokens=8).text


@pytest.mark.slow
def test_the_rules_of_decisions_lie_beside_the_model_and_are_followed(tmp_path: Path) -> None:
    path = tmp_path / "cases.jsonl"
    path.write_text("".join(f'{{"text": "{"ab"[n % 2]} case {n}", "label": "{"ab"[n % 2]}"}}\n' for n in range(160)))
    job = TuningJob.model_validate(
        {
            "name": "decided",
            "dataset": {"path": str(path), "split": [0.25, 0.5, 0.25]},
            "model": "tiny-encoder",
            "method": "classification",
            "hyperparameters": {"max_steps": 1, "batch_size": 4},
            "evaluation": {"max_rows": 20, "fit_rows": 0, "abstain": {"error": 0.02}},
        }
    )
    run = start(job, "local")
    report = run.wait()
    assert isinstance(report.evaluation, EvaluationResult)
    rules = report.evaluation.decision_rules()
    assert rules is not None
    assert rules.rules[0].calibrator.rows == 80  # all validation rows: a promise takes more than are tested
    assert run.model_ref is not None
    stored = Path(run.model_ref.id) / "decisions.json"
    assert DecisionRules.from_json(stored.read_text(), "decisions.json") == rules
    with run.model() as model:
        (decision, _) = (entry["answer"] for entry in model.decide(["a case 500", "b case 501"]))
        assert (decision.calibrated, decision.abstained) == (True, True)  # 80 rows cannot promise 2 %
        assert sum(decision.probabilities.values()) == pytest.approx(1)
        assert model.decide("a case", {"enum": ["b", "a"]})["answer"].calibrated
    stored.write_text('{"schema_version": 9}')
    with pytest.raises(InvalidData, match=r"decisions\.json of run .* holds no decision rules"), run.model():
        pass
    again = run.evaluate()
    assert DecisionRules.from_json(stored.read_text(), "decisions.json") == rules
    assert isinstance(again.evaluation, EvaluationResult)
    stored.unlink()
    with run.model() as model:  # the run's evaluation knows them too
        assert model.rules == rules


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="the state of a process is read from /proc")
def test_a_run_stopped_damaged_and_resumed_ends_as_one_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    steps = 80
    path = tmp_path / "cases.jsonl"
    path.write_text("".join(f'{{"text": "case {n}", "label": "{"ab"[n % 2]}"}}\n' for n in range(24)))
    job = TuningJob.model_validate(
        {
            "name": "cases",
            "dataset": {"path": str(path), "split": [0.5, 0.0, 0.5]},
            "model": "tiny",
            "adapter": "lora",
            "hyperparameters": {"epochs": 100, "max_steps": steps, "batch_size": 4, "checkpoint_every": steps + 1},
            "evaluation": {"max_rows": 2, "baselines": []},
        }
    )
    run = start(job, "local")
    assert run.job_ref is not None
    folder = RunDir(run.job_ref.data["folder"])
    deadline = time.monotonic() + 300
    while (status := folder.read_status()) is None or status.step < 2:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    assert status.pid is not None

    # Somebody stops the worker: its silence is noticed, by a clock that is a minute on.
    os.kill(status.pid, signal.SIGSTOP)
    while not process.stopped(status.pid):
        time.sleep(0.01)
    with monkeypatch.context() as patched:
        patched.setattr("llmtune_local.provider.now", lambda: time.time() + 60)
        messages = [event.message for event in run.provider.poll(run.job_ref, None).events]
    assert f"it is stopped, and kill -CONT {status.pid} lets it continue" in messages[-1]
    run.cancel()
    os.kill(status.pid, signal.SIGCONT)
    with pytest.raises(RunFailed) as caught:
        run.wait()
    (step,) = folder.checkpoints()
    assert step < steps
    assert caught.value.hint == f"to go on from the checkpoint of step {step}: llmtune runs resume {run.id}"

    # The power fails: nothing but zero bytes, half a line, and a folder beside it that nobody can read.
    (folder.path / "status.json").write_bytes(bytes(4096))
    with folder.metrics.open("ab") as file:
        file.write(b'{"step": 3, "ser')
    bad = folder.path.parent / "lt000000bad0"
    bad.mkdir()
    for name in ("request.json", "status.json", "result.json"):
        (bad / name).write_bytes(bytes(100))
    assert f"continues from the checkpoint of step {step}" in command("runs", "resume", run.id)
    report = run.wait()
    assert report.succeeded
    points = [point.step for point in run.metrics() if point.series == "train/loss"]
    assert sorted(points) == list(range(1, steps + 1))
    result = folder.read_result()
    assert result is not None
    assert result.steps == steps
    assert [model.job for model in run.provider.inventory()] == [folder.path.name]
    assert run.id in command("doctor", "--lifecycle")

    # The result is cut: it is not called a success, and nobody is asked.
    weights = folder.adapter / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:100])
    snapshot = run.provider.poll(run.job_ref, None)
    assert (snapshot.state, snapshot.model) == (RunState.FAILED, None)
    assert "adapter_model.safetensors is cut off" in (snapshot.error or "")
    assert run.model_ref is not None
    unavailable = run.provider.generator(run.model_ref)
    assert isinstance(unavailable, Unavailable)
    assert "is cut off" in unavailable.reason
    assert run.id in command("doctor", "--lifecycle")
    assert run.id in command("runs", "list")


def command(*arguments: str) -> str:
    result = CliRunner().invoke(app, list(arguments), catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output
