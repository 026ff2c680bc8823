"""The hardware of a run: its device, threads and peak memory; and the versions of its libraries."""

from __future__ import annotations

import contextlib
import ctypes
import importlib.metadata
import os
import platform
import sys
from pathlib import Path

import torch

from llmtune._safety import operating_system
from llmtune.errors import DeviceUnavailable
from llmtune_local.libraries import prepare_libraries, usable_cores
from llmtune_local.run_state.schema import WorkerOptions


def peak_memory(device: str) -> int:
    """Return the most memory this process has held, in bytes: on the GPU where it ran there, else in RAM."""
    if device == "cuda":
        return int(torch.cuda.max_memory_allocated())
    # Linux hands `ru_maxrss` on through fork and exec: a small worker started by a large notebook would report the
    # notebook's peak. The high-water mark of /proc is of this program alone.
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    return operating_system.get_peak_memory()


def free_memory(*, at_once: bool = False) -> None:
    """Have the C library return freed memory to the system: now, or `at_once` whenever a large block is freed, for runs
    that are to be small, not fast.

    glibc keeps it for the next allocation, which in training is rarely of a size that fits: with gradient
    checkpointing more than half of the peak was memory that nobody used, and without it a fifth after ten steps.
    """
    if sys.platform.startswith("linux"):
        with contextlib.suppress(OSError, AttributeError):
            libc = ctypes.CDLL("libc.so.6")
            if at_once:
                libc.mallopt(-3, 1 << 20)  # M_MMAP_THRESHOLD
            else:
                libc.malloc_trim(0)


def out_of_memory(problem: BaseException) -> bool:
    """Return whether an error means that the device's (or the machine's) memory does not suffice."""
    if isinstance(problem, MemoryError | torch.OutOfMemoryError):
        return True
    text = str(problem).lower()
    return "out of memory" in text or "can't allocate memory" in text


def versions() -> dict[str, str]:
    """Return the versions of Python and of the libraries that a run uses."""
    names = ("llmtune-sdk", "torch", "transformers", "peft", "tokenizers", "safetensors")
    installed = {"python": platform.python_version()}
    for name in names:
        try:
            installed[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return installed


def describe_hardware() -> dict[str, str]:
    """Describe what a run would find here: its device, cores, memory, and each GPU with its memory."""
    hardware = {"device": resolve_device(), "cores": str(usable_cores())}
    if (total := operating_system.get_total_memory()) is not None:
        hardware["memory"] = f"{total / 2**30:.1f} GiB"
    for number in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
        gpu = torch.cuda.get_device_properties(number)
        hardware[f"gpu {number}"] = f"{gpu.name}, {gpu.total_memory / 2**30:.1f} GiB"
    return hardware


def resolve_device(name: str = "auto") -> str:
    """Return cpu, cuda or mps. Raises `DeviceUnavailable` when the named device is not available here."""
    prepare_libraries()
    if name in ("auto", "cuda") and torch.cuda.is_available():
        return "cuda"
    if name in ("auto", "mps") and torch.backends.mps.is_available():
        return "mps"
    if name in ("auto", "cpu"):
        return "cpu"
    raise DeviceUnavailable(
        f"the device {name!r} is not available on this machine", hint="leave device at auto, or set it to cpu"
    )


def set_threads(options: WorkerOptions) -> int:
    """Set torch's CPU threads by the option, OMP_NUM_THREADS, or the physical cores; return their number."""
    count = options.num_threads
    if count is None and os.environ.get("OMP_NUM_THREADS", "").isdigit():
        count = int(os.environ["OMP_NUM_THREADS"])
    count = count or usable_cores()
    torch.set_num_threads(count)
    return count
