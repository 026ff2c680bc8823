"""Wall time of a comparison against the runs it is made of: two LoRA ranks on this machine, three fake vendors.

    python benchmarks/compare.py

The floor is the larger of the slowest hosted run and the sum of the runs that share this machine's device, each
measured alone first. The jobs of the vendors take `--seconds` each, so that it matters whether they run at once.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from pathlib import Path


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=20.0, help="how long a vendor's job takes")
    parser.add_argument("--steps", type=int, default=150, help="optimizer steps of a local run")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="llmtune-compare-") as home:
        return measure(Path(home), asked.seconds, asked.steps)


def measure(home: Path, length: float, steps: int) -> int:
    from llmtune.testing import Phase
    from llmtune.testing.generic_vendor import Fake

    os.environ["LLMTUNE_HOME"] = str(home)
    rows = [
        {"messages": [{"role": "user", "content": f"case {n}"}, {"role": "assistant", "content": "abc"[n % 3]}]}
        for n in range(300)
    ]
    (home / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    vendors = [Fake() for _ in range(3)]
    for vendor in vendors:
        last = vendor.walks["success"][-1]
        walk = (Phase("training", looks=0, seconds=length, training=True), last)
        vendor.walks = {**vendor.walks, "success": walk}  # type: ignore[misc]
        vendor.start()
    (home / "config.toml").write_text(
        "".join(f'[providers.vendor{n}]\nkind = "fake"\nbase_url = "{each.url}"\n' for n, each in enumerate(vendors))
    )
    os.environ["LLMTUNE_CONFIG"] = str(home / "config.toml")

    import llmtune
    from llmtune import EvaluationSpec, Hyperparameters, TuningJob

    job = TuningJob(
        name="compare",
        dataset=str(home / "rows.jsonl"),
        model={"local": "tiny"} | {f"vendor{n}": "m-1" for n in range(3)},
        hyperparameters=Hyperparameters(epochs=100, max_steps=steps, batch_size=16),
        evaluation=EvaluationSpec(max_rows=30),
    )
    members = ["local[lora_rank=4]", "local[lora_rank=16]", *(f"vendor{n}" for n in range(3))]
    # Each kind of run alone first (under another seed, so that nothing is found again), everything imported.
    llmtune.plan(job, "local")
    alone = {}
    for text in members[:3]:
        member = llmtune.Member.parse(text)
        mine = member.job(job).model_copy(update={"seed": 1})
        began = time.monotonic()
        llmtune.tune(mine, member.provider, allow_unknown_cost=True)
        alone[text] = time.monotonic() - began
    began = time.monotonic()
    board = llmtune.compare(job, members, few_shot=0, allow_unknown_cost=True)
    wall = time.monotonic() - began
    assert not board.failed, board.failed
    local = [alone[text] for text in members[:2]]
    floor = max(sum(local), alone[members[2]])
    print(f"local runs alone: {', '.join(f'{each:.1f} s' for each in local)}", end="; ")
    print(f"a hosted run alone: {alone[members[2]]:.1f} s")
    print(f"wall {wall:.1f} s, floor {floor:.1f} s: {wall / floor:.3f} of it (at most 1.1)")
    return 0 if wall <= 1.1 * floor else 1


if __name__ == "__main__":
    sys.exit(main())
