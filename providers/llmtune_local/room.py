"""Whether a model can be trained on this machine at all: what surely does not fit is refused before anything starts.

A lower bound, so that nothing is refused that might run: the weights as they are held, and in full tuning their
gradients and the optimizer's two moments (float32), against all the memory that the device has. Activations come on top
and are kept small by smaller micro-batches.
"""

from __future__ import annotations

import os
import sys
from typing import Any

from llmtune.errors import DeviceUnavailable

#: Bytes a weight takes: held in float32 or bfloat16; in full tuning with its gradient and two moments.
_FLOAT, _HALF, _FULL = 4, 2, 16


def check_room(config: Any, *, device: str, adapter: str, dtype: str) -> None:
    """Refuse a model whose weights cannot fit. Raises `DeviceUnavailable` with both figures."""
    room = device_memory(device)
    if room is None:
        return
    half = dtype == "bfloat16" or (dtype == "auto" and device == "cuda")
    each = _FULL if adapter == "full" else _HALF if half else _FLOAT
    needed = parameters(config) * each
    if needed <= room:
        return
    less = "adapter lora instead of full" if adapter == "full" else "dtype bfloat16" if each == _FLOAT else "qlora"
    raise DeviceUnavailable(
        f"the model needs at least {needed / 2**30:.1f} GiB on {device} and there are {room / 2**30:.1f} GiB",
        hint=f"try {less}, or a smaller model",
    )


def parameters(config: Any) -> int:
    """How many weights a model of this configuration has, without making them."""
    import torch
    from transformers import AutoModelForCausalLM

    auto: Any = AutoModelForCausalLM
    with torch.device("meta"):
        model = auto.from_config(config)
    return sum(parameter.numel() for parameter in model.parameters())


def device_memory(device: str) -> int | None:
    """Bytes of memory that the device has in all; None where it is not known."""
    import torch

    if device == "cuda":
        return int(torch.cuda.get_device_properties(0).total_memory)
    if sys.platform == "win32":
        return None
    total = int(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    try:  # a container's limit is what is there, not the machine's memory
        with open("/sys/fs/cgroup/memory.max", encoding="ascii") as limit:  # noqa: PTH123
            told = limit.read().strip()
    except OSError:
        return total
    return min(total, int(told)) if told.isdigit() else total
