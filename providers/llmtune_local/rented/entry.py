"""What runs on a rented machine: `python -m llmtune_local.rented.entry --inputs FOLDER --run FOLDER`.

The run folder lies on the machine's own disk, and is copied to the mounted storage every few seconds: a mounted store
need not append, rename or lock. A machine that starts again begins from what was copied, at the last complete
checkpoint. Before the budget or the time is used up the worker is asked to stop, and writes a checkpoint.

Exit status: 0 when the run has come to an end, whatever that is; 1 when it should be started again.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from llmtune._safety.private_files import open_private
from llmtune_local.run_state.run_dir import RunDir
from llmtune_local.run_state.schema import FINAL

#: Seconds between two copies to the storage.
SYNC_SECONDS = 3.0
#: Seconds before the limit at which the worker is asked to stop: it still ends its step and writes a checkpoint.
STOP_BEFORE = 45.0
#: Seconds that a stopped worker may take to end.
END_SECONDS = 120.0

#: Files of the run folder that mean something only on the machine that wrote them.
LOCAL_ONLY = frozenset({"lock", "launched", "cancel"})
#: What is copied last, in this order: it says that everything else is there.
_LAST = ("result.json", "status.json")
#: Written by this process: why the machine's work ended, and the seconds that it has used over all its attempts.
ENDED, USED, LIMITS = "ended.json", "used.json", "limits.json"


class Mirror:
    """Copies of a run folder in the storage, made file by file where something has changed."""

    def __init__(self, folder: Path, storage: Path) -> None:
        self.folder, self.storage = folder, storage
        self._copied: dict[str, tuple[int, int]] = {}

    def restore(self) -> None:
        """Copy what an earlier attempt has stored to this machine."""
        self.folder.mkdir(parents=True, exist_ok=True)
        for path in sorted(self.storage.rglob("*")):
            name = path.relative_to(self.storage).as_posix()
            if path.is_file() and name not in (LIMITS, ENDED, USED) and not _is_temporary(Path(name)):
                target = self.folder / name
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(path, target)
                self._copied[name] = _stamp(target)

    def save(self) -> None:
        """Copy what has changed, the files that announce others last, and remove what is gone."""
        names = {
            path.relative_to(self.folder).as_posix(): path
            for path in self.folder.rglob("*")
            if path.is_file() and path.name not in LOCAL_ONLY and not _is_temporary(path.relative_to(self.folder))
        }
        for name in sorted(names, key=_copy_order):
            try:
                stamp = _stamp(names[name])
                if self._copied.get(name) == stamp or name == "request.json":
                    continue
                target = self.storage / name
                target.parent.mkdir(parents=True, exist_ok=True)
                _copy_whole(names[name], target)
                self._copied[name] = stamp
            except FileNotFoundError:  # an older checkpoint was removed meanwhile
                continue
        for name in [name for name in self._copied if name not in names]:
            (self.storage / name).unlink(missing_ok=True)
            del self._copied[name]

    def write(self, name: str, record: dict[str, Any]) -> None:
        """Write a file of this process's own, whole: a machine that is taken away meanwhile leaves the earlier one."""
        target, content = self.storage / name, json.dumps(record)
        part = target.with_name(f".{name}.tmp")
        try:
            part.write_text(content, encoding="utf-8")
            part.replace(target)
        except OSError:  # the storage cannot rename
            part.unlink(missing_ok=True)
            target.write_text(content, encoding="utf-8")


def _copy_order(name: str) -> tuple[int, bool, str]:
    """Order the files of a run folder for copying.

    Points come before the checkpoints: what is resumed from a checkpoint must find all points up to it.
    """
    return (_LAST.index(name) + 1 if name in _LAST else 0, "/" in name, name)


def _copy_whole(source: Path, target: Path) -> None:
    """Copy a file so that it appears when it is whole, where the storage can rename; else as it comes."""
    part = target.with_name(f".{target.name}.tmp")
    try:
        shutil.copyfile(source, part)
        part.replace(target)
    except FileNotFoundError:
        part.unlink(missing_ok=True)
        raise
    except OSError:
        part.unlink(missing_ok=True)
        shutil.copyfile(source, target)


def _stamp(path: Path) -> tuple[int, int]:
    facts = path.stat()
    return facts.st_size, facts.st_mtime_ns


def _is_temporary(path: Path) -> bool:
    return any(part.startswith(".") and part.endswith(".tmp") for part in path.parts)


def read_record(path: Path) -> dict[str, Any]:
    """Return the content of a JSON file; empty where there is none, or where it was cut off."""
    try:
        record = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return record if isinstance(record, dict) else {}


class Attempt:
    """One attempt of a run on this machine, which began at `started` (Unix seconds)."""

    def __init__(
        self, inputs: Path, storage: Path, work: Path, *, started: float, clock: Callable[[], float] = time.time
    ) -> None:
        self.inputs, self.storage, self.folder = inputs, storage, RunDir(work)
        self.mirror = Mirror(work, storage)
        self.started, self.clock = started, clock
        self.before = float(read_record(storage / USED).get("seconds") or 0.0)
        self.limit = float(read_record(storage / LIMITS).get("seconds") or float("inf"))
        self.interrupted = False
        self.out_of_budget = False

    @property
    def used(self) -> float:
        """Return the seconds that the run has been billed for, those of earlier attempts included."""
        return self.before + self.clock() - self.started

    def run(self) -> int:
        """Train until the run ends, or this process is asked to stop; return the exit status."""
        self.mirror.restore()
        self._place_request()
        if self.used >= self.limit - STOP_BEFORE:
            return self._end("budget")
        status = self.folder.read_status()
        if status is not None and status.state == "succeeded" and self.folder.artefact_fault() is None:
            return self._end("done")
        if status is not None and status.state in FINAL:
            self.folder.write_status(status.model_copy(update={"state": "starting", "error": None, "error_code": None}))
        worker = self._start_worker(resume=self.folder.last_attempt() > 0)
        try:
            while worker.poll() is None:
                self.look()
                self._wait(worker)
        finally:
            self._stop(worker)
        return self._finish()

    def look(self) -> None:
        """Store what is new, and ask the worker to stop where the limit is near."""
        self.mirror.save()
        self.mirror.write(USED, {"seconds": self.used})
        if self.used >= self.limit - STOP_BEFORE and not self.out_of_budget:
            self.out_of_budget = True
            self.folder.cancel()

    def interrupt(self, *_: object) -> None:
        """Have the worker stop after its step: the machine is about to be taken away."""
        self.interrupted = True
        self.folder.cancel()

    def _place_request(self) -> None:
        """Write the request with the datasets' paths on this machine."""
        request = read_record(self.storage / "request.json")
        request["files"] = {role: str(self.inputs / name) for role, name in request["files"].items()}
        (self.folder.path / "request.json").write_text(json.dumps(request), encoding="utf-8")

    def _start_worker(self, *, resume: bool) -> subprocess.Popen[bytes]:
        with open_private(self.folder.path / "worker.log", "ab") as log:
            return subprocess.Popen(
                [sys.executable, "-m", "llmtune_local.worker", str(self.folder.path), *(["--resume"] * resume)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    def _wait(self, worker: subprocess.Popen[bytes]) -> None:
        seconds = min(SYNC_SECONDS, max(0.1, self.limit - STOP_BEFORE - self.used))
        try:
            worker.wait(0.2 if self.interrupted else seconds)
        except subprocess.TimeoutExpired:
            return

    def _stop(self, worker: subprocess.Popen[bytes]) -> None:
        if worker.poll() is None:
            worker.terminate()
            try:
                worker.wait(END_SECONDS)
            except subprocess.TimeoutExpired:
                worker.kill()

    def _finish(self) -> int:
        status = self.folder.read_status()
        state = status.state if status is not None else None
        if state in ("succeeded", "failed"):
            return self._end("done")
        if self.out_of_budget:
            return self._end("budget")
        if status is None and not self.interrupted:
            return self._end("done", error=self.folder.error_tail())
        # Not the run's end: another machine continues from the checkpoint.
        if status is not None:
            self.folder.write_status(status.model_copy(update={"state": "running"}))
        self.mirror.save()
        self.mirror.write(USED, {"seconds": self.used})
        return 1

    def _end(self, reason: str, error: str | None = None) -> int:
        self.mirror.save()
        self.mirror.write(USED, {"seconds": self.used})
        self.mirror.write(ENDED, {"reason": reason, "error": error, "step": self.folder.resume_step()})
        return 0


def main(arguments: list[str] | None = None) -> int:
    """Run one attempt; return its exit status."""
    parser = argparse.ArgumentParser(prog="python -m llmtune_local.rented.entry", description="Train a rented run.")
    parser.add_argument("--inputs", type=Path, required=True, help="folder of the datasets")
    parser.add_argument("--run", type=Path, required=True, help="the run's folder in the mounted storage")
    options = parser.parse_args(arguments)
    started = float(os.environ.get("LLMTUNE_STARTED") or time.time())
    with tempfile.TemporaryDirectory(prefix="llmtune-") as work:
        attempt = Attempt(options.inputs, options.run, Path(work) / "run", started=started)
        signal.signal(signal.SIGTERM, attempt.interrupt)
        signal.signal(signal.SIGINT, attempt.interrupt)
        return attempt.run()


if __name__ == "__main__":
    sys.exit(main())
