"""One answer on each system, and the same behaviour where the systems' own ways differ."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from llmtune._safety import operating_system
from llmtune._safety.operating_system import (
    detached_process_options,
    find_start_time,
    get_peak_memory,
    get_total_memory,
    lock_file,
    process_exists,
)


class Msvcrt:
    """Windows' locks of ranges, for one process."""

    LK_NBLCK = 2

    def __init__(self, refused: OSError | None = None) -> None:
        self.refused = refused
        self.locked: list[int] = []

    def locking(self, file: int, mode: int, count: int) -> None:
        if self.refused is not None:
            raise self.refused
        self.locked.append(os.lseek(file, 0, os.SEEK_CUR))


def on_windows(monkeypatch: pytest.MonkeyPatch, msvcrt: Any = None, winapi: Any = None) -> None:
    monkeypatch.setattr(sys, "platform", "win32")
    for name in ("fcntl", "resource"):
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.setitem(sys.modules, "msvcrt", msvcrt)
    monkeypatch.setitem(sys.modules, "_winapi", winapi)


def test_a_file_is_locked_for_one_holder_until_it_is_closed(tmp_path: Path) -> None:
    with (tmp_path / "lock").open("w") as first, (tmp_path / "lock").open("a") as second:
        assert lock_file(first.fileno()) is True
        assert lock_file(second.fileno()) is False
        first.close()
        assert lock_file(second.fileno()) is True


def test_on_windows_a_byte_behind_the_content_is_locked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "lock").write_text("12 started host\n", encoding="utf-8")
    msvcrt = Msvcrt()
    on_windows(monkeypatch, msvcrt)
    with (tmp_path / "lock").open("a+") as file:
        file.seek(3)
        assert lock_file(file.fileno()) is True
        assert file.read() == "started host\n"
    assert msvcrt.locked == [0x7FFF0000]
    assert (tmp_path / "lock").stat().st_size == 16


@pytest.mark.parametrize(("refused", "held"), [(PermissionError(13, "denied"), False), (OSError(5, "no locks"), None)])
def test_a_lock_of_another_process_and_a_file_system_without_locks_differ(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, refused: OSError, held: bool | None
) -> None:
    on_windows(monkeypatch, Msvcrt(refused))
    with (tmp_path / "lock").open("w") as file:
        assert lock_file(file.fileno()) is held


def test_a_process_exists_until_it_has_ended() -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        assert process_exists(process.pid)
        assert process.stdin is not None
        process.stdin.close()
    assert not process_exists(process.pid)


class Winapi:
    """The calls that ask for a process: 7 runs, 8 has ended and a handle is left, 9 is another user's."""

    def __init__(self) -> None:
        self.closed: list[int] = []

    def OpenProcess(self, access: int, inherit: bool, pid: int) -> int:
        if pid == 9:
            raise PermissionError(13, "Access is denied")
        if pid not in (7, 8):
            raise OSError(22, "The parameter is incorrect")
        return pid

    def WaitForSingleObject(self, handle: int, milliseconds: int) -> int:
        return 258 if handle == 7 else 0

    def CloseHandle(self, handle: int) -> None:
        self.closed.append(handle)


def test_on_windows_no_signal_asks_for_a_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """`os.kill(pid, 0)` is Ctrl-C there."""
    winapi = Winapi()
    on_windows(monkeypatch, Msvcrt(), winapi)
    monkeypatch.delattr(os, "kill")
    assert [process_exists(pid) for pid in (7, 8, 9, 10)] == [True, False, True, False]
    assert winapi.closed == [7, 8]


def test_a_start_time_is_one_word_of_the_systems_own_tool(monkeypatch: pytest.MonkeyPatch) -> None:
    """macOS' ps answers with spaces; the text stands in a line of `pid started host`."""
    asked: list[list[str]] = []

    def run(command: list[str], **_: Any) -> Any:
        asked.append(command)
        return subprocess.CompletedProcess(command, 0, "Mon Nov 30 12:00:01 2026\n", "")

    monkeypatch.setattr(subprocess, "run", run)
    assert find_start_time(os.getpid()) == "Mon_Nov_30_12:00:01_2026"
    assert asked[0][0] == "ps"
    on_windows(monkeypatch, Msvcrt(), Winapi())
    assert find_start_time(7) == "Mon_Nov_30_12:00:01_2026"
    assert asked[1][0] == "powershell"
    assert find_start_time(10) is None
    assert len(asked) == 2


def test_without_the_tool_the_start_is_unknown_and_the_process_still_exists(monkeypatch: pytest.MonkeyPatch) -> None:
    def run(*_: Any, **__: Any) -> Any:
        raise FileNotFoundError("ps")

    monkeypatch.setattr(subprocess, "run", run)
    assert find_start_time(os.getpid()) == "unknown"


def test_memory_is_counted_where_the_system_tells(monkeypatch: pytest.MonkeyPatch) -> None:
    assert get_peak_memory() > 1 << 20
    assert (get_total_memory() or 0) > 1 << 28
    on_windows(monkeypatch)
    monkeypatch.delattr(os, "sysconf")
    assert get_peak_memory() == 0
    assert get_total_memory() is None


def test_a_worker_is_started_so_that_it_survives(monkeypatch: pytest.MonkeyPatch) -> None:
    assert detached_process_options() == {"start_new_session": True}
    on_windows(monkeypatch)
    assert detached_process_options() == {"creationflags": 0x08000200}


def test_no_other_module_needs_a_module_of_one_system() -> None:
    root = Path(operating_system.__file__).parents[2]
    named = [
        str(path.relative_to(root))
        for folder in ("llmtune", "providers")
        for path in (root / folder).rglob("*.py")
        if any(
            line.split()[:2] in (["import", name], ["from", name])
            for line in path.read_text(encoding="utf-8").splitlines()
            for name in ("fcntl", "resource", "pwd", "grp", "termios", "msvcrt", "pty")
        )
    ]
    assert sorted(named) == [
        "llmtune/_safety/operating_system.py",
        "llmtune/graders/python_worker.py",  # a script of its own, with the standard library alone
        "llmtune/testing/folder_faults.py",
    ]
