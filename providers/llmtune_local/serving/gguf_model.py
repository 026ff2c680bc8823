"""A model or a LoRA adapter as a GGUF file: tensors renamed, reordered and put in their precision one by one."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from llmtune.errors import InvalidJob, MissingExtra
from llmtune_local.serving import families
from llmtune_local.serving.families import Family, Setting

if TYPE_CHECKING:
    import numpy as np
    import torch

    from llmtune.provider.abilities import Precision
    from llmtune_local.serving.gguf_tokenizer import Vocabulary

#: Values of a block of q8_0, which share one scale: a row must be made of whole blocks.
_Q8_BLOCK = 32
_LARGEST_F16 = 65504.0
#: Where models of text and images keep the text part.
_TEXT_PART = re.compile(r"^(?:model\.language_model\.|language_model\.model\.)")
_OUTSIDE_TEXT = re.compile(r"(?:^|\.)(?:vision_tower|multi_modal_projector)\.|rotary_emb\.inv_freq$")
_HEAD = re.compile(r"^(?:language_model\.)?lm_head\.")
_LORA = re.compile(r"^base_model\.model\.(?P<module>.+)\.lora_(?P<half>[AB])\.weight$")


class Tensor(NamedTuple):
    """A tensor as it is written: its name in the file, and its values."""

    name: str
    values: torch.Tensor


def need_gguf() -> None:
    """Raise `MissingExtra` where the package that writes GGUF files is not installed."""
    import importlib.util

    if importlib.util.find_spec("gguf") is None:
        raise MissingExtra("gguf", "gguf", purpose="writing GGUF files")


def write_model(
    path: Path, network: Any, family: Family, vocabulary: Vocabulary, *, precision: Precision, name: str
) -> None:
    """Write a whole model. Matrices are in `precision`, vectors in float32.

    Raises:
        InvalidJob: a weight is too large for f16, or llama.cpp has no place for it.
    """
    import torch

    config = network.config.get_text_config()
    tied = bool(getattr(config, "tie_word_embeddings", False))
    state = {key: tensor for key, tensor in network.state_dict().items() if not (tied and _HEAD.match(key))}
    tensors = [*_convert(state, family, config)]
    tensors += [Tensor(name, torch.tensor(factors)) for name, factors in families.rope_factors(config).items()]
    writer = _open(path, family)
    for key, value in _describe(name, precision).items():
        _set(writer, key, value)
    for key, value in families.settings(family, config).items():
        _set(writer, f"{family.architecture}.{key}", value)
    vocabulary.write(writer)
    _write(writer, tensors, precision)


def write_adapter(path: Path, folder: Path, config: Any, family: Family, *, name: str) -> None:
    """Write the LoRA adapter in a folder of PEFT's as a file for llama.cpp's `--lora`, in float32.

    `config` is the base model's. Raises `InvalidJob` for a tensor that llama.cpp has no place for.
    """
    from safetensors.torch import load_file

    settings = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
    alpha = float(settings.get("lora_alpha") or settings["r"])
    halves: dict[str, torch.Tensor] = {}
    for key, tensor in load_file(folder / "adapter_model.safetensors").items():
        match = _LORA.match(key)
        if match is None:
            raise InvalidJob(f"the adapter has a tensor {key!r} that llama.cpp has no place for")
        module, half = match["module"], match["half"]
        if half == "B":
            # llama.cpp computes one scale, alpha / rank, from the file's alpha: what differs goes into the matrix.
            tensor = tensor.float() * (_scale(module, settings) * tensor.shape[1] / alpha)
        halves[f"{module}.weight.lora_{half.lower()}"] = tensor
    writer = _open(path, family)
    about: dict[str, Setting] = {"general.type": "adapter", "general.name": name, "adapter.type": "lora"}
    for setting, value in (about | {"adapter.lora.alpha": alpha}).items():
        _set(writer, setting, value)
    _write(writer, list(_convert(halves, family, config.get_text_config())), "f32")


def adapter_fault(settings: Mapping[str, Any], *, tied: bool) -> str | None:
    """Return what keeps llama.cpp from applying an adapter on top of its base; None where nothing does.

    `tied` is whether the base's output layer is its embeddings.
    """
    targets = settings.get("target_modules") or ()
    names = {str(target).rsplit(".", 1)[-1] for target in ([targets] if isinstance(targets, str) else targets)}
    for applies, description in (
        (settings.get("peft_type", "LORA") != "LORA", f"a {settings.get('peft_type')} adapter"),
        (settings.get("use_dora"), "a DoRA adapter"),
        (settings.get("modules_to_save"), "an adapter with whole modules in it"),
        (settings.get("target_parameters"), "an adapter on parameters, such as those of routed experts"),
        (settings.get("bias", "none") != "none" or settings.get("lora_bias"), "an adapter with biases"),
        ("embed_tokens" in names, "an adapter on embeddings"),
        ("lm_head" in names and tied, "an adapter on an output layer that is tied to the embeddings"),
    ):
        if applies:
            return description
    return None


def _scale(module: str, settings: Mapping[str, Any]) -> float:
    """Return by what PEFT multiplies the product of a module's two matrices."""
    rank = _by_pattern(module, settings.get("rank_pattern"), settings["r"])
    alpha = _by_pattern(module, settings.get("alpha_pattern"), settings["lora_alpha"])
    return alpha / math.sqrt(rank) if settings.get("use_rslora") else alpha / rank


def _by_pattern(module: str, patterns: Mapping[str, Any] | None, default: Any) -> float:
    """Return the value of the first pattern that the module's name ends with, as PEFT matches them."""
    for pattern, value in (patterns or {}).items():
        if re.match(rf"(.*\.)?({pattern})$", module):
            return float(value)
    return float(default)


def _convert(state: Mapping[str, torch.Tensor], family: Family, config: Any) -> Iterator[Tensor]:
    """Yield the tensors of the text part under their names in the file, changed as the family needs it."""
    import gguf

    architecture = next(arch for arch, name in gguf.MODEL_ARCH_NAMES.items() if name == family.architecture)
    names = gguf.get_tensor_name_map(architecture, config.num_hidden_layers)
    heads = {
        "q_proj": config.num_attention_heads,
        "k_proj": config.num_key_value_heads or config.num_attention_heads,
    }
    for key, tensor in state.items():
        if _OUTSIDE_TEXT.search(key):
            continue
        plain = _TEXT_PART.sub("model.", key).removeprefix("language_model.")
        module, suffix = re.fullmatch(r"(.+?)(\.(?:weight|bias)(?:\.lora_[ab])?)", plain).groups()  # type: ignore[union-attr]
        name = names.get_name(module)
        if name is None:
            raise InvalidJob(
                f"the model has a tensor {key!r} that llama.cpp has no place for",
                hint="use --format merged, and serve the folder with vLLM or transformers",
            )
        kind = module.rsplit(".", 1)[-1]
        if family.interleaved and kind in heads and not suffix.endswith("lora_a"):
            tensor = _interleave(tensor, heads[kind])
        if family.norm_offset and kind.endswith("norm"):
            tensor = tensor.float() + family.norm_offset
        yield Tensor(name + suffix, tensor)


def _interleave(tensor: torch.Tensor, heads: int) -> torch.Tensor:
    """Put the two halves of each head side by side: llama.cpp rotates neighbours, transformers halves."""
    rows, *columns = tensor.shape
    return tensor.reshape(heads, 2, rows // heads // 2, *columns).transpose(1, 2).reshape(tensor.shape)


def _describe(name: str, precision: Precision) -> dict[str, Setting]:
    import gguf

    file_types = {"f32": "ALL_F32", "f16": "MOSTLY_F16", "bf16": "MOSTLY_BF16", "q8_0": "MOSTLY_Q8_0"}
    return {
        "general.type": "model",
        "general.name": name,
        "general.file_type": int(gguf.LlamaFileType[file_types[precision]]),
        "general.quantization_version": int(gguf.GGML_QUANT_VERSION),
    }


def _open(path: Path, family: Family) -> Any:
    import gguf

    return gguf.GGUFWriter(path, family.architecture)


def _set(writer: Any, key: str, value: Setting) -> None:
    """Write one value of the header, in the type that llama.cpp reads it in."""
    if isinstance(value, bool):
        writer.add_bool(key, value)
    elif isinstance(value, int):
        writer.add_uint32(key, value)
    elif isinstance(value, float):
        writer.add_float32(key, value)
    else:
        writer.add_string(key, value)


def _write(writer: Any, tensors: Iterable[Tensor], precision: Precision) -> None:
    """Write header and tensors. One tensor at a time is converted, so that memory holds the model once."""
    import gguf
    import numpy as np

    tensors = list(tensors)
    types = [_type_of(tensor, precision) for tensor in tensors]
    for tensor, type_ in zip(tensors, types, strict=True):
        block, size = gguf.GGML_QUANT_SIZES[type_]
        bytes_ = math.prod(tensor.values.shape) // block * size
        # The type is given, so that of the array plays no part, except that bytes would be taken for blocks.
        writer.add_tensor_info(tensor.name, tuple(tensor.values.shape), np.dtype(np.float32), bytes_, raw_dtype=type_)
    try:
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        for tensor, type_ in zip(tensors, types, strict=True):
            writer.write_tensor_data(_quantise(tensor, type_))
    finally:
        writer.close()


def _type_of(tensor: Tensor, precision: Precision) -> Any:
    import gguf

    if tensor.values.ndim == 1:
        return gguf.GGMLQuantizationType.F32
    if precision == "q8_0" and tensor.values.shape[-1] % _Q8_BLOCK:
        return gguf.GGMLQuantizationType.F16
    return gguf.GGMLQuantizationType[precision.upper()]


def _quantise(tensor: Tensor, type_: Any) -> np.ndarray[Any, Any]:
    import gguf

    values = tensor.values.detach().float().cpu().contiguous()
    if type_ == gguf.GGMLQuantizationType.F16 and (largest := float(values.abs().max())) > _LARGEST_F16:
        raise InvalidJob(
            f"{tensor.name} has a weight of {largest:.3g}, and f16 ends at {_LARGEST_F16:.0f}",
            hint="use --precision bf16",
        )
    data: np.ndarray[Any, Any] = gguf.quantize(values.numpy(), type_)
    return data
