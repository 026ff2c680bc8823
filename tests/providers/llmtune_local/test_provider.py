"""The local backend through its protocol: one worker a run, however often it is asked; an end when none starts."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from llmtune.job.spec import TuningJob
from llmtune.metrics.samples import Sample
from llmtune.planning.plan import plan
from llmtune.provider.limits import NotOffered
from llmtune.provider.registry import get_provider
from llmtune.provider.types import JobRef, RunKey, RunState, Target
from llmtune_local.responses import snapshot
from llmtune_local.run_state import process
from llmtune_local.run_state.run_dir import RunDir
from llmtune_local.run_state.schema import SampleLine, Verdict
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
