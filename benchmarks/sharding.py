"""Memory of each process of a run, by what they hold of the model: all of it, or a part.

    python benchmarks/sharding.py [--processes 1,2,4] [--steps 3] [--json FILE] [--plan]

A Llama of random weights is trained for a few steps on CPU in float32, as users start it: by torchrun, in processes of
their own. The peak is the largest of the processes' own (VmHWM of /proc, so on Linux), read while they run; beside it
stands what `plan` says of one process. Goal: cut up, each process takes less memory the more there are.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import random
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

#: Hidden width, layers, inner width, heads, key heads.
SHAPE = (1024, 16, 2816, 16, 8)


def make_model(folder: Path) -> None:
    """Write a random model with the tokenizer of `tiny`."""
    import torch
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    from llmtune_local.models.hub import locate

    tokenizer = AutoTokenizer.from_pretrained(locate("tiny"))
    hidden, layers, inner, heads, keys = SHAPE
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=hidden,
        num_hidden_layers=layers,
        intermediate_size=inner,
        num_attention_heads=heads,
        num_key_value_heads=keys,
        max_position_embeddings=1024,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.model_max_length = 1024
    tokenizer.save_pretrained(folder)


def write_rows(path: Path, count: int) -> None:
    draw = random.Random(0)
    words = ("invoice", "order", "parcel", "refund", "login", "address", "colour", "size", "receipt", "coupon", "lamp")
    with path.open("w", encoding="utf-8") as file:
        for _ in range(count):
            turns = (("user", 12), ("assistant", 4))
            messages = [{"role": role, "content": " ".join(draw.choices(words, k=length))} for role, length in turns]
            file.write(json.dumps({"messages": messages}) + "\n")


def peak_of_members(folder: Path) -> int:
    """Return the largest peak so far of the processes that train in a folder, in bytes; 0 where there are none."""
    peaks = [0]
    for path in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError, StopIteration):
            command = (path / "cmdline").read_bytes().decode(errors="replace")
            if "llmtune_local.worker" in command and str(folder) in command and "torch.distributed.run" not in command:
                lines = (path / "status").read_text().splitlines()
                peaks.append(1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:")))
    return max(peaks)


def measure(
    model: Path, rows: Path, folder: Path, adapter: str, processes: int, sharding: str, steps: int
) -> dict[str, Any]:
    """Train once; return the peak and the estimate, both of one process, in bytes, and the seconds of training."""
    from dataclasses import replace

    from llmtune_local.models.memory_estimate import Plan, estimate
    from llmtune_local.models.shape import read_shape
    from llmtune_local.run_state import process
    from llmtune_local.run_state.run_dir import RunDir
    from llmtune_local.run_state.schema import RunRequest
    from llmtune_local.worker.launch import launch

    options: dict[str, Any] = {
        "device": "cpu",
        "dtype": "float32",
        "processes": processes,
        "gradient_checkpointing": True,
    }
    request = {
        "model": str(model),
        "adapter": adapter,
        "files": {"train": str(rows)},
        "options": options | ({"sharding": sharding} if processes > 1 else {}),
        "hyperparameters": {"epochs": 1, "max_steps": steps, "batch_size": 8, "learning_rate": 1e-4},
    }
    run = RunDir(folder)
    run.write_request(RunRequest.model_validate(request))
    worker = launch(run.path)
    peak = 0
    while process.alive(worker):
        peak = max(peak, peak_of_members(run.path))
        time.sleep(0.05)
    result = run.read_result()
    if result is None:
        raise SystemExit(f"the run failed: {(run.path / 'worker.log').read_text()[-3000:]}")
    shape = read_shape(str(model))
    assert shape is not None
    tokens = result.tokens // steps // processes
    plan = Plan(adapter=adapter, tokens=tokens, trained_tokens=tokens // 4, checkpointing=True)
    plan = replace(plan, shards=processes) if sharding == "shard" else plan
    told = sum(part.bytes for part in estimate(shape, plan).parts)
    return {
        "adapter": adapter,
        "processes": processes,
        "sharding": sharding if processes > 1 else None,
        "peak": peak,
        "told": told,
        "seconds": result.training_seconds,
        "loss": result.train_loss,
    }


def print_plan() -> None:
    """Print what each device holds of Llama-3.3-70B on three machines, in GiB, estimated."""
    from dataclasses import replace

    from llmtune_local.models.memory_estimate import Plan, estimate
    from llmtune_local.models.shape import Shape

    hidden, layers, inner, key, vocabulary = 8192, 80, 28672, 1024, 128256
    sizes = (
        (hidden, hidden),
        (key, hidden),
        (key, hidden),
        (hidden, hidden),
        (inner, hidden),
        (inner, hidden),
        (hidden, inner),
    )
    parameters = layers * sum(out * into for out, into in sizes) + 2 * vocabulary * hidden + hidden * (2 * layers + 1)
    shape = Shape(parameters, 2 * parameters, hidden, layers, inner, hidden, key, vocabulary, 131072, sizes * layers)
    print(f"{parameters / 1e9:.1f} billion parameters")
    for machine, devices, room in (("1 x H200", 1, 140), ("4 x A100", 4, 80), ("8 x L40S", 8, 45)):
        for adapter in ("qlora", "lora", "full"):
            plan = Plan(adapter, 2048, 512, dtype="bfloat16", checkpointing=True, device="cuda", longest=2048)
            plan = replace(plan, shards=1 if adapter == "qlora" else devices)
            for offload in (False, True) if plan.shards > 1 else (False,):
                told = estimate(shape, replace(plan, offload=offload))
                parts = ", ".join(f"{part.name} {part.bytes / 2**30:.1f}" for part in told.parts if part.bytes)
                how = f"{adapter}, offload" if offload else adapter
                print(f"{machine} ({room}) {how:<15} {(told.peak or 0) / 2**30:8,.1f} each: {parts}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--processes", default="1,2,4", help="numbers of processes, the fewest first")
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--plan", action="store_true", help="print the estimates for Llama-3.3-70B, and train nothing")
    options = parser.parse_args()
    if options.plan:
        print_plan()
        return 0
    measured = []
    falls = True
    print("adapter  processes  each holds    peak MB  told MB  training s      loss", flush=True)
    with tempfile.TemporaryDirectory() as work:
        model, rows = Path(work) / "model", Path(work) / "rows.jsonl"
        make_model(model)
        write_rows(rows, 8 * options.steps)
        for adapter in ("lora", "full"):
            peaks = []
            for processes in map(int, options.processes.split(",")):
                for sharding in ("replicate", "shard") if processes > 1 else ("shard",):
                    folder = Path(work) / f"{adapter}-{processes}-{sharding}"
                    one = measure(model, rows, folder, adapter, processes, sharding, options.steps)
                    measured.append(one)
                    holds = "all" if one["sharding"] != "shard" else f"1 of {processes} parts"
                    print(
                        f"{adapter:<7} {processes:>10}  {holds:<12} {one['peak'] / 2**20:>8,.0f}"
                        f" {one['told'] / 2**20:>8,.0f} {one['seconds']:>11.1f} {one['loss']:>9.4f}",
                        flush=True,
                    )
                    if sharding == "shard":
                        peaks.append(one["peak"])
            falls = falls and peaks == sorted(peaks, reverse=True)
    if options.json:
        options.json.write_text(json.dumps(measured, indent=2) + "\n")
    print("the peak falls with every number of processes" if falls else "the peak does not fall with every number")
    return 0 if falls else 1


if __name__ == "__main__":
    sys.exit(main())
