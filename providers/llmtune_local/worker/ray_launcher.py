"""One run on a Ray cluster: `python -m llmtune_local.worker.ray_launcher RUN_DIR` asks Ray for the worker group.

Ray places the processes, gives each its rank, and starts them all again when one is lost; they find the last checkpoint
in the run folder, which every node must see. The main process reports for the run, as everywhere.
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
from llmtune_local.training.distributed import choose_backend
from llmtune_local.worker.child_process import PRIVATE

logger = logging.getLogger("llmtune")

#: How often the worker group is started again before the run fails.
RESTARTS = 2


def train_rank(config: dict[str, Any]) -> None:
    """Train as one process of the group, wherever Ray has put it. Raises where the group is to be started again."""
    from llmtune_local.worker import main as worker

    os.umask(PRIVATE)  # a node of a cluster has its own
    folder = RunDir(config["folder"])
    if not (folder.path / "request.json").is_file():
        raise LlmtuneError(f"{folder.path} is not to be seen from this node: put local runs on storage that all share")
    code = worker.join_training(folder, lambda: folder.cancelling, resume=folder.read_status() is not None)
    status = folder.read_status()
    if code != worker.SUCCEEDED and (status is None or status.state not in FINAL):
        raise LlmtuneError("the worker group was lost")


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

        cluster_resources = ray.cluster_resources()
        gpu = _wants_gpu(options, int(cluster_resources.get("GPU", 0)))
        cpus = max(1, cores // count) if options.ray_address == "local" else 1
        resources = {"CPU": cpus, **({"GPU": 1} if gpu else {})}
        if (available_cpus := int(cluster_resources.get("CPU", 0))) < count * cpus:
            raise LlmtuneError(f"{count} processes need as many CPUs, and the cluster has {available_cpus}")
        TorchTrainer(
            train_rank,
            train_loop_config={"folder": str(folder.path.absolute())},
            torch_config=TorchConfig(backend=choose_backend(options, "cuda" if gpu else "cpu")),
            scaling_config=ScalingConfig(num_workers=count, use_gpu=gpu, resources_per_worker=resources),
            run_config=RunConfig(
                name=folder.path.name,
                storage_path=str((folder.path / "ray").absolute()),
                failure_config=FailureConfig(max_failures=RESTARTS),
            ),
        ).fit()


def _wants_gpu(options: WorkerOptions, cluster_resources: int) -> bool:
    if options.device == "cuda" and cluster_resources < options.processes:
        raise LlmtuneError(f"{options.processes} processes need as many GPUs, and the cluster has {cluster_resources}")
    return options.device in ("auto", "cuda") and cluster_resources >= options.processes


def main(arguments: list[str] | None = None) -> int:
    """Run one folder; an error before the training starts is written to its status."""
    parser = argparse.ArgumentParser(
        prog="python -m llmtune_local.worker.ray_launcher", description="Train one run folder on Ray."
    )
    parser.add_argument("run_dir", type=Path)
    folder = RunDir(parser.parse_args(arguments).run_dir)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    try:
        run_on_cluster(folder)
    except Exception as problem:
        # This process ends in any case; it is the last chance to report why. What a user can fix is written to the
        # status, the rest to worker.log, whose last line is reported when no worker was started.
        logger.exception("the run could not be trained on the cluster")
        status = folder.read_status()
        if isinstance(problem, LlmtuneError) and status is None:
            sentence = f"{problem}".replace("\n", " ")[:1500]
            folder.write_status(
                Status(state="failed", error=sentence, error_code="internal", message=sentence, heartbeat=now())
            )
        return 1
    return 0


if __name__ == "__main__":
    from llmtune_local.worker.ray_launcher import main as main_

    sys.exit(main_())
