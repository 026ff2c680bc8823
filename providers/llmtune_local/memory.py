"""How much memory a run will take, told before anything is loaded. Imports nothing heavy.

Weights and adapters are counted exactly, from the headers of the model's weight files. Activations are what the
autograd graph keeps of each token in each layer, counted once on small models (benchmarks/memory.py measures how far
off whole runs are). What a process holds before it has a model is a constant.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import struct
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from llmtune.footprint import Footprint, Part

#: Interpreter, torch, transformers and peft, loaded: resident on CPU (Linux x86-64, torch 2.13).
PROCESS = 640 << 20
#: On a GPU the allocator counts tensors alone; the context beside them.
CUDA_CONTEXT = 600 << 20
#: Bytes of an element by its name in a safetensors header.
_BYTES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I8": 1, "U8": 1, "BOOL": 1, "F8_E4M3": 1}
#: Optimizer state in floats a trained parameter; adafactor keeps two vectors a matrix.
_STATE = {"adamw_torch": 2, "adamw_torch_fused": 2, "adafactor": 0.02, "sgd": 0, "rmsprop": 1, "adagrad": 1}
#: Logits held at once (loss.py).
_CHUNK_ELEMENTS, _CHUNK_ROWS = 1 << 24, 128
_BUDGET = {"cpu": 4096}
_BUDGET_ELSEWHERE = 16384
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
    """Every matrix inside the transformer blocks, as (out, in)."""

    encoder: bool = False


@dataclass(frozen=True)
class Plan:
    """What of a request decides its memory. `tokens` are those of the largest micro-batch."""

    adapter: str
    tokens: int
    trained_tokens: int
    rank: int = 16
    dropout: float = 0.0
    optimizer: str = "adamw_torch"
    dtype: str = "float32"
    checkpointing: bool = False
    device: str = "cpu"
    packed: bool = True
    targets: Any = "all-linear"
    method: str = "sft"
    settings: Mapping[str, Any] = field(default_factory=dict)


def shape_of(model: str, revision: str | None = None) -> Shape | None:
    """The shape of a model that is on this machine; None where it is not (nothing is downloaded)."""
    folder = _folder(model, revision)
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
        (shape[0], shape[1]) for name, (shape, _) in headers.items() if len(shape) == 2 and _LAYER.search(f".{name}")
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


def estimate(shape: Shape, plan: Plan) -> Footprint:
    """The parts of the peak and their sum, in bytes."""
    full = plan.adapter == "full"
    wide = 4 if plan.dtype == "float32" else 2
    # What is trained, and everything of an encoder, is float32.
    weight = 0.55 if plan.adapter == "qlora" else 4 if full or shape.encoder or plan.dtype == "float32" else 2
    weights = round(shape.parameters * weight)
    trained = shape.parameters if full else _adapter_parameters(shape, plan)
    adapters = 0 if full else 4 * trained
    learning = round(4 * trained * (1 + _STATE.get(plan.optimizer, 2)))  # gradients and the optimizer's state
    each = _kept(shape, plan, wide)
    if plan.checkpointing:
        activations = plan.tokens * (shape.layers * 4 * shape.hidden + each)
    else:
        activations = plan.tokens * shape.layers * each
    activations += plan.tokens * _in_flight(shape, wide)
    rows = min(plan.trained_tokens, max(_CHUNK_ROWS, _CHUNK_ELEMENTS // max(1, shape.vocabulary)))
    logits = 0 if shape.encoder else 2 * 4 * rows * shape.vocabulary
    if full and not shape.encoder:
        logits += 4 * shape.vocabulary * shape.hidden  # the head's gradient before it is added up
    process = CUDA_CONTEXT if plan.device == "cuda" else PROCESS
    loading = process + weights + (shape.file_bytes if plan.device == "cpu" and weight * shape.parameters else 0)
    parts = (
        Part(name="process", bytes=process),
        Part(name="weights", bytes=weights),
        Part(name="adapters", bytes=adapters),
        Part(name="gradients and optimizer", bytes=learning),
        Part(name="activations", bytes=round(activations)),
        Part(name="logits", bytes=round(logits)),
    )
    training = sum(part.bytes for part in parts)
    return Footprint(parts=parts, peak=max(training, loading), tokens=plan.tokens, device=plan.device)


def _adapter_parameters(shape: Shape, plan: Plan) -> int:
    chosen = [pair for pair in shape.linear if _targeted(shape, pair, plan.targets)]
    count = sum(plan.rank * (out + into) for out, into in chosen)
    return count + (sum(out for out, _ in chosen) if plan.adapter == "dora" else 0)


def _targeted(shape: Shape, pair: tuple[int, int], targets: Any) -> bool:
    """By its shape alone: a matrix to or from the inner width is the MLP's."""
    mlp = shape.inner in pair
    return not isinstance(targets, str) or targets == "all-linear" or (targets == "mlp") == mlp


def _kept(shape: Shape, plan: Plan, wide: int) -> float:
    """Bytes that the graph keeps of one token in one layer."""
    hidden, inner, query, key = shape.hidden, shape.inner, shape.query, shape.key
    inputs = 5 * hidden + query + inner  # what the adapted matrices are given
    outputs = query + 2 * key + 2 * hidden + 2 * inner
    if shape.encoder:
        return 4.0 * (10 * hidden + 3 * query + 2 * key + 3 * inner + 0.5 * inputs)
    exact = 5.3 if wide == 2 else 5 if plan.adapter != "full" else 7  # norms and the residual stream stay in float32
    found = 4.0 * exact * hidden + wide * (2 * query + 2 * key + 4 * inner)
    if plan.adapter == "full":
        return found
    found += wide * 7 * plan.rank
    if plan.dropout:
        found += 1.375 * wide * inputs
    if plan.adapter == "dora":
        found += 2 * wide * outputs
    return found


def _in_flight(shape: Shape, wide: int) -> float:
    """Bytes of a token that exist while a layer's backward runs, beside what the graph keeps."""
    return wide * (3 * shape.inner + 2 * shape.query) + 4 * 3 * shape.hidden


def room(device: str) -> int | None:
    """Bytes that the device has; None where that cannot be told without loading a library."""
    if device == "cuda":
        tool = shutil.which("nvidia-smi")
        if tool is None:
            return None
        try:
            found = subprocess.run(
                [tool, "--query-gpu=memory.total", "--format=csv,noheader,nounits"],
                capture_output=True,
                text=True,
                check=True,
                timeout=10,
            ).stdout.split()
            return int(found[0]) << 20
        except (OSError, subprocess.SubprocessError, ValueError, IndexError):
            return None
    if sys.platform == "win32":
        return None
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    try:  # a container's own limit
        limit = Path("/sys/fs/cgroup/memory.max").read_text(encoding="ascii").strip()
        return total if limit == "max" else min(total, int(limit))
    except (OSError, ValueError):
        return total


def device_here(asked: str) -> str:
    """The device a run would take, found without loading a library."""
    if asked != "auto":
        return asked
    if shutil.which("nvidia-smi") and room("cuda"):
        return "cuda"
    return "mps" if sys.platform == "darwin" and os.uname().machine == "arm64" else "cpu"


def _folder(model: str, revision: str | None) -> Path | None:
    """Where a model's files are on this machine: a folder, an embedded one, or the hub's cache."""
    from llmtune_local.model import adapter_of, locate

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
    for size in shape:
        count *= size
    return count
