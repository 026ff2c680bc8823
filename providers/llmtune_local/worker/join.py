"""One more machine for a run of several (option `nodes`): `python -m llmtune_local.worker.join RUN_DIR [--node N]`.

It starts this machine's share of the processes, again whenever the group was lost, until the run is over. Exit status:
0 when the run is over, 2 where there is no such run or it does not wait for this machine.
"""

from __future__ import annotations

import argparse
import logging
import os
import subprocess
import sys
import time
from collections.abc import Callable

from llmtune.errors import LlmtuneError
from llmtune_local.run_state.run_dir import RunDir
from llmtune_local.run_state.schema import FINAL
from llmtune_local.worker.child_process import PRIVATE, PYTHON, child_environment
from llmtune_local.worker.launch import prepare_torchrun, torchrun_arguments

logger = logging.getLogger("llmtune")

OVER, NOT_JOINED = 0, 2

#: Seconds between the end of a group and its next start here, and the pause, for tests.
AGAIN_SECONDS = 2.0
pause: Callable[[float], None] = time.sleep


def main(arguments: list[str] | None = None) -> int:
    """Take part in a run until it is over; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m llmtune_local.worker.join", description=__doc__.splitlines()[0])
    parser.add_argument("run_dir", help="the run's folder, on storage that all machines share")
    parser.add_argument(
        "--node",
        type=int,
        default=int(os.environ.get("SLURM_NODEID") or 1),
        help="number of this machine, from 1 (default: SLURM_NODEID, else 1); 0 is the one that started the run",
    )
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s", force=True)
    try:
        return join_run(RunDir(options.run_dir), options.node)
    except LlmtuneError as problem:
        logger.error("%s", problem)
        return NOT_JOINED


def join_run(folder: RunDir, node: int) -> int:
    """Start the processes of one machine of a run, counted from 0, until the run is over; return the exit status.

    Raises `LlmtuneError` where the folder holds no run, or the run has no machine of that number to wait for.
    """
    if not folder.exists:
        raise LlmtuneError(
            f"{folder.path} holds no run", hint="give the folder of a run, on storage that all its machines share"
        )
    options = folder.read_request().options.model_dump()
    nodes = options["nodes"]
    if nodes == 1:
        raise LlmtuneError(f"the run of {folder.path} is on one machine", hint="set provider_options.local.nodes")
    if not 0 < node < nodes:
        raise LlmtuneError(
            f"the run has {nodes} machines, and waits for none of number {node}",
            hint=f"--node is 1 to {nodes - 1}; 0 is the machine that the run was started on",
        )
    environment = child_environment()
    prepare_torchrun(environment, options)
    command = [*PYTHON, *torchrun_arguments(options, node), "-m", "llmtune_local.worker", str(folder.path), "--member"]
    while not _is_over(folder):
        logger.info("machine %d of %d: waiting for the others", node, nodes)
        subprocess.run(command, env=environment, umask=PRIVATE, check=False, stdin=subprocess.DEVNULL)
        pause(AGAIN_SECONDS)
    logger.info("the run is over")
    return OVER


def _is_over(folder: RunDir) -> bool:
    status = folder.read_status()
    return folder.cancelling if status is None else status.state in FINAL


if __name__ == "__main__":
    sys.exit(main())
