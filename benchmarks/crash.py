"""Kill runs at every arrow of their flow and count what is at the vendor afterwards.

    python benchmarks/crash.py              # 120 trials, under five minutes
    python benchmarks/crash.py 450          # the full count
    python benchmarks/crash.py 0 --local 50 # the local trainer: worker and parent killed, resumed

Each trial has a fake vendor of its own, whose lists lag. A process plans, uploads, submits, follows, deploys and
evaluates, and is killed by SIGKILL at one arrow (or while a request is in flight, after the vendor has done what was
asked); another process goes on, and may be killed too. A duplicate is a second job of one run. An orphan is a job or a
standing deployment that no record leads to.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

from llmtune.testing.crash import Outcome, run_trial, trials


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("count", type=int, nargs="?", default=120, help="trials on fakes of each submit_safety class")
    parser.add_argument("--local", type=int, default=0, help="trials on the local provider (needs the local extra)")
    parser.add_argument("--at-once", type=int, default=2, help="trials side by side, each with a vendor of its own")
    asked = parser.parse_args()

    began = time.monotonic()
    outcomes: list[Outcome] = []
    with ThreadPoolExecutor(asked.at_once) as pool:
        for number, outcome in enumerate(pool.map(run_trial, trials(asked.count)), start=1):
            outcomes.append(outcome)
            if outcome.fault:
                print(f"FAULT in trial {number}: {outcome.fault}: {outcome.trial}", flush=True)
            if number % 50 == 0:
                print(f"{number} of {asked.count} after {time.monotonic() - began:.0f} s", flush=True)
    if asked.local:
        from crash_local import run_local_trials

        outcomes += run_local_trials(asked.local, at_once=asked.at_once, say=lambda text: print(text, flush=True))

    ended = Counter((outcome.trial.safety, outcome.state) for outcome in outcomes)
    arrows = Counter(outcome.trial.arrow for outcome in outcomes)
    print(f"\n{len(arrows)} places to die, {sum(outcome.killed for outcome in outcomes)} processes killed,", end=" ")
    print(f"{time.monotonic() - began:.0f} s")
    for (safety, state), count in sorted(ended.items()):
        print(f"  {safety:<10} {state:<10} {count}")
    faults = [outcome for outcome in outcomes if outcome.fault]
    print(f"faults: {len(faults)}")
    duplicates = sum(max(0, outcome.jobs - 1) for outcome in outcomes)
    orphans = sum(outcome.orphans for outcome in outcomes)
    print(f"trials: {len(outcomes)}  duplicates: {duplicates}  orphans: {orphans}")
    return 1 if faults or duplicates or orphans else 0


if __name__ == "__main__":
    sys.exit(main())
