"""The run folder: all that a worker process and its followers exchange. Imports nothing heavy.

request.json     what to do; written once, before the worker starts
status.json      where the worker is; replaced atomically, so a reader always sees a whole one
metrics.jsonl    one point a line, whole lines only; each (step, series) once, also after a resume
events.jsonl     what happened, in sentences
samples.jsonl    answers to a few validation rows while training, one a line; a step may come again after a resume
replay.jsonl     with replay_share: the model's own answers from before the first step, which are learned again
worker.log       everything else, tracebacks included
checkpoints/     step-N/: adapter (or model), optimizer and position; renamed into place when complete
adapter/         the result in PEFT's layout (adapter full: model/, a whole model)
logits/          method classification: logits of the validation rows, and of every text asked later
reference.npy    method dpo without a fresh adapter: the reference's likelihoods
result.json      final figures
cancel           marker: the worker stops after the step it is in
out-of-memory    marker: a process that holds a part of the model has no room
lock             which process is at work here
launched         the worker processes that were started, a line each
"""

from __future__ import annotations

import os
import re
import shutil
import time
import zipfile
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ValidationError

from llmtune._safety.private_files import make_private_folder, open_private
from llmtune.errors import InvalidJob
from llmtune_local.run_state.damage import DamagedFile, artefact_fault, checkpoint_fault, describe
from llmtune_local.run_state.process import TRAINER, FolderLock, WorkerProgram, alive
from llmtune_local.run_state.schema import Cursor, EventLine, MetricLine, Result, RunRequest, SampleLine, Status

_Record = TypeVar("_Record", bound=BaseModel)

#: How the labels of a tuned model are decided: stored beside its weights once it was evaluated.
DECISIONS_FILE = "decisions.json"

#: A status file fills one block of the disk, so that it can still be rewritten in place when the disk is full.
_STATUS_BYTES = 4096


class RunDir:
    """A run folder. Safe to read from any process at any time; only the worker writes, apart from the request.

    What a crash has damaged is left out or read from other files; `damage` then names it, one sentence per file.
    """

    program: WorkerProgram = TRAINER
    """What works in the folder."""

    request_type: type[RunRequest] = RunRequest
    """What `request.json` holds."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self.adapter, self.model = self.path / "adapter", self.path / "model"
        self.metrics, self.events = self.path / "metrics.jsonl", self.path / "events.jsonl"
        self.samples, self.replay = self.path / "samples.jsonl", self.path / "replay.jsonl"
        self.lock, self.out_of_memory = self.path / "lock", self.path / "out-of-memory"
        self.damage: dict[str, str] = {}

    @property
    def artefact(self) -> Path:
        """Return the folder of the result: `model` where there is one (adapter full), else `adapter`."""
        return self.model if self.model.exists() else self.adapter

    # the asking side

    @property
    def exists(self) -> bool:
        """Return whether a run was submitted to this folder, whatever is left of it."""
        return any((self.path / name).exists() for name in ("request.json", "status.json"))

    def write_request(self, request: RunRequest) -> None:
        """Make the folder and write the request; the worker can be started then."""
        make_private_folder(self.path)
        write_atomically(self.path / "request.json", request.model_dump_json(indent=2, by_alias=True))

    def read_request(self) -> RunRequest:
        """Read the request.

        Raises `DamagedFile` where the file is not what was written, `InvalidJob` where a field of it is invalid.
        """
        path = self.path / "request.json"
        try:
            return self.request_type.model_validate_json(path.read_bytes())
        except OSError:
            raise DamagedFile(describe(path)) from None
        except ValidationError as error:
            fault = error.errors(include_url=False)[0]
            if fault["type"] == "json_invalid":
                raise DamagedFile(describe(path)) from None
            where = ".".join(str(part) for part in fault["loc"])
            raise InvalidJob(fault["msg"], where=f"request.json: {where}") from None

    def find_request(self) -> RunRequest | None:
        """Return the request; None where it cannot be read."""
        try:
            return self.read_request()
        except (DamagedFile, InvalidJob) as problem:
            self.damage["request.json"] = problem.message
            return None

    def read_status(self) -> Status | None:
        """Return the last status of the worker; None before its first, and where it was lost.

        A run whose status was lost after its end is recognised by its figures and its complete result.
        """
        status = self._read("status.json", Status)
        if status is not None:
            return status
        result = self.read_result()
        if result is None or self.artefact_fault() is not None:
            return None
        ended = (self.path / "result.json").stat().st_mtime
        attempt = self._attempt_of_events()
        return Status(state="succeeded", step=result.steps, epoch=result.epochs, attempt=attempt, heartbeat=ended)

    def read_result(self) -> Result | None:
        """Return the final figures; None before the end."""
        return self._read("result.json", Result)

    def read_metrics(self, since: Cursor | None = None) -> tuple[list[MetricLine], Cursor]:
        """Return points after the cursor, and the next cursor. After a resume all points come again, none is missed."""
        lines, cursor = self._lines(self.metrics, since)
        return [point for _, point in self._records(self.metrics, lines, MetricLine)], cursor

    def read_events(self, since: Cursor | None = None) -> tuple[list[EventLine], Cursor]:
        """Return events after the cursor, and the next cursor."""
        lines, cursor = self._lines(self.events, since)
        return [event for _, event in self._records(self.events, lines, EventLine)], cursor

    def read_samples(self, since: Cursor | None = None) -> tuple[list[SampleLine], Cursor]:
        """Return answers after the cursor, and the next cursor."""
        lines, cursor = self._lines(self.samples, since)
        return [sample for _, sample in self._records(self.samples, lines, SampleLine)], cursor

    def artefact_fault(self) -> str | None:
        """Return why the result is incomplete; None where it is not."""
        result = self.read_result()
        return artefact_fault(self.artefact, result.files if result is not None else ())

    def last_attempt(self) -> int:
        """Return the number of the last worker that has written anything here; 0 before the first."""
        status = self._read("status.json", Status)
        return max(status.attempt if status else 0, self._attempt_of_events())

    def _attempt_of_events(self) -> int:
        try:
            attempts = re.findall(rb'"id":"(\d{1,9})-', self.events.read_bytes())
        except OSError:
            return 0
        return max(map(int, attempts), default=0)

    def _read(self, name: str, record: type[_Record]) -> _Record | None:
        """Read a whole file; None where there is none, and where it was damaged."""
        path = self.path / name
        try:
            return record.model_validate_json(path.read_bytes().rstrip())
        except FileNotFoundError:
            return None
        except (OSError, ValueError):
            self.damage[name] = describe(path)
            return None

    def _records(self, path: Path, lines: list[bytes], record: type[_Record]) -> list[tuple[bytes, _Record]]:
        """Return the lines that can be parsed, each with its record. Zero bytes around a line are left by a crash."""
        records = []
        for line in lines:
            text = line.strip(b"\0 \t\r")
            try:
                records.append((text, record.model_validate_json(text)))
            except ValueError:
                if line:
                    self.damage[path.name] = f"{path} has lines that cannot be read; they are left out"
        return records

    def _lines(self, path: Path, since: Cursor | None) -> tuple[list[bytes], Cursor]:
        # The status is read first: an attempt seen too early costs a repeated reading, never a missed line.
        status = self.read_status()
        attempt = status.attempt if status else 0
        offset = since.offset if since is not None and since.attempt == attempt else 0
        try:
            with path.open("rb") as file:
                # A worker that resumes cuts the file back to its checkpoint, perhaps after its new attempt was seen:
                # an offset from before then lies behind the end or inside a line, and all is read again.
                if offset:
                    file.seek(offset - 1)
                    offset = offset if file.read(1) == b"\n" else 0
                file.seek(offset)
                data = file.read()
        except FileNotFoundError:
            return [], Cursor(attempt=attempt, offset=0)
        complete = data[: data.rfind(b"\n") + 1]
        return complete.split(b"\n")[:-1], Cursor(attempt=attempt, offset=offset + len(complete))

    def alive(self) -> bool | None:
        """Return whether the worker runs; None when it is on another machine, False before its first status."""
        status = self.read_status()
        worker = status.process if status else None
        if worker is None:  # the status was lost: the lock names the worker too
            worker = FolderLock(self.lock).holder()
        return False if worker is None else alive(worker)

    def error_tail(self) -> str:
        """Return the last line of the worker's log."""
        try:
            lines = (self.path / "worker.log").read_text(encoding="utf-8", errors="replace").splitlines()
        except OSError:
            lines = []
        return next((line for line in reversed(lines) if line.strip()), "it left no word")

    def cancel(self) -> None:
        """Ask the worker to stop after its current step."""
        (self.path / "cancel").touch()

    def uncancel(self) -> None:
        """Withdraw the request to stop, so that a cancelled run can be resumed."""
        (self.path / "cancel").unlink(missing_ok=True)

    @property
    def cancelling(self) -> bool:
        """Return whether the worker was asked to stop."""
        return (self.path / "cancel").exists()

    def checkpoints(self) -> dict[int, Path]:
        """Return complete checkpoints by step, oldest first."""
        by_step = {}
        folder = self.path / "checkpoints"
        for path in folder.iterdir() if folder.is_dir() else ():
            if match := re.fullmatch(r"step-(\d+)", path.name):
                by_step[int(match.group(1))] = path
        return dict(sorted(by_step.items()))

    def usable_checkpoints(self, *, best: bool) -> dict[int, Path]:
        """Return the checkpoints that a run can continue from, oldest first.

        With `best` (early stopping) the weights of the best step must be there too.
        """
        if best and not zipfile.is_zipfile(self.path / "checkpoints" / "best" / "weights.pt"):
            return {}
        return {step: path for step, path in self.checkpoints().items() if checkpoint_fault(path) is None}

    def resume_step(self) -> int:
        """Return the step that a new worker would continue from; 0 is the start."""
        request = self.find_request()
        best = request is not None and request.hyperparameters.early_stopping_patience is not None
        return max(self.usable_checkpoints(best=best), default=0)

    # the worker's side

    def repair(self) -> None:
        """Remove what a crash has left: lines that cannot be read, half a last line, half-written files."""
        for path, record in (
            (self.metrics, MetricLine),
            (self.events, EventLine),
            (self.samples, SampleLine),
        ):
            if not path.is_file():
                continue
            data = path.read_bytes()
            records = self._records(path, data.split(b"\n")[:-1], record)
            repaired = b"".join(line + b"\n" for line, _ in records)
            if repaired != data:
                write_atomically(path, repaired)
        for folder in (self.path, self.path / "checkpoints"):
            for path in folder.glob(".*.tmp"):
                shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)

    def write_status(self, status: Status) -> None:
        """Replace the status. On a full disk the old file is overwritten in place, which needs no new block."""
        data = status.model_dump_json().encode().ljust(_STATUS_BYTES) + b"\n"
        path = self.path / "status.json"
        try:
            write_atomically(path, data)
        except OSError:
            if not path.exists():
                raise
            with path.open("r+b") as file:
                file.write(data)
                file.truncate()

    def write_result(self, result: Result) -> None:
        """Write the final figures."""
        write_atomically(self.path / "result.json", result.model_dump_json(indent=2))

    def append_metrics(self, points: list[MetricLine]) -> None:
        """Append points as whole lines, in one write."""
        _append(self.metrics, "".join(point.model_dump_json() + "\n" for point in points))

    def append_event(self, event: EventLine) -> None:
        """Append one event as a whole line."""
        _append(self.events, event.model_dump_json() + "\n")

    def append_samples(self, samples: list[SampleLine]) -> None:
        """Append the answers of a step as whole lines, in one write."""
        _append(self.samples, "".join(sample.model_dump_json() + "\n" for sample in samples))

    def truncate_metrics(self, step: int) -> None:
        """Remove the points after `step`, and unreadable lines, before a resume writes them again."""
        try:
            lines = self.metrics.read_bytes().split(b"\n")[:-1]
        except FileNotFoundError:
            return
        retained = [line for line, point in self._records(self.metrics, lines, MetricLine) if point.step <= step]
        write_atomically(self.metrics, b"".join(line + b"\n" for line in retained))


def write_atomically(path: Path, data: str | bytes) -> None:
    """Write a file under another name, then rename it into place: readers see the old one or the new one."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open_private(temporary, "wb") as file:
            file.write(data.encode() if isinstance(data, str) else data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def now() -> float:
    """Return the time in Unix seconds."""
    return time.time()


def _append(path: Path, text: str) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        data = text.encode()
        written = os.write(descriptor, data)
        if written < len(data):  # a nearly full disk takes a part: no half line may stay
            os.ftruncate(descriptor, os.fstat(descriptor).st_size - written)
            raise OSError(28, "No space left on device", str(path))
    finally:
        os.close(descriptor)
