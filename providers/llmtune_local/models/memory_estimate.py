"""The memory that a run will take, estimated before anything is loaded. Imports nothing heavy.

Weights and adapters are counted exactly, from the headers of the model's weight files. Activations are what the
autograd graph keeps of each token in each layer, counted once on small models (benchmarks/memory.py measures how far
off whole runs are). What a process holds before it has a model is a constant.
"""

from __future__ import annotations

import platform
import shutil
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from llmtune._safety.operating_system import get_total_memory
from llmtune.errors import DeviceUnavailable
from llmtune.provider import Footprint
from llmtune.provider.memory import MemoryPart, size
from llmtune_local.batching.sizes import chunk_rows, token_budget
from llmtune_local.models import precision
from llmtune_local.models.shape import Shape, read_shape
from llmtune_local.models.sharding_choice import SHARE, Sharding, choose_sharding, find_obstacle, find_obstacle_of
from llmtune_local.run_state.schema import RunRequest, WorkerOptions

#: Interpreter, torch, transformers, peft and a tokenizer, loaded: resident on CPU (Linux x86-64, torch 2.13).
PROCESS = 420 << 20
#: What the C library's allocator holds beyond what is alive, as a factor on activations on CPU. Blocks of several
#: micro-batches or of dropout's masks differ in size, and freed ones fit the next badly. With gradient checkpointing
#: the worker has them returned at once (`hardware.free_memory`).
_HELD, _HELD_MASKS, _HELD_SEVERAL, _HELD_BACK = 1.25, 1.7, 1.9, 1.0
#: Answers that are generated side by side at most, or as many as one prompt has.
_SIDE_BY_SIDE = 64
#: On a GPU the allocator counts tensors alone; the context beside them.
CUDA_CONTEXT = 600 << 20
#: Optimizer state in floats a trained parameter; adafactor keeps two vectors a matrix.
_STATE = {"adamw_torch": 2, "adamw_torch_fused": 2, "adafactor": 0.02, "sgd": 0, "rmsprop": 1, "adagrad": 1}


#: Tokens of a micro-batch where only the model itself is to count.
_FEW_TOKENS = 16

#: Bytes of a weight of the base, its constants and what stays in 16 bits included.
_QUANTIZED = {"nf4-dq": 0.55, "fp4-dq": 0.55, "nf4": 0.6, "fp4": 0.6, "int8": 1.05}


@dataclass(frozen=True)
class Plan:
    """The parts of a request that decide its memory. `tokens` are those of the largest micro-batch."""

    adapter: str
    tokens: int
    trained_tokens: int
    rank: int = 16
    dropout: float = 0.0
    optimizer: str = "adamw_torch"
    dtype: str = "float32"
    checkpointing: bool = False
    device: str = "cpu"
    micro_batches: int = 1
    targets: Any = "all-linear"
    longest: int = 0
    """Tokens of the longest row, below which no micro-batch can go."""

    quantization: str | None = None
    """How adapter qlora holds the base; None: nf4-dq."""

    processes: int = 1
    """Processes that share this device's memory: on CPU all processes of the run."""

    shards: int = 1
    """Processes that the model is cut up over; 1: each holds all of it."""

    offload: bool = False
    """Whether each process keeps its part of the model in RAM and not on the device."""

    side_by_side: int = 0
    """Answers that are sampled side by side while training; 0 in methods that sample none."""


def estimate(shape: Shape, plan: Plan) -> Footprint:
    """Estimate the parts of the peak and their sum, in bytes."""
    full = plan.adapter == "full"
    width = 4 if plan.dtype == "float32" else 2
    # What is trained, and everything of an encoder, is float32.
    weight = 4 if full or shape.encoder or plan.dtype == "float32" else 2.0
    if plan.adapter == "qlora":
        weight = _QUANTIZED[plan.quantization or "nf4-dq"]
    whole = round(shape.parameters * weight)
    held = 0 if plan.offload and plan.device != "cpu" else 1 / plan.shards  # the share of the model on the device
    weights = round(whole * held)
    trained = shape.parameters if full else _adapter_parameters(shape, plan)
    adapters = 0 if full else round(4 * trained * held)
    # gradients and the optimizer's state
    optimizer_bytes = round(4 * trained * held * (1 + _STATE.get(plan.optimizer, 2)))
    # A gathered layer, and where it is trained its gradient, and a copy of that in float32 for the sum.
    gathered = _gathered_bytes(shape, width + (width + 4 if full else 0)) if plan.shards > 1 else 0
    per_layer = _bytes_in_graph(shape, plan, width)
    if plan.checkpointing:
        activations = plan.tokens * (shape.layers * 4 * shape.hidden + per_layer)
    else:
        activations = plan.tokens * shape.layers * per_layer
    activations += plan.tokens * _bytes_in_backward(shape, width)
    if plan.device == "cpu":
        activations *= _allocator_factor(plan)
    rows = min(plan.trained_tokens, chunk_rows(shape.vocabulary, plan.device))
    logits = 0 if shape.encoder else 2 * 4 * rows * shape.vocabulary
    if full and not shape.encoder:
        logits += 4 * shape.vocabulary * shape.hidden  # the head's gradient before it is added up
    process = CUDA_CONTEXT if plan.device == "cuda" else PROCESS
    mapped = shape.file_bytes if plan.device == "cpu" and plan.shards == 1 and whole else 0
    loading = process + weights + gathered + mapped
    sampling: tuple[MemoryPart, ...] = ()
    if plan.side_by_side:
        cache = 2 * width * shape.layers * shape.key * plan.longest * plan.side_by_side
        sampling = (MemoryPart(name="answers being sampled", bytes=cache),)
        if full:  # as they were before the first step
            sampling += (MemoryPart(name="reference weights", bytes=4 * trained),)
    parts = (
        MemoryPart(name="process", bytes=plan.processes * process),
        MemoryPart(name="weights", bytes=plan.processes * weights),
        MemoryPart(name="adapters", bytes=plan.processes * adapters),
        MemoryPart(name="gradients and optimizer", bytes=plan.processes * optimizer_bytes),
        MemoryPart(name="gathered layers", bytes=plan.processes * gathered),
        MemoryPart(name="activations", bytes=plan.processes * round(activations)),
        MemoryPart(name="logits", bytes=plan.processes * round(logits)),
        *sampling,
    )
    peak = max(sum(part.bytes for part in parts), plan.processes * loading)
    return Footprint(parts=parts, peak=peak, tokens=plan.tokens, device=plan.device)


def _gathered_bytes(shape: Shape, bytes_each: int) -> int:
    """Return the bytes of what a process of a model that is cut up holds whole at once: the layer that computes, the
    next one, and what belongs to no layer."""
    embedding = shape.vocabulary * shape.hidden
    in_layers = sum(out * into for out, into in shape.linear)
    outside = embedding * (2 if shape.parameters - in_layers > 1.5 * embedding else 1)  # a head of its own, or tied
    return round(bytes_each * (outside + 2 * (shape.parameters - outside) / shape.layers))


def count_sharing_processes(options: dict[str, Any], device: str) -> int:
    """Count the processes of a run that share the device's memory: on CPU all of a machine, unless a cluster spreads
    them."""
    if device != "cpu" or options.get("launcher") == "ray":
        return 1
    return int(options.get("processes") or 1) // int(options.get("nodes") or 1)


def _adapter_parameters(shape: Shape, plan: Plan) -> int:
    chosen = [pair for pair in shape.linear if _is_targeted(shape, pair, plan.targets)]
    count = sum(plan.rank * (out + into) for out, into in chosen)
    return count + (sum(out for out, _ in chosen) if plan.adapter == "dora" else 0)


def _is_targeted(shape: Shape, pair: tuple[int, int], targets: Any) -> bool:
    """Return whether the adapter covers a matrix, by its shape alone: one to or from the inner width is the MLP's."""
    mlp = shape.inner in pair
    return not isinstance(targets, str) or targets == "all-linear" or (targets == "mlp") == mlp


def _bytes_in_graph(shape: Shape, plan: Plan, width: int) -> float:
    """Return the bytes that the graph keeps of one token in one layer."""
    hidden, inner, query, key = shape.hidden, shape.inner, shape.query, shape.key
    inputs = 5 * hidden + query + inner  # what the adapted matrices are given
    outputs = query + 2 * key + 2 * hidden + 2 * inner
    if shape.encoder:
        return 4.0 * (10 * hidden + 3 * query + 2 * key + 3 * inner + 0.5 * inputs)
    exact = 5.3 if width == 2 else 5 if plan.adapter != "full" else 7  # norms and the residual stream stay in float32
    byte_count = 4.0 * exact * hidden + width * (2 * query + 2 * key + 4 * inner)
    if plan.adapter == "full":
        return byte_count
    byte_count += width * 7 * plan.rank
    if plan.dropout:
        byte_count += 1.375 * width * inputs
    if plan.adapter == "dora":
        byte_count += 2 * width * outputs
    return byte_count


def _allocator_factor(plan: Plan) -> float:
    if plan.checkpointing:
        return _HELD_BACK
    if plan.micro_batches > 1:
        return _HELD_SEVERAL
    return _HELD_MASKS if plan.dropout else _HELD


def _bytes_in_backward(shape: Shape, width: int) -> float:
    """Return the bytes of a token that exist while a layer's backward runs, beside those that the graph keeps."""
    return width * (2 * shape.inner + shape.query) + 4 * 2 * shape.hidden


def suggest_smaller(shape: Shape, plan: Plan) -> tuple[str, ...]:
    """Return the settings that make the peak noticeably smaller, each with the peak it leads to."""
    alternatives: list[tuple[str, Plan]] = []
    if plan.dtype == "float32" and plan.adapter != "full" and not shape.encoder:
        slow = " (slow on a CPU without AVX512-BF16)" if plan.device == "cpu" else ""
        alternatives.append((f"provider_options.local.dtype: bfloat16{slow}", replace(plan, dtype="bfloat16")))
    if plan.adapter == "full":
        alternatives.append(("adapter: lora", replace(plan, adapter="lora")))
    if plan.adapter in ("lora", "dora") and plan.device == "cuda" and not shape.encoder:
        alternatives.append(("adapter: qlora (a 4-bit base)", replace(plan, adapter="qlora", dtype="bfloat16")))
    if not plan.checkpointing:
        alternatives.append(("provider_options.local.gradient_checkpointing: true", replace(plan, checkpointing=True)))
    if plan.tokens > plan.longest:
        smaller = max(plan.longest, plan.tokens // 4)
        several = replace(plan, tokens=smaller, micro_batches=max(2, plan.micro_batches))
        several = replace(several, trained_tokens=max(1, plan.trained_tokens * smaller // plan.tokens))
        alternatives.append((f"provider_options.local.token_budget: {smaller} (the batch stays the same)", several))
    now = estimate(shape, plan).peak or 0
    peaks = [(estimate(shape, smaller_plan).peak or 0, says) for says, smaller_plan in alternatives]
    helps = sorted((peak, says) for peak, says in peaks if peak < 0.95 * now)
    return tuple(f"{says}: about {size(peak)}" for peak, says in helps)


def footprint(
    receipt: Any, rows: int, tokens: int, longest: int, budget: int | None, *, elsewhere: str | None = None
) -> Footprint:
    """Estimate the footprint of a planned run.

    `tokens` is the number in all training rows, `longest` that of the longest row; both may be estimates. `elsewhere`
    is the device of another machine, whose memory is not known here; None is this machine.
    """
    options = receipt.target.options
    device = elsewhere or current_device(options.get("device", "auto"))
    here = None if elsewhere else available_memory(device)
    shape = read_shape(receipt.target.model, options.get("revision"))
    if shape is None:
        return Footprint(device=device, room=here, unknown="the model is not on this machine yet")
    batch = int(receipt.effective("batch_size", 16))
    limit = receipt.effective("max_sequence_length") or shape.context
    longest = min(longest, int(limit)) if limit else longest
    allowed = budget or token_budget(device)
    pieces = 2 if receipt.target.method == "dpo" else 1
    is_sampled = receipt.target.method == "reinforcement"
    if is_sampled:
        defaults = WorkerOptions()
        answer_tokens = int(options.get("answer_tokens", defaults.answer_tokens))
        pieces, tokens = (
            int(options.get("samples_per_prompt", defaults.samples_per_prompt)),
            tokens + rows * answer_tokens,
        )
        longest = min(longest + answer_tokens, int(limit)) if limit else longest + answer_tokens
    step = round(tokens / max(1, rows) * min(batch, rows)) * pieces
    accumulation = receipt.effective("gradient_accumulation_steps")
    processes = max(1, int(options.get("processes") or 1))
    per_batch = -(-step // int(accumulation)) if accumulation else min(-(-step // processes), allowed)
    batch_tokens = max(per_batch, min(longest * (1 if is_sampled else pieces), step))
    plan = replace(
        _plan_model(receipt, shape, device),
        tokens=batch_tokens,
        trained_tokens=batch_tokens if receipt.effective("prompt_loss_weight", 0.0) else max(1, batch_tokens // 4),
        dropout=float(receipt.effective("lora_dropout", 0.0)),
        checkpointing=bool(options.get("gradient_checkpointing", False)),
        micro_batches=-(-step // max(1, batch_tokens)),
        longest=longest,
        side_by_side=max(_SIDE_BY_SIDE, pieces) if is_sampled else 0,
    )
    if _plan_sharding(receipt, shape, plan, here)[0] == "shard":
        plan = replace(plan, shards=processes)
    peak_estimate = estimate(shape, plan)
    return peak_estimate.model_copy(update={"room": here, "advice": suggest_smaller(shape, plan)})


def _plan_model(receipt: Any, shape: Shape, device: str) -> Plan:
    """Return what a receipt says of the model and its optimizer, with as little beside them as can be."""
    options = receipt.target.options
    return Plan(
        adapter=receipt.target.adapter,
        tokens=_FEW_TOKENS,
        trained_tokens=_FEW_TOKENS,
        rank=int(receipt.effective("lora_rank", 16)),
        optimizer=receipt.effective("optimizer", "adamw_torch"),
        dtype=precision.resolve_precision(options.get("dtype", "auto"), device, shape),
        device=device,
        targets=receipt.effective("lora_target_modules", "all-linear"),
        quantization=options.get("quantization"),
        processes=count_sharing_processes(options, device),
        offload=bool(options.get("offload")),
    )


def _plan_sharding(receipt: Any, shape: Shape, plan: Plan, available: int | None) -> tuple[Sharding, str | None]:
    """Return what each process of a planned run holds, and why its model cannot be cut up, if it cannot."""
    fields = WorkerOptions.model_fields
    options = {name: value for name, value in receipt.target.options.items() if name in fields}
    obstacle = find_obstacle(
        method=receipt.target.method,
        adapter=plan.adapter,
        optimizer=plan.optimizer,
        replay_share=receipt.effective("replay_share"),
    )
    return _choose(shape, plan, WorkerOptions.model_validate(options), obstacle, available), obstacle


def describe_sharding(receipt: Any) -> str | None:
    """Describe what each of several processes holds of the model, and why; None of one process, and where the model is
    not on this machine."""
    options = receipt.target.options
    processes, device = int(options.get("processes") or 1), current_device(options.get("device", "auto"))
    shape = read_shape(receipt.target.model, options.get("revision"))
    if processes == 1 or shape is None:
        return None
    plan, available = _plan_model(receipt, shape, device), available_memory(device)
    sharding, obstacle = _plan_sharding(receipt, shape, plan, available)
    if sharding == "shard" and obstacle is not None:
        return f"the run will be refused: sharding: shard: {obstacle}"
    needed = _least_bytes(shape, replace(plan, offload=False))
    of = f" of {size(available)}" if available is not None else ""
    asked = ", as the job says" if options.get("sharding") else ""
    holds = "a part of the model" if sharding == "shard" else "the whole model"
    return (
        f"each of {processes} processes holds {holds} (sharding: {sharding}{asked}):"
        f" whole models take at least {size(needed)}{of} on {device}"
    )


def check_memory(request: RunRequest, device: str) -> None:
    """Refuse a run whose weights, gradients and optimizer alone need more memory than the device has.

    A lower bound, so that nothing is refused that might run: smaller micro-batches make activations as small as need
    be. Raises `DeviceUnavailable` with both figures.
    """
    shape, available = read_shape(request.model, request.revision), available_memory(device)
    if shape is None or available is None:
        return
    plan = _smallest_plan(shape, request, device)
    if choose_sharding_of(request, device) == "shard":
        plan = replace(plan, shards=request.options.processes)
    needed = _least_bytes(shape, plan)
    if needed > available:
        alternatives = list(suggest_smaller(shape, plan))
        if (count := _enough_processes(shape, plan, request, available)) is not None:
            says = f"a part of the model on each of {count} GPUs"
            alternatives.append(f"provider_options.local.processes: {count} ({says})")
        raise DeviceUnavailable(
            f"the model needs at least {size(needed)} on {device} and there are {size(available)}",
            hint="; ".join(alternatives) or "take a smaller model",
        )


def choose_sharding_of(request: RunRequest, device: str) -> Sharding:
    """Return what each process of a run holds: a whole model, or a part of it where there is no room for whole ones."""
    shape = read_shape(request.model, request.revision)
    if shape is None:
        return request.options.sharding or "replicate"
    plan = _smallest_plan(shape, request, device)
    return _choose(shape, plan, request.options, find_obstacle_of(request), available_memory(device))


def _choose(shape: Shape, plan: Plan, options: WorkerOptions, obstacle: str | None, available: int | None) -> Sharding:
    needed = _least_bytes(shape, replace(plan, offload=False))
    return choose_sharding(options, obstacle, needed=needed, available=available)


def _smallest_plan(shape: Shape, request: RunRequest, device: str) -> Plan:
    """Return a request's plan with as little beside the model as can be, each process holding all of the model."""
    recipe, options = request.hyperparameters, request.options
    return Plan(
        adapter=request.adapter,
        tokens=_FEW_TOKENS,
        trained_tokens=_FEW_TOKENS,
        rank=recipe.lora_rank,
        optimizer=recipe.optimizer,
        dtype=precision.resolve_precision(options.dtype, device, shape),
        device=device,
        targets=recipe.lora_target_modules,
        quantization=options.quantization,
        processes=count_sharing_processes(options.model_dump(), device),
        offload=options.offload,
    )


def _least_bytes(shape: Shape, plan: Plan) -> int:
    return sum(part.bytes for part in estimate(shape, plan).parts if part.name in _ALWAYS)


def _enough_processes(shape: Shape, plan: Plan, request: RunRequest, available: int) -> int | None:
    """Return the number of GPUs over which a model is to be cut up that one has no room for; None where that is no
    way."""
    if plan.device != "cuda" or plan.shards > 1 or find_obstacle_of(request) is not None:
        return None
    counts = (count for count in (2, 4, 8, 16) if _least_bytes(shape, replace(plan, shards=count)) <= SHARE * available)
    return next(counts, None)


def check_answering(model: str, revision: str | None, device: str, dtype: str) -> None:
    """Refuse to load a model for answering whose weights alone are larger than the device's memory.

    Raises `DeviceUnavailable` with both figures.
    """
    shape, available = read_shape(model, revision), available_memory(device)
    if shape is None or available is None:
        return
    needed = shape.parameters * (4 if dtype == "float32" else 2)
    if needed > available:
        figures = f"{size(needed)} on {device}, and there are {size(available)}"
        raise DeviceUnavailable(
            f"to answer, one process holds the whole model: {figures}",
            hint="export it and ask it through a server that spreads it over several devices:"
            " llmtune export RUN --format vllm",
        )


#: Parts of a footprint that no setting of a run makes smaller.
_ALWAYS = ("weights", "adapters", "gradients and optimizer", "gathered layers")


def available_memory(device: str) -> int | None:
    """Return the memory of the device in bytes; None where that cannot be read without loading a library."""
    if device == "cuda":
        tool = shutil.which("nvidia-smi")
        if tool is None:
            return None
        try:
            output = subprocess.run(
                [tool, "--query-gpu=memory.total", "--format=csv,noheader,nounits"],
                capture_output=True,
                text=True,
                check=True,
                timeout=10,
            ).stdout.split()
            return int(output[0]) << 20
        except (OSError, subprocess.SubprocessError, ValueError, IndexError):
            return None
    total = get_total_memory()
    if total is None:
        return None
    try:  # a container's own limit
        limit = Path("/sys/fs/cgroup/memory.max").read_text(encoding="ascii").strip()
        return total if limit == "max" else min(total, int(limit))
    except (OSError, ValueError):
        return total


def current_device(device: str) -> str:
    """Return the device that a run would take, found without loading a library."""
    if device != "auto":
        return device
    if shutil.which("nvidia-smi") and available_memory("cuda"):
        return "cuda"
    return "mps" if sys.platform == "darwin" and platform.machine() == "arm64" else "cpu"
