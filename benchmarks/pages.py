"""How long the list of a store takes, and how large the pages are.

    python benchmarks/pages.py            # 1,000 runs
    python benchmarks/pages.py --runs 5000

A run at the `fake` provider is copied in the store; the list is asked for over loopback, as a browser does. The page of
that run and one of a long run (20,000 steps, six curves) are weighed.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import tempfile
import time
import urllib.request
from pathlib import Path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=1000)
    parser.add_argument("--times", type=int, default=9)
    wanted = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        os.environ["LLMTUNE_HOME"] = folder
        measure(Path(folder), wanted.runs, wanted.times)


def measure(folder: Path, runs: int, times: int) -> None:
    from llmtune import TuningJob, start
    from llmtune.metrics.points import MetricPoint
    from llmtune.runs.poller import PollInterval
    from llmtune.runs.store.schema import runs as table
    from llmtune.runs.store.serialization import build_columns
    from llmtune.runs.store.store import open_store
    from llmtune.web.server import Server

    rows = folder / "rows.jsonl"
    labels = ("billing", "shipping", "returns")
    turns = [
        [{"role": "user", "content": f"case {n}"}, {"role": "assistant", "content": labels[n % 3]}] for n in range(120)
    ]
    rows.write_text("".join(json.dumps({"messages": each}) + "\n" for each in turns))
    run = start(TuningJob(name="t", dataset=str(rows), model="m-1"), "fake")
    report = run.wait(pace=PollInterval(first=0.01, most=0.05))
    record, store = run.record, open_store()
    copies = [
        record.model_copy(
            update={"id": f"{n:010d}", "key": f"lt{n:010d}", "fingerprint": str(n), "created": record.created - n}
        )
        for n in range(runs - 1)
    ]
    with store.write() as connection:
        connection.execute(table.insert(), [build_columns(copy) for copy in copies])
    with Server(port=0, store=store) as server:
        spent = []
        for _ in range(times):
            began = time.perf_counter()
            with urllib.request.urlopen(server.url) as answer:
                size = len(answer.read())
            spent.append(time.perf_counter() - began)
        typical = statistics.median(spent)
        print(f"list of {runs:,} runs: first {spent[0]:.3f} s, median {typical:.3f} s, {size / 1e3:,.0f} kB")
    print(f"page of a short run: {len(report.to_html().encode()) / 1e3:,.0f} kB")
    names = ("loss", "learning_rate", "grad_norm", "tokens_per_second", "token_accuracy", "perplexity")
    store.add_points(
        run.id,
        [
            MetricPoint(step=step, series=f"train/{name}", value=math.sin(step) + 1.23456789, source="computed")
            for step in range(1, 20_001)
            for name in names
        ],
    )
    from llmtune.runs.evaluation import draft_report

    began = time.perf_counter()
    text = draft_report(store, record).to_html()
    spent_on_it = time.perf_counter() - began
    print(f"page of 20,000 steps, six curves: {len(text.encode()) / 1e3:,.0f} kB, made in {spent_on_it:.1f} s")


if __name__ == "__main__":
    main()
