"""How often a verdict is wrong: simulated pairs of models whose true difference is known.

    python benchmarks/verdicts.py [--pairs 1000] [--json FILE]

Each pair answers the same rows; one model is truly better by a known share. The verdict is the one that reports, boards
and gates give (`compare_means`: a paired bootstrap interval and McNemar's exact test must agree). Printed are, for each
number of rows and each difference, how often the truly worse model is called better, how often the better one is, each
with Wilson's interval, and the power that the textbook formula for paired shares gives (Connor 1987, Biometrics 43:207;
the exact McNemar test is a little more careful).
"""

from __future__ import annotations

import argparse
import json
import math
import platform
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import NormalDist
from typing import Any

import numpy as np

from llmtune.metrics.comparison import compare_means
from llmtune.metrics.intervals import wilson

ROWS = (40, 100, 400)
#: True differences, as shares; 0 is two equal models.
DIFFERENCES = (0.0, 0.02, 0.05, 0.10, 0.20)
#: Share of rows that only one of the two gets right, at least; a larger difference needs more.
DISCORDANT = 0.25
#: Share of rows that both get right.
BOTH = 0.5


def simulate(rows: int, difference: float, generator: np.random.Generator) -> tuple[list[float], list[float]]:
    """Return right (1) or wrong (0) for each row of the worse model and of the better one."""
    only_better, only_worse = (DISCORDANT + difference) / 2, (DISCORDANT - difference) / 2
    draw = generator.random(rows)
    worse = (draw < BOTH) | ((draw >= BOTH + only_better) & (draw < BOTH + only_better + only_worse))
    better = draw < BOTH + only_better
    return [float(each) for each in worse], [float(each) for each in better]


def textbook_power(rows: int, difference: float) -> float:
    """Return the probability of finding the difference, by Connor's formula, both sides counted at no difference."""
    if not difference:
        return 0.025
    normal = NormalDist()
    spread = math.sqrt(DISCORDANT - difference**2)
    return normal.cdf((difference * math.sqrt(rows) - normal.inv_cdf(0.975) * math.sqrt(DISCORDANT)) / spread)


def measure(pairs: int) -> Iterator[dict[str, Any]]:
    """Simulate every case."""
    for rows in ROWS:
        for difference in DIFFERENCES:
            generator = np.random.default_rng([rows, round(1000 * difference)])
            verdicts = []
            for _ in range(pairs):
                worse, better = simulate(rows, difference, generator)
                verdicts.append(compare_means(worse, better, metric="accuracy").verdict)
            wrong, found = verdicts.count("worse"), verdicts.count("better")
            yield {
                "rows": rows,
                "difference": difference,
                "pairs": pairs,
                "wrong": wrong / pairs,
                "wrong_high": wilson(wrong, pairs).high,
                "found": found / pairs,
                "found_interval": [wilson(found, pairs).low, wilson(found, pairs).high],
                "textbook": textbook_power(rows, difference),
            }


def main() -> int:
    """Run all cases, print the table, and exit with 1 where the worse model is called better too often."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=1000, help="simulated pairs of each case")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    arguments = parser.parse_args()
    began = time.monotonic()
    print("| rows | true difference | worse called better | upper end | better found | interval | textbook power |")
    print("|---:|---:|---:|---:|---:|---:|---:|")
    cases = []
    for case in measure(arguments.pairs):
        cases.append(case)
        low, high = case["found_interval"]
        print(
            f"| {case['rows']} | {100 * case['difference']:.0f} points | {case['wrong']:.1%} | {case['wrong_high']:.1%}"
            f" | {case['found']:.1%} | {100 * low:.1f} to {100 * high:.1f} | {case['textbook']:.1%} |",
            flush=True,
        )
    seconds = time.monotonic() - began
    print(
        f"\n{arguments.pairs:,} pairs a case, {seconds:.0f} s; {platform.machine()}, Python"
        f" {platform.python_version()}, numpy {np.__version__}"
    )
    if arguments.json is not None:
        arguments.json.write_text(json.dumps({"cases": cases, "seconds": seconds}, indent=2) + "\n", encoding="utf-8")
    bad = [case for case in cases if case["wrong"] > 0.025 or case["wrong_high"] > 0.04]
    for case in bad:
        print(f"too often: {case}", file=sys.stderr)
    return 1 if bad else 0


if __name__ == "__main__":
    raise SystemExit(main())
