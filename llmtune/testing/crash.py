"""Kill trials: a process is killed at a named step of a run, another continues it, and the vendor's jobs are counted.

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

from llmtune.errors import LlmtuneError
from llmtune.runs.failpoints import FAILPOINTS
from llmtune.testing.faults import Role, call_action
from llmtune.testing.generic_vendor import Fake

Safety = Literal["token", "searchable", "none"]

#: Seconds by which the vendor's lists lag, and within which a new job is guaranteed to be listed.
LAG, WINDOW = 0.15, 0.4

#: Arrows that only a run with a deployment passes.
DEPLOYMENT_ARROWS = frozenset(
    {"before-deploy", "after-deploy", "deployment-kept", "before-undeploy", "after-undeploy", "undeployed"}
)

#: Requests during which the process is killed: the vendor has handled the request, and the response is lost.
IN_FLIGHT: tuple[Role, ...] = ("upload", "submit", "poll", "deploy", "generate", "undeploy")


#: Held to start a process or to read an exit code: `Process.start` also reaps children of other threads, and the second
#: reader of an exit status gets 255.
_CHILDREN = threading.Lock()


@dataclass(frozen=True, kw_only=True)
class Trial:
    """Where the process is killed: the `nth` time at `arrow`, one of `FAILPOINTS` or "in-flight:ROLE"."""

    safety: Safety
    arrow: str
    nth: int = 1
    again: str | None = None
    """A second arrow, at which the process that continues is killed too."""

    by: Literal["attach", "start"] = "attach"
    """How another process continues: by attaching to the run, or by starting the same job again."""

    deploy: bool = True
    """Whether evaluation needs a deployment."""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """The result of a trial. `fault` says what is wrong; None if nothing is."""

    trial: Trial
    killed: int
    state: str
    jobs: int
    orphans: int
    """Number of jobs that no record refers to (unless the run is `lost`), and of deployments not removed."""

    fault: str | None


def trials(count: int) -> Iterator[Trial]:
    """Yield `count` different trials, spread evenly over safety classes, arrows and ways to continue."""
    arrows = [*FAILPOINTS, *(f"in-flight:{role}" for role in IN_FLIGHT)]
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
    """Run one trial against its own fake vendor, and check the result.

    Raises:
        LlmtuneError: this is Windows, which has no signal that kills a process.
    """
    if not hasattr(signal, "SIGKILL"):
        raise LlmtuneError("kill trials need SIGKILL, which Linux and macOS have")
    with tempfile.TemporaryDirectory(prefix="llmtune-crash-") as temporary, Fake(lag=LAG) as vendor:
        root = folder or Path(temporary)
        rows = root / "rows.jsonl"
        rows.write_text("".join(json.dumps(_row(number)) + "\n" for number in range(30)), encoding="utf-8")
        killed = 0
        arrows: list[str | None] = [trial.arrow, trial.again, None]
        for turn, arrow in enumerate(arrows):
            if turn == 1 and arrow is None:
                continue
            attempt = replace(trial, arrow=arrow or "", nth=trial.nth if turn == 0 else 1)
            code = _run_child(attempt, vendor, root, first=turn == 0 or trial.by == "start")
            killed += code == -signal.SIGKILL
            if code not in (0, -signal.SIGKILL):
                return _check_outcome(trial, vendor, root, killed, f"the process exited with {code}")
        return _check_outcome(trial, vendor, root, killed, None)


def _run_child(trial: Trial, vendor: Fake, folder: Path, *, first: bool) -> int:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["llmtune.testing.crash_child"])
    from llmtune.testing import crash_child

    arguments = (_settings(trial, vendor), str(folder), trial.arrow, trial.nth, first)
    process = context.Process(target=crash_child.main, args=arguments)
    vendor.faults.clear()
    started = threading.Event()
    if trial.arrow.startswith("in-flight:"):
        role: Any = trial.arrow.removeprefix("in-flight:")

        def kill() -> None:
            started.wait(10)
            if process.pid is not None:
                os.kill(process.pid, signal.SIGKILL)

        vendor.faults.add(call_action(kill), role=role, after=trial.nth - 1)
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


def _check_outcome(trial: Trial, vendor: Fake, folder: Path, killed: int, fault: str | None) -> Outcome:
    from llmtune.runs.store.store import Store

    store = Store(f"sqlite:///{folder / 'home' / 'store.db'}")
    records = store.runs()
    state = records[0].state.value if records else "none"
    jobs, standing = len(vendor.jobs), len(vendor.standing)
    recorded = {resource.ref.id for resource in store.resources(standing=False) if resource.type == "job"}
    lost = state == "lost"
    if fault is None and len(records) != 1:
        fault = f"{len(records)} runs"
    elif fault is None and jobs > 1:
        fault = f"{jobs} jobs at the vendor"
    elif fault is None and vendor.complaints:
        fault = vendor.complaints[0]
    elif fault is None and standing:
        fault = f"{standing} deployments not removed"
    elif fault is None and lost and trial.safety != "none":
        fault = "lost, although the vendor can be asked"
    elif fault is None and not lost and (state != "succeeded" or jobs != 1 or recorded != set(vendor.jobs)):
        fault = f"state {state}, {jobs} jobs, {len(recorded)} known"
    store.close()
    unknown = 0 if lost else len(set(vendor.jobs) - recorded)
    return Outcome(trial=trial, killed=killed, state=state, jobs=jobs, orphans=standing + unknown, fault=fault)


def _row(number: int) -> dict[str, Any]:
    return {
        "messages": [
            {"role": "user", "content": f"question {number}"},
            {"role": "assistant", "content": f"answer {number % 3}"},
        ]
    }
