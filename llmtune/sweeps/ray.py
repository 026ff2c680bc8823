"""Trials on a Ray cluster: every worker is a task that joins the sweep, on whichever node Ray starts it.

Neither the address of the store nor credentials are sent to the cluster: each node has them in its environment, as for
any other llmtune command.
"""

from __future__ import annotations

from llmtune._ray import on_ray
from llmtune.config import store_url
from llmtune.errors import InvalidSettings, LlmtuneError


def run_worker(sweep: str) -> int:
    """Run trials on a node until all have been started. Returns how many this worker ran."""
    from llmtune.sweeps.distributed import join_sweep

    return len(join_sweep(sweep, parallel=1))


def run_on_ray(sweep: str, address: str, workers: int) -> int:
    """Start `workers` workers of this sweep on a Ray cluster, and wait for them. Returns how many trials they ran.

    `address` is "local" (a cluster on this machine, started for the sweep), "auto", or that of a cluster. A task whose
    process dies is started again by Ray, and its trial is continued.

    Raises `MissingExtra` without Ray, `InvalidSettings` where the nodes cannot reach the store, `LlmtuneError` where
    the cluster cannot be reached or a worker failed.
    """
    if address != "local" and store_url().startswith("sqlite"):
        raise InvalidSettings(
            "the nodes of a cluster cannot reach a store that is a file of this machine",
            hint="set LLMTUNE_STORE to a PostgreSQL database here and on every node",
        )
    with on_ray(address, cpus=workers, purpose="running trials on a Ray cluster") as ray:
        gpu = 1 if ray.cluster_resources().get("GPU") else 0
        task = ray.remote(num_cpus=1, num_gpus=gpu, max_retries=3)(run_worker)
        pending = [task.remote(sweep) for _ in range(workers)]
        try:
            return sum(ray.get(pending))
        except ray.exceptions.RayTaskError as error:
            cause = getattr(error, "cause", None)
            raise (cause if isinstance(cause, LlmtuneError) else LlmtuneError(f"a worker failed: {error}")) from None
        except ray.exceptions.RayError as error:
            raise LlmtuneError(f"the Ray cluster lost a worker: {error}") from None
