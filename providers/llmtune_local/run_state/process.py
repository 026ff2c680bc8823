"""The process that a folder belongs to, identified by id and start time (ids are reused). Imports nothing heavy."""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, NamedTuple

from llmtune._safety.operating_system import find_start_time, lock_file
from llmtune.errors import LlmtuneError


class ProcessId(NamedTuple):
    """A process on a machine. `started` is opaque text that differs between two processes of the same id."""

    pid: int
    started: str
    host: str


@dataclass(frozen=True)
class WorkerProgram:
    """The program that works on a run folder."""

    module: str
    """What `python -m` runs, with the folder and perhaps `--resume` as its arguments."""

    environment: Mapping[str, str] = field(default_factory=dict)
    """Variables that it gets besides: those that `child_environment` holds back from programs that need none."""


#: The worker that trains on this machine.
TRAINER = WorkerProgram("llmtune_local.worker")

#: Names the workers that were started, a line each, from the moment they were started.
LAUNCHED = "launched"


class FolderBusy(LlmtuneError):
    """Another worker is running in this run folder."""


def current() -> ProcessId:
    """Return the id of this process."""
    pid = os.getpid()
    return ProcessId(pid, start_time(pid) or "unknown", socket.gethostname())


def start_time(pid: int) -> str | None:
    """Return when a process of this machine started, as text to compare; None when there is no such process."""
    if sys.platform == "linux":
        try:
            stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
            boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        except OSError:
            return None
        # The name in parentheses may hold spaces; state is the first field after it, start time the 20th.
        fields = stat.rpartition(")")[2].split()
        return None if fields[0] in ("Z", "X") else f"{boot[:8]}-{fields[19]}"
    return find_start_time(pid)


def alive(process: ProcessId) -> bool | None:
    """Return whether a process still runs; None when it is on another machine and cannot be checked."""
    if process.host != socket.gethostname():
        return None
    started = start_time(process.pid)
    return started is not None and started == process.started


def stopped(pid: int) -> bool:
    """Return whether a process of this machine is stopped until it gets SIGCONT. False where that is not known."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] in ("T", "t")


class FolderLock:
    """A lock on a folder for one process, through the operating system: it is released when its process dies.

    The file names the holder for people and for other machines. A lock left by a dead process is taken over.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file: IO[str] | None = None

    def __enter__(self) -> FolderLock:
        self._file = open(self.path, "a+", encoding="utf-8", opener=lambda name, flags: os.open(name, flags, 0o600))
        try:
            held = lock_file(self._file.fileno()) is False
            holder = self.holder()
            if not held and holder is not None and holder != current():
                # Where the file system has no locks, the name in the file is all there is.
                held = alive(holder) is True
            if held:
                who = f"process {holder.pid} on {holder.host}" if holder else "another process"
                raise FolderBusy(f"{self.path.parent}: {who} is already working on this run")
            self._file.seek(0)
            self._file.truncate()
            self._file.write(" ".join(map(str, current())) + "\n")
            self._file.flush()
        except BaseException:
            self._file.close()
            self._file = None
            raise
        return self

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            self._file.seek(0)
            self._file.truncate()
            self._file.close()
            self._file = None

    def holder(self) -> ProcessId | None:
        """Return the process that the file names; None where it names none."""
        try:
            return _named(self.path.read_text(encoding="utf-8", errors="replace"))
        except OSError:
            return None


def count_launches(run_dir: Path) -> list[ProcessId]:
    """Return the workers that were started for the folder, oldest first."""
    try:
        lines = (run_dir / LAUNCHED).read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []
    return [named for line in lines if (named := _named(line)) is not None]


def _named(line: str) -> ProcessId | None:
    try:
        pid, started, host = line.split()
        return ProcessId(int(pid), started, host)
    except ValueError:
        return None
