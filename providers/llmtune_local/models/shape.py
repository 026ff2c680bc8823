"""The shape of a model, read from its configuration and the headers of its weights; nothing is loaded."""

from __future__ import annotations

import json
import os
import re
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmtune_local.models.gguf_file import read_header

#: Bytes of an element by its name in a safetensors header.
_BYTES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I8": 1, "U8": 1, "BOOL": 1, "F8_E4M3": 1}


#: Files that say how a model's images are processed.
IMAGE_PROCESSOR_FILES = ("preprocessor_config.json", "processor_config.json", "video_preprocessor_config.json")

_LAYER = re.compile(r"\.(?:layers|layer|h|blocks)\.\d+\.")


@dataclass(frozen=True)
class Shape:
    """The sizes of a model that decide its memory. Widths are in elements, `file_bytes` is the size of its weight
    files."""

    parameters: int
    file_bytes: int
    hidden: int
    layers: int
    inner: int
    query: int
    key: int
    vocabulary: int
    context: int | None
    linear: tuple[tuple[int, int], ...]
    """Every matrix inside the transformer blocks, as (out, in), without those of routed experts."""

    encoder: bool = False


def read_shape(model: str, revision: str | None = None) -> Shape | None:
    """Read the shape of a model that is on this machine; None where it is not (nothing is downloaded)."""
    if (file := _find_gguf(model)) is not None:
        return _read_gguf_shape(file)
    folder = find_model_folder(model, revision)
    if folder is None or not (folder / "config.json").is_file():
        return None
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    config = config.get("text_config") or config
    headers = _read_headers(folder)
    if headers is None:
        return None
    hidden = int(config.get("hidden_size") or config.get("n_embd") or config.get("dim") or 0)
    layers = int(config.get("num_hidden_layers") or config.get("n_layer") or config.get("n_layers") or 0)
    heads = int(config.get("num_attention_heads") or config.get("n_head") or config.get("n_heads") or 1)
    if not hidden or not layers:
        return None
    width = int(config.get("head_dim") or hidden // heads)
    inner = config.get("intermediate_size") or config.get("n_inner") or config.get("hidden_dim") or 4 * hidden
    linear = tuple(
        (shape[0], shape[1])
        for name, (shape, _) in headers.items()
        if len(shape) == 2 and _LAYER.search(f".{name}") and ".experts." not in name
    )
    names = " ".join(config.get("architectures") or ())
    return Shape(
        parameters=sum(_element_count(shape) for shape, _ in headers.values()),
        file_bytes=sum(_element_count(shape) * _BYTES.get(kind, 4) for shape, kind in headers.values()),
        hidden=hidden,
        layers=layers,
        inner=int(inner),
        query=heads * width,
        key=int(config.get("num_key_value_heads") or heads) * width,
        vocabulary=int(config.get("vocab_size") or 0),
        context=config.get("max_position_embeddings") or config.get("n_positions"),
        linear=linear,
        encoder="MaskedLM" in names or "SequenceClassification" in names,
    )


def is_plain_decoder(model: str, revision: str | None = None) -> bool | None:
    """Return whether a model has the layers that every decoder has and no others; None where it is not here."""
    if (file := _find_gguf(model)) is not None:
        return not any("expert" in name or ".ssm." in name for name in read_header(file).metadata)
    folder = find_model_folder(model, revision)
    if folder is None or not (folder / "config.json").is_file():
        return None
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    kind = str(config.get("model_type", ""))
    return not (
        "text_config" in config
        or any("expert" in key for key in config)
        or any(part in kind for part in ("mamba", "_h", "rwkv", "moe"))
    )


def published_dtypes(model: str, revision: str | None = None) -> dict[str, str]:
    """Return the dtype of every tensor of a model's weight files, by name; empty where they are not on this machine."""
    folder = find_model_folder(model, revision)
    headers = _read_headers(folder) if folder is not None else None
    return {name: kind for name, (_, kind) in (headers or {}).items()}


def has_text_config(folder: Path) -> bool:
    """Return whether the model in this folder is one of text and images (or sound), by its configuration."""
    path = folder / "config.json"
    config = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    names = config.get("architectures") or [""]
    return "text_config" in config and names[0].endswith("ForConditionalGeneration")


def reads_images(folder: Path) -> bool:
    """Return whether the model in the folder of a run was tuned on rows with images: what reads them lies beside it."""
    return any((folder / name).is_file() for name in IMAGE_PROCESSOR_FILES)


def read_end_tokens(folder: Path) -> list[int]:
    """Read the tokens that end an answer from the folder of a tuned model; empty where it names none."""
    path = folder / "generation_config.json"
    tokens = json.loads(path.read_text(encoding="utf-8")).get("eos_token_id") if path.is_file() else None
    return list(tokens) if isinstance(tokens, list) else [] if tokens is None else [int(tokens)]


def find_model_folder(model: str, revision: str | None) -> Path | None:
    """Return the folder of a model's files: the model itself, an embedded one, or the hub's cache; else None."""
    from llmtune_local.models.hub import locate, split_adapter

    base, _ = split_adapter(model)
    path = Path(locate(base))
    if path.is_dir():
        return path
    cache = hub_cache()
    snapshots = cache / f"models--{base.replace('/', '--')}" / "snapshots"
    named = cache / f"models--{base.replace('/', '--')}" / "refs" / (revision or "main")
    if named.is_file():
        return snapshots / named.read_text(encoding="ascii").strip()
    return next(iter(sorted(snapshots.iterdir())), None) if snapshots.is_dir() else None


def _find_gguf(model: str) -> Path | None:
    from llmtune_local.models.hub import locate_for_loading, split_adapter

    return locate_for_loading(split_adapter(model)[0])[1]


def _read_gguf_shape(file: Path) -> Shape | None:
    """Read the shape from a GGUF file's header. Its weights are counted as they are once they are loaded."""
    header = read_header(file)
    hidden, layers = int(header.get("embedding_length") or 0), int(header.get("block_count") or 0)
    if not hidden or not layers:
        return None
    heads = _largest(header.get("attention.head_count")) or 1
    width = int(header.get("attention.key_length") or hidden // heads)
    return Shape(
        parameters=sum(_element_count(list(shape)) for shape in header.tensors.values()),
        file_bytes=file.stat().st_size,
        hidden=hidden,
        layers=layers,
        inner=_largest(header.get("feed_forward_length")) or 4 * hidden,
        query=heads * width,
        key=(_largest(header.get("attention.head_count_kv")) or heads) * width,
        vocabulary=header.tensors.get("token_embd.weight", (0,))[0],
        context=header.get("context_length"),
        linear=tuple(
            (shape[0], shape[1])
            for name, shape in header.tensors.items()
            if len(shape) == 2 and name.startswith("blk.") and name.endswith(".weight") and "_exps." not in name
        ),
    )


def _largest(value: Any) -> int:
    """Return a number of the header that may be given for each layer: the largest; 0 where there is none."""
    return max(value, default=0) if isinstance(value, list) else int(value or 0)


def hub_cache() -> Path:
    """Return the folder in which models of the Hugging Face hub are kept on this machine; it may not exist."""
    home = Path(os.environ.get("HF_HOME", Path.home() / ".cache/huggingface"))
    return Path(os.environ.get("HF_HUB_CACHE") or home / "hub")


def cached_models() -> list[str]:
    """Return the ids of the models of which the hub's cache holds anything, sorted."""
    cache = hub_cache()
    folders = sorted(cache.glob("models--*")) if cache.is_dir() else []
    return [folder.name.removeprefix("models--").replace("--", "/") for folder in folders]


def _read_headers(folder: Path) -> dict[str, tuple[list[int], str]] | None:
    """Read shape and dtype of every tensor from the headers of the weight files."""
    tensors: dict[str, tuple[list[int], str]] = {}
    for path in sorted(folder.glob("*.safetensors")):
        with path.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            header = json.loads(file.read(length))
        header.pop("__metadata__", None)
        tensors |= {name: (entry["shape"], entry["dtype"]) for name, entry in header.items()}
    return tensors or None


def _element_count(shape: list[int]) -> int:
    count = 1
    for size in shape:
        count *= size
    return count
