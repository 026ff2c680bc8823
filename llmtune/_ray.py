"""A connection to a Ray cluster, or a cluster of this machine for as long as it is needed."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from typing import Any

from llmtune._safety.telemetry import turn_off_telemetry
from llmtune.errors import LlmtuneError, MissingExtra

#: Memory of a local cluster's object store, in bytes: what llmtune does there passes nothing large through it.
_OBJECTS = 100 << 20


@contextlib.contextmanager
def on_ray(address: str, *, cpus: int, purpose: str) -> Iterator[Any]:
    """Connect to a Ray cluster and yield the `ray` module; disconnect at the end.

    A connection that existed before is used, and left open.

    Args:
        address: "local" (a cluster on this machine), "auto", or the address of a cluster.
        cpus: CPUs of a local cluster.
        purpose: what Ray is needed for, in words, for the error message.

    Raises:
        MissingExtra: Ray is not installed.
        LlmtuneError: the cluster cannot be reached.
    """
    turn_off_telemetry()
    try:
        import ray
    except ImportError:
        raise MissingExtra("ray", "ray", purpose=purpose) from None
    started = not ray.is_initialized()
    if started:
        settings: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
        if not address.startswith("ray://"):  # there the server's folders count, and none of ours is sent
            settings["job_config"] = _without_folders()
        if address == "local":
            settings |= {
                "num_cpus": max(1, cpus),
                "include_dashboard": False,
                "object_store_memory": _OBJECTS,
                "_node_ip_address": "127.0.0.1",
            }
        try:
            ray.init(address="local" if address == "local" else address, **settings)
        except (ConnectionError, ValueError, RuntimeError) as error:
            raise LlmtuneError(f"the Ray cluster {address!r} cannot be reached: {error}") from None
    try:
        yield ray
    finally:
        if started:
            ray.shutdown()


def _without_folders() -> Any:
    """Return the configuration of a job whose processes import nothing from the current folder.

    Ray puts that folder, and the script's, first on their path, and has no public setting against it.
    """
    from ray.job_config import JobConfig

    class WithoutFolders(JobConfig):
        # A new list each time it is read, so that what Ray adds to it is lost.
        _py_driver_sys_path = property(lambda _: [], lambda _, value: None)

    return WithoutFolders()
