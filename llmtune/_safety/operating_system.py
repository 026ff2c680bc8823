"""What Linux, macOS and Windows do in different ways: locks on files, processes, and how much memory they take.

Everything here answers on each of them, with less where a system tells less. No other module needs a module that only
some systems have (fcntl, resource, msvcrt).
"""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from typing import Any

#: The byte that stands for the whole file where only ranges can be locked. It lies far behind any content, because
#: Windows lets no other process read a locked range, and the content names the holder.
_LOCKED_BYTE = 0x7FFF0000

#: Windows' own numbers: CREATE_NEW_PROCESS_GROUP and CREATE_NO_WINDOW, SYNCHRONIZE, WAIT_TIMEOUT
#: (learn.microsoft.com/windows/win32/procthread, 2026-11-30).
_OWN_GROUP_NO_WINDOW = 0x00000200 | 0x08000000
_SYNCHRONIZE = 0x00100000
_WAIT_TIMEOUT = 258

#: Seconds that the system's own tools may take to say when a process started.
_TOOL_SECONDS = 20


def lock_file(file: int) -> bool | None:
    """Lock an open file for this process until the file is closed or the process ends, however it ends.

    Args:
        file: descriptor, open for writing.

    Returns:
        True when this process holds the lock now, False when another one does, None where the file system has no locks.
    """
    try:
        import fcntl
    except ImportError:  # Windows
        return _lock_range(file)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return None
    return True


def _lock_range(file: int) -> bool | None:
    try:
        msvcrt: Any = importlib.import_module("msvcrt")
    except ImportError:
        return None
    position = os.lseek(file, 0, os.SEEK_CUR)
    os.lseek(file, _LOCKED_BYTE, os.SEEK_SET)
    try:
        msvcrt.locking(file, msvcrt.LK_NBLCK, 1)
    except PermissionError:  # EACCES: another process has locked it
        return False
    except OSError:
        return None
    finally:
        os.lseek(file, position, os.SEEK_SET)
    return True


def process_exists(pid: int) -> bool:
    """Return whether a process of this machine exists; one that has ended and was not waited for may still count.

    On Windows `os.kill(pid, 0)` would not ask: 0 is Ctrl-C there.
    """
    if sys.platform == "win32":
        return _exists_on_windows(pid)
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:  # a process of another user
        return True
    return True


def _exists_on_windows(pid: int) -> bool:
    # The standard library has no public way; multiprocessing asks in this one.
    windows: Any = importlib.import_module("_winapi")
    try:
        handle = windows.OpenProcess(_SYNCHRONIZE, False, pid)
    except PermissionError:
        return True
    except OSError:
        return False
    try:
        return bool(windows.WaitForSingleObject(handle, 0) == _WAIT_TIMEOUT)
    finally:
        windows.CloseHandle(handle)


def find_start_time(pid: int) -> str | None:
    """Return when a process of this machine started, as text to compare, from the system's own tool (ps, PowerShell).

    Returns:
        The text; "unknown" where the tool cannot be run; None when there is no such process.
    """
    if not process_exists(pid):
        return None
    if sys.platform == "win32":
        get_time = f"(Get-Process -Id {pid} -ErrorAction SilentlyContinue).StartTime.ToFileTimeUtc()"
        command = ["powershell", "-NoProfile", "-NonInteractive", "-Command", get_time]
    else:
        command = ["ps", "-o", "lstart=", "-p", str(pid)]
    try:
        output = subprocess.run(command, capture_output=True, text=True, check=False, timeout=_TOOL_SECONDS).stdout
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    # No spaces: the text stands in lines of `pid started host`.
    return "_".join(output.split()) or None


def detached_process_options() -> dict[str, Any]:
    """Return the `subprocess.Popen` arguments of a process that outlives this one and its terminal."""
    if sys.platform == "win32":
        return {"creationflags": _OWN_GROUP_NO_WINDOW}
    return {"start_new_session": True}


def get_peak_memory() -> int:
    """Return the most memory this process has held, in bytes; 0 where the system does not tell (Windows)."""
    try:
        import resource
    except ImportError:
        return 0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def get_total_memory() -> int | None:
    """Return the memory of this machine, in bytes; None where the system does not tell (Windows)."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return None


def get_binary_flag() -> int:
    """Return the flag of `os.open` with which Windows writes line breaks as they are; 0 elsewhere."""
    return int(getattr(os, "O_BINARY", 0))
