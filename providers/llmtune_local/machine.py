"""What a run was made with and how much memory it took."""

from __future__ import annotations

import importlib.metadata
import platform
import resource
import sys

import torch


def peak_memory(device: str) -> int:
    """Most memory this process has held: on the GPU where it ran there, else in RAM."""
    if device == "cuda":
        return int(torch.cuda.max_memory_allocated())
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def out_of_memory(problem: BaseException) -> bool:
    """Whether an error means that the device's (or the machine's) memory does not suffice."""
    if isinstance(problem, MemoryError | torch.OutOfMemoryError):
        return True
    text = str(problem).lower()
    return "out of memory" in text or "can't allocate memory" in text


def versions() -> dict[str, str]:
    """What the run was made with."""
    names = ("llmtune-sdk", "torch", "transformers", "peft", "tokenizers", "safetensors")
    found = {"python": platform.python_version()}
    for name in names:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found
