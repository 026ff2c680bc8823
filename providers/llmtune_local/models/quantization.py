"""Base models in 4 or 8 bits: how they are held, and whether they can be trained here."""

from __future__ import annotations

import importlib.util
from typing import Any

from llmtune.errors import InvalidJob
from llmtune_local.models.hub import first_line, locate_for_loading, split_adapter

#: How the base is held where a job does not say.
QUANTIZED = "nf4-dq"


def make_config(quantization: str, dtype: Any) -> Any:
    """Return transformers' configuration of a base that is held so and computes in `dtype`."""
    from transformers import BitsAndBytesConfig

    make: Any = BitsAndBytesConfig
    if quantization == "int8":
        return make(load_in_8bit=True)
    kind, _, double = quantization.partition("-")
    return make(
        load_in_4bit=True,
        bnb_4bit_quant_type=kind,
        bnb_4bit_use_double_quant=bool(double),
        bnb_4bit_compute_dtype=dtype,
    )


def quantization_obstacle(device: str, quantization: str = QUANTIZED) -> str | None:
    """Return why a base cannot be held so on this device; None where it can.

    Tried on one layer: on some devices bitsandbytes computes, and passes no gradient on after a forward without one.
    """
    if importlib.util.find_spec("bitsandbytes") is None:
        return "adapter qlora needs bitsandbytes, which is not installed here"
    import torch

    try:
        import bitsandbytes

        dtype = torch.float32
        if quantization == "int8":
            dtype = torch.float16  # which its 8-bit product computes in
            layer: Any = bitsandbytes.nn.Linear8bitLt(128, 128, bias=False, has_fp16_weights=False)
        else:
            kind, _, double = quantization.partition("-")
            layer = bitsandbytes.nn.Linear4bit(
                128, 128, bias=False, compute_dtype=dtype, quant_type=kind, compress_statistics=bool(double)
            )
        layer = layer.to(device).requires_grad_(False).eval()
        identity = torch.eye(128, device=device, dtype=dtype)
        with torch.no_grad():
            expected = layer(identity).sum(dim=1)
        inputs = torch.zeros(2, 128, device=device, dtype=dtype, requires_grad=True)
        layer.train()(inputs).sum().backward()
        if inputs.grad is None or not torch.allclose(inputs.grad[0], expected, rtol=1e-2, atol=5e-2):
            return f"adapter qlora: bitsandbytes' {quantization} layers give no right gradient on {device} here"
    except Exception as problem:  # noqa: BLE001 - whatever it raises, it does not run
        return f"adapter qlora: bitsandbytes does not run on {device} here ({first_line(problem)})"
    return None


def check_adapter(adapter: str, device: str, model: str = "", *, quantization: str | None = None) -> None:
    """Refuse an adapter that cannot be trained of this model on this device. Raises `InvalidJob` with the reason."""
    if quantization is not None and adapter != "qlora":
        raise InvalidJob(
            f"quantization {quantization} is how adapter qlora holds the base, and the adapter is {adapter}",
            where="provider_options.local.quantization",
            hint="set adapter: qlora, or leave quantization out",
        )
    if adapter == "qlora" and model and locate_for_loading(split_adapter(model)[0])[1] is not None:
        raise InvalidJob(
            f"{model!r} is a GGUF file, whose weights are not read into 4-bit layers",
            where="adapter",
            hint="use adapter lora, or the same model from Hugging Face",
        )
    if adapter == "qlora" and (reason := quantization_obstacle(device, quantization or QUANTIZED)) is not None:
        hint = "pip install 'llmtune-sdk[qlora]', on a CUDA machine; or use adapter lora with dtype bfloat16"
        raise InvalidJob(reason, where="adapter", hint=hint)
