"""Kill trials on the local trainer: the worker, the process that follows it, or both, and the run goes on.

Used by `benchmarks/crash.py --local N`. Every trial must end succeeded, with one run folder, and with the same loss at
every step as a run that nobody disturbed (same seed).
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

#: Largest difference of a loss at a step from the undisturbed run's, in nats. Nothing but rounding is allowed.
TOLERANCE = 1e-6

STEPS = 150

#: What is killed: the process that started the run, at an arrow of its flow; the worker, once it has made so many
#: steps; or both.
VICTIMS = (
    "parent:planned",
    "worker:1",
    "parent:before-upload",
    "parent:submitting",
    "worker:3",
    "parent:after-submit",
    "parent:job-kept",
    "both:2",
    "parent:polled",
    "worker:5",
    "parent:snapshot-kept",
    "parent:finalizing",
    "both:4",
    "parent:evaluated",
    "parent:reported",
)


@dataclass(frozen=True, kw_only=True)
class LocalTrial:
    safety: str = "local"
    arrow: str


@dataclass(frozen=True, kw_only=True)
class LocalOutcome:
    trial: LocalTrial
    killed: int
    state: str
    jobs: int
    orphans: int
    fault: str | None
    losses: dict[int, float]


def run_local_trials(count: int, *, at_once: int, say: Callable[[str], None]) -> list[LocalOutcome]:
    """Run so many trials, after one undisturbed run that says what the losses are."""
    calm = run_local_trial("none:0")
    if calm.fault:
        raise SystemExit(f"the undisturbed run failed: {calm.fault}")
    outcomes = []
    victims = [VICTIMS[number % len(VICTIMS)] for number in range(count)]
    with ThreadPoolExecutor(at_once) as pool:
        for number, outcome in enumerate(pool.map(lambda victim: run_local_trial(victim, calm.losses), victims), 1):
            outcomes.append(outcome)
            if outcome.fault:
                say(f"FAULT in local trial {number}: {outcome.fault}: {outcome.trial}")
            if number % 10 == 0:
                say(f"{number} of {count} local trials")
    return outcomes


def run_local_trial(victim: str, expected: dict[int, float] | None = None) -> LocalOutcome:
    """One run that loses a process, and is brought to its end by another."""
    with tempfile.TemporaryDirectory(prefix="llmtune-crash-local-") as folder:
        home = Path(folder)
        rows = [
            {"messages": [{"role": "user", "content": f"q {n}"}, {"role": "assistant", "content": f"a {n % 3}"}]}
            for n in range(20)
        ]
        (home / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        killed, words = 0, ""
        for turn in (victim, "none:0"):
            done = subprocess.run(
                [sys.executable, __file__, turn],
                env=os.environ | {"LLMTUNE_HOME": folder, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"},
                capture_output=True,
                text=True,
                timeout=600,
            )
            killed += done.returncode == -signal.SIGKILL or "worker killed" in done.stdout
            if done.returncode not in (0, -signal.SIGKILL):
                words = (done.stderr or done.stdout)[-600:]
            elif done.returncode == 0:
                break
        return _judge(LocalTrial(arrow=victim), home, killed, words, expected)


def _judge(trial: LocalTrial, home: Path, killed: int, words: str, expected: dict[int, float] | None) -> LocalOutcome:
    from llmtune.runs.store.store import Store

    store = Store(f"sqlite:///{home / 'store.db'}")
    records = store.runs()
    state = records[0].state.value if records else "none"
    folders = [each.name for each in (home / "local").iterdir()] if (home / "local").is_dir() else []
    losses = {p.step: p.value for p in store.points(records[0].id) if p.series == "train/loss"} if records else {}
    known = {record.key for record in records}
    store.close()
    fault = words or None
    if fault is None and (state != "succeeded" or len(records) != 1 or len(folders) != 1):
        fault = f"state {state}, {len(records)} runs, {len(folders)} run folders"
    if fault is None and trial.arrow != "none:0" and not killed:
        fault = "nothing was killed"
    if fault is None and sorted(losses) != list(range(1, STEPS + 1)):
        fault = f"losses at steps {sorted(losses)}"
    if fault is None and expected is not None:
        worst = max(abs(losses[step] - expected[step]) for step in expected)
        fault = f"a loss differs by {worst:g}" if worst > TOLERANCE else None
    orphans = len([name for name in folders if not any(key in name for key in known)])
    return LocalOutcome(
        trial=trial, killed=killed, state=state, jobs=len(folders), orphans=orphans, fault=fault, losses=losses
    )


def child(victim: str) -> None:
    """Start the run, or come back to it, and lose what `victim` says."""
    from llmtune.job.spec import EvaluationSpec, Hyperparameters, TuningJob
    from llmtune.runs import evaluation, failpoints
    from llmtune.runs.api import start
    from llmtune.runs.poller import Update
    from llmtune.runs.run import Run
    from llmtune.runs.store.store import open_store
    from llmtune_local.run_state.process import FolderLock
    from llmtune_local.run_state.run_dir import RunDir

    who, _, where = victim.partition(":")
    evaluation.FIT_ROWS = 0
    done: list[str] = []

    def die(arrow: str) -> None:
        if who == "parent" and arrow == where:
            os.kill(os.getpid(), signal.SIGKILL)

    def look(update: Update) -> None:
        if who not in ("worker", "both") or done or (update.record.progress.step or 0) < int(where):
            return
        job = run.job_ref
        holder = FolderLock(RunDir(job.data["folder"]).lock).holder() if job is not None else None
        if holder is not None:
            done.append("killed")
            os.kill(holder.pid, signal.SIGKILL)
            print("worker killed", flush=True)
            if who == "both":
                os.kill(os.getpid(), signal.SIGKILL)

    failpoints.failpoint_hook = die
    home = Path(os.environ["LLMTUNE_HOME"])
    job = TuningJob(
        name="crash",
        dataset=str(home / "rows.jsonl"),
        model="tiny",
        seed=7,
        hyperparameters=Hyperparameters(epochs=100, max_steps=STEPS, batch_size=2, checkpoint_every=10, lora_rank=4),
        evaluation=EvaluationSpec(max_rows=1, max_tokens=1, baselines=()),
    )
    known = open_store().runs()
    run: Any = Run(known[0].id) if known else start(job, "local")
    run.wait(timeout=300, on_update=look)


if __name__ == "__main__":
    child(sys.argv[1])
