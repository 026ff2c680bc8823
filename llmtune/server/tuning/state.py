"""The stored state of the endpoint: files by their content, and the run of each job. It survives SIGKILL.

    HOME/tuning/lock                 locked by the one server of this home
    HOME/tuning/content/SHA256.jsonl content, stored once for all files that have it
    HOME/tuning/files/ID.json        one record per file
    HOME/tuning/jobs/ID.json         one record per job: the request, and the id of its run
    HOME/tuning/uploads/ID.json      one record per upload in parts; the parts are in the folder ID beside it
    HOME/tuning/audit.jsonl          who started what

A record is written to a temporary file, flushed and renamed, and content is stored before a record refers to it, so a
process that is killed leaves each record as it was before or as it is after. The state of a job is never written here:
it is that of its run in the run store.
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
from typing import Any, Literal, NamedTuple, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from llmtune._safety.operating_system import lock_file
from llmtune._safety.private_files import make_private_folder, open_private
from llmtune.errors import StoreError
from llmtune.runs.failpoints import failpoint

_LETTERS = string.ascii_letters + string.digits

#: Seconds within which a repeated request may be a client's retry of the first one.
RETRY_SECONDS = 1800.0


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore", use_attribute_docstrings=True)

    id: str
    created: float
    """In Unix seconds."""

    owner: str = ""
    """Whose it is; "" where the endpoint has one key."""

    digest: str = ""
    """Hash of the request that created it, by which a client's retry of that request is recognised."""

    retries: int = 0
    """Number of retries that were answered with it."""

    idempotency_key: str | None = None
    """Hash of the client's idempotency key of that request, if it sent one."""


class FileRecord(_Record):
    """A file of a client. Several may have the same content."""

    sha256: str
    bytes: int
    filename: str
    purpose: str
    expires: float | None = None
    """When it is removed, in Unix seconds; None for never."""


class UploadRecord(_Record):
    """An upload in parts: announced by a client, then filled with parts, then completed to a file."""

    bytes: int
    """Size of the file, as announced."""

    filename: str
    purpose: str
    expires: float | None = None
    """Seconds that the file is kept; None for ever."""

    status: Literal["pending", "completed", "cancelled"] = "pending"
    part_ids: tuple[str, ...] = ()
    """The parts that it was completed with, in order."""

    file: FileRecord | None = None


class JobRecord(_Record):
    """A job as a client requested it. Its id is its run's id with a prefix, so each can be found from the other."""

    model: str
    """Model name in the request."""

    target: str
    """Target of that name: PROVIDER:MODEL, or run:ID."""

    tuned_name: str
    """Name of the tuned model."""

    training_file: FileRecord
    validation_file: FileRecord | None = None
    """The files at the time of the request: deleting one does not affect a job that has started."""

    method: str = "supervised"
    hyperparameters: dict[str, Any] = {}
    """As in the request, "auto" included."""

    suffix: str | None = None
    seed: int | None = None
    metadata: dict[str, str] | None = None
    cancelled: bool = False
    """Whether a client has cancelled it, whether or not there was a run yet."""

    error: dict[str, str | None] | None = None
    """Why it did not become a run: code, message, param."""

    settled: bool = False
    """Whether it is done: its results are written, or it failed before it became a run."""

    ended: float | None = None
    """When it was settled, in Unix seconds."""

    result_file: str | None = None
    model_deleted: bool = False

    @property
    def run_id(self) -> str:
        """Id of the run of this job."""
        return self.id.removeprefix(JOB_PREFIX)


JOB_PREFIX = "ftjob-"


class Attempt(NamedTuple):
    """Which attempt of a request this is: the client's retry (0 at first), and the hash of its idempotency key."""

    retry: int = 0
    idempotency_key: str | None = None


R = TypeVar("R", bound=_Record)


class TuningState:
    """The records, read once and written through; an owner sees its own only. Only one process per home may open them.

    Raises:
        StoreError: another server uses this home, or the folder cannot be written.
    """

    def __init__(self, home: Path) -> None:
        self.folder = home / "tuning"
        self.content, self.uploads = self.folder / "content", self.folder / "uploads"
        self._lock = threading.RLock()
        self._creating: dict[str, threading.RLock] = {}
        try:
            for folder in (self.content, self.uploads, self.folder / "files", self.folder / "jobs"):
                make_private_folder(folder)
            self._held = os.open(self.folder / "lock", os.O_RDWR | os.O_CREAT, 0o600)
        except OSError as error:
            raise StoreError(
                f"the folder {self.folder} cannot be written: {error.strerror}",
                hint="set LLMTUNE_HOME to a folder you may write to",
            ) from None
        if not lock_file(self._held):
            os.close(self._held)
            raise StoreError(
                f"another llmtune serve --tuning uses {self.folder}", hint="stop it, or set another LLMTUNE_HOME"
            )
        try:
            self._files = {record.id: record for record in read_records(self.folder / "files", FileRecord)}
            self._jobs = {record.id: record for record in read_records(self.folder / "jobs", JobRecord)}
            self._names = {record.tuned_name: record.id for record in self._jobs.values()}
            self._remove_leftovers()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Release the lock on the home."""
        os.close(self._held)

    # --- files ---------------------------------------------------------------------------------------------------
    def files(self, owner: str = "") -> list[FileRecord]:
        """List the files of an owner, newest first."""
        with self._lock:
            self._expire()
            return newest_first(file for file in self._files.values() if file.owner == owner)

    def file(self, file_id: str, owner: str = "") -> FileRecord | None:
        """Return the owner's file of that id; None if there is none."""
        with self._lock:
            self._expire()
            return _owned(self._files.get(file_id), owner)

    def path(self, record: FileRecord) -> Path:
        """Return the path of a file's content."""
        return self.content / f"{record.sha256}{_suffix(record)}"

    def add_file(self, temporary: Path, record: FileRecord) -> FileRecord:
        """Move `temporary` to its name in the content folder, then write its record."""
        with self._lock:
            _flush(temporary)
            temporary.replace(self.path(record))
            _flush(self.content)
            failpoint("content-kept")
            self._write("files", record)
            self._files[record.id] = record
        return record

    def update_file(self, record: FileRecord) -> None:
        """Write the changed record of a file."""
        with self._lock:
            self._write("files", record)
            self._files[record.id] = record

    def delete_file(self, record: FileRecord) -> None:
        """Delete a file; its content stays for as long as another file or an unfinished job needs it."""
        with self._lock:
            self._files.pop(record.id, None)
            (self.folder / "files" / f"{record.id}.json").unlink(missing_ok=True)
            _flush(self.folder / "files")
            self._remove_content()

    # --- jobs ----------------------------------------------------------------------------------------------------
    def jobs(self, owner: str = "") -> list[JobRecord]:
        """List the jobs of an owner, newest first."""
        with self._lock:
            return newest_first(job for job in self._jobs.values() if job.owner == owner)

    def every_job(self) -> list[JobRecord]:
        """List the jobs of all owners, newest first: for the server itself, never for an answer."""
        with self._lock:
            return newest_first(self._jobs.values())

    def job(self, job_id: str) -> JobRecord | None:
        """Return the job of that id, whoever owns it; None if there is none."""
        return self._jobs.get(job_id)

    def find_tuned(self, name: str, owner: str = "") -> JobRecord | None:
        """Return the owner's job whose tuned model has that name; None if there is none."""
        return _owned(self._jobs.get(self._names.get(name, "")), owner)

    def save_job(self, record: JobRecord) -> JobRecord:
        """Write the record of a new job. Nothing is started for it before this returns."""
        with self._lock:
            self._write("jobs", record)
            self._jobs[record.id] = record
            self._names[record.tuned_name] = record.id
        return record

    def change_job(self, job_id: str, **fields: Any) -> JobRecord:
        """Set fields of a job."""
        with self._lock:
            record = self.save_job(self._jobs[job_id].model_copy(update=fields))
            if record.settled:
                self._remove_content()
        return record

    def creating(self, owner: str) -> threading.RLock:
        """Return the lock under which a record of this owner is looked up and created.

        A client that gave up waiting sends its retry while the first attempt is still under way.
        """
        with self._lock:
            return self._creating.setdefault(owner, threading.RLock())

    # --- a client's retries --------------------------------------------------------------------------------------
    def find_retried(self, records: Iterable[R], *, digest: str, retry: int, key: str | None) -> R | None:
        """Find the record that an earlier attempt of the same request created; None for a new request.

        Clients number their retries: two first attempts with the same content are two jobs, while a retry after a lost
        response finds the record of the first attempt.
        """
        oldest = time.time() - RETRY_SECONDS
        recent = [record for record in records if record.created >= oldest]
        if key is not None:
            return next((record for record in recent if record.idempotency_key == key), None)
        if retry == 0:
            return None
        return next((record for record in recent if record.digest == digest and record.retries < retry), None)

    # --- on the disk ---------------------------------------------------------------------------------------------
    def _write(self, kind: str, record: _Record) -> None:
        path = self.folder / kind / f"{record.id}.json"
        write_file(path, record.model_dump_json(exclude_defaults=True).encode())

    def _expire(self) -> None:
        now = time.time()
        for record in [file for file in self._files.values() if file.expires is not None and file.expires <= now]:
            self.delete_file(record)

    def _remove_leftovers(self) -> None:
        """Remove what a process that was killed while writing left behind."""
        for pattern in ("*/.*.tmp", "uploads/*/.*.tmp"):
            for path in self.folder.glob(pattern):
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


def read_records(folder: Path, model: type[R]) -> list[R]:
    """Read the records of a folder. Raises `StoreError` for a damaged one."""
    records = []
    for path in sorted(folder.glob("*.json")):
        try:
            records.append(model.model_validate_json(path.read_bytes()))
        except (OSError, ValidationError) as error:
            raise StoreError(
                f"{path} is damaged and cannot be read",
                hint="restore it from a backup, or move it away: its job goes on as a run (llmtune runs list)",
            ) from error
    return records


def new_id(prefix: str) -> str:
    """Make an id in the API's format: the prefix (`file-`) and 22 letters or digits."""
    return prefix + "".join(secrets.choice(_LETTERS) for _ in range(22))


def derive_id(prefix: str, text: str) -> str:
    """Make an id that is always the same for the same text, so that what is made again after a kill is no second."""
    return prefix + hashlib.sha256(text.encode()).hexdigest()[:22]


def digest_of(body: Any) -> str:
    """Hash a request's content, independent of the order of its keys."""
    return hashlib.sha256(json.dumps(body, sort_keys=True, ensure_ascii=False).encode()).hexdigest()


def write_file(path: Path, content: bytes) -> None:
    """Replace a file atomically: write a temporary file, flush and rename it."""
    temporary = path.with_name(f".{path.name}.tmp")
    with open_private(temporary, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
    _flush(path.parent)


def _flush(path: Path) -> None:
    """Flush a file, or the names in a folder, to disk."""
    with suppress(OSError):  # not every file system can open or flush a folder
        opened = os.open(path, os.O_RDONLY)
        try:
            os.fsync(opened)
        finally:
            os.close(opened)


def _suffix(record: FileRecord) -> str:
    return ".csv" if record.purpose == "fine-tune-results" else ".jsonl"


def _owned(record: R | None, owner: str) -> R | None:
    return record if record is not None and record.owner == owner else None


def newest_first(records: Iterable[R]) -> list[R]:
    """Sort records by their creation, the newest first."""
    order: Callable[[R], tuple[float, str]] = lambda record: (record.created, record.id)  # noqa: E731
    return sorted(records, key=order, reverse=True)
