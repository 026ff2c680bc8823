"""Base models in 4 bits: whether they can be trained here."""

from __future__ import annotations

import importlib.util
from typing import Any

from llmtune.errors import InvalidJob
from llmtune_local.models.hub import first_line, locate_for_loading, split_adapter


def four_bit_obstacle(device: str) -> str | None:
    """Return why a base cannot be held in 4 bits on this device; None where it can.

    Tried on one layer: on some devices bitsandbytes computes, and passes no gradient on after a forward without one.
    """
    if importlib.util.find_spec("bitsandbytes") is None:
        return "adapter qlora needs bitsandbytes, which is not installed here"
    import torch

    try:
        import bitsandbytes

        layer: Any = bitsandbytes.nn.Linear4bit(128, 128, bias=False, compute_dtype=torch.float32, quant_type="nf4")
        layer = layer.to(device).requires_grad_(False).eval()
        identity = torch.eye(128, device=device)
        with torch.no_grad():
            expected = layer(identity).sum(dim=1)
        inputs = torch.zeros(2, 128, device=device, requires_grad=True)
        layer.train()(inputs).sum().backward()
        if inputs.grad is None or not torch.allclose(inputs.grad[0], expected, rtol=1e-2, atol=1e-2):
            return f"adapter qlora: bitsandbytes' 4-bit layers give no right gradient on {device} here"
    except Exception as problem:  # noqa: BLE001 - whatever it raises, it does not run
        return f"adapter qlora: bitsandbytes does not run on {device} here ({first_line(problem)})"
    return None


def check_adapter(adapter: str, device: str, model: str = "") -> None:
    """Refuse an adapter that cannot be trained of this model on this device. Raises `InvalidJob` with the reason."""
    if adapter == "qlora" and model and locate_for_loading(split_adapter(model)[0])[1] is not None:
        raise InvalidJob(
            f"{model!r} is a GGUF file, whose weights are not read into 4-bit layers",
            where="adapter",
            hint="use adapter lora, or the same model from Hugging Face",
        )
    if adapter == "qlora" and (reason := four_bit_obstacle(device)) is not None:
        hint = "pip install 'llmtune-sdk[qlora]', on a CUDA machine; or use adapter lora with dtype bfloat16"
        raise InvalidJob(reason, where="adapter", hint=hint)
