"""What starting costs: `llmtune --help`, `--version` and `runs list`, against an interpreter that does nothing.

Every figure is a fresh process, in turn, so that a machine that slows down slows all. Prints medians, minima and
the ratio to `python -c pass`. The promise is that `--help` answers in under 0.25 s of wall time on a quiet machine.

    python benchmarks/start.py [--runs 15]
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

#: The command as pip installs it: a script that calls `main`.
COMMAND = "import sys; from llmtune.cli import main; sys.exit(main())"
WANTED = {
    "python -c pass": ["-c", "pass"],
    "llmtune --help": ["-c", COMMAND, "--help"],
    "llmtune --version": ["-c", COMMAND, "--version"],
    "llmtune runs list (empty store)": ["-c", COMMAND, "runs", "list"],
}


def seconds(arguments: list[str], home: Path) -> float:
    """Wall seconds of one fresh interpreter with these arguments."""
    started = time.perf_counter()
    subprocess.run(
        [sys.executable, *arguments],
        check=True,
        stdout=subprocess.DEVNULL,
        env={**os.environ, "LLMTUNE_HOME": str(home)},
    )
    return time.perf_counter() - started


def main() -> None:
    """Time the commands in turn and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=15)
    runs = parser.parse_args().runs
    times: dict[str, list[float]] = {name: [] for name in WANTED}
    with tempfile.TemporaryDirectory() as folder:
        for arguments in WANTED.values():  # compiles, and makes the store
            seconds(arguments, Path(folder))
        for _ in range(runs):
            for name, arguments in WANTED.items():
                times[name].append(seconds(arguments, Path(folder)))
    floor = statistics.median(times["python -c pass"])
    print("| command | median s | min | max | / python -c pass |\n|---|---|---|---|---|")
    for name, values in times.items():
        middle = statistics.median(values)
        print(f"| {name} | {middle:.3f} | {min(values):.3f} | {max(values):.3f} | {middle / floor:.1f} |")
    print(f"\nllmtune --help: {statistics.median(times['llmtune --help']):.3f} s (promise: under 0.25 s, quiet)")


if __name__ == "__main__":
    main()
