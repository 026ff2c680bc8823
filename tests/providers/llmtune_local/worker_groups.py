"""Runs of several processes on this machine: who takes part, and how a run ends (Linux)."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from llmtune_local.run_state import process
from llmtune_local.run_state.run_dir import RunDir


def processes_with(*arguments: str) -> list[int]:
    """Return the processes of this machine whose command line has all of these arguments (Linux)."""
    pids = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            command = path.read_bytes().replace(b"\0", b" ").decode(errors="replace")
            if all(argument in command for argument in arguments):
                pids.append(int(path.parent.name))
    return pids


def temporary_run(tmp_path: Path) -> Iterator[RunDir]:
    """Yield a run folder whose processes end with the test."""
    run = RunDir(tmp_path / "team")
    yield run
    for worker in process.count_launches(run.path):
        if process.alive(worker):
            os.killpg(worker.pid, signal.SIGKILL)
    assert not wait(lambda: members(run), until=lambda pids: not pids)


def members(folder: RunDir) -> list[int]:
    """Return the processes that train in the folder, without the launcher."""
    ranks = []
    for pid in processes_with("llmtune_local.worker", str(folder.path), "--member"):
        with contextlib.suppress(OSError):
            if b"LOCAL_RANK=" in Path(f"/proc/{pid}/environ").read_bytes():
                ranks.append(pid)
    return ranks


def rank_of(pid: int) -> int:
    variables = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    return int(next(variable for variable in variables if variable.startswith(b"RANK=")).removeprefix(b"RANK="))


def wait(look: Callable[[], Any], until: Callable[[Any], bool] = bool, seconds: float = 90) -> Any:
    end = time.monotonic() + seconds
    while not until(value := look()) and time.monotonic() < end:
        time.sleep(0.05)
    return value


def ended(folder: RunDir) -> str:
    """Return the state that the run ends in."""
    (last,) = process.count_launches(folder.path)[-1:]
    assert wait(lambda: process.alive(last), until=lambda alive: not alive) is False
    status = folder.read_status()
    assert status is not None, folder.error_tail()
    assert status.error is None, status.error
    return status.state


def series(folder: RunDir, name: str) -> list[float]:
    return [line.value for line in folder.read_metrics()[0] if line.series == name]
