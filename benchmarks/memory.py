"""How far the memory that `plan` tells is off: real runs over a grid of shapes, each in a worker process of its own.

    python benchmarks/memory.py [--json FILE] [--quick] [--device cpu]

Random-weight Llamas are trained for two steps; the worker's own peak (resident memory on CPU, allocated memory on a
GPU) stands beside the estimate. `above` leaves out what the process holds before it has a model.
"""

from __future__ import annotations

import argparse
import itertools
import json
import random
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

#: hidden, layers, inner, heads, key heads, vocabulary
SHAPES = ((512, 8, 1536, 8, 4, 16000), (768, 6, 2048, 12, 12, 32000))
#: Tokens of a micro-batch, where a load does not say: all rows of a step at once.
BUDGET = 4096
#: adapter, tokens in a row, rows in a step, other settings
LOADS: tuple[tuple[str, int, int, dict[str, Any]], ...] = (
    ("lora", 128, 4, {}),
    ("lora", 512, 8, {}),
    ("lora", 1024, 8, {"token_budget": 2048}),
    ("lora", 512, 8, {"gradient_checkpointing": True}),
    ("lora", 512, 8, {"dtype": "bfloat16"}),
    ("lora", 512, 4, {"lora_dropout": 0.1}),
    ("dora", 256, 4, {}),
    ("full", 256, 4, {}),
)


def make_model(folder: Path, shape: tuple[int, ...]) -> None:
    """A random model with the tokenizer of `tiny`."""
    import torch
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    from llmtune_local.models.hub import locate

    hidden, layers, inner, heads, keys, vocabulary = shape
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=hidden,
        num_hidden_layers=layers,
        intermediate_size=inner,
        num_attention_heads=heads,
        num_key_value_heads=keys,
        max_position_embeddings=4096,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(locate("tiny"))
    tokenizer.model_max_length = 4096
    tokenizer.save_pretrained(folder)


def write_rows(path: Path, count: int, tokens: int) -> None:
    """Rows of about so many tokens, an eighth of them the answer's."""
    draw = random.Random(0)
    with path.open("w", encoding="utf-8") as file:
        for _ in range(count):
            words = [
                draw.choice(["time", "date", "file", "list", "name", "type", "user", "role"])
                for _ in range(tokens - 10)
            ]
            cut = len(words) * 7 // 8
            turns = [("user", words[:cut]), ("assistant", words[cut:])]
            messages = [{"role": role, "content": " ".join(said)} for role, said in turns]
            file.write(json.dumps({"messages": messages}) + "\n")


def measure(model: Path, load: tuple[str, int, int, dict[str, Any]], device: str, folder: Path) -> dict[str, Any]:
    """One run: what was told and what was measured, in bytes."""
    from llmtune_local.models.memory_estimate import Plan, estimate
    from llmtune_local.models.shape import read_shape
    from llmtune_local.run_state.run_dir import RunDir
    from llmtune_local.run_state.schema import RunRequest

    adapter, length, rows, changes = load
    data = folder / "rows.jsonl"
    write_rows(data, rows * 2, length)
    options = {"device": device, "num_threads": 2, "dtype": "float32", "token_budget": BUDGET}
    options |= {key: changes[key] for key in ("token_budget", "gradient_checkpointing", "dtype") if key in changes}
    hyper: dict[str, Any] = {"epochs": 1, "batch_size": rows, "learning_rate": 1e-4}
    hyper |= {key: changes[key] for key in ("lora_dropout",) if key in changes}
    run = RunDir(folder / "run")
    request = RunRequest.model_validate(
        {
            "model": str(model),
            "adapter": adapter,
            "files": {"train": str(data)},
            "options": options,
            "hyperparameters": hyper,
        }
    )
    run.write_request(request)
    done = subprocess.run(
        [sys.executable, "-m", "llmtune_local.worker", str(run.path)], capture_output=True, text=True, check=False
    )
    result = run.read_result()
    if result is None:
        raise SystemExit(f"the run failed: {done.stderr[-2000:]}")
    budget = changes.get("token_budget", BUDGET)
    row = result.tokens // (2 * rows) - 1  # the last token is never read
    together = max(1, min(rows, budget // row))
    tokens = row * together
    plan = Plan(
        adapter=adapter,
        tokens=tokens,
        trained_tokens=tokens // 8,
        dropout=changes.get("lora_dropout", 0.0),
        dtype=changes.get("dtype", "float32"),
        checkpointing=changes.get("gradient_checkpointing", False),
        device=device,
        micro_batches=-(-rows // together),
        longest=row,
    )
    shape = read_shape(str(model))
    assert shape is not None
    told = estimate(shape, plan)
    assert told.peak is not None
    return {
        "adapter": adapter,
        "rows": rows,
        "length": length,
        **{key: str(value) for key, value in changes.items()},
        "told": told.peak,
        "measured": result.peak_memory_bytes,
        "process": told.parts[0].bytes,
        "parts": {part.name: part.bytes for part in told.parts},
    }


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--json", type=Path)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--only", help="numbers of loads, separated by commas")
    parser.add_argument("--quick", action="store_true", help="one shape, three loads")
    args = parser.parse_args()
    shapes, loads = (SHAPES[:1], LOADS[:3]) if args.quick else (SHAPES, LOADS)
    if args.only:
        loads = tuple(LOADS[int(number)] for number in args.only.split(","))
    found = []
    with tempfile.TemporaryDirectory() as place:
        models = {}
        for shape in shapes:
            models[shape] = Path(place) / "-".join(map(str, shape))
            make_model(models[shape], shape)
        for number, (shape, load) in enumerate(itertools.product(shapes, loads)):
            folder = Path(place) / f"run{number}"
            folder.mkdir()
            one = {"shape": shape} | measure(models[shape], load, args.device, folder)
            found.append(one)
            off = one["told"] / one["measured"] - 1
            above = (one["told"] - one["process"]) / max(1, one["measured"] - one["process"]) - 1
            print(
                f"{shape!s:38} {load[0]:5} {load[2]} x {load[1]:4} {load[3] or ''!s:32}"
                f" told {one['told'] / 2**20:6.0f} MiB  measured {one['measured'] / 2**20:6.0f}  {off:+.0%}"
                f"  above {above:+.0%}",
                flush=True,
            )
    worst = max(abs(one["told"] / one["measured"] - 1) for one in found)
    print(f"{len(found)} runs; the estimate is off by {worst:.0%} at most")
    if args.json:
        args.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
