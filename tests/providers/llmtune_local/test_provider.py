"""The local backend through its protocol: one worker a run, however often it is asked; an end when none starts."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from llmtune.errors import InvalidJob
from llmtune.job.spec import TuningJob
from llmtune.metrics.samples import Sample
from llmtune.planning.plan import plan
from llmtune.provider.limits import NotOffered
from llmtune.provider.registry import get_provider
from llmtune.provider.types import JobRef, RunKey, RunState, Target
from llmtune_local.responses import snapshot
from llmtune_local.run_state import process
from llmtune_local.run_state.run_dir import RunDir
from llmtune_local.run_state.schema import RunRequest, SampleLine, Verdict
from llmtune_local.worker.supervisor import ATTEMPTS

KEY = RunKey("lt0123456789")


@pytest.fixture
def request_body(tmp_path: Path) -> dict[str, Any]:
    rows = tmp_path / "rows.jsonl"
    row = {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}
    rows.write_text(json.dumps(row) + "\n")
    return {
        "schema": 1,
        "model": "tiny",
        "method": "sft",
        "adapter": "lora",
        "files": {"train": str(rows)},
        "hyperparameters": {"epochs": 1, "batch_size": 1, "learning_rate": 1e-3},
    }


class Launches:
    """Stands in for starting a process: sleeps like a worker that is still importing, or dies at once."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, code: str) -> None:
        import subprocess

        real = subprocess.Popen

        def popen(command: list[str], **options: Any) -> Any:
            return real([sys.executable, "-c", code], **options)

        monkeypatch.setattr(subprocess, "Popen", popen)


def submit(body: dict[str, Any]) -> tuple[Any, Any, RunDir]:
    from llmtune.provider.types import Request

    provider = get_provider("local")
    job = provider.submit(Request(operation="start", body=body), KEY)
    return provider, job, RunDir(job.data["folder"])


def test_polling_a_worker_that_has_not_spoken_yet_starts_no_second_one(
    request_body: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    Launches(monkeypatch, "import time; time.sleep(20)")
    provider, job, folder = submit(request_body)
    for _ in range(5):
        assert provider.poll(job, None).state is RunState.QUEUED
    from llmtune.provider.types import Request

    assert provider.submit(Request(operation="start", body=request_body), KEY) == job
    assert provider.find(KEY) == job
    assert len(process.count_launches(folder.path)) == 1


def test_a_worker_that_never_starts_ends_the_run_with_its_last_words(
    request_body: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    Launches(monkeypatch, "raise SystemExit('no module named nothing')")
    provider, job, folder = submit(request_body)
    deadline = time.monotonic() + 60
    while (snapshot := provider.poll(job, None)).state is RunState.QUEUED and time.monotonic() < deadline:
        time.sleep(0.1)
    assert snapshot.state is RunState.FAILED
    assert "no module named nothing" in (snapshot.error or "")
    assert len(process.count_launches(folder.path)) == ATTEMPTS


@pytest.mark.parametrize("id", ["gone", "../gone"])
def test_a_job_that_was_adopted_by_its_id_lies_with_the_others(id: str, own_home: Path) -> None:
    snapshot = get_provider("local").poll(JobRef(id=id), None)
    assert snapshot.state is RunState.FAILED
    assert f"{Path('local') / 'gone'} is missing" in (snapshot.error or "")


def test_answers_while_training_are_in_the_request_only_where_the_job_asks(tmp_path: Path) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.write_text(
        "".join(
            json.dumps({"messages": [{"role": "user", "content": f"a {n}"}, {"role": "assistant", "content": "b"}]})
            + "\n"
            for n in range(30)
        )
    )

    def request_of(evaluation: dict[str, Any]) -> dict[str, Any]:
        job = TuningJob.model_validate({"name": "n", "dataset": str(rows), "model": "tiny", "evaluation": evaluation})
        request = plan(job, "local").request
        assert request is not None
        return request.body

    assert request_of({"samples": 4})["samples"] == 4
    assert request_of({"samples": 0})["samples"] == 0
    assert "samples" not in request_of({})  # so that the fingerprint of such a job stays what it was


def test_an_encoder_has_no_answers_to_look_at() -> None:
    target = Target(provider="local", kind="local", model="tiny-encoder", method="classification")
    samples = get_provider("local").capabilities(target).abilities.samples
    assert isinstance(samples, NotOffered)


def test_each_answer_is_polled_once(tmp_path: Path) -> None:
    folder = RunDir(tmp_path / "run")
    folder.path.mkdir()
    verdict = Verdict(state="running")
    folder.append_samples([SampleLine(step=0, number=1, prompt="a", expected="b", answer="c")])
    first = snapshot(folder, None, verdict, None)
    assert first.samples == (Sample(step=0, number=1, prompt="a", expected="b", answer="c"),)
    folder.append_samples([SampleLine(step=5, number=1, prompt="a", expected="b", answer="b")])
    second = snapshot(folder, None, verdict, first.cursor)
    assert [sample.step for sample in second.samples] == [5]
    old_cursor = {name: position for name, position in (second.cursor or {}).items() if name != "samples"}
    assert len(snapshot(folder, None, verdict, old_cursor).samples) == 2


# Several processes


def plan_processes(tmp_path: Path, **fields: Any) -> Any:
    """Plan a job of four processes on the CPU."""
    rows = tmp_path / "rows.jsonl"
    turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    rows.write_text("".join(json.dumps({"messages": turns, "n": n}) + "\n" for n in range(20)))
    job = {"name": "four", "dataset": {"path": str(rows)}, "model": "tiny", "adapter": "full"}
    options = {"device": "cpu", "dtype": "float32", "processes": 4} | fields.pop("options", {})
    return plan(TuningJob.model_validate(job | fields | {"provider_options": {"local": options}}), "local")


def test_the_plan_says_what_each_process_holds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from llmtune_local.models import memory_estimate

    def note(**fields: Any) -> tuple[str, dict[str, int]]:
        planned = plan_processes(tmp_path, **fields)
        (text,) = [warning for warning in planned.warnings if "sharding: " in warning]
        return text, {part.name: part.bytes for part in planned.memory.parts}

    monkeypatch.setattr(memory_estimate, "available_memory", lambda device: 1 << 30)
    text, whole = note()
    assert text == (
        "each of 4 processes holds the whole model (sharding: replicate): whole models take at least 208 MiB of 1.0 GiB"
        " on cpu"
    )
    monkeypatch.setattr(memory_estimate, "available_memory", lambda device: 200 << 20)
    text, parts = note()
    assert text == (
        "each of 4 processes holds a part of the model (sharding: shard): whole models take at least 208 MiB of 200 MiB"
        " on cpu"
    )
    assert parts["weights"] == pytest.approx(whole["weights"] / 4, abs=4)
    assert parts["gathered layers"] > whole["gathered layers"] == 0
    assert "(sharding: shard, as the job says)" in note(options={"sharding": "shard"})[0]
    text, _ = note(adapter="dora", options={"sharding": "shard"})
    assert text == "the run will be refused: sharding: shard: adapter dora is not trained in parts; lora and full are"
    assert not [
        warning for warning in plan_processes(tmp_path, options={"processes": 1}).warnings if "shard" in warning
    ]


def test_a_model_that_has_no_room_to_answer_is_refused_with_a_way_out(monkeypatch: pytest.MonkeyPatch) -> None:
    from llmtune.errors import DeviceUnavailable
    from llmtune_local.inference.generator import LocalGenerator
    from llmtune_local.models import memory_estimate

    monkeypatch.setattr(memory_estimate, "available_memory", lambda device: 10 << 20)
    with pytest.raises(
        DeviceUnavailable, match="to answer, one process holds the whole model: 13 MiB on cpu"
    ) as caught:
        LocalGenerator(model="tiny", options={"device": "cpu"})._load()
    assert "--format vllm" in (caught.value.hint or "")


# Reinforcement


def plan_reinforcement(tmp_path: Path, grader: dict[str, Any], **options: Any) -> Any:
    """Plan a reinforcement job of 40 prompts at the local trainer."""
    rows = tmp_path / "prompts.jsonl"
    lines = [{"messages": [{"role": "user", "content": f"{n} plus 1"}], "sum": str(n + 1)} for n in range(40)]
    rows.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return plan(
        TuningJob.model_validate(
            {
                "name": "sums",
                "dataset": {"path": str(rows), "split": [1, 0, 0]},
                "model": "tiny",
                "method": "reinforcement",
                "grader": grader,
                "hyperparameters": {"epochs": 2, "batch_size": 8},
                "provider_options": {"local": options},
            }
        ),
        "local",
    )


def test_a_reinforcement_job_goes_to_the_worker_with_its_grader_and_options(tmp_path: Path) -> None:
    grader = {"kind": "match", "operation": "numeric", "reference": "sum"}
    planned = plan_reinforcement(
        tmp_path, grader, samples_per_prompt=4, answer_tokens=100, loss_normalisation="dr_grpo"
    )
    assert planned.refusals == ()
    assert planned.request is not None
    request = RunRequest.model_validate(planned.request.body)
    assert request.method == "reinforcement"
    assert request.grader is not None
    assert request.grader | grader == request.grader
    assert request.options.loss_normalisation == "dr_grpo"
    (note,) = [note for note in planned.warnings if "samples" in note]
    assert note == "each step samples 32 answers of at most 100 tokens: in 10 steps at most 0.032 million tokens"


def test_memory_counts_the_answers_that_are_sampled(tmp_path: Path) -> None:
    grader = {"kind": "match", "operation": "numeric", "reference": "sum"}
    short, long = (plan_reinforcement(tmp_path, grader, answer_tokens=tokens).memory for tokens in (10, 400))
    assert long.peak > short.peak
    assert {"answers being sampled", "reference weights"} < {part.name for part in long.parts}


@pytest.mark.parametrize(
    "grader",
    [
        {"kind": "http", "url": "https://grader.example/score", "reference": "sum"},
        {"kind": "lambda", "function": "arn:aws:lambda:us-east-1:123456789012:function:grade", "reference": "sum"},
        {
            "kind": "weighted",
            "parts": [{"weight": 1, "grader": {"kind": "judge", "model": "local:tiny", "rubric": "Is it right?"}}],
        },
    ],
)
def test_graders_that_run_elsewhere_are_refused_by_their_kind(grader: dict[str, Any], tmp_path: Path) -> None:
    (refusal,) = [text for text in plan_reinforcement(tmp_path, grader).refusals if "grader" in text]
    kind = "judge" if grader["kind"] == "weighted" else grader["kind"]
    assert refusal.startswith(f"grader: a grader of kind {kind} runs elsewhere, and the local trainer takes those")


def test_several_processes_are_refused_before_a_run_starts(tmp_path: Path) -> None:
    from llmtune_local.preflight import check_request

    grader = {"kind": "match", "operation": "numeric", "reference": "sum"}
    planned = plan_reinforcement(tmp_path, grader, processes=2)
    assert any(
        "the run will be refused: method reinforcement trains in one process" in note for note in planned.warnings
    )
    with pytest.raises(InvalidJob, match="method reinforcement trains in one process"):
        check_request(planned.request.body)


def test_a_reinforcement_run_has_rewards_in_place_of_losses(request_body: dict[str, Any], tmp_path: Path) -> None:
    folder = RunDir(tmp_path / "run")
    grader = {"kind": "match", "operation": "exact"}
    folder.write_request(RunRequest.model_validate(request_body | {"method": "reinforcement", "grader": grader}))
    reasons = snapshot(folder, None, Verdict(state="running"), None).not_reported
    assert set(reasons) == {"train/loss", "validation/loss"}
    assert set(reasons.values()) == {"method reinforcement is measured by rewards"}
