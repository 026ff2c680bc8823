"""One run on a Ray cluster: `python -m llmtune_local.worker.ray_launcher RUN_DIR` asks Ray for the team.

Ray places the processes, tells each its rank, and starts them all again when one is lost; they find the last checkpoint
in the run folder, which every node must see. What a run says and how it ends is the first process's, as everywhere.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
from pathlib import Path
from typing import Any

from llmtune._ray import on_ray
from llmtune.errors import LlmtuneError
from llmtune_local.libraries import usable_cores
from llmtune_local.run_state.run_dir import RunDir, now
from llmtune_local.run_state.schema import FINAL, Status, WorkerOptions
from llmtune_local.worker.child_process import PRIVATE

logger = logging.getLogger("llmtune")

#: How often a team is started again before the run is given up.
RESTARTS = 2


def train_part(told: dict[str, Any]) -> None:
    """One process of the team, wherever Ray has put it. Raises where it is to be started again."""
    from llmtune_local.worker import main as worker

    os.umask(PRIVATE)  # a node of a cluster has its own
    folder = RunDir(told["folder"])
    if not (folder.path / "request.json").is_file():
        raise LlmtuneError(f"{folder.path} is not to be seen from this node: put local runs on storage that all share")
    code = worker.take_part(folder, lambda: folder.cancelling, resume=folder.read_status() is not None)
    status = folder.read_status()
    if code != worker.SUCCEEDED and (status is None or status.state not in FINAL):
        raise LlmtuneError("the team was lost")


def run_on_cluster(folder: RunDir) -> None:
    """Train the folder's run on the cluster its request names, to its end.

    Raises `MissingExtra` without Ray, `LlmtuneError` where the cluster cannot be reached or has no room.
    """
    options = folder.read_request().options
    cores = usable_cores()
    count = options.processes
    with on_ray(options.ray_address, cpus=max(cores, count), purpose="training on a Ray cluster") as ray:
        from ray.train import FailureConfig, RunConfig, ScalingConfig
        from ray.train.torch import TorchConfig, TorchTrainer

        there = ray.cluster_resources()
        gpu = _wants_gpu(options, int(there.get("GPU", 0)))
        cpus = max(1, cores // count) if options.ray_address == "local" else 1
        each = {"CPU": cpus, **({"GPU": 1} if gpu else {})}
        if (room := int(there.get("CPU", 0))) < count * cpus:
            raise LlmtuneError(f"{count} processes need as many CPUs, and the cluster has {room}")
        TorchTrainer(
            train_part,
            train_loop_config={"folder": str(folder.path.absolute())},
            torch_config=TorchConfig(backend="nccl" if gpu else "gloo"),
            scaling_config=ScalingConfig(num_workers=count, use_gpu=gpu, resources_per_worker=each),
            run_config=RunConfig(
                name=folder.path.name,
                storage_path=str((folder.path / "ray").absolute()),
                failure_config=FailureConfig(max_failures=RESTARTS),
            ),
        ).fit()


def _wants_gpu(options: WorkerOptions, there: int) -> bool:
    if options.device == "cuda" and there < options.processes:
        raise LlmtuneError(f"{options.processes} processes need as many GPUs, and the cluster has {there}")
    return options.device in ("auto", "cuda") and there >= options.processes


def main(arguments: list[str] | None = None) -> int:
    """Run one folder; what keeps it from starting is written there."""
    parser = argparse.ArgumentParser(
        prog="python -m llmtune_local.worker.ray_launcher", description="Train one run folder on Ray."
    )
    parser.add_argument("run_dir", type=Path)
    folder = RunDir(parser.parse_args(arguments).run_dir)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    try:
        run_on_cluster(folder)
    except Exception as problem:
        # This process ends in any case; it is the last chance to say why. What a user can fix stands in the status,
        # the rest in worker.log, whose last line is told when no worker came of it.
        logger.exception("the run could not be trained on the cluster")
        status = folder.read_status()
        if isinstance(problem, LlmtuneError) and status is None:
            said = f"{problem}".replace("\n", " ")[:1500]
            folder.write_status(
                Status(state="failed", error=said, error_code="internal", message=said, heartbeat=now())
            )
        return 1
    return 0


if __name__ == "__main__":
    from llmtune_local.worker.ray_launcher import main as main_

    sys.exit(main_())
