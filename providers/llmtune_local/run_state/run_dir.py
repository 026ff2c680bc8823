"""The run folder: the whole conversation between a worker process and everybody else. Imports nothing heavy.

request.json     what to do; written once, before the worker starts
status.json      where the worker is; replaced atomically, so a reader always sees a whole one
metrics.jsonl    one point a line, whole lines only; each (step, series) once, also after a resume
events.jsonl     what happened, in sentences
worker.log       everything else, tracebacks included
checkpoints/     step-N/: adapter (or model), optimizer and position; renamed into place when complete
adapter/         the result in PEFT's layout (adapter full: model/, a whole model)
logits/          method classification: logits of the validation rows, and of every text asked later
reference.npy    method dpo without a fresh adapter: the reference's likelihoods
result.json      final figures
cancel           marker: the worker stops after the step it is in
lock             which process is at work here
launched         the worker processes that were started, a line each
"""

from __future__ import annotations

import json
import os
import re
import time
from pathlib import Path

from llmtune._safety.private_files import make_private_folder, open_private
from llmtune_local.run_state.process import alive
from llmtune_local.run_state.schema import Cursor, EventLine, MetricLine, Result, RunRequest, Status

#: A status file fills one block of the disk, so that it can still be rewritten in place when the disk is full.
_STATUS_BYTES = 4096


class RunDir:
    """A run folder. Safe to read from any process at any time; only the worker writes, apart from the request."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)

    @property
    def adapter(self) -> Path:
        return self.path / "adapter"

    @property
    def model(self) -> Path:
        return self.path / "model"

    @property
    def artefact(self) -> Path:
        """The folder of the result: `model` where there is one (method full), else `adapter`."""
        return self.model if self.model.exists() else self.adapter

    @property
    def metrics(self) -> Path:
        return self.path / "metrics.jsonl"

    @property
    def events(self) -> Path:
        return self.path / "events.jsonl"

    @property
    def lock(self) -> Path:
        return self.path / "lock"

    # the asking side

    def write_request(self, request: RunRequest) -> None:
        """Make the folder and write the request; the worker can be started then."""
        make_private_folder(self.path)
        write_atomically(self.path / "request.json", request.model_dump_json(indent=2, by_alias=True))

    def read_request(self) -> RunRequest:
        """Raises FileNotFoundError, or pydantic's ValidationError."""
        return RunRequest.model_validate_json((self.path / "request.json").read_bytes())

    def read_status(self) -> Status | None:
        """The worker's last word; None before its first."""
        try:
            return Status.model_validate_json((self.path / "status.json").read_bytes().rstrip())
        except FileNotFoundError:
            return None

    def read_result(self) -> Result | None:
        """The final figures; None before the end."""
        try:
            return Result.model_validate_json((self.path / "result.json").read_bytes())
        except FileNotFoundError:
            return None

    def read_metrics(self, since: Cursor | None = None) -> tuple[list[MetricLine], Cursor]:
        """Points behind the cursor, and the next cursor. After a resume all points come again, none is missed."""
        lines, cursor = self._lines(self.metrics, since)
        return [MetricLine.model_validate_json(line) for line in lines], cursor

    def read_events(self, since: Cursor | None = None) -> tuple[list[EventLine], Cursor]:
        """Events behind the cursor, and the next cursor."""
        lines, cursor = self._lines(self.events, since)
        return [EventLine.model_validate_json(line) for line in lines], cursor

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
        whole = data[: data.rfind(b"\n") + 1]
        return whole.splitlines(), Cursor(attempt=attempt, offset=offset + len(whole))

    def alive(self) -> bool | None:
        """Whether the worker's process runs; None when it is on another machine. False before its first word."""
        status = self.read_status()
        if status is None or status.process is None:
            return False
        return alive(status.process)

    def last_words(self) -> str:
        """The last line of the worker's log."""
        try:
            lines = (self.path / "worker.log").read_text(encoding="utf-8", errors="replace").splitlines()
        except OSError:
            lines = []
        return next((line for line in reversed(lines) if line.strip()), "it left no word")

    def cancel(self) -> None:
        """Ask the worker to stop after the step it is in."""
        (self.path / "cancel").touch()

    def uncancel(self) -> None:
        """Take the request to stop back, so that a cancelled run can be resumed."""
        (self.path / "cancel").unlink(missing_ok=True)

    @property
    def cancelling(self) -> bool:
        """Whether the worker was asked to stop."""
        return (self.path / "cancel").exists()

    def checkpoints(self) -> dict[int, Path]:
        """Complete checkpoints by step, oldest first."""
        found = {}
        folder = self.path / "checkpoints"
        for path in folder.iterdir() if folder.is_dir() else ():
            if match := re.fullmatch(r"step-(\d+)", path.name):
                found[int(match.group(1))] = path
        return dict(sorted(found.items()))

    # the worker's side

    def write_status(self, status: Status) -> None:
        """Replace the status. On a full disk the old file is overwritten in place, which needs no new block."""
        data = status.model_dump_json().encode().ljust(_STATUS_BYTES) + b"\n"
        path = self.path / "status.json"
        try:
            write_atomically(path, data)
        except OSError:
            with path.open("r+b") as file:
                file.write(data)
                file.truncate()

    def write_result(self, result: Result) -> None:
        write_atomically(self.path / "result.json", result.model_dump_json(indent=2))

    def append_metrics(self, points: list[MetricLine]) -> None:
        """Append points as whole lines, in one write."""
        _append(self.metrics, "".join(point.model_dump_json() + "\n" for point in points))

    def append_event(self, event: EventLine) -> None:
        """Append one event as a whole line."""
        _append(self.events, event.model_dump_json() + "\n")

    def truncate_metrics(self, step: int) -> None:
        """Forget the points after `step` and a half-written last line, before a resume writes them again."""
        try:
            lines = self.metrics.read_bytes().split(b"\n")[:-1]
        except FileNotFoundError:
            return
        kept = [line for line in lines if json.loads(line)["step"] <= step]
        write_atomically(self.metrics, b"".join(line + b"\n" for line in kept))


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
    """Unix seconds."""
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
