"""Run llmtune's command line as if this were another system: `python pretend.py windows|macos COMMANDS.json`.

llmtune's own modules see the other `sys.platform`, and none of the modules, functions and signals that are missing
there. Other libraries see what is here: their code for that system needs that system. Windows' own modules are
played by stand-ins with the behaviour that Python documents.

`COMMANDS.json` holds a list of command lines (lists of words). The first that does not end with 0 ends this process.
"""

from __future__ import annotations

import builtins
import importlib
import json
import os
import pathlib
import pkgutil
import signal
import socket
import sys
import time
from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any

#: Modules that Python's documentation marks as "Availability: Unix" (docs.python.org/3.13, 2026-11-30).
UNIX_MODULES = frozenset(
    {"fcntl", "grp", "posix", "pty", "pwd", "resource", "syslog", "termios", "tty", "readline", "curses", "_curses"}
)
#: Functions and constants of that availability, by module.
UNIX_NAMES: dict[str, tuple[str, ...]] = {
    "os": (
        *(
            "chown",
            "chroot",
            "confstr",
            "ctermid",
            "fchmod",
            "fchown",
            "fork",
            "forkpty",
            "getegid",
            "geteuid",
            "getgid",
        ),
        *("getgroups", "getloadavg", "getpgid", "getpgrp", "getpriority", "getsid", "getuid", "initgroups", "killpg"),
        *("lchown", "lockf", "major", "minor", "mkfifo", "mknod", "nice", "openpty", "pathconf", "pread", "preadv"),
        *("posix_spawn", "posix_fadvise", "posix_fallocate", "pwrite", "register_at_fork", "sched_getaffinity"),
        *("sched_setaffinity", "sched_yield", "sendfile", "setegid", "seteuid", "setgid", "setpgid", "setpriority"),
        *("setsid", "setuid", "statvfs", "fstatvfs", "sync", "sysconf", "sysconf_names", "tcgetpgrp", "uname", "wait"),
        *("wait3", "wait4", "waitid", "WEXITSTATUS", "WIFEXITED", "WIFSIGNALED", "WNOHANG", "WTERMSIG", "O_CLOEXEC"),
        *(
            "O_DIRECTORY",
            "O_DSYNC",
            "O_NOCTTY",
            "O_NOFOLLOW",
            "O_NONBLOCK",
            "O_SYNC",
            "memfd_create",
            "copy_file_range",
        ),
    ),
    "signal": (
        *("SIGALRM", "SIGBUS", "SIGCHLD", "SIGCLD", "SIGCONT", "SIGHUP", "SIGIO", "SIGKILL", "SIGPIPE", "SIGPROF"),
        *("SIGQUIT", "SIGSTOP", "SIGTSTP", "SIGTTIN", "SIGTTOU", "SIGURG", "SIGUSR1", "SIGUSR2", "SIGWINCH", "alarm"),
        *("getitimer", "pause", "pthread_kill", "pthread_sigmask", "set_wakeup_fd", "setitimer", "siginterrupt"),
        *("sigpending", "sigtimedwait", "sigwait", "sigwaitinfo"),
    ),
    "socket": ("AF_UNIX", "SO_REUSEPORT", "send_fds", "recv_fds"),
    "time": ("clock_gettime", "clock_settime", "pthread_getcpuclockid", "tzset"),
}
#: What Linux has and macOS has not.
LINUX_NAMES: dict[str, tuple[str, ...]] = {
    "os": (
        *("copy_file_range", "memfd_create", "posix_fadvise", "posix_fallocate", "sched_getaffinity"),
        *("sched_setaffinity", "setresuid", "getresuid"),
    ),
    "resource": ("prlimit",),
    "signal": ("sigtimedwait", "sigwaitinfo"),
    "time": ("pthread_getcpuclockid",),
}


class _Masked(ModuleType):
    """A module without some of its names, and with others in their place."""

    def __init__(self, module: ModuleType, hidden: tuple[str, ...], replaced: Mapping[str, Any]) -> None:
        super().__init__(module.__name__)
        vars(self).update(_module=module, _hidden=frozenset(hidden), **replaced)

    def __getattr__(self, name: str) -> Any:
        if name in vars(self)["_hidden"]:
            raise AttributeError(f"{self.__name__}.{name} does not exist on this system")
        return getattr(vars(self)["_module"], name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(vars(self)["_module"], name, value)


class _Msvcrt:
    """Locks of ranges, as in docs.python.org/3/library/msvcrt.html: one holder for a byte, within this process."""

    LK_NBLCK = 2

    def __init__(self) -> None:
        self.held: dict[tuple[int, int], int] = {}

    def locking(self, file: int, mode: int, count: int) -> None:
        assert (mode, count) == (self.LK_NBLCK, 1)
        at = os.lseek(file, 0, os.SEEK_CUR)
        assert at > 1 << 20, "the locked byte must not be one that is read"
        key = (os.fstat(file).st_ino, at)
        holder = self.held.get(key)
        if holder is not None and _is_open(holder, key[0]):
            raise PermissionError(13, "Permission denied")
        self.held[key] = file


def _is_open(file: int, inode: int) -> bool:
    try:
        return os.fstat(file).st_ino == inode
    except OSError:
        return False


class _Winapi:
    """The three functions that ask for a process."""

    @staticmethod
    def OpenProcess(access: int, inherit: bool, pid: int) -> int:
        assert (access, inherit) == (0x00100000, False)
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            raise OSError(22, "The parameter is incorrect") from None
        except PermissionError:
            raise PermissionError(13, "Access is denied") from None
        return pid

    @staticmethod
    def WaitForSingleObject(handle: int, milliseconds: int) -> int:
        assert milliseconds == 0
        return 258

    @staticmethod
    def CloseHandle(handle: int) -> None:
        pass


def _kill(pid: int, number: int) -> None:
    raise AssertionError(f"os.kill({pid}, {number}) ends the process or sends Ctrl-C on Windows")


def _import_standin(importlib_module: ModuleType, standins: Mapping[str, Any]) -> Callable[..., Any]:
    def import_module(name: str, package: str | None = None) -> Any:
        return standins[name] if name in standins else importlib_module.import_module(name, package)

    return import_module


def pretend(system: str) -> None:
    """Let llmtune's modules, imported from now on, see the other system."""
    windows = system == "windows"
    names = UNIX_NAMES if windows else LINUX_NAMES
    standins = {"msvcrt": _Msvcrt(), "_winapi": _Winapi()} if windows else {}
    replaced: dict[str, dict[str, Any]] = {
        "sys": {"platform": "win32" if windows else "darwin"},
        "os": {"kill": _kill} if windows else {},
        "importlib": {"import_module": _import_standin(importlib, standins)},
    }
    masked: dict[str, ModuleType] = {}
    for module in (
        sys,
        os,
        signal,
        socket,
        time,
        importlib,
        *([] if windows else [importlib.import_module("resource")]),
    ):
        name = module.__name__
        masked[name] = _Masked(module, names.get(name, ()), replaced.get(name, {}))
    real_import = builtins.__import__

    def import_for(
        name: str, globals: Any = None, locals: Any = None, fromlist: Any = (), level: int = 0
    ) -> ModuleType:
        importer = (globals or {}).get("__name__", "")
        if not importer.startswith("llmtune") or level:
            return real_import(name, globals, locals, fromlist, level)
        if windows and name.partition(".")[0] in UNIX_MODULES:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        module = real_import(name, globals, locals, fromlist, level)
        return masked.get(module.__name__, module)

    builtins.__import__ = import_for
    _hide_kernel_folders()


def _hide_kernel_folders() -> None:
    """Let /proc and /sys not exist for pathlib, which is how llmtune reads them."""
    for method in ("read_text", "read_bytes", "readlink"):
        real = getattr(pathlib.Path, method)

        def look(self: pathlib.Path, *args: Any, _real: Any = real, **kwargs: Any) -> Any:
            if self.is_absolute() and self.parts[1:2] in (("proc",), ("sys",)):
                raise FileNotFoundError(2, "No such file or directory", str(self))
            return _real(self, *args, **kwargs)

        setattr(pathlib.Path, method, look)


def import_everything() -> dict[str, str | None]:
    """Import each module of llmtune and of its providers; return their names, with the error of those that fail."""
    outcomes: dict[str, str | None] = {}
    for package in sorted(module.name for module in pkgutil.iter_modules() if module.name.startswith("llmtune")):
        found = importlib.import_module(package)
        for module in pkgutil.walk_packages(found.__path__, f"{package}."):
            if module.name.endswith("__main__"):
                continue
            try:
                importlib.import_module(module.name)
                outcomes[module.name] = None
            except Exception as error:  # noqa: BLE001
                outcomes[module.name] = f"{type(error).__name__}: {error}"
    return outcomes


def main() -> int:
    """Pretend, and run the commands."""
    system, commands = sys.argv[1], json.loads(pathlib.Path(sys.argv[2]).read_text(encoding="utf-8"))
    pretend(system)
    if commands == "import everything":
        sys.stdout.write(json.dumps(import_everything()))
        return 0
    from llmtune.cli import main as run_command

    for words in commands:
        sys.stdout.write(f"$ llmtune {' '.join(words)}\n")
        sys.argv = ["llmtune", *words]
        try:
            run_command()
            code: Any = 0
        except SystemExit as stop:
            code = stop.code
        sys.stdout.flush()
        if code:
            sys.stdout.write(f"exit {code}\n")
            return int(code)
    return 0


if __name__ == "__main__":
    sys.exit(main())
