"""The worker as a process: detached, killed, resumed, cancelled, refused; and it never dies without a word."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from llmtune_local.run_state import process
from llmtune_local.run_state.process import FolderLock
from llmtune_local.run_state.run_dir import RunDir
from llmtune_local.run_state.schema import Status
from llmtune_local.worker import main

pytestmark = pytest.mark.slow
Start = Callable[..., subprocess.Popen[bytes]]


@pytest.fixture
def start() -> Iterator[Start]:
    running: list[subprocess.Popen[bytes]] = []

    def run(folder: RunDir, *arguments: str, **options: Any) -> subprocess.Popen[bytes]:
        log = (folder.path / "worker.log").open("ab")
        command = [sys.executable, "-m", "llmtune_local.worker", str(folder.path), *arguments]
        running.append(subprocess.Popen(command, stdout=log, stderr=log, **options))
        return running[-1]

    yield run
    for child in running:
        child.kill()
        child.wait()


def wait_for(condition: Callable[[], bool], seconds: float = 90) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.02)


def step(folder: RunDir) -> int:
    points = folder.read_metrics()[0]
    return max((line.step for line in points), default=0)


def losses(folder: RunDir) -> dict[tuple[int, str], float]:
    points = [line for line in folder.read_metrics()[0] if line.series != "train/tokens_per_second"]
    by_step = {(line.step, line.series): line.value for line in points}
    assert len(by_step) == len(points), "a point came twice"
    return by_step


def test_a_killed_worker_resumes_to_the_same_end(
    start: Start, train: Callable[..., Any], make_request: Callable[..., Any], tmp_path: Path
) -> None:
    settings = {"epochs": 60, "checkpoint_every": 7, "eval_every": 50, "lora_dropout": 0.1}
    folder = RunDir(tmp_path / "killed")
    folder.write_request(make_request(**settings))
    child = start(folder)
    wait_for(lambda: step(folder) >= 30)
    second = start(folder, "--resume")
    assert second.wait() == main.NOT_STARTED  # one worker at a time
    assert child.poll() is None
    assert folder.read_status().attempt == 1  # type: ignore[union-attr]
    child.kill()
    child.wait()
    assert folder.alive() is False
    assert folder.read_status().state == "running"  # type: ignore[union-attr]
    done = step(folder)
    assert done < 300
    assert start(folder).wait() == main.NOT_STARTED  # a run that was begun is only resumed when asked
    assert start(folder, "--resume").wait() == main.SUCCEEDED
    status, result = folder.read_status(), folder.read_result()
    assert status is not None
    assert result is not None
    assert (status.state, status.step, status.attempt) == ("succeeded", 300, 2)
    assert any("resumed from step" in event.message for event in folder.read_events()[0])
    straight = train(**settings)
    assert losses(folder) == pytest.approx(losses(straight.folder), rel=1e-5)
    assert result.train_loss == pytest.approx(straight.folder.read_result().train_loss, rel=1e-5)
    assert start(folder, "--resume").wait() == main.SUCCEEDED  # done is done
    assert folder.read_status().attempt == 2  # type: ignore[union-attr]


@pytest.mark.parametrize("how", ["marker", "signal"])
def test_a_cancelled_worker_keeps_a_checkpoint(
    how: str, start: Start, make_request: Callable[..., Any], tmp_path: Path
) -> None:
    folder = RunDir(tmp_path / "run")
    folder.write_request(make_request(epochs=2000, checkpoint_every=100000))
    child = start(folder)
    wait_for(lambda: step(folder) >= 5)
    os.kill(child.pid, signal.SIGHUP)  # a closed terminal
    time.sleep(0.2)
    assert child.poll() is None
    if how == "marker":
        folder.cancel()
    else:
        child.terminate()
    assert child.wait(timeout=60) == main.SUCCEEDED
    status = folder.read_status()
    assert status is not None
    assert status.state == "cancelled"
    (saved_step,) = folder.checkpoints()
    assert status.message == f"cancelled: the checkpoint of step {saved_step} is kept"
    assert not folder.adapter.exists()
    if how == "marker":
        assert start(folder, "--resume").wait() == main.SUCCEEDED
        assert folder.read_status().state == "cancelled"  # type: ignore[union-attr]


def test_launch_outlives_its_parent(make_request: Callable[..., Any], tmp_path: Path) -> None:
    folder = RunDir(tmp_path / "run")
    folder.write_request(make_request(max_steps=2))
    code = "import sys, pathlib\nfrom llmtune_local.worker.launch import launch\n"
    code += "print(launch(pathlib.Path(sys.argv[1])).pid)"
    parent = subprocess.run([sys.executable, "-c", code, str(folder.path)], capture_output=True, text=True, check=True)
    pid = int(parent.stdout)
    assert os.getsid(pid) == pid  # a session of its own: no terminal reaches it
    wait_for(lambda: (status := folder.read_status()) is not None and status.state == "succeeded")
    assert folder.read_status().pid == pid  # type: ignore[union-attr]
    wait_for(lambda: folder.alive() is False)
    assert (folder.adapter / "adapter_config.json").exists()


def test_on_a_full_disk_checkpoints_are_left_out_and_the_result_waits(
    start: Start, make_request: Callable[..., Any], tmp_path: Path
) -> None:
    """The limit on file size stands in for the disk: writing a checkpoint breaks off in the middle."""
    folder = RunDir(tmp_path / "run")
    folder.write_request(make_request(epochs=1, lora_rank=32, checkpoint_every=2))
    unlimited = resource.getrlimit(resource.RLIMIT_FSIZE)

    def limit() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, unlimited[1]))

    worker = start(folder, preexec_fn=limit)
    wait_for(lambda: (status := folder.read_status()) is not None and status.waiting_for is not None)
    status = folder.read_status()
    assert status is not None
    assert status.state == "finalizing"
    assert "no space left" in (status.waiting_for or "")
    assert folder.checkpoints() == {}
    assert [path.name for path in (folder.path / "checkpoints").iterdir()] == []
    warnings = [event.message for event in folder.read_events()[0] if event.level == "warning"]
    assert [message[:31] for message in warnings] == [
        "the checkpoint of step 2 is lef",
        "the checkpoint of step 4 is lef",
    ]
    resource.prlimit(worker.pid, resource.RLIMIT_FSIZE, unlimited)  # there is room again
    assert worker.wait() == main.SUCCEEDED
    status = folder.read_status()
    assert status is not None
    assert (status.state, status.waiting_for) == ("succeeded", None)
    assert folder.artefact_fault() is None
    assert max(step for step, _ in losses(folder)) == status.step


# In this process: what every failure says


def run(folder: RunDir, *arguments: str) -> int:
    return main.main([str(folder.path), *arguments])


@pytest.fixture(autouse=True)
def keep_signals() -> Iterator[None]:
    names = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
    before = {name: signal.getsignal(name) for name in names}
    yield
    for name, handler in before.items():
        signal.signal(name, handler)


@pytest.mark.parametrize(
    ("change", "code", "sentence"),
    [
        ({"model": "nobody/nothing"}, "model", "there is no model 'nobody/nothing'"),
        ({"files": {"train": "/nowhere.jsonl"}}, "data", "/nowhere.jsonl"),
        ({"options": {"device": "mps"}}, "device", "'mps' is not available"),
    ],
)
def test_failures_are_one_sentence_with_a_code(
    change: dict[str, Any], code: str, sentence: str, make_request: Callable[..., Any], tmp_path: Path
) -> None:
    folder = RunDir(tmp_path / "run")
    folder.write_request(make_request(change))
    assert run(folder) == main.FAILED
    status = folder.read_status()
    assert status is not None
    assert (status.state, status.error_code) == ("failed", code)
    assert status.error is not None
    assert sentence in status.error
    assert "\n" not in status.error
    assert "Traceback" not in status.error
    assert folder.read_events()[0][-1].message == status.error


def test_divergence_and_bugs_say_so(
    make_request: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = RunDir(tmp_path / "one")
    folder.write_request(make_request(epochs=9, optimizer="sgd", learning_rate=1e30, max_grad_norm=0))
    assert run(folder) == main.FAILED
    assert folder.read_status().error_code == "diverged"  # type: ignore[union-attr]

    from llmtune_local.training.trainer import Trainer

    def broken(self: Trainer, number: int) -> None:
        raise ZeroDivisionError("division by zero")

    monkeypatch.setattr(Trainer, "step", broken)
    folder = RunDir(tmp_path / "two")
    folder.write_request(make_request())
    assert run(folder) == main.FAILED
    status = folder.read_status()
    assert status is not None
    assert status.error_code == "internal"
    assert status.error == "ZeroDivisionError: division by zero (the traceback is in worker.log)"

    monkeypatch.setattr(Trainer, "step", lambda *_: (_ for _ in ()).throw(MemoryError()))
    folder = RunDir(tmp_path / "three")
    folder.write_request(make_request())
    assert run(folder) == main.FAILED
    assert folder.read_status().error_code == "memory"  # type: ignore[union-attr]


def test_a_broken_request_is_told(make_request: Callable[..., Any], tmp_path: Path) -> None:
    folder = RunDir(tmp_path / "run")
    assert run(folder) == main.NOT_STARTED
    folder.write_request(make_request())
    path = folder.path / "request.json"
    path.write_text(path.read_text().replace('"epochs": 1', '"epochs": 0'))
    assert run(folder) == main.FAILED
    status = folder.read_status()
    assert status is not None
    assert status.error_code == "request"
    assert "hyperparameters.epochs" in (status.error or "")


def test_cancelled_before_it_began(make_request: Callable[..., Any], tmp_path: Path) -> None:
    folder = RunDir(tmp_path / "run")
    folder.write_request(make_request())
    folder.cancel()
    assert run(folder) == main.SUCCEEDED
    assert folder.read_status().message == "cancelled: no step was done"  # type: ignore[union-attr]


def test_a_busy_folder_is_left_alone(make_request: Callable[..., Any], tmp_path: Path) -> None:
    folder = RunDir(tmp_path / "run")
    folder.write_request(make_request())
    with FolderLock(folder.lock):
        assert run(folder) == main.NOT_STARTED
    assert folder.read_status() is None


def test_a_lock_of_a_dead_worker_is_taken_over(make_request: Callable[..., Any], tmp_path: Path) -> None:
    folder = RunDir(tmp_path / "run")
    folder.write_request(make_request(max_steps=1))
    dead = process.current()._replace(pid=2**22 - 1, started="long-ago")
    folder.lock.write_text(" ".join(map(str, dead)))
    folder.write_status(Status(state="running", pid=dead.pid, started=dead.started, host=dead.host))
    assert folder.alive() is False
    assert run(folder, "--resume") == main.SUCCEEDED
    assert folder.read_status().state == "succeeded"  # type: ignore[union-attr]
