"""A run as its folder shows it: alive, standing still, dead, damaged, full; nothing is trained here."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from llmtune.errors import LlmtuneError, TransientError
from llmtune_local.run_state import process
from llmtune_local.run_state.process import ProcessId
from llmtune_local.run_state.run_dir import RunDir
from llmtune_local.run_state.schema import EventLine, MetricLine, Result, RunRequest, Status, Verdict
from llmtune_local.worker import supervisor
from llmtune_local.worker.supervisor import ATTEMPTS, SILENT_SECONDS, STILL_SECONDS, assess, restart

REQUEST = RunRequest.model_validate(
    {
        "model": "tiny",
        "files": {"train": "/rows.jsonl"},
        "hyperparameters": {"epochs": 1, "batch_size": 1, "learning_rate": 1e-3},
    }
)


class Started(NamedTuple):
    resume: bool


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[Started]:
    """Record the workers that would be started; none is."""
    workers: list[Started] = []

    def launch(run_dir: Path, *, resume: bool = False, fork_server: object = None, program: object) -> ProcessId:
        workers.append(Started(resume))
        return ProcessId(1, "never", "nowhere")

    monkeypatch.setattr(supervisor, "launch", launch)
    return workers


@pytest.fixture
def folder(tmp_path: Path) -> RunDir:
    """Submit a run."""
    run = RunDir(tmp_path / "run")
    run.write_request(REQUEST)
    return run


@pytest.fixture
def sleeper() -> Iterator[ProcessId]:
    """Start a process that does nothing, in place of a worker."""
    child = subprocess.Popen([sys.executable, "-c", "import time; print('up', flush=True); time.sleep(600)"], stdout=-1)
    assert child.stdout is not None
    child.stdout.readline()
    yield process.current()._replace(pid=child.pid, started=process.start_time(child.pid) or "")
    child.kill()
    child.wait()
    child.stdout.close()


def dead() -> dict[str, Any]:
    return {"pid": 2**22 - 1, "started": "long-ago", "host": process.current().host}


def look(folder: RunDir, at: float | None = None) -> Verdict:
    return assess(folder, folder.read_status(), fork_server=None, at=time.time() if at is None else at)


def add_checkpoint(folder: RunDir, step: int, *, complete: bool = True) -> None:
    path = folder.path / "checkpoints" / f"step-{step}" / "trainer.pt"
    path.parent.mkdir(parents=True)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("weights", "w" * 2000)
    if not complete:
        path.write_bytes(path.read_bytes()[:900])


# --- dead workers ----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("checkpoints", "expected"),
    [
        ({}, "from the beginning: it has no checkpoint"),
        ({4: True, 8: True}, "from the checkpoint of step 8"),
        ({4: True, 8: False}, "from the checkpoint of step 4"),
        ({4: False}, "from the beginning, as no checkpoint is complete"),
    ],
)
def test_where_a_dead_worker_is_started_again_from_is_said_as_it_is(
    checkpoints: dict[int, bool], expected: str, folder: RunDir, started: list[Started]
) -> None:
    for step, complete in checkpoints.items():
        add_checkpoint(folder, step, complete=complete)
    folder.write_status(Status(state="running", **dead()))
    verdict = look(folder)
    assert verdict.state == "running"
    assert verdict.warnings == (f"the worker died and was started again {expected}",)
    assert started == [Started(resume=True)]


def test_a_worker_that_dies_again_and_again_is_given_up(folder: RunDir, started: list[Started]) -> None:
    folder.write_status(Status(state="running", attempt=ATTEMPTS, message="training", **dead()))
    verdict = look(folder)
    assert (verdict.state, started) == ("failed", [])
    assert "died 3 times" in (verdict.error or "")


def test_no_worker_is_started_on_a_full_disk(
    folder: RunDir, started: list[Started], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder.write_status(Status(state="running", **dead()))
    usage = supervisor.shutil.disk_usage(folder.path)
    monkeypatch.setattr(supervisor.shutil, "disk_usage", lambda _: usage._replace(free=100))
    verdict = look(folder)
    assert (verdict.state, started) == ("running", [])
    assert verdict.notice is not None
    assert "is full: the worker is started when there is room" in verdict.notice.message
    monkeypatch.undo()


def test_a_folder_that_is_gone_ends_the_run(folder: RunDir, started: list[Started]) -> None:
    gone = RunDir(folder.path.parent / "another")
    assert look(gone) == Verdict(state="failed", error=f"the run folder {gone.path} is missing")
    assert started == []


# --- workers that stand still ----------------------------------------------------------------------------------------
def test_a_stopped_worker_is_noticed_by_its_heartbeat(folder: RunDir, sleeper: ProcessId) -> None:
    at = 1_000_000.0
    status = Status(state="running", **sleeper._asdict(), heartbeat=at, moved=at)
    folder.write_status(status)
    assert look(folder, at + SILENT_SECONDS - 1).notice is None
    silent_notice = look(folder, at + 75)
    assert silent_notice.state == "running"
    assert silent_notice.notice is not None
    assert "has given no sign of life for 75 s" in silent_notice.notice.message
    assert f"kill -9 {sleeper.pid} has it started again from the beginning" in silent_notice.notice.message
    later = look(folder, at + 90)
    assert later.notice is not None
    assert later.notice.id == silent_notice.notice.id  # one event a stall, however often it is looked at
    add_checkpoint(folder, 6)
    assert "from the checkpoint of step 6" in look(folder, at + 99).notice.message  # type: ignore[union-attr]


@pytest.mark.skipif(sys.platform != "linux", reason="the state of a process is read from /proc")
def test_a_worker_that_somebody_has_stopped_says_how_it_goes_on(folder: RunDir, sleeper: ProcessId) -> None:
    at = 1_000_000.0
    folder.write_status(Status(state="running", **sleeper._asdict(), heartbeat=at, moved=at))
    assert process.stopped(sleeper.pid) is False
    os.kill(sleeper.pid, signal.SIGSTOP)
    deadline = time.monotonic() + 60
    while not process.stopped(sleeper.pid):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    notice = look(folder, at + 31).notice
    assert notice is not None
    assert f"it is stopped, and kill -CONT {sleeper.pid} lets it continue" in notice.message


def test_a_hung_device_is_noticed_although_the_heart_beats(folder: RunDir, sleeper: ProcessId) -> None:
    at = 1_000_000.0
    hung = Status(state="running", **sleeper._asdict(), heartbeat=at + STILL_SECONDS, moved=at)
    folder.write_status(hung)
    notice = look(folder, at + STILL_SECONDS + 1).notice
    assert notice is not None
    assert "lives and has done nothing for 15 min: its device may hang" in notice.message
    folder.write_status(hung.model_copy(update={"state": "starting"}))  # a download may take longer
    assert look(folder, at + STILL_SECONDS + 1).notice is None


def test_a_worker_that_waits_for_room_says_so(folder: RunDir, sleeper: ProcessId) -> None:
    at = 1_000_000.0
    waits = Status(state="finalizing", **sleeper._asdict(), heartbeat=at, moved=at, waiting_for="9 MB are needed")
    folder.write_status(waits)
    notice = look(folder, at).notice
    assert notice is not None
    assert notice.message == "the worker continues when there is room on the disk: 9 MB are needed"


def test_a_silent_worker_of_another_machine_is_noticed_too(folder: RunDir, started: list[Started]) -> None:
    at = 1_000_000.0
    folder.write_status(Status(state="running", pid=7, started="then", host="node-9", heartbeat=at, moved=at))
    verdict = look(folder, at + 60)
    assert (verdict.state, started) == ("running", [])
    assert "node-9, which cannot be asked" in verdict.warnings[0]
    assert "process 7 on node-9" in verdict.notice.message  # type: ignore[union-attr]


# --- damaged folders -------------------------------------------------------------------------------------------------
@pytest.fixture
def finished(folder: RunDir) -> RunDir:
    """Make a run that has succeeded, with all its files."""
    folder.append_metrics([MetricLine(step=n, series="train/loss", value=1.0, epoch=0, time=0) for n in range(1, 9)])
    folder.append_event(EventLine(id="1-1", time=0, message="finished"))
    figures = {"train_loss": 1.0, "steps": 8, "epochs": 1.0, "rows": 8, "tokens": 80, "trained_tokens": 8}
    machine = {"peak_memory_bytes": 1, "seconds": 1.0, "training_seconds": 1.0, "device": "cpu", "dtype": "float32"}
    folder.write_result(Result(**figures, **machine, trainable_parameters=1, total_parameters=2))
    folder.adapter.mkdir()
    header = json.dumps({"a": {"dtype": "F32", "shape": [64], "data_offsets": [0, 256]}}).encode()
    weights = len(header).to_bytes(8, "little") + header + b"\1" * 256
    (folder.adapter / "adapter_model.safetensors").write_bytes(weights)
    (folder.adapter / "adapter_config.json").write_text("{}")
    (folder.path / process.LAUNCHED).write_text("7 then here\n")
    folder.lock.touch()
    add_checkpoint(folder, 8)
    folder.write_status(Status(state="succeeded", step=8, total_steps=8, **dead()))
    return folder


DAMAGES: dict[str, Callable[[Path], object]] = {
    "empty": lambda path: path.write_bytes(b""),
    "zero bytes": lambda path: path.write_bytes(bytes(4096)),
    "cut": lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
    "noise": lambda path: path.write_bytes(b"\xff\xfe\x00\x01" * 40),
    "missing": lambda path: path.unlink(),
}
#: What a finished run is after a file of it was damaged: repaired from the others, or failed with the file's name.
AFTER = {
    "status.json": "succeeded",
    "result.json": "succeeded",
    "metrics.jsonl": "succeeded",
    "events.jsonl": "succeeded",
    "launched": "succeeded",
    "lock": "succeeded",
    "checkpoints/step-8/trainer.pt": "succeeded",
    "request.json": "failed",
    "adapter/adapter_model.safetensors": "failed",
    "adapter/adapter_config.json": "failed",
}


@pytest.mark.parametrize("name", AFTER)
@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_file_of_a_finished_run(damage: str, name: str, finished: RunDir, started: list[Started]) -> None:
    DAMAGES[damage](finished.path / name)
    verdict = look(finished)
    assert verdict.state == AFTER[name]
    if verdict.state == "failed":
        assert str(finished.path / name).rpartition("/")[0] in (verdict.error or "")
        assert "\n" not in (verdict.error or "")
    finished.read_metrics()
    finished.read_events()
    assert started == []


@pytest.mark.parametrize("name", [name for name in AFTER if AFTER[name] == "failed"])
@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_result_is_made_again_from_the_last_checkpoint(
    damage: str, name: str, finished: RunDir, started: list[Started]
) -> None:
    DAMAGES[damage](finished.path / name)
    where = restart(finished, REQUEST)
    if name == "request.json":  # written again; all that was trained is there
        assert where == "its complete result"
        assert (look(finished).state, started) == ("succeeded", [])
        return
    assert where == "the checkpoint of step 8"
    assert started == [Started(resume=True)]
    status = finished.read_status()
    assert status is not None
    assert (status.state, status.error) == ("starting", None)


@pytest.mark.parametrize("name", ["status.json", "metrics.jsonl", "events.jsonl", "launched", "lock"])
@pytest.mark.parametrize("damage", DAMAGES)
def test_an_unfinished_run_with_a_damaged_file_goes_on(
    damage: str, name: str, finished: RunDir, started: list[Started]
) -> None:
    (finished.path / "result.json").unlink()
    finished.write_status(Status(state="running", **dead()))
    DAMAGES[damage](finished.path / name)
    assert look(finished).state in ("running", "starting")
    assert started == [Started(resume=True)]


def test_an_unfinished_run_without_its_request_fails_with_one_sentence(folder: RunDir, started: list[Started]) -> None:
    folder.write_status(Status(state="running", **dead()))
    (folder.path / "request.json").write_bytes(bytes(100))
    verdict = look(folder)
    assert verdict.state == "failed"
    assert verdict.error == f"{folder.path / 'request.json'} holds nothing but zero bytes"
    restart(folder, REQUEST)
    assert folder.read_request() == REQUEST
    assert started == [Started(resume=True)]


# --- resuming --------------------------------------------------------------------------------------------------------
def test_a_resumed_run_has_all_its_attempts_again_and_no_old_failure(folder: RunDir, started: list[Started]) -> None:
    failed = Status(state="failed", attempt=3, step=6, error="disk full", error_code="disk", message="disk full")
    folder.write_status(failed.model_copy(update=dead()))
    folder.cancel()
    add_checkpoint(folder, 4)
    assert supervisor.may_resume(folder)
    assert restart(folder, REQUEST) == "the checkpoint of step 4"
    status = folder.read_status()
    assert status is not None
    assert (status.state, status.error, status.error_code, status.message) == ("starting", None, None, None)
    assert (status.attempt, status.attempts_before_resume) == (3, 3)
    assert not folder.cancelling
    assert look(folder).state == "running"  # dies at once: it is started again, not given up
    assert started == [Started(resume=True)] * 2


def test_whoever_resumes_twice_starts_one_worker(folder: RunDir, sleeper: ProcessId, started: list[Started]) -> None:
    folder.write_status(Status(state="starting", **sleeper._asdict()))
    assert restart(folder, REQUEST) == "the beginning: it has no checkpoint"
    assert started == []


def test_a_worker_that_is_about_to_end_is_waited_for(
    folder: RunDir, sleeper: ProcessId, started: list[Started], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder.write_status(Status(state="cancelled", **sleeper._asdict()))
    folder.cancel()
    pauses: list[float] = []

    def pause(seconds: float) -> None:
        pauses.append(seconds)
        if len(pauses) == 3:
            folder.write_status(Status(state="cancelled", **dead()))

    monkeypatch.setattr(supervisor, "pause", pause)
    restart(folder, REQUEST)
    assert len(pauses) == 3
    assert started == [Started(resume=True)]
    assert not folder.cancelling

    folder.write_status(Status(state="failed", **sleeper._asdict()))
    monkeypatch.setattr(supervisor, "pause", lambda seconds: None)
    with pytest.raises(LlmtuneError, match="has not ended within 60 s"):
        restart(folder, REQUEST)
    assert len(started) == 1


@pytest.mark.parametrize(
    ("code", "helps"),
    [("disk", True), ("memory", True), (None, True), ("internal", True), ("data", False), ("diverged", False)],
)
def test_going_on_is_proposed_where_it_can_help(code: str | None, helps: bool, folder: RunDir) -> None:
    folder.write_status(Status(state="failed", error_code=code))
    assert supervisor.may_resume(folder) is helps


def test_a_full_disk_at_the_start_is_one_sentence_and_can_be_tried_again(tmp_path: Path) -> None:
    with pytest.raises(TransientError, match=r"no space left on the device for .*: make room") as caught:
        with supervisor.full_disk_reported(tmp_path):
            raise OSError(28, "No space left on device")
    assert caught.value.sent is False
    with pytest.raises(PermissionError), supervisor.full_disk_reported(tmp_path):
        raise PermissionError(13, "no")
