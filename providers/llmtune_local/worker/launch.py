"""Start the processes that train a run: one worker, a forked one, or a group through torchrun or Ray."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

from llmtune._safety.private_files import open_private
from llmtune_local.libraries import usable_cores
from llmtune_local.run_state.process import LAUNCHED, ProcessId, start_time
from llmtune_local.worker.child_process import PRIVATE, PYTHON, child_environment
from llmtune_local.worker.fork_server import Forker, NotForked


def launch(run_dir: Path, *, resume: bool = False, forker: Forker | None = None) -> ProcessId:
    """Start a worker for the folder that outlives this process, its terminal and its signals; by `forker`, if there
    is one, which has everything loaded."""
    told = _options(run_dir)
    launcher = told.get("launcher") or ("worker" if told.get("processes", 1) == 1 else "torchrun")
    pid = _forked(forker, run_dir, resume) if forker is not None and launcher == "worker" else None
    if pid is None:
        pid = _started(run_dir, launcher, told, resume)
    started = ProcessId(pid, start_time(pid) or "unknown", socket.gethostname())
    # A worker needs seconds before it takes the folder's lock and speaks; until then this says that it is coming.
    with open_private(run_dir / LAUNCHED, "ab") as list_:
        list_.write((" ".join(map(str, started)) + "\n").encode())
    return started


def _forked(forker: Forker, run_dir: Path, resume: bool) -> int | None:
    try:
        return forker.fork(run_dir, resume=resume)
    except NotForked:
        return None


def _options(run_dir: Path) -> dict[str, Any]:
    """The options of the folder's request; empty where it has none that can be read, which the worker will say."""
    try:
        found = json.loads((run_dir / "request.json").read_bytes())["options"]
    except (OSError, ValueError, KeyError, TypeError):
        return {}
    return found if isinstance(found, dict) else {}


def _started(run_dir: Path, launcher: str, told: dict[str, Any], resume: bool) -> int:
    command = [*PYTHON]
    environment = child_environment()
    worker = ["llmtune_local.worker", str(run_dir), *(["--resume"] if resume else [])]
    if launcher == "ray":
        command += ["llmtune_local.worker.ray_launcher", str(run_dir)]
    elif launcher == "torchrun":
        count = told.get("processes", 1)
        command += ["torch.distributed.run", "--nnodes=1", f"--nproc-per-node={count}", "--max-restarts=0"]
        # A port of its own, and no look-up of this machine's name, which some networks answer late or never.
        command += ["--rdzv-backend=c10d", "--rdzv-endpoint=localhost:0", "--local-addr=localhost", "-m"]
        command += [*worker, "--member"]
        environment.setdefault("OMP_NUM_THREADS", str(max(1, usable_cores() // count)))
        if sys.platform == "linux":
            environment.setdefault("GLOO_SOCKET_IFNAME", "lo")
    else:
        command += worker
    with open_private(run_dir / "worker.log", "ab") as log:
        child = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
            close_fds=True,
            env=environment,
            umask=PRIVATE,
        )
    return child.pid
