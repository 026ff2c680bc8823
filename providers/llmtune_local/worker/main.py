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
from typing import TYPE_CHECKING, Any, Protocol

from llmtune.errors import DeviceUnavailable, InvalidData, InvalidJob, LlmtuneError
from llmtune_local.libraries import idle, prepare_libraries
from llmtune_local.run_state.damage import DamagedFile, DiskFull, is_full
from llmtune_local.run_state.process import FolderBusy, FolderLock
from llmtune_local.run_state.run_dir import RunDir
from llmtune_local.run_state.schema import FINAL
from llmtune_local.run_state.status_writer import NullStatusWriter, StatusWriter
from llmtune_local.training.distributed import WorkerGroupLost, end_with_parent
from llmtune_local.training.progress import Stopped

if TYPE_CHECKING:
    from collections.abc import Callable

    from llmtune_local.run_state.schema import RunRequest

    MakeTrainer = Callable[[RunDir, RunRequest, StatusWriter, Callable[[], bool]], "WorkerTrainer"]


logger = logging.getLogger("llmtune")

SUCCEEDED, FAILED, NOT_STARTED = 0, 1, 2


class TrainingFigures(Protocol):
    """What a finished run reports."""

    @property
    def steps(self) -> int:
        """Optimizer steps done."""
        ...

    @property
    def train_loss(self) -> float | None:
        """The mean over the steps of the last epoch, in nats per token; None where no loss says how far a run is."""
        ...


class WorkerTrainer(Protocol):
    """What trains one run: it raises `Stopped` where it was asked to stop and has saved its state."""

    def run(self, *, resume: bool = False) -> TrainingFigures | None:
        """Train to the end; None in a process that does not lead its group."""
        ...

    def cleanup(self) -> None:
        """Remove what only an unfinished run needs."""
        ...


class StopSignals:
    """Handlers of SIGTERM and Ctrl-C: the run ends after its current step, with a checkpoint. SIGHUP is ignored."""

    def __init__(self) -> None:
        self.stopped = False
        signal.signal(signal.SIGTERM, self._stop)
        signal.signal(signal.SIGINT, self._stop)
        if hasattr(signal, "SIGHUP"):
            signal.signal(signal.SIGHUP, signal.SIG_IGN)

    def _stop(self, *_: object) -> None:
        self.stopped = True


def main(arguments: list[str] | None = None) -> int:
    """Run one folder to its end; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m llmtune_local.worker", description="Train one run folder.")
    parser.add_argument("run_dir")
    parser.add_argument("--resume", action="store_true", help="continue from the last checkpoint")
    parser.add_argument("--member", action="store_true", help="one of several processes, as RANK says")
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s", force=True)
    folder = RunDir(options.run_dir)
    signals = StopSignals()
    if not (folder.path / "request.json").is_file():
        logger.error("%s holds no request.json", folder.path)
        return NOT_STARTED

    def stop() -> bool:
        return signals.stopped or folder.cancelling

    if not options.member:
        return work(folder, stop, resume=options.resume)
    end_with_parent()
    return join_training(folder, stop, resume=options.resume)


def join_training(folder: RunDir, stop: Callable[[], bool], *, resume: bool) -> int:
    """Train as one of several processes: the first is the folder's worker, the others only train."""
    if os.environ.get("RANK") == "0":
        return work(folder, stop, resume=resume)
    _prepare_training_libraries()
    from llmtune_local.training.registry import trainer_for

    request = folder.read_request()
    silent: Any = NullStatusWriter()
    trainer = trainer_for(request)(folder, request, silent, stop)
    with contextlib.suppress(Stopped, WorkerGroupLost):  # the first process says what came of it
        trainer.run(resume=resume)
    return SUCCEEDED


def make_local_trainer(
    folder: RunDir, request: RunRequest, journal: StatusWriter, stop: Callable[[], bool]
) -> WorkerTrainer:
    """Return the trainer of the request's method, which trains on this machine."""
    from llmtune_local.training.registry import trainer_for

    return trainer_for(request)(folder, request, journal, stop)


def work(
    folder: RunDir, stop: Callable[[], bool], *, resume: bool, make_trainer: MakeTrainer = make_local_trainer
) -> int:
    """Train as the folder's worker, and write its status; return the exit status."""
    try:
        with FolderLock(folder.lock):
            return _train_locked(folder, stop, make_trainer, resume=resume)
    except FolderBusy as busy:
        logger.error("%s", busy)
        return NOT_STARTED
    except OSError as problem:
        if not is_full(problem):
            raise
        logger.error("no space left on the device for the files of %s", folder.path)
        return FAILED


def _prepare_training_libraries() -> None:
    prepare_libraries(spin=idle())
    # Training libraries report progress bars that nobody reads here.
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")


def _train_locked(folder: RunDir, stop: Callable[[], bool], make_trainer: MakeTrainer, *, resume: bool) -> int:
    before = folder.read_status()
    if before is not None and before.state == "succeeded":
        logger.info("%s: this run has succeeded already", folder.path)
        return SUCCEEDED if resume else NOT_STARTED
    if before is not None and not resume:
        state = before.state if before.state in FINAL else "interrupted"
        logger.error("%s: this run was started before (%s); use --resume to continue", folder.path, state)
        return NOT_STARTED
    if before is None and folder.last_attempt() > 0:  # the status was lost, not the run
        resume = True
    _prepare_training_libraries()
    with StatusWriter(folder) as journal:
        try:
            if folder.cancelling:
                return _report_cancelled(folder, journal)
            request = folder.read_request()
            trainer = make_trainer(folder, request, journal, stop)
            try:
                result = trainer.run(resume=resume)
            except Stopped:
                return _report_cancelled(folder, journal)
            except WorkerGroupLost as lost:
                # Not the end of the run: the next poll finds this process dead, and starts a new group.
                journal.event(
                    f"a process of the worker group has ended ({lost}); the run continues from its last checkpoint",
                    "warning",
                )
                return FAILED
            assert result is not None  # this process leads
            loss = "" if result.train_loss is None else f", training loss {result.train_loss:.4f}"
            journal.event(f"finished after {result.steps:,} steps{loss}")
            journal.update(state="succeeded", message="finished", step=result.steps)
            trainer.cleanup()
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


def _report_cancelled(folder: RunDir, journal: StatusWriter) -> int:
    steps = folder.checkpoints()
    none = "no checkpoint was written" if journal.status.step else "no step was done"
    outcome = f"the checkpoint of step {max(steps)} is kept" if steps else none
    journal.event(f"cancelled: {outcome}")
    journal.update(state="cancelled", message=f"cancelled: {outcome}", eta_seconds=None)
    return SUCCEEDED


def explain(problem: BaseException) -> tuple[str, str]:
    """Return a code and one sentence for the exception that ended the run."""
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
