"""The precision of a run's frozen weights and matrix products, where it is left open. Imports nothing heavy.

bfloat16 where the hardware multiplies in it: CUDA devices, and CPUs with AVX512-BF16 or AMX once a model is large
enough for that to pay (below, rounding buys nothing). Trained weights, norms and the residual stream are float32.
"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from llmtune_local.models.shape import Shape

#: Parameters from which bfloat16 pays on a CPU that has it.
HALF_FROM = 20_000_000


def resolve_precision(name: str, device: str, shape: Shape | None) -> str:
    """Return "float32" or "bfloat16"; `name` is one of them, or "auto"."""
    if name != "auto":
        return name
    if device == "cuda":
        return "bfloat16"
    large = shape is not None and not shape.encoder and shape.parameters >= HALF_FROM
    return "bfloat16" if device == "cpu" and large and cpu_has_half() else "float32"


@functools.cache
def cpu_has_half() -> bool:
    """Return whether this CPU multiplies bfloat16 (Linux on x86; elsewhere it is not known, and float32 is used)."""
    try:
        flags = Path("/proc/cpuinfo").read_text(encoding="ascii", errors="replace")
    except OSError:
        return False
    line = next((line for line in flags.splitlines() if line.startswith("flags")), "")
    return bool({"avx512_bf16", "amx_bf16"} & set(line.split()))
