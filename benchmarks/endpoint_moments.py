"""What a worker of the local trainer is doing at this moment, read from its run folder, so that a kill hits training.

The metrics say which step was done last (they are written at once; the status twice a second at most), the folder of
checkpoints what a new worker would continue from.
"""

from __future__ import annotations

import json
import os
import signal
from contextlib import suppress
from pathlib import Path

from llmtune_local.run_state.process import count_launches
from llmtune_local.run_state.run_dir import RunDir
from llmtune_local.run_state.schema import FINAL

LOADING = "loading"
TRAINING = "training"
VALIDATING = "validating"
BETWEEN_CHECKPOINTS = "between checkpoints"
WRITING = "writing the result"
ENDED = "ended"
#: In the order in which they come. A run that validates and checkpoints passes the middle ones again and again.
MOMENTS = (LOADING, TRAINING, VALIDATING, BETWEEN_CHECKPOINTS, WRITING)
#: Bytes at the end of the metrics that hold the points of the last step.
_TAIL = 4096


def find_moment(folder: Path) -> str | None:
    """Return what the worker of this folder is doing; None before it, and where that is none of `MOMENTS`.

    `TRAINING` is before the first checkpoint, `BETWEEN_CHECKPOINTS` after one and at least a step beyond it, so that a
    worker that dies there has steps to do again. `VALIDATING` is after a step and before its validation loss.
    """
    run = RunDir(folder)
    status = run.read_status()
    if status is None or status.state == "starting":
        return LOADING if count_launches(folder) else None
    if status.state in FINAL:
        return ENDED
    if status.state == "finalizing":
        return WRITING
    step, validated = _read_last_step(run.metrics)
    if step == 0:
        return None
    every, total = status.resolved.get("eval_every"), status.total_steps or 0
    if not validated and every and (step % every == 0 or step == total):
        return VALIDATING
    checkpoint = max(run.checkpoints(), default=0)
    if checkpoint == 0:
        return TRAINING
    return BETWEEN_CHECKPOINTS if checkpoint < step < total else None


def kill_worker(folder: Path) -> bool:
    """Kill the newest worker of this folder; return whether there was one to kill."""
    launched = count_launches(folder)
    if not launched:
        return False
    with suppress(ProcessLookupError):
        os.kill(launched[-1].pid, signal.SIGKILL)
        return True
    return False


def _read_last_step(metrics: Path) -> tuple[int, bool]:
    """Return the step that was done last (0 before the first), and whether its validation loss is there."""
    try:
        with metrics.open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - _TAIL))
            lines = file.read().split(b"\n")[:-1]
    except OSError:
        return 0, False
    step, validated = 0, False
    for line in lines:
        try:
            point = json.loads(line)
            number, series = int(point["step"]), str(point["series"])
        except (ValueError, KeyError, TypeError):
            continue  # the first line of the tail may be half a line
        validated = (validated and number == step) or series == "validation/loss"
        step = number
    return step, validated
