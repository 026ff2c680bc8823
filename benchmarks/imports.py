"""What importing costs: `from llmtune import TuningJob, Hyperparameters, tune` against pydantic and one model class.

Floor: the interpreter's own start. Each is a fresh process, the two in turn, so that a machine that slows down slows
both. Prints medians and the ratio; the promise is at most 2.5. `--help` is timed too (promise: under 0.25 s).

    python benchmarks/imports.py [--runs 15]
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time

BARE = "pass"
PEER = "from pydantic import BaseModel\nclass Job(BaseModel):\n    name: str\nJob(name='a')"
OURS = "from llmtune import Hyperparameters, TuningJob, tune"
HELP = "import sys; sys.argv = ['llmtune', '--help']\nfrom llmtune.cli import main\nmain()"


def seconds(code: str) -> float:
    """Wall seconds of one fresh interpreter that runs the code."""
    started = time.perf_counter()
    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - started


def main() -> None:
    """Time the four in turn and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=15)
    runs = parser.parse_args().runs
    times: dict[str, list[float]] = {"interpreter": [], "pydantic + one model": [], "llmtune": [], "llmtune --help": []}
    for code in (BARE, PEER, OURS, HELP):
        seconds(code)
    for _ in range(runs):
        for name, code in zip(times, (BARE, PEER, OURS, HELP), strict=True):
            times[name].append(seconds(code))
    medians = {name: statistics.median(values) for name, values in times.items()}
    print("| what | median s | min | max |\n|---|---|---|---|")
    for name, values in times.items():
        print(f"| {name} | {medians[name]:.3f} | {min(values):.3f} | {max(values):.3f} |")
    ratio = medians["llmtune"] / medians["pydantic + one model"]
    print(f"\nllmtune / pydantic + one model: {ratio:.2f} (promise: at most 2.5)")
    print(f"llmtune --help: {medians['llmtune --help']:.3f} s (promise: under 0.25 s on a quiet machine)")


if __name__ == "__main__":
    main()
