"""The folder of a rescue: every step's result, written whole or not at all, readable without llmtune."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from llmtune._safety.private_files import make_private_folder
from llmtune.errors import LlmtuneError
from llmtune.job.spec import TuningJob
from llmtune.redaction.secrets import scrub_leaves
from llmtune.rescues.results import Rescue, RescueStep
from llmtune.runs.store.leases import Lease, describe_owner
from llmtune.runs.store.store import open_store


class Folder:
    """job.yaml, data/, golden.jsonl, receipt.json, report.md, .html and .json; rescue.json says what is done."""

    def __init__(self, path: Path, requested: str) -> None:
        self.path = path
        self.data = path / "data"
        self.golden = path / "golden.jsonl"
        self.job = path / "job.yaml"
        self.state = self._read(requested)

    def _read(self, requested: str) -> Rescue:
        state_file = self.path / "rescue.json"
        try:
            state = Rescue.model_validate_json(state_file.read_bytes())
        except FileNotFoundError:
            # A kill in the first write leaves nothing but its hidden temporary file.
            if self.path.is_dir() and any(not path.name.startswith(".rescue.json-") for path in self.path.iterdir()):
                raise LlmtuneError(
                    f"{self.path} is there already and holds something else", hint="name another folder with --out"
                ) from None
            return Rescue(asked=requested, folder=str(self.path))
        except ValidationError as error:
            raise LlmtuneError(
                f"{state_file} is not what llmtune rescue writes: {error.errors()[0]['msg']}",
                hint="name another folder with --out",
            ) from None
        if state.asked != requested:
            raise LlmtuneError(
                f"{self.path} holds the rescue of {state.asked}, not of {requested}",
                hint="name another folder with --out",
            )
        return state

    def done(self, step: RescueStep) -> bool:
        """Return whether a step is done."""
        return step in self.state.done

    def keep(self, *, done: RescueStep | None = None, note: str | None = None, **fields: Any) -> None:
        """Save fields of the state, a finished step, or a note; it is on disk when this returns."""
        if done is not None and done not in self.state.done:
            fields["done"] = (*self.state.done, done)
        if note is not None and note not in self.state.notes:
            fields["notes"] = (*self.state.notes, note)
        self.state = self.state.model_copy(update={**fields, "folder": str(self.path)})
        # What is shown is masked; ids, by which the rescue goes on, stay as they are.
        data = self.state.model_dump(mode="json")
        data["report"] = scrub_leaves(data["report"])
        self.write("rescue.json", json.dumps(data, indent=2, ensure_ascii=False) + "\n")

    def write_job(self, job: TuningJob) -> None:
        """Write job.yaml. Raises `LlmtuneError` where it was changed by hand: it is left alone then."""
        temporary = self.path / ".job.yaml"
        job.save(temporary)
        digest = _digest(temporary)
        if self.job.exists() and _digest(self.job) not in (digest, *self.state.jobs):
            temporary.unlink()
            raise LlmtuneError(
                f"{self.job} was changed since it was written and would be replaced",
                hint=f"train it as it is with llmtune tune {self.job}, or rename it and run this command again",
            )
        if digest not in self.state.jobs:
            self.keep(jobs=(*self.state.jobs, digest))
        temporary.replace(self.job)

    def write(self, name: str, text: str) -> None:
        """Write a file of the folder, replacing it as a whole."""
        write_file(self.path, name, text)


def write_file(folder: Path, name: str, text: str) -> None:
    """Write a file of a folder, which is made where it is not there: as a whole, or not at all."""
    make_private_folder(folder)
    handle, temporary = tempfile.mkstemp(dir=folder, prefix=f".{name}-")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).replace(folder / name)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


@contextmanager
def hold_folder(path: Path) -> Iterator[None]:
    """Hold the folder of a rescue, or of an account, for this process: two processes would pay for the same answers.

    Raises:
        LlmtuneError: another process that lives holds it.
    """
    lease = Lease(open_store(), f"rescue:{path.resolve()}")
    if not lease.acquire():
        raise LlmtuneError(
            f"{path} is being worked on by another rescue ({describe_owner(lease.holder)})",
            hint="wait until it has ended: the same command continues from there; or name another folder with --out",
        )
    with lease:
        yield


def check_not_held(path: Path) -> None:
    """Raise `LlmtuneError` where another process holds this folder."""
    with hold_folder(path):
        pass


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
