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
    """Ray itself, connected. `address` is "local" (a cluster of this machine with so many `cpus`), "auto", or a
    cluster's own; `purpose` says in words what it is for. A connection that was there before is used and left alone.

    Raises `MissingExtra` without Ray, `LlmtuneError` where the cluster cannot be reached.
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
    """Settings of a job whose processes import nothing from the current folder: Ray puts it, and that of the script,
    first on their path, and has no public setting against it."""
    from ray.job_config import JobConfig

    class WithoutFolders(JobConfig):
        # A new list each time it is read, so that what Ray adds to it is lost.
        _py_driver_sys_path = property(lambda _: [], lambda _, value: None)

    return WithoutFolders()
