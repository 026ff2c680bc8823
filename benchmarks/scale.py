"""How memory grows with the rows of a dataset: the whole of `llmtune tune`, at each number of rows.

    python benchmarks/scale.py [--rows 100000,1000000] [--steps 20] [--form text] [--json FILE]

Short generated rows are read, checked, split, written and tokenised, all of them; then a very small model of
random weights is trained on them for a few steps, in the exact order of a shuffle of all rows. Peaks are of the two
processes by themselves (VmHWM of /proc, so on Linux): the command, and the worker that prepares and trains. Goal: each
peak at the most rows is at most 300 MB above that at the fewest.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

#: Most bytes by which the peaks of either process may differ.
GOAL = 300 * 2**20
#: Is `llmtune`, and writes the peak of its process to a file.
COMMAND = """
import atexit, os
from pathlib import Path

def report():
    status = Path("/proc/self/status").read_text().splitlines()
    peak = next(int(line.split()[1]) for line in status if line.startswith("VmHWM:"))
    Path(os.environ["SCALE_PEAK"]).write_text(str(peak * 1024))

atexit.register(report)
from llmtune.cli import main
main()
"""
WORDS = ("invoice", "order", "parcel", "refund", "login", "address", "colour", "size", "receipt", "coupon", "lamp")


def make_model(folder: Path) -> None:
    """Write a model of some 100,000 random weights beside its embeddings, with the tokenizer of `tiny`."""
    import torch
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    from llmtune_local.models.hub import locate

    tokenizer = AutoTokenizer.from_pretrained(locate("tiny"))
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=64,
        num_hidden_layers=2,
        intermediate_size=128,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=256,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.model_max_length = 256
    tokenizer.save_pretrained(folder)


def write_rows(path: Path, count: int, form: str) -> None:
    """Write rows of about 100 bytes of text, no two the same: plain text, or chats of a question and an answer."""
    draw = random.Random(0)
    with path.open("w", encoding="utf-8") as file:
        for number in range(count):
            question = f"{draw.getrandbits(40):x} {' '.join(draw.choices(WORDS, k=6))} {draw.getrandbits(24):x}"
            answer = f"{draw.choice(WORDS)} {number} {draw.choice(WORDS)}"
            turns = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
            row = {"messages": turns} if form == "chat" else {"text": f"{question} {answer}"}
            file.write(json.dumps(row) + "\n")


def measure(rows: int, steps: int, model: Path, folder: Path, form: str) -> dict[str, Any]:
    """Tune once on so many rows; return seconds and peaks in bytes."""
    data = folder / "rows.jsonl"
    write_rows(data, rows, form)
    job = {
        "name": f"scale-{rows}",
        "dataset": {"path": str(data)},
        "model": {"local": str(model)},
        "adapter": "lora",
        "hyperparameters": {"epochs": 1, "max_steps": steps, "batch_size": 16, "learning_rate": 1e-3},
        "evaluation": {"max_rows": 20, "max_tokens": 8},
    }
    (folder / "job.json").write_text(json.dumps(job))
    environment = os.environ | {"LLMTUNE_HOME": str(folder / "home"), "SCALE_PEAK": str(folder / "peak")}
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", COMMAND, "tune", str(folder / "job.json"), "--provider", "local"],
        capture_output=True,
        text=True,
        env=environment,
        check=False,
    )
    seconds = time.monotonic() - began
    results = list((folder / "home" / "local").glob("*/result.json"))
    if done.returncode or not results:
        raise SystemExit(f"the run failed: {done.stderr[-3000:]}")
    result = json.loads(results[0].read_text())
    return {
        "rows": rows,
        "trained_rows": result["rows"],
        "steps": result["steps"],
        "seconds": seconds,
        "command": int((folder / "peak").read_text()),
        "worker": result["peak_memory_bytes"],
        "data": data.stat().st_size,
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", default="100000,1000000", help="numbers of rows, the fewest first")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--form", choices=("text", "chat"), default="text", help="chats take about three times as long")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    measured = []
    print("      rows  file MB  seconds  command's peak MB  worker's peak MB", flush=True)
    with tempfile.TemporaryDirectory() as work:
        make_model(Path(work) / "model")
        for rows in map(int, options.rows.split(",")):
            folder = Path(work) / str(rows)
            folder.mkdir()
            run = measure(rows, options.steps, Path(work) / "model", folder, options.form)
            measured.append(run)
            sizes = (run["command"] / 2**20, run["worker"] / 2**20)
            print(
                f"{rows:>10,} {run['data'] / 1e6:>8.0f} {run['seconds']:>8.0f} {sizes[0]:>18.0f} {sizes[1]:>17.0f}",
                flush=True,
            )
    if options.json:
        options.json.write_text(json.dumps(measured, indent=2) + "\n")
    growth = {name: measured[-1][name] - measured[0][name] for name in ("command", "worker")}
    for name, more in growth.items():
        print(f"{name}: {more / 2**20:+.0f} MB from {measured[0]['rows']:,} to {measured[-1]['rows']:,} rows")
    return 0 if max(growth.values()) <= GOAL else 1


if __name__ == "__main__":
    sys.exit(main())
