"""Kill trials: a process dies by SIGKILL at a named arrow of a run's flow, another goes on, the vendor is counted.

outcome = run_trial(Trial(safety="searchable", arrow="after-submit"), folder)
assert outcome.fault is None
"""

from __future__ import annotations

import json
import multiprocessing
import multiprocessing.connection
import os
import signal
import tempfile
import threading
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from llmtune.runs.failpoints import ARROWS
from llmtune.testing.faults import Role, calling
from llmtune.testing.generic_vendor import Fake

Safety = Literal["token", "searchable", "none"]

#: Seconds by which the vendor's lists lag, and the window in which a job surely shows up.
LAG, WINDOW = 0.15, 0.4

#: Arrows that only a run with a deployment passes.
DEPLOYMENT_ARROWS = frozenset(
    {"before-deploy", "after-deploy", "deployment-kept", "before-undeploy", "after-undeploy", "undeployed"}
)

#: Requests during which the process is killed: the vendor has done what was asked, and the answer finds nobody.
IN_FLIGHT: tuple[Role, ...] = ("upload", "submit", "poll", "deploy", "generate", "undeploy")


#: One reader at a time: `Process.start` reaps whatever child has ended, another thread's too, and a status that two
#: threads read is an exit code for the first and 255 for the second.
_CHILDREN = threading.Lock()


@dataclass(frozen=True, kw_only=True)
class Trial:
    """Where the process dies. `arrow` is one of `ARROWS`, or "in-flight:ROLE"; `nth` counts its passing."""

    safety: Safety
    arrow: str
    nth: int = 1
    again: str | None = None
    """A second arrow, at which the process that goes on dies too."""

    by: Literal["attach", "start"] = "attach"
    """How another process goes on: by attaching to the run, or by starting the same job again."""

    deploy: bool = True
    """Whether the model must be deployed to be evaluated."""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What there was in the end. `fault` says what is wrong with it; None is as promised."""

    trial: Trial
    killed: int
    state: str
    jobs: int
    orphans: int
    """Jobs that no record leads to (unless the record says `lost`), and deployments left standing."""

    fault: str | None


def trials(count: int) -> Iterator[Trial]:
    """So many different trials, spread evenly over safety classes, arrows and ways to go on."""
    arrows = [*ARROWS, *(f"in-flight:{role}" for role in IN_FLIGHT)]
    safeties: tuple[Safety, ...] = ("token", "searchable", "none")
    for number in range(count):
        arrow = arrows[number // 3 % len(arrows)]
        turn = number // (3 * len(arrows))
        later = arrows[(number * 7 + turn) % len(arrows)] if turn % 2 else None
        yield Trial(
            safety=safeties[number % 3],
            arrow=arrow,
            nth=2 if arrow in ("upload-kept", "before-upload", "after-upload") and turn % 2 else 1,
            again=later,
            by="start" if number % 2 else "attach",
            deploy=arrow in DEPLOYMENT_ARROWS or "deploy" in arrow or number % 2 == 0,
        )


def run_trial(trial: Trial, folder: Path | None = None) -> Outcome:
    """Run one trial against a vendor of its own, and judge what came of it."""
    with tempfile.TemporaryDirectory(prefix="llmtune-crash-") as made, Fake(lag=LAG) as vendor:
        place = folder or Path(made)
        rows = place / "rows.jsonl"
        rows.write_text("".join(json.dumps(_row(number)) + "\n" for number in range(30)), encoding="utf-8")
        killed = 0
        arrows: list[str | None] = [trial.arrow, trial.again, None]
        for turn, arrow in enumerate(arrows):
            if turn == 1 and arrow is None:
                continue
            here = replace(trial, arrow=arrow or "", nth=trial.nth if turn == 0 else 1)
            code = _run_child(here, vendor, place, first=turn == 0 or trial.by == "start")
            killed += code == -signal.SIGKILL
            if code not in (0, -signal.SIGKILL):
                return _judge(trial, vendor, place, killed, f"the process ended with {code}")
        return _judge(trial, vendor, place, killed, None)


def _run_child(trial: Trial, vendor: Fake, folder: Path, *, first: bool) -> int:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["llmtune.testing.crash_child"])
    from llmtune.testing import crash_child

    told = (_settings(trial, vendor), str(folder), trial.arrow, trial.nth, first)
    process = context.Process(target=crash_child.main, args=told)
    vendor.faults.clear()
    started = threading.Event()
    if trial.arrow.startswith("in-flight:"):
        role: Any = trial.arrow.removeprefix("in-flight:")

        def kill() -> None:
            started.wait(10)
            if process.pid is not None:
                os.kill(process.pid, signal.SIGKILL)

        vendor.faults.add(calling(kill), role=role, after=trial.nth - 1)
    with _CHILDREN:
        process.start()
    started.set()
    multiprocessing.connection.wait([process.sentinel], 120)
    with _CHILDREN:
        code = process.exitcode
    if code is not None:
        return code
    process.kill()
    multiprocessing.connection.wait([process.sentinel])
    return 1000  # it hung


def _settings(trial: Trial, vendor: Fake) -> dict[str, Any]:
    return {
        "base_url": vendor.url,
        "submit_safety": trial.safety,
        "window": WINDOW,
        "deployment": "required" if trial.deploy else "none",
        "timeout": 10,
    }


def _judge(trial: Trial, vendor: Fake, folder: Path, killed: int, fault: str | None) -> Outcome:
    from llmtune.runs.store.store import Store

    store = Store(f"sqlite:///{folder / 'home' / 'store.db'}")
    records = store.runs()
    state = records[0].state.value if records else "none"
    jobs, standing = len(vendor.jobs), len(vendor.standing)
    known = {each.ref.id for each in store.resources(standing=False) if each.type == "job"}
    lost = state == "lost"
    if fault is None and len(records) != 1:
        fault = f"{len(records)} runs"
    elif fault is None and jobs > 1:
        fault = f"{jobs} jobs at the vendor"
    elif fault is None and vendor.complaints:
        fault = vendor.complaints[0]
    elif fault is None and standing:
        fault = f"{standing} deployments left standing"
    elif fault is None and lost and trial.safety != "none":
        fault = "lost, although the vendor can be asked"
    elif fault is None and not lost and (state != "succeeded" or jobs != 1 or known != set(vendor.jobs)):
        fault = f"state {state}, {jobs} jobs, {len(known)} known"
    store.close()
    unknown = 0 if lost else len(set(vendor.jobs) - known)
    return Outcome(trial=trial, killed=killed, state=state, jobs=jobs, orphans=standing + unknown, fault=fault)


def _row(number: int) -> dict[str, Any]:
    return {
        "messages": [
            {"role": "user", "content": f"question {number}"},
            {"role": "assistant", "content": f"answer {number % 3}"},
        ]
    }
