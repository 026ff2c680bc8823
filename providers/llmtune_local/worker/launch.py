"""Start the processes that train a run: one worker, a forked one, or a group through torchrun or Ray."""

from __future__ import annotations

import contextlib
import json
import socket
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from llmtune._safety.operating_system import detached_process_options
from llmtune._safety.private_files import open_private
from llmtune_local.libraries import usable_cores
from llmtune_local.run_state.process import LAUNCHED, TRAINER, ProcessId, WorkerProgram, start_time
from llmtune_local.worker.child_process import PRIVATE, PYTHON, child_environment
from llmtune_local.worker.fork_server import ForkFailed, ForkServer

#: Seconds that one machine of a run waits for the others.
NODES_TIMEOUT = 3600


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
        pid = _spawn(run_dir, launcher, options, resume, program)
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


def _spawn(run_dir: Path, launcher: str, options: dict[str, Any], resume: bool, program: WorkerProgram) -> int:
    """Start the launcher's process in a session of its own, with its output in worker.log; return its id."""
    environment = child_environment() | dict(program.environment)
    worker = [program.module, str(run_dir), *(["--resume"] if resume else [])]
    match launcher:
        case "ray":
            arguments = ["llmtune_local.worker.ray_launcher", str(run_dir)]
        case "torchrun":
            arguments = [*torchrun_arguments(options), "-m", *worker, "--member"]
            prepare_torchrun(environment, options)
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


def torchrun_arguments(options: Mapping[str, Any], node: int = 0) -> list[str]:
    """Return torchrun's arguments for a machine of a run, counted from 0, which is the one that the run was started on.

    Of one machine alone the rendezvous has a port of its own and looks up no name of the machine, which some networks
    answer late or never.
    """
    nodes = options.get("nodes", 1)
    common = [
        "torch.distributed.run",
        f"--nnodes={nodes}",
        f"--nproc-per-node={options.get('processes', 1) // nodes}",
        "--max-restarts=0",
    ]
    if nodes == 1:
        return [*common, "--rdzv-backend=c10d", "--rdzv-endpoint=localhost:0", "--local-addr=localhost"]
    host, _, port = str(options.get("rendezvous")).rpartition(":")
    meeting = [f"--node-rank={node}", f"--master-addr={host}", f"--master-port={port}"]
    return [*common, *meeting, f"--rdzv-conf=timeout={NODES_TIMEOUT}"]


def prepare_torchrun(environment: dict[str, str], options: Mapping[str, Any]) -> None:
    """Add to the environment of torchrun what its processes share: this machine's cores, and its network alone where no
    other machine takes part."""
    nodes = options.get("nodes", 1)
    environment.setdefault("OMP_NUM_THREADS", str(max(1, usable_cores() * nodes // options.get("processes", 1))))
    if sys.platform == "linux" and (nodes == 1 or str(options.get("rendezvous")).startswith("localhost:")):
        environment.setdefault("GLOO_SOCKET_IFNAME", "lo")
