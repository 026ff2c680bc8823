"""The worker process: `python -m llmtune_local.worker RUN_DIR [--resume]`.

Exit status: 0 when the run succeeded or was cancelled, 1 when it failed, 2 when it was not started (wrong folder,
another worker is at work, or the run is over).
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
import signal
import sys
from typing import TYPE_CHECKING, Any

from llmtune.errors import DeviceUnavailable, InvalidData, InvalidJob, LlmtuneError
from llmtune_local.libraries import idle, prepare_libraries
from llmtune_local.run_state.damage import DamagedFile, DiskFull, is_full
from llmtune_local.run_state.process import FolderBusy, FolderLock
from llmtune_local.run_state.run_dir import RunDir
from llmtune_local.run_state.schema import FINAL
from llmtune_local.run_state.status_writer import Journal, Silent
from llmtune_local.training.distributed import TeamLost, end_with_parent

if TYPE_CHECKING:
    from collections.abc import Callable


logger = logging.getLogger("llmtune")

SUCCEEDED, FAILED, NOT_STARTED = 0, 1, 2


class _Signals:
    """SIGTERM and Ctrl-C end the run after the step it is in, with a checkpoint; a closed terminal does nothing."""

    def __init__(self) -> None:
        self.stopped = False
        signal.signal(signal.SIGTERM, self._stop)
        signal.signal(signal.SIGINT, self._stop)
        if hasattr(signal, "SIGHUP"):
            signal.signal(signal.SIGHUP, signal.SIG_IGN)

    def _stop(self, *_: object) -> None:
        self.stopped = True


def main(arguments: list[str] | None = None) -> int:
    """Run one folder to its end."""
    parser = argparse.ArgumentParser(prog="python -m llmtune_local.worker", description="Train one run folder.")
    parser.add_argument("run_dir")
    parser.add_argument("--resume", action="store_true", help="go on from the last checkpoint")
    parser.add_argument("--member", action="store_true", help="one of several processes, as RANK says")
    asked = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s", force=True)
    folder = RunDir(asked.run_dir)
    signals = _Signals()
    if not (folder.path / "request.json").is_file():
        logger.error("%s holds no request.json", folder.path)
        return NOT_STARTED

    def stop() -> bool:
        return signals.stopped or folder.cancelling

    if not asked.member:
        return work(folder, stop, resume=asked.resume)
    end_with_parent()
    return take_part(folder, stop, resume=asked.resume)


def take_part(folder: RunDir, stop: Callable[[], bool], *, resume: bool) -> int:
    """Be one of several processes: the first works as a worker does, the others only train."""
    if os.environ.get("RANK") == "0":
        return work(folder, stop, resume=resume)
    _settle_libraries()
    from llmtune_local.training.registry import trainer_for
    from llmtune_local.training.trainer import Stopped

    request = folder.read_request()
    silent: Any = Silent()
    trainer = trainer_for(request)(folder, request, silent, stop)
    with contextlib.suppress(Stopped, TeamLost):  # the first process says what came of it
        trainer.run(resume=resume)
    return SUCCEEDED


def work(folder: RunDir, stop: Callable[[], bool], *, resume: bool) -> int:
    """Be the folder's worker: train, and tell everything."""
    try:
        with FolderLock(folder.lock):
            return _work(folder, stop, resume=resume)
    except FolderBusy as busy:
        logger.error("%s", busy)
        return NOT_STARTED
    except OSError as problem:
        if not is_full(problem):
            raise
        logger.error("no space left on the device for the files of %s", folder.path)
        return FAILED


def _settle_libraries() -> None:
    prepare_libraries(spin=idle())
    # Training libraries report progress bars that nobody reads here.
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")


def _work(folder: RunDir, stop: Callable[[], bool], *, resume: bool) -> int:
    before = folder.read_status()
    if before is not None and before.state == "succeeded":
        logger.info("%s: this run has succeeded already", folder.path)
        return SUCCEEDED if resume else NOT_STARTED
    if before is not None and not resume:
        state = before.state if before.state in FINAL else "interrupted"
        logger.error("%s: this run was started before (%s); use --resume to go on", folder.path, state)
        return NOT_STARTED
    if before is None and folder.last_attempt() > 0:  # the status was lost, not the run
        resume = True
    _settle_libraries()
    with Journal(folder) as journal:
        try:
            if folder.cancelling:
                return _cancelled(folder, journal)
            request = folder.read_request()
            from llmtune_local.training.registry import trainer_for
            from llmtune_local.training.trainer import Stopped

            trainer = trainer_for(request)(folder, request, journal, stop)
            try:
                result = trainer.run(resume=resume)
            except Stopped:
                return _cancelled(folder, journal)
            except TeamLost as lost:
                # Not the end: whoever watches finds this process gone, and starts a new team.
                journal.event(f"a process of the team has ended ({lost}); the last checkpoint stands", "warning")
                return FAILED
            assert result is not None  # this process leads
            journal.event(f"finished after {result.steps:,} steps, training loss {result.train_loss:.4f}")
            journal.update(state="succeeded", message="finished", step=result.steps)
            trainer.tidy()
            return SUCCEEDED
        except BaseException as problem:
            # The last chance to say why: nothing may die silently.
            code, sentence = explain(problem)
            logger.error("the run failed: %s", sentence, exc_info=problem)
            # The status is what others read; the event repeats it, where there is room.
            journal.update(state="failed", error=sentence, error_code=code, message=sentence)
            try:
                journal.event(sentence, "error")
            except OSError:
                logger.warning("the event could not be written")
            return FAILED


def _cancelled(folder: RunDir, journal: Journal) -> int:
    steps = folder.checkpoints()
    none = "there was no room for a checkpoint" if journal.status.step else "no step was done"
    kept = f"the checkpoint of step {max(steps)} is kept" if steps else none
    journal.event(f"cancelled: {kept}")
    journal.update(state="cancelled", message=f"cancelled: {kept}", eta_seconds=None)
    return SUCCEEDED


def explain(problem: BaseException) -> tuple[str, str]:
    """A code and one sentence for whatever ended the run."""
    sentence = str(problem).replace("\n", " ").strip()[:1500]
    if isinstance(problem, InvalidData):
        return "data", sentence
    if isinstance(problem, DeviceUnavailable):
        return "device", sentence
    if isinstance(problem, InvalidJob):
        return ("model" if problem.where == "model" else "request"), sentence
    if isinstance(problem, DamagedFile):
        return "damaged", sentence
    if isinstance(problem, DiskFull):
        return "disk", sentence
    if is_full(problem):
        return "disk", "no space left on the device"
    if isinstance(problem, PermissionError):
        return "disk", f"no permission to write {problem.filename}"
    if isinstance(problem, LlmtuneError):
        return ("diverged" if type(problem).__name__ == "Diverged" else "internal"), sentence
    if isinstance(problem, MemoryError) or "out of memory" in sentence or "can't allocate memory" in sentence:
        return "memory", (
            "out of memory: lower max_sequence_length or token_budget, set gradient_checkpointing, or take a smaller"
            " model"
        )
    if isinstance(problem, KeyboardInterrupt | SystemExit):
        return "internal", "the worker was interrupted"
    return "internal", f"{type(problem).__name__}: {sentence or 'no message'} (the traceback is in worker.log)"


if __name__ == "__main__":
    sys.exit(main())
