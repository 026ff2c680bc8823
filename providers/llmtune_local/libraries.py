"""Settings of a training process's libraries before they are imported: threads, cores, offline use."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from llmtune._safety.telemetry import turn_off_telemetry


def usable_cores() -> int:
    """Count the physical cores this process may use, by affinity mask (hyper-threads once) and container quota."""
    if sys.platform != "linux":
        return max(1, os.cpu_count() or 1)
    cores = set()
    for cpu in os.sched_getaffinity(0):
        try:
            cores.add(Path(f"/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list").read_text("ascii"))
        except OSError:
            cores.add(str(cpu))
    count = max(1, len(cores))
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text("ascii").split()
        if quota != "max":
            count = min(count, max(1, round(int(quota) / int(period))))
    except (OSError, ValueError):
        pass
    return count


#: How often a waiting thread looks before it sleeps.
SPIN = "10000"


def idle() -> bool:
    """Return whether hardly anything has run on this machine in the last minute."""
    try:
        return os.getloadavg()[0] < usable_cores() / 4
    except (OSError, AttributeError):
        return False


def prepare_libraries(*, spin: bool = False) -> None:
    """Set how torch's libraries use cores and memory; to be called before torch is imported.

    A user's own settings stay. `spin` is for the one process that an idle machine works for.

    GNU OpenMP's threads spin for milliseconds at every barrier. On a machine that does anything else, two spinning
    threads were measured up to twenty times slower than two sleeping ones. With a short spin a step was 8 % faster on
    an idle machine, and 40 % slower beside another run with one: hence `spin`.

    oneDNN keeps the last 1,024 matrix products it has generated code for, one per size. In bfloat16 that took 500 MB
    after ten steps, and since steps differ in size, few are ever used again: with 64 a step takes as long.
    """
    turn_off_telemetry()
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", SPIN if spin else "0")
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "64")
