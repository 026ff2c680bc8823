"""Workers forked from a process that has everything loaded: the same runs, started sooner."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("peft")

from llmtune_local.run_state import process
from llmtune_local.run_state.run_dir import RunDir
from llmtune_local.run_state.schema import Result, RunRequest
from llmtune_local.worker.fork_server import CAN_FORK, ForkServer
from llmtune_local.worker.launch import launch

pytestmark = [pytest.mark.skipif(not CAN_FORK, reason="workers are forked on Linux alone"), pytest.mark.slow]


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("warm") / "rows.jsonl"
    chats = ([("user", f"case {n}"), ("assistant", "yn"[n % 2])] for n in range(40))
    path.write_text(
        "".join(json.dumps({"messages": [{"role": r, "content": c} for r, c in chat]}) + "\n" for chat in chats)
    )
    return path


@pytest.fixture
def fork_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ForkServer]:
    monkeypatch.setenv("LLMTUNE_HOME", str(tmp_path / "home"))
    server = ForkServer()
    yield server
    server.close()


def write_run(folder: Path, rows: Path, **hyperparameters: Any) -> RunDir:
    run = RunDir(folder)
    recipe = {"epochs": 1, "batch_size": 4, "learning_rate": 1e-3, "max_steps": 3} | hyperparameters
    body = {"model": "tiny", "adapter": "lora", "files": {"train": str(rows)}, "hyperparameters": recipe}
    run.write_request(RunRequest.model_validate(body | {"options": {"num_threads": 1}}))
    return run


def until(what: Callable[[], Any], seconds: float = 120) -> Any:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if value := what():
            return value
        time.sleep(0.02)
    raise AssertionError("it took too long")


def ended(run: RunDir) -> Result:
    def look() -> Any:
        status = run.read_status()
        assert status is None or status.state != "failed", status.error
        return run.read_result() if status is not None and status.state == "succeeded" else None

    result: Result = until(look)
    return result


def losses(run: RunDir) -> list[float]:
    return [point.value for point in run.read_metrics()[0] if point.series == "train/loss"]


@pytest.mark.usefixtures("strange_folder")
def test_a_forked_worker_trains_what_any_other_does(fork_server: ForkServer, rows: Path, tmp_path: Path) -> None:
    cold = write_run(tmp_path / "cold", rows)
    launch(cold.path)
    warm = [write_run(tmp_path / f"warm{number}", rows) for number in range(2)]
    for run in warm:
        forked = launch(run.path, fork_server=fork_server)
        assert process.count_launches(run.path) == [forked]
        ended(run)
    ended(cold)
    assert losses(warm[0]) == losses(warm[1]) == losses(cold)
    separate = write_run(tmp_path / "other", rows, dropout=0.5, lora_rank=4)
    launch(separate.path, fork_server=fork_server)
    ended(separate)
    assert losses(separate) != losses(cold)


def test_its_failure_is_said_in_its_own_folder_and_the_next_run_is_well(
    fork_server: ForkServer, rows: Path, tmp_path: Path
) -> None:
    bad = write_run(tmp_path / "bad", tmp_path / "no.jsonl")
    launch(bad.path, fork_server=fork_server)
    status = until(lambda: (s := bad.read_status()) is not None and s.state == "failed" and s)
    assert "no.jsonl" in status.error
    good = write_run(tmp_path / "good", rows)
    launch(good.path, fork_server=fork_server)
    ended(good)


def test_rows_that_changed_are_read_again(fork_server: ForkServer, rows: Path, tmp_path: Path) -> None:
    path = tmp_path / "mine.jsonl"
    path.write_text(rows.read_text())
    before = write_run(tmp_path / "before", path)
    launch(before.path, fork_server=fork_server)
    ended(before)
    path.write_text(rows.read_text().replace("case", "another case"))
    after = write_run(tmp_path / "after", path)
    launch(after.path, fork_server=fork_server)
    assert ended(after).tokens > ended(before).tokens


CHILD = """
import sys, time
from pathlib import Path
from llmtune_local.run_state import process
from llmtune_local.worker.launch import launch
from llmtune_local.worker.fork_server import ForkServer
fork_server = ForkServer()
print(fork_server._process.pid, launch(Path(sys.argv[1]), fork_server=fork_server).pid, flush=True)
time.sleep(600)
"""


def test_the_run_outlives_whoever_started_it(rows: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLMTUNE_HOME", str(tmp_path / "home"))
    run = write_run(tmp_path / "run", rows, epochs=20, max_steps=100)
    parent = subprocess.Popen([sys.executable, "-c", CHILD, str(run.path)], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    forking, worker = map(int, parent.stdout.readline().split())
    until(lambda: losses(run))
    parent.kill()
    parent.wait()
    until(lambda: process.start_time(forking) is None)
    assert process.start_time(worker) is not None or run.read_result() is not None
    ended(run)


def test_without_the_forking_process_a_worker_is_started_the_usual_way(rows: Path, tmp_path: Path) -> None:
    fork_server = ForkServer()
    os.kill(fork_server._process.pid, signal.SIGKILL)
    run = write_run(tmp_path / "run", rows)
    launch(run.path, fork_server=fork_server)
    ended(run)
    fork_server.close()
