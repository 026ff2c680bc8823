"""What the endpoint must remember: files by their content, and which run each job is. It survives SIGKILL.

    HOME/tuning/lock                 held by the one server of this home
    HOME/tuning/content/SHA256.jsonl the bytes, once, however many files hold them
    HOME/tuning/files/ID.json        one record a file
    HOME/tuning/jobs/ID.json         one record a job: what was asked, and the run that it is

A record is written beside its place, flushed to the disk and renamed, and content is there before a record names it:
whatever moment a process dies at, each record is as it was before or as it is after. How a job stands is never written
here; the run store knows it.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import string
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from llmtune._safety.private_files import make_private_folder, open_private
from llmtune.errors import StoreError
from llmtune.runs.failpoints import checkpoint

_LETTERS = string.ascii_letters + string.digits

#: Seconds after which a repeated request is not taken for a client's second try of the first one any more.
RETRY_SECONDS = 1800.0


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore", use_attribute_docstrings=True)

    id: str
    created: float
    """In Unix seconds."""

    digest: str = ""
    """Hash of the request that made it, by which a client's second try of that request is recognised."""

    retries: int = 0
    """How many second tries were answered with it."""

    idempotency_key: str | None = None
    """The client's own name of that request, where it sent one."""


class FileRecord(_Record):
    """A file as a client knows it. Several may hold the same content."""

    sha256: str
    bytes: int
    filename: str
    purpose: str
    expires: float | None = None
    """When it is removed, in Unix seconds; None: when somebody deletes it."""


class JobRecord(_Record):
    """A job as a client asked for it. Its id is the run's with a prefix, so neither can lose the other."""

    model: str
    """The model as the client named it."""

    target: str
    """What it stands for here: PROVIDER:MODEL, or run:ID."""

    tuned_name: str
    """What the tuned model will be called."""

    training_file: FileRecord
    validation_file: FileRecord | None = None
    """The files as they were then: deleting one takes nothing from a job that has begun."""

    method: str = "supervised"
    hyperparameters: dict[str, Any] = {}
    """As they were asked for, "auto" included."""

    suffix: str | None = None
    seed: int | None = None
    metadata: dict[str, str] | None = None
    cancelled: bool = False
    """A client asked for its end, whether or not there was a run yet."""

    error: dict[str, str | None] | None = None
    """Why it never became a run: code, message, param."""

    settled: bool = False
    """Nothing more will happen to it: its results are written, or it has failed before it was a run."""

    ended: float | None = None
    """When it was settled, in Unix seconds."""

    result_file: str | None = None
    model_deleted: bool = False

    @property
    def run_id(self) -> str:
        """The run that this job is."""
        return self.id.removeprefix(JOB_PREFIX)


JOB_PREFIX = "ftjob-"

R = TypeVar("R", bound=_Record)


class TuningState:
    """The records, read once and written through. One process of a home holds them.

    Raises:
        StoreError: another server of this home runs, or the folder cannot be written.
    """

    def __init__(self, home: Path) -> None:
        self.folder = home / "tuning"
        self.content = self.folder / "content"
        self._lock = threading.RLock()
        try:
            for folder in (self.content, self.folder / "files", self.folder / "jobs"):
                make_private_folder(folder)
            self._held = os.open(self.folder / "lock", os.O_RDWR | os.O_CREAT, 0o600)
        except OSError as error:
            raise StoreError(
                f"the folder {self.folder} cannot be written: {error.strerror}",
                hint="set LLMTUNE_HOME to a folder you may write to",
            ) from None
        if not _lock(self._held):
            os.close(self._held)
            raise StoreError(
                f"another llmtune serve --tuning uses {self.folder}", hint="stop it, or set another LLMTUNE_HOME"
            )
        try:
            self._files = {record.id: record for record in self._read("files", FileRecord)}
            self._jobs = {record.id: record for record in self._read("jobs", JobRecord)}
            self._remove_leftovers()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Let another server have the home."""
        os.close(self._held)

    # --- files ---------------------------------------------------------------------------------------------------
    def files(self) -> list[FileRecord]:
        """Every file, newest first."""
        with self._lock:
            self._expire()
            return _newest_first(self._files.values())

    def file(self, file_id: str) -> FileRecord | None:
        """The file of that id."""
        with self._lock:
            self._expire()
            return self._files.get(file_id)

    def path(self, record: FileRecord) -> Path:
        """Where a file's content lies."""
        return self.content / f"{record.sha256}{_ending(record)}"

    def add_file(self, temporary: Path, record: FileRecord) -> FileRecord:
        """Take a written file into the content folder (`temporary` is moved), then write its record."""
        with self._lock:
            _flush(temporary)
            temporary.replace(self.path(record))
            _flush(self.content)
            checkpoint("content-kept")
            self._write("files", record)
            self._files[record.id] = record
        return record

    def update_file(self, record: FileRecord) -> None:
        """Write a changed record of a file."""
        with self._lock:
            self._write("files", record)
            self._files[record.id] = record

    def delete_file(self, record: FileRecord) -> None:
        """Forget a file; its content stays for as long as another file or an unfinished job holds it."""
        with self._lock:
            self._files.pop(record.id, None)
            (self.folder / "files" / f"{record.id}.json").unlink(missing_ok=True)
            _flush(self.folder / "files")
            self._remove_content()

    # --- jobs ----------------------------------------------------------------------------------------------------
    def jobs(self) -> list[JobRecord]:
        """Every job, newest first."""
        with self._lock:
            return _newest_first(self._jobs.values())

    def job(self, job_id: str) -> JobRecord | None:
        """The job of that id."""
        return self._jobs.get(job_id)

    def save_job(self, record: JobRecord) -> JobRecord:
        """Write a new job down. Nothing is begun for it before this returns."""
        with self._lock:
            self._write("jobs", record)
            self._jobs[record.id] = record
        return record

    def change_job(self, job_id: str, **fields: Any) -> JobRecord:
        """Set fields of a job."""
        with self._lock:
            record = self.save_job(self._jobs[job_id].model_copy(update=fields))
            if record.settled:
                self._remove_content()
        return record

    # --- a client's second try -----------------------------------------------------------------------------------
    def repeated(self, records: Iterable[R], *, digest: str, retry: int, key: str | None) -> R | None:
        """The record that an earlier try of this very request made; None for a request of its own.

        The client numbers its tries: of two requests of the same content that are both first tries, each is a job of
        its own, while a second try after a lost answer finds what the first one made.
        """
        oldest = time.time() - RETRY_SECONDS
        recent = [record for record in records if record.created >= oldest]
        if key is not None:
            return next((record for record in recent if record.idempotency_key == key), None)
        if retry == 0:
            return None
        return next((record for record in recent if record.digest == digest and record.retries < retry), None)

    # --- on the disk ---------------------------------------------------------------------------------------------
    def _read(self, kind: str, model: type[R]) -> list[R]:
        records = []
        for path in sorted((self.folder / kind).glob("*.json")):
            try:
                records.append(model.model_validate_json(path.read_bytes()))
            except (OSError, ValidationError) as error:
                raise StoreError(
                    f"{path} is damaged and cannot be read",
                    hint="restore it from a backup, or move it away: its job goes on as a run (llmtune runs list)",
                ) from error
        return records

    def _write(self, kind: str, record: _Record) -> None:
        path = self.folder / kind / f"{record.id}.json"
        write_file(path, record.model_dump_json(exclude_defaults=True).encode())

    def _expire(self) -> None:
        now = time.time()
        for record in [file for file in self._files.values() if file.expires is not None and file.expires <= now]:
            self.delete_file(record)

    def _remove_leftovers(self) -> None:
        """What a process left behind that died while it wrote."""
        for path in self.folder.glob("*/.*.tmp"):
            path.unlink(missing_ok=True)
        self._remove_content()

    def _remove_content(self) -> None:
        needed = {self.path(record).name for record in self._files.values()}
        for job in self._jobs.values():
            if not job.settled:
                inputs = filter(None, (job.training_file, job.validation_file))
                needed |= {self.path(record).name for record in inputs}
        for path in self.content.iterdir():
            if path.name not in needed and not path.name.startswith("."):
                path.unlink(missing_ok=True)


def new_file_id() -> str:
    """An id as the API has it: `file-` and 22 letters or digits."""
    return "file-" + "".join(secrets.choice(_LETTERS) for _ in range(22))


def digest_of(body: Any) -> str:
    """Hash of a request's content, the same whatever the order of its keys."""
    return hashlib.sha256(json.dumps(body, sort_keys=True, ensure_ascii=False).encode()).hexdigest()


def write_file(path: Path, content: bytes) -> None:
    """Replace a file as a whole: written beside it, flushed, renamed."""
    temporary = path.with_name(f".{path.name}.tmp")
    with open_private(temporary, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
    _flush(path.parent)


def _lock(file: int) -> bool:
    """Hold the file until this process has ended, however it ends; False when another one does."""
    try:
        import fcntl
    except ImportError:  # not on Windows: there, one server a home is the user's own care
        return True
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def _flush(path: Path) -> None:
    """Bring a file, or the names in a folder, to the disk."""
    with suppress(OSError):  # not every file system can open or flush a folder
        opened = os.open(path, os.O_RDONLY)
        try:
            os.fsync(opened)
        finally:
            os.close(opened)


def _ending(record: FileRecord) -> str:
    return ".csv" if record.purpose == "fine-tune-results" else ".jsonl"


def _newest_first(records: Iterable[R]) -> list[R]:
    order: Callable[[R], tuple[float, str]] = lambda record: (record.created, record.id)  # noqa: E731
    return sorted(records, key=order, reverse=True)
