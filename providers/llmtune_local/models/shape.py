"""The shape of a model, read from its configuration and the headers of its weights; nothing is loaded."""

from __future__ import annotations

import json
import os
import re
import struct
from dataclasses import dataclass
from pathlib import Path

#: Bytes of an element by its name in a safetensors header.
_BYTES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I8": 1, "U8": 1, "BOOL": 1, "F8_E4M3": 1}


_LAYER = re.compile(r"\.(?:layers|layer|h|blocks)\.\d+\.")


@dataclass(frozen=True)
class Shape:
    """What of a model decides its memory. Widths are in elements, `file_bytes` is the size of its weight files."""

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


def shape_of(model: str, revision: str | None = None) -> Shape | None:
    """The shape of a model that is on this machine; None where it is not (nothing is downloaded)."""
    folder = folder_of(model, revision)
    if folder is None or not (folder / "config.json").is_file():
        return None
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    config = config.get("text_config") or config
    headers = _headers(folder)
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
        parameters=sum(_count(shape) for shape, _ in headers.values()),
        file_bytes=sum(_count(shape) * _BYTES.get(kind, 4) for shape, kind in headers.values()),
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
    """Whether a model has the layers that every decoder has and no others; None where it is not on this machine."""
    folder = folder_of(model, revision)
    if folder is None or not (folder / "config.json").is_file():
        return None
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    kind = str(config.get("model_type", ""))
    return not (
        "text_config" in config
        or any("expert" in key for key in config)
        or any(word in kind for word in ("mamba", "_h", "rwkv", "moe"))
    )


def published_dtypes(model: str, revision: str | None = None) -> dict[str, str]:
    """The dtype of every tensor of a model's weight files, by its name there; empty where they are not here."""
    folder = folder_of(model, revision)
    headers = _headers(folder) if folder is not None else None
    return {name: kind for name, (_, kind) in (headers or {}).items()}


def text_part_of(folder: Path) -> bool:
    """Whether the model in this folder is one of text and images (or sound), by its configuration."""
    path = folder / "config.json"
    config = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    names = config.get("architectures") or [""]
    return "text_config" in config and names[0].endswith("ForConditionalGeneration")


def end_tokens_of(folder: Path) -> list[int]:
    """The tokens that end an answer, as the folder of a tuned model says; empty where it says nothing."""
    path = folder / "generation_config.json"
    found = json.loads(path.read_text(encoding="utf-8")).get("eos_token_id") if path.is_file() else None
    return list(found) if isinstance(found, list) else [] if found is None else [int(found)]


def folder_of(model: str, revision: str | None) -> Path | None:
    """Where a model's files are on this machine: a folder, an embedded one, or the hub's cache."""
    from llmtune_local.models.hub import adapter_of, locate

    base, _ = adapter_of(model)
    place = Path(locate(base))
    if place.is_dir():
        return place
    cache = (
        os.environ.get("HF_HUB_CACHE") or Path(os.environ.get("HF_HOME", Path.home() / ".cache/huggingface")) / "hub"
    )
    snapshots = Path(cache) / f"models--{base.replace('/', '--')}" / "snapshots"
    named = Path(cache) / f"models--{base.replace('/', '--')}" / "refs" / (revision or "main")
    if named.is_file():
        return snapshots / named.read_text(encoding="ascii").strip()
    return next(iter(sorted(snapshots.iterdir())), None) if snapshots.is_dir() else None


def _headers(folder: Path) -> dict[str, tuple[list[int], str]] | None:
    """Shape and kind of every tensor, from the headers of the weight files."""
    found: dict[str, tuple[list[int], str]] = {}
    for path in sorted(folder.glob("*.safetensors")):
        with path.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            header = json.loads(file.read(length))
        header.pop("__metadata__", None)
        found |= {name: (entry["shape"], entry["dtype"]) for name, entry in header.items()}
    return found or None


def _count(shape: list[int]) -> int:
    count = 1
    for each in shape:
        count *= each
    return count
