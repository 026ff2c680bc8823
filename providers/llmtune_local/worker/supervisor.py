"""Supervision of a run's worker: whether it runs, makes progress, and has left a complete result; a dead one is
restarted.

Everything is read from the run folder, so that any process can check, and none has to stay.
"""

from __future__ import annotations

import contextlib
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from llmtune.errors import LlmtuneError, TransientError
from llmtune.provider import growing_pauses
from llmtune_local.run_state.damage import is_full
from llmtune_local.run_state.process import FolderLock, alive, count_launches, stopped
from llmtune_local.run_state.run_dir import RunDir, now
from llmtune_local.run_state.schema import FINAL, EventLine, RunRequest, Status, Verdict
from llmtune_local.worker.fork_server import ForkServer
from llmtune_local.worker.launch import launch

#: A worker that dies this often without finishing is not started again.
ATTEMPTS = 3

#: Seconds without a heartbeat (it comes every five) after which a worker is reported as stopped.
SILENT_SECONDS = 30.0

#: Seconds in which the training itself has done nothing, though the process lives, after which its device may hang.
STILL_SECONDS = 900.0

#: Bytes that must be free before a worker is started: it could not even say why it failed.
MIN_FREE_BYTES = 1 << 17

#: Seconds that a worker may take to end after its last status, and the pause of that wait, for tests.
END_SECONDS = 60.0
pause: Callable[[float], None] = time.sleep

#: Failures that come again however often the same request is run.
_PERMANENT = frozenset({"data", "model", "request", "diverged"})


def assess(folder: RunDir, status: Status | None, *, fork_server: ForkServer | None, at: float) -> Verdict:
    """Return the state of a run, and restart its worker where that has died. `at` is now, in Unix seconds."""
    if status is not None and status.state in FINAL:
        fault = result_fault(folder) if status.state == "succeeded" else None
        if fault is not None:
            return _failed(f"the result of the run is damaged: {fault}")
        return Verdict(state=status.state, error=status.error)
    state = status.state if status else "starting"
    running = _worker_runs(folder)
    if running is None:
        host = (status.host if status else None) or "another machine"
        warning = f"the worker is on {host}, which cannot be asked from here"
        return Verdict(state=state, warnings=(warning,), notice=_stall_notice(folder, status, at, here=False))
    if running:
        notice = _missing_nodes_notice(folder, at) if status is None else _stall_notice(folder, status, at)
        return Verdict(state="cancelling" if folder.cancelling else state, notice=notice)
    if folder.cancelling:
        return Verdict(state="cancelled")
    return _restart_dead_worker(folder, status, fork_server, at)


def _restart_dead_worker(folder: RunDir, status: Status | None, fork_server: ForkServer | None, at: float) -> Verdict:
    """Return the state of a run whose worker is dead, after a restart where that is possible."""
    if not folder.path.is_dir():
        return _failed(f"the run folder {folder.path} is missing")
    if folder.find_request() is None:
        return _failed(folder.damage["request.json"])
    if status is not None and status.attempt - status.attempts_before_resume >= ATTEMPTS:
        last = f"its last word was: {status.message}" if status.message else "see worker.log"
        times = status.attempt - status.attempts_before_resume
        return _failed(f"the worker died {times} times without a word ({last})")
    if status is None and len(count_launches(folder.path)) >= ATTEMPTS:
        return _failed(f"the worker could not be started ({folder.error_tail()})")
    state = status.state if status else "starting"
    if shutil.disk_usage(folder.path).free < MIN_FREE_BYTES:
        sentence = f"the disk of {folder.path} is full: the worker is started when there is room"
        return Verdict(state=state, notice=_event(status, "room", sentence, at))
    if not keep_alive(folder, fork_server):
        return Verdict(state=state)
    if status is None:
        return Verdict(state="starting")
    return Verdict(state="running", warnings=(f"the worker died and was started again from {resume_point(folder)}",))


def _failed(error: str) -> Verdict:
    """Return the verdict on a run that does not continue."""
    return Verdict(state="failed", error=error)


def keep_alive(folder: RunDir, fork_server: ForkServer | None = None) -> bool:
    """Start a worker unless one runs or the run is over; return whether one was started.

    Two starts do no harm: the folder's lock lets only one of them work.
    """
    status = folder.read_status()
    if (status is not None and status.state in FINAL) or _worker_runs(folder) is not False:
        return False
    launch(folder.path, resume=folder.last_attempt() > 0, fork_server=fork_server, program=folder.program)
    return True


def restart(folder: RunDir, request: RunRequest, fork_server: ForkServer | None = None) -> str:
    """Continue a run that has ended; return from where, in words. A lost request is written again."""
    status = folder.read_status()
    if _worker_runs(folder) is not False:
        ends = status is None or status.state in FINAL or folder.cancelling
        if not ends:  # another process resumed it first
            return resume_point(folder)
        _wait_for_end(folder)
    where = resume_point(folder)
    if folder.find_request() is None:
        folder.write_request(request)
    folder.uncancel()
    folder.out_of_memory.unlink(missing_ok=True)
    status = folder.read_status()  # as the worker has left it
    if status is not None and status.state == "succeeded" and result_fault(folder) is None:
        return "its complete result"
    with FolderLock(folder.lock):
        attempt = folder.last_attempt()
        changes = {"state": "starting", "attempt": attempt, "attempts_before_resume": attempt, "heartbeat": now()}
        lost = dict.fromkeys(("pid", "started", "error", "error_code", "message", "waiting_for", "eta_seconds"))
        (folder.path / "result.json").unlink(missing_ok=True)
        folder.write_status((status or Status()).model_copy(update=changes | lost))
    launch(folder.path, resume=True, fork_server=fork_server, program=folder.program)
    return where


def _wait_for_end(folder: RunDir) -> None:
    """Wait until a worker that has written its last status has ended."""
    for _ in growing_pauses(END_SECONDS, longest=1.0, sleep=pause):
        if _worker_runs(folder) is False:
            return
    raise LlmtuneError(
        f"the worker of {folder.path} has not ended within {END_SECONDS:.0f} s",
        hint=f"end the process that {folder.lock} names, then try again",
    )


def resume_point(folder: RunDir) -> str:
    """Return where a new worker would continue, in words."""
    step = folder.resume_step()
    if step:
        return f"the checkpoint of step {step}"
    return (
        "the beginning, as no checkpoint is complete" if folder.checkpoints() else "the beginning: it has no checkpoint"
    )


def may_resume(folder: RunDir) -> bool:
    """Return whether a resume could help: not where the same request would fail in the same way."""
    status = folder.read_status()
    return status is None or status.error_code not in _PERMANENT


def result_fault(folder: RunDir) -> str | None:
    """Return why the result of a run that has succeeded cannot be used; None where it can."""
    if folder.find_request() is None:
        return folder.damage["request.json"]
    return folder.artefact_fault()


@contextlib.contextmanager
def full_disk_reported(path: Path) -> Iterator[None]:
    """Raise `TransientError` where a file of a run does not fit on the disk: nothing was started, and a retry may
    succeed."""
    try:
        yield
    except OSError as problem:
        if not is_full(problem):
            raise
        raise TransientError(f"no space left on the device for {path}: make room", sent=False) from problem


def _worker_runs(folder: RunDir) -> bool | None:
    """Return whether a worker runs, or was started and has no status yet; None where that cannot be checked."""
    started = count_launches(folder.path)
    return True if started and alive(started[-1]) else folder.alive()


def _missing_nodes_notice(folder: RunDir, at: float) -> EventLine | None:
    """Return an event that says how other machines join a run that has not begun, else None."""
    request = folder.find_request()
    if request is None or request.options.nodes == 1:
        return None
    others = request.options.nodes - 1
    sentence = (
        f"the run begins when {others} other machine{'s have' if others > 1 else ' has'} joined: run"
        f" `python -m llmtune_local.worker.join {folder.path} --node N` there (N from 1 to {others})"
    )
    return _event(None, "nodes", sentence, at)


def _stall_notice(folder: RunDir, status: Status | None, at: float, *, here: bool = True) -> EventLine | None:
    """Return an event where a running worker makes no progress, else None.

    Without a heartbeat its process is stopped; a heartbeat without any other progress may be a device that hangs.
    """
    if status is None or status.pid is None:
        return None
    if status.waiting_for is not None:
        sentence = f"the worker continues when there is room on the disk: {status.waiting_for}"
        return _event(status, "room", sentence, at)
    worker = f"the worker (process {status.pid}{'' if here else f' on {status.host}'})"
    again = f"kill -9 {status.pid} has it started again from {resume_point(folder)}"
    silent = at - status.heartbeat
    if silent >= SILENT_SECONDS:
        why = f"it is stopped, and kill -CONT {status.pid} lets it continue" if here and stopped(status.pid) else again
        sentence = f"{worker} has given no sign of life for {silent:.0f} s: {why}"
        return _event(status, f"silent-{status.heartbeat:.0f}", sentence, at)
    if status.state in ("running", "finalizing") and 0 < status.moved <= at - STILL_SECONDS:
        minutes = (at - status.moved) / 60
        sentence = f"{worker} lives and has done nothing for {minutes:.0f} min: its device may hang; {again}"
        return _event(status, f"still-{status.moved:.0f}", sentence, at)
    return None


def _event(status: Status | None, name: str, sentence: str, at: float) -> EventLine:
    attempt = status.attempt if status else 0
    return EventLine(id=f"{attempt}-{name}", time=at, level="warning", message=sentence)
