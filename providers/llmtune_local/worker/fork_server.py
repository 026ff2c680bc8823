"""Warm starts: one process that has everything loaded and forks a worker for each run.

A worker spends seconds on imports, on the base model and on reading rows, and a sweep's trials have all of that in
common. The forked worker is a process like any other: its own session, log, lock and signals. The fork server ends with
the process that started it; workers continue.

Only on Linux: elsewhere the system's own libraries do not survive a fork.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

from llmtune_local.libraries import prepare_libraries
from llmtune_local.run_state import cache
from llmtune_local.worker.child_process import PRIVATE, PYTHON, child_environment

#: Whether workers can be forked here.
CAN_FORK = sys.platform == "linux"

#: Seconds that reading a model may take before a worker is started the usual way.
FORK_TIMEOUT = 600


class ForkFailed(Exception):
    """No worker was forked; start one the usual way."""


class ForkServer:
    """A handle on the fork server. It starts the server, and ends it with `close`."""

    def __init__(self) -> None:
        here, there = socket.socketpair()
        here.settimeout(FORK_TIMEOUT)
        with there:
            self._process = subprocess.Popen(
                [*PYTHON, "llmtune_local.worker.fork_server"],
                env=child_environment(),
                stdin=there.fileno(),
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
                umask=PRIVATE,
            )
        self._socket = here
        self._lines = here.makefile("r", encoding="utf-8")
        self._lock = threading.Lock()

    def fork(self, run_dir: Path, *, resume: bool) -> int:
        """Fork a worker for this folder; return its process id. Raises `ForkFailed`."""
        with self._lock:
            try:
                self._socket.sendall((json.dumps({"run": str(run_dir), "resume": resume}) + "\n").encode())
                return int(self._lines.readline())
            except (OSError, ValueError) as error:
                raise ForkFailed from error

    def close(self) -> None:
        """End the fork server; workers continue."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._lines.close()
        self._socket.close()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def serve(requests: socket.socket) -> None:
    """Fork a worker for each folder that is named on the socket, until the other side closes it."""
    prepare_libraries()
    # One thread until the fork: a pool of threads would not live on in the worker, and its locks would.
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    os.environ["PYTORCH_NVML_BASED_CUDA_CHECK"] = "1"  # CUDA itself must not be started before a fork
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for workers
    import peft  # noqa: F401
    import torch

    torch.set_num_threads(1)
    cache.enable_cache()
    with requests.makefile("rw", encoding="utf-8") as lines:
        for line in lines:
            request_ = json.loads(line)
            folder = Path(request_["run"])
            with contextlib.suppress(Exception):  # the worker meets the same, and says so in its folder
                _warm_cache(folder)
            pid = os.fork()
            if pid == 0:
                requests.close()
                _run_worker(folder, resume=request_["resume"])
            lines.write(f"{pid}\n")
            lines.flush()


def _warm_cache(folder: Path) -> None:
    """Read what the folder's run will read, so that the forked worker has it."""
    from llmtune_local.run_state.run_dir import RunDir
    from llmtune_local.run_state.status_writer import NullStatusWriter
    from llmtune_local.training.registry import trainer_for

    run = RunDir(folder)
    request = run.read_request()
    silent: Any = NullStatusWriter()
    trainer_for(request)(run, request, silent, lambda: False).read_ahead()


def _run_worker(folder: Path, *, resume: bool) -> None:
    """Run a worker in the forked process, as if it had been started by itself; never returns."""
    code = 1
    try:
        os.setsid()
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        del os.environ["TOKENIZERS_PARALLELISM"]
        nothing = os.open(os.devnull, os.O_RDONLY)
        log = os.open(folder / "worker.log", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        for file, number in ((nothing, 0), (log, 1), (log, 2)):
            os.dup2(file, number)
        os.closerange(3, os.sysconf("SC_OPEN_MAX") if os.sysconf("SC_OPEN_MAX") < 4096 else 4096)
        from llmtune_local.worker.main import main

        arguments: list[Any] = [str(folder), "--resume"] if resume else [str(folder)]
        code = main(arguments)
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


if __name__ == "__main__":
    with socket.socket(fileno=os.dup(0)) as orders_:
        serve(orders_)
