"""Which process a folder belongs to: known by id and start time, since ids are used again. Imports nothing heavy."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import IO, NamedTuple

from llmtune.errors import LlmtuneError


class ProcessId(NamedTuple):
    """A process on a machine. `started` is opaque text that differs between two processes of the same id."""

    pid: int
    started: str
    host: str


#: Names the workers that were started, a line each, from the moment they were started.
LAUNCHED = "launched"


class FolderBusy(LlmtuneError):
    """Another worker is at work in this run folder."""


def current() -> ProcessId:
    """This process."""
    pid = os.getpid()
    return ProcessId(pid, start_time(pid) or "unknown", socket.gethostname())


def start_time(pid: int) -> str | None:
    """When a process of this machine started, as text to compare; None when there is no such process."""
    if sys.platform == "linux":
        try:
            stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
            boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        except OSError:
            return None
        # The name in parentheses may hold spaces; state is the first field after it, start time the 20th.
        fields = stat.rpartition(")")[2].split()
        return None if fields[0] in ("Z", "X") else f"{boot[:8]}-{fields[19]}"
    found = subprocess.run(
        ["ps", "-o", "lstart=", "-p", str(pid)], capture_output=True, text=True, check=False
    ).stdout.strip()
    return found or None


def alive(process: ProcessId) -> bool | None:
    """Whether it still runs; None when it is on another machine and cannot be asked."""
    if process.host != socket.gethostname():
        return None
    started = start_time(process.pid)
    return started is not None and started == process.started


def stopped(pid: int) -> bool:
    """Whether a process of this machine stands still until somebody sends it SIGCONT. False where that is not known."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] in ("T", "t")


class FolderLock:
    """Holds a folder for one process, through the operating system: a lock dies with its process.

    The file names the holder for people and for other machines. A lock left by a dead process is taken over.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file: IO[str] | None = None

    def __enter__(self) -> FolderLock:
        self._file = open(self.path, "a+", encoding="utf-8", opener=lambda name, flags: os.open(name, flags, 0o600))
        try:
            held = not _take(self._file)
            holder = self.holder()
            if not held and holder is not None and holder != current():
                # Where the file system has no locks, the name in the file is all there is.
                held = alive(holder) is True
            if held:
                who = f"process {holder.pid} on {holder.host}" if holder else "another process"
                raise FolderBusy(f"{self.path.parent}: {who} is already at work on this run")
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
        """Who the file names; None when nobody."""
        try:
            return _named(self.path.read_text(encoding="utf-8", errors="replace"))
        except OSError:
            return None


def _take(file: IO[str]) -> bool:
    try:
        import fcntl
    except ImportError:
        return True
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return True
    return True


def launches(run_dir: Path) -> list[ProcessId]:
    """The workers that were started for the folder, oldest first."""
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
