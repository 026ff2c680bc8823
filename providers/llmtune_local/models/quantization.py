"""Bases in 4 bits: whether they can be trained on here."""

from __future__ import annotations

import importlib.util
from typing import Any

from llmtune.errors import InvalidJob
from llmtune_local.models.hub import first_line


def why_no_four_bit(device: str) -> str | None:
    """Why a base cannot be held in 4 bits on this device; None where it can.

    Tried on one layer: on some devices bitsandbytes computes, and passes no gradient on once it has answered without.
    """
    if importlib.util.find_spec("bitsandbytes") is None:
        return "adapter qlora needs bitsandbytes, which is not installed here"
    import torch

    try:
        import bitsandbytes

        layer: Any = bitsandbytes.nn.Linear4bit(128, 128, bias=False, compute_dtype=torch.float32, quant_type="nf4")
        layer = layer.to(device).requires_grad_(False).eval()
        each = torch.eye(128, device=device)
        with torch.no_grad():
            expected = layer(each).sum(dim=1)
        asked = torch.zeros(2, 128, device=device, requires_grad=True)
        layer.train()(asked).sum().backward()
        if asked.grad is None or not torch.allclose(asked.grad[0], expected, rtol=1e-2, atol=1e-2):
            return f"adapter qlora: bitsandbytes' 4-bit layers give no right gradient on {device} here"
    except Exception as problem:  # noqa: BLE001 - whatever it raises, it does not run
        return f"adapter qlora: bitsandbytes does not run on {device} here ({first_line(problem)})"
    return None


def check_adapter(adapter: str, device: str) -> None:
    """Refuse an adapter that cannot be trained on this device. Raises `InvalidJob` with the reason."""
    if adapter == "qlora" and (reason := why_no_four_bit(device)) is not None:
        hint = "pip install 'llmtune-sdk[qlora]', on a CUDA machine; or use adapter lora with dtype bfloat16"
        raise InvalidJob(reason, where="adapter", hint=hint)
