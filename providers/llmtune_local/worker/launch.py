"""Start the processes that train a run: one worker, a forked one, or a group through torchrun or Ray."""

from __future__ import annotations

import contextlib
import json
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

from llmtune._safety.operating_system import detached_process_options
from llmtune._safety.private_files import open_private
from llmtune_local.libraries import usable_cores
from llmtune_local.run_state.process import LAUNCHED, TRAINER, ProcessId, WorkerProgram, start_time
from llmtune_local.worker.child_process import PRIVATE, PYTHON, child_environment
from llmtune_local.worker.fork_server import ForkFailed, ForkServer


def launch(
    run_dir: Path,
    *,
    resume: bool = False,
    fork_server: ForkServer | None = None,
    program: WorkerProgram = TRAINER,
) -> ProcessId:
    """Start a worker for the folder that survives this process, its terminal and its signals; return its process.

    A single worker is forked by `fork_server`, if there is one, which has everything loaded.
    """
    options = _read_options(run_dir)
    processes = options.get("processes", 1)
    launcher = options.get("launcher") or ("worker" if processes == 1 else "torchrun")
    pid = None
    if fork_server is not None and launcher == "worker":
        with contextlib.suppress(ForkFailed):
            pid = fork_server.fork(run_dir, resume=resume)
    if pid is None:
        pid = _spawn(run_dir, launcher, processes, resume, program)
    worker = ProcessId(pid, start_time(pid) or "unknown", socket.gethostname())
    # A worker needs seconds before it takes the folder's lock and writes its status; until then this announces it.
    with open_private(run_dir / LAUNCHED, "ab") as launched:
        launched.write((" ".join(map(str, worker)) + "\n").encode())
    return worker


def _read_options(run_dir: Path) -> dict[str, Any]:
    """Read the options of the folder's request; empty where that cannot be read, which the worker will report."""
    try:
        options = json.loads((run_dir / "request.json").read_bytes())["options"]
    except (OSError, ValueError, KeyError, TypeError):
        return {}
    return options if isinstance(options, dict) else {}


def _spawn(run_dir: Path, launcher: str, processes: int, resume: bool, program: WorkerProgram) -> int:
    """Start the launcher's process in a session of its own, with its output in worker.log; return its id."""
    environment = child_environment() | dict(program.environment)
    worker = [program.module, str(run_dir), *(["--resume"] if resume else [])]
    match launcher:
        case "ray":
            arguments = ["llmtune_local.worker.ray_launcher", str(run_dir)]
        case "torchrun":
            arguments = [*_torchrun_arguments(processes), "-m", *worker, "--member"]
            environment.setdefault("OMP_NUM_THREADS", str(max(1, usable_cores() // processes)))
            if sys.platform == "linux":
                environment.setdefault("GLOO_SOCKET_IFNAME", "lo")
        case _:
            arguments = worker
    with open_private(run_dir / "worker.log", "ab") as log:
        child = subprocess.Popen(
            [*PYTHON, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            close_fds=True,
            env=environment,
            umask=PRIVATE,
            **detached_process_options(),
        )
    return child.pid


def _torchrun_arguments(processes: int) -> list[str]:
    """Return torchrun's arguments for one machine.

    The rendezvous has a port of its own and looks up no name of this machine, which some networks answer late or never.
    """
    return [
        "torch.distributed.run",
        "--nnodes=1",
        f"--nproc-per-node={processes}",
        "--max-restarts=0",
        "--rdzv-backend=c10d",
        "--rdzv-endpoint=localhost:0",
        "--local-addr=localhost",
    ]
