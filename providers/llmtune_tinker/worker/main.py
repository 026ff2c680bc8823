"""The worker process: `python -m llmtune_tinker.worker RUN_DIR [--resume]`, with the service's key in its environment.

Lock, status, heartbeat, signals and exit status are those of the local trainer's worker.
"""

from __future__ import annotations

import argparse
import logging
from typing import TYPE_CHECKING

from llmtune.redaction.secrets import scrub
from llmtune_local.worker.main import NOT_STARTED, StopSignals, work
from llmtune_tinker.client import TORCH, TinkerClient
from llmtune_tinker.run_folder import LoopFolder, LoopRequest
from llmtune_tinker.tinker_loop import TinkerLoop
from llmtune_tinker.trainer import LoopTrainer

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Literal

    from llmtune_local.run_state.run_dir import RunDir
    from llmtune_local.run_state.schema import RunRequest
    from llmtune_local.run_state.status_writer import StatusWriter

logger = logging.getLogger("llmtune")

LOG_FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"


class _Scrubbing(logging.Formatter):
    """Lines of worker.log without the key: the SDK's errors repeat what the service answers."""

    def format(self, record: logging.LogRecord) -> str:
        return scrub(super().format(record))


def make_trainer(folder: RunDir, request: RunRequest, journal: StatusWriter, stop: Callable[[], bool]) -> LoopTrainer:
    """Return the trainer of the request's method in a run folder, with the service as its loop.

    Raises `MissingExtra` where that trainer needs torch and it is not installed.
    """
    assert isinstance(folder, LoopFolder)
    assert isinstance(request, LoopRequest)

    def report(sentence: str, level: str) -> None:
        known: Literal["info", "warning"] = "warning" if level == "warning" else "info"
        journal.event(sentence, known)

    service = request.service
    client = TinkerClient(
        "tinker",
        service.base_url,
        service.key_variable,
        timeout=service.timeout,
        project_id=service.project_id,
    )
    loop = TinkerLoop(client, folder, request, folder.path.name, report, stop)
    trainer_class = LoopTrainer
    if request.method == "dpo":
        TORCH.require("method dpo at Tinker")
        from llmtune_tinker.preference_trainer import PreferenceLoopTrainer

        trainer_class = PreferenceLoopTrainer
    return trainer_class(folder, request, journal, stop, loop)


def main(arguments: list[str] | None = None) -> int:
    """Run one folder to its end; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m llmtune_tinker.worker", description="Train one run at Tinker.")
    parser.add_argument("run_dir")
    parser.add_argument("--resume", action="store_true", help="continue from the last saved state")
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format=LOG_FORMAT, force=True)
    for handler in logging.getLogger().handlers:
        handler.setFormatter(_Scrubbing(LOG_FORMAT))
    logging.getLogger("httpx").setLevel(logging.WARNING)
    folder = LoopFolder(options.run_dir)
    signals = StopSignals()
    if not (folder.path / "request.json").is_file():
        logger.error("%s holds no request.json", folder.path)
        return NOT_STARTED
    return work(folder, lambda: signals.stopped or folder.cancelling, resume=options.resume, make_trainer=make_trainer)
