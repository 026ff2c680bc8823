"""How well the search searches, and how soon its trials start.

    python benchmarks/sweep.py                          # warm against cold starts, then 10 seeds of every method
    python benchmarks/sweep.py --rows rows.jsonl        # on chat rows of your own
    python benchmarks/sweep.py --starts 10 --seeds 0    # the starts alone

Starts: wall time from asking for a worker to the end of its first training step, a worker of its own (cold) and one
forked from a process that has everything loaded (warm), in turn; without validation rows, which are measured before the
first step and are work, not start.

Methods: for each seed, random search's best value over its trials is the mark; told is how many optimizer steps each
method trained until a trial of its own reached it. Floor: one trial. Every trial is a real training of `tiny`, made
once for the same values however many methods ask for it (a trial is a function of its values alone); the studies,
samplers and pruners are those of `llmtune sweep`.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

SPACE = {"learning_rate": (1e-5, 3e-2), "lora_rank": [2, 8, 32], "warmup_ratio": (0.0, 0.3)}
METHODS = ("random", "grid", "bayesian")
STEPS, BATCH, EVERY, HELD_OUT = 40, 8, 8, 60


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--starts", type=int, default=7, help="pairs of starts")
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--trials", type=int, default=20)
    parser.add_argument("--at-once", type=int, default=2, help="trainings side by side, one thread each")
    parser.add_argument("--rows", type=Path, help="chat rows (jsonl); none: the demo's tickets")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="llmtune-sweep-") as home:
        os.environ["LLMTUNE_HOME"] = home
        os.environ["OMP_NUM_THREADS"] = "1"
        trainings = Trainings(Path(home), asked.rows or _tickets())
        try:
            if asked.starts:
                starts(trainings, asked.starts)
            if asked.seeds:
                methods(trainings, asked.seeds, asked.trials, asked.at_once)
        finally:
            trainings.fork_server.close()
    return 0


def _tickets() -> Path:
    return Path(__file__).resolve().parent.parent / "examples" / "tickets" / "tickets.jsonl"


class Trainings:
    """Real trainings by their values, each made once."""

    def __init__(self, home: Path, rows: Path) -> None:
        from llmtune_local.worker.fork_server import ForkServer

        self.home = home
        self.fork_server = ForkServer()
        self.made: dict[str, list[tuple[int, float]]] = {}
        self._alone: dict[str, threading.Lock] = {}
        self._lock = threading.Lock()
        lines = [line for line in rows.read_text(encoding="utf-8").splitlines() if line.strip()]
        random.Random(0).shuffle(lines)
        (home / "validation.jsonl").write_text("\n".join(lines[:HELD_OUT]) + "\n", encoding="utf-8")
        (home / "train.jsonl").write_text("\n".join(lines[HELD_OUT : HELD_OUT + 400]) + "\n", encoding="utf-8")
        print(
            f"{len(lines[HELD_OUT : HELD_OUT + 400])} training and {HELD_OUT} validation rows of {rows.name};", end=" "
        )
        print(f"{STEPS} steps of {BATCH} rows, {os.environ['OMP_NUM_THREADS']} thread", flush=True)

    def write(self, values: dict[str, Any], name: str, *, measured: bool = True) -> Any:
        """The run folder of one training; `measured` on the validation rows."""
        from llmtune_local.run_state.run_dir import RunDir
        from llmtune_local.run_state.schema import RunRequest

        run = RunDir(self.home / "runs" / name)
        recipe = {"epochs": 9, "batch_size": BATCH, "max_steps": STEPS, "eval_every": EVERY, "lr_schedule": "cosine"}
        body = {
            "model": "tiny",
            "adapter": "lora",
            "files": {role: str(self.home / f"{role}.jsonl") for role in ("train", "validation")[: 1 + measured]},
            "hyperparameters": recipe | values,
            "options": {"num_threads": 1},
        }
        run.write_request(RunRequest.model_validate(body))
        return run

    def curve(self, values: dict[str, Any]) -> list[tuple[int, float]]:
        """(step, validation loss) of the training with these values."""

        key = json.dumps(values, sort_keys=True)
        with self._lock:
            alone = self._alone.setdefault(key, threading.Lock())
        with alone:  # whoever wants the same values waits for the first
            if key not in self.made:
                self.made[key] = self._train(values, f"t-{hashlib.sha256(key.encode()).hexdigest()[:12]}")
        return self.made[key]

    def _train(self, values: dict[str, Any], name: str) -> list[tuple[int, float]]:
        from llmtune_local.worker.launch import launch

        run = self.write(values, name)
        launch(run.path, fork_server=self.fork_server)
        while (status := run.read_status()) is None or status.state not in ("succeeded", "failed"):
            time.sleep(0.02)
        points = [p for p in run.read_metrics()[0] if p.series == "validation/loss" and p.step]
        # A training that came to nothing is as bad as can be.
        return [(p.step, p.value) for p in points] if status.state == "succeeded" else [(STEPS, 99.0)]


def starts(trainings: Trainings, pairs: int) -> None:
    """Cold and warm starts in turn."""
    from llmtune_local.worker.launch import launch

    found: dict[str, list[float]] = {"cold": [], "warm": []}
    launch(trainings.write({"learning_rate": 1e-3}, "first", measured=False).path, fork_server=trainings.fork_server)
    for number in range(pairs):
        for how, fork_server in (("cold", None), ("warm", trainings.fork_server)):
            run = trainings.write({"learning_rate": 1e-3, "max_steps": 2}, f"start-{how}-{number}", measured=False)
            began = time.monotonic()
            launch(run.path, fork_server=fork_server)
            while not any(p.series == "train/loss" for p in run.read_metrics()[0]):
                time.sleep(0.005)
            found[how].append(time.monotonic() - began)
            while run.read_result() is None:
                time.sleep(0.01)
    middle = {how: statistics.median(times) for how, times in found.items()}
    for how, times in found.items():
        print(f"{how} start: median {middle[how]:.2f} s ({min(times):.2f} to {max(times):.2f}) of {pairs}")
    print(f"warm starts are {middle['cold'] / middle['warm']:.1f} times faster\n", flush=True)


def methods(trainings: Trainings, seeds: int, trials: int, at_once: int) -> None:
    """Steps that each method needed to reach random's best."""
    began = time.monotonic()
    with ThreadPoolExecutor(at_once) as pool:
        every = list(pool.map(lambda seed: one_seed(trainings, seed, trials), range(seeds)))
    print(f"{len(trainings.made)} different trainings in {time.monotonic() - began:.0f} s\n")
    print("| method | reached in | steps, median (least to most) | best loss, median | steps in all, median |")
    print("|---|---|---|---|---|")
    for name in every[0]:
        reached = [each[name][0] for each in every if each[name][0] is not None]
        told = f"{statistics.median(reached):.0f} ({min(reached)} to {max(reached)})" if reached else "-"
        best = statistics.median(each[name][1] for each in every)
        total = statistics.median(each[name][2] for each in every)
        print(f"| {name} | {len(reached)} of {seeds} seeds | {told} | {best:.4f} | {total:.0f} |")


def one_seed(trainings: Trainings, seed: int, trials: int) -> dict[str, tuple[int | None, float, int]]:
    """By method: steps until random's best was reached (None: never), best loss, steps in all."""
    logs = {
        method + (", pruned" if pruning else ""): list(search(trainings, method, seed, trials, pruning=pruning))
        for method in METHODS
        for pruning in (False, True)
    }
    mark = min(value for _, value in logs["random"] if value is not None)
    found: dict[str, tuple[int | None, float, int]] = {}
    for name, log in logs.items():
        total, reached = 0, None
        for steps, value in log:
            total += steps
            if reached is None and value is not None and value <= mark:
                reached = total
        found[name] = (reached, min(value for _, value in log if value is not None), total)
    print(f"seed {seed}: mark {mark:.4f}", {name: each[0] for name, each in found.items()}, flush=True)
    return found


def search(
    trainings: Trainings, method: Any, seed: int, trials: int, *, pruning: bool
) -> Iterator[tuple[int, float | None]]:
    """Steps trained and final loss (None: pruned) of each trial, one after another as on one device."""
    import optuna

    from llmtune.sweeps.space import read_space
    from llmtune.sweeps.study import count_grid_points, open_study

    space = read_space(SPACE)
    study = open_study(
        f"{method} {seed} {pruning}", space, method=method, direction="minimize", seed=seed, pruning=pruning
    )
    for _ in range(min(trials, count_grid_points(space)) if method == "grid" else trials):
        trial = study.ask()
        values = {name: part.suggest(trial, name) for name, part in space.items()}
        curve = trainings.curve(values)
        for step, value in curve:
            trial.report(value, step)
            if step < curve[-1][0] and trial.should_prune():
                study.tell(trial, state=optuna.trial.TrialState.PRUNED)
                yield step, None
                break
        else:
            study.tell(trial, curve[-1][1])
            yield curve[-1]


if __name__ == "__main__":
    sys.exit(main())
