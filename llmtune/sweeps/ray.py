"""Ray as an executor of trials: every worker is a task that joins the sweep, wherever the cluster puts it.

Nothing about the store or the credentials is sent to the cluster: a node has its own environment, as it has for any
other command of llmtune.
"""

from __future__ import annotations

from llmtune._ray import on_ray
from llmtune.config import store_url
from llmtune.errors import InvalidSettings, LlmtuneError


def work(sweep: str) -> int:
    """One worker, on a node: run trials until none is left to begin. How many it ran."""
    from llmtune.sweeps.distributed import join

    return len(join(sweep, parallel=1))


def run_on_ray(sweep: str, address: str, workers: int) -> int:
    """Have so many workers join this sweep on a Ray cluster, and wait for them; how many trials they ran.

    `address` is "local" (a cluster of this machine, started for the sweep), "auto", or a cluster's own. A task whose
    process dies is started again by Ray, and the trial it drove goes on.

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
        task = ray.remote(num_cpus=1, num_gpus=gpu, max_retries=3)(work)
        asked = [task.remote(sweep) for _ in range(workers)]
        try:
            return sum(ray.get(asked))
        except ray.exceptions.RayTaskError as error:
            cause = getattr(error, "cause", None)
            raise (cause if isinstance(cause, LlmtuneError) else LlmtuneError(f"a worker failed: {error}")) from None
        except ray.exceptions.RayError as error:
            raise LlmtuneError(f"the Ray cluster lost a worker: {error}") from None
