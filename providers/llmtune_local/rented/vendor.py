"""What a vendor of machines must do: list machines, start one job, tell of it, stop it, and hold files for it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from llmtune.provider import RunState
from llmtune_local.rented.machines import Machine

#: Labels of every job: the run's key, the digest of its training file, and its rate in millionths of a USD a minute.
RUN_LABEL, DATA_LABEL, RATE_LABEL = "llmtune-run", "llmtune-data", "llmtune-rate"
#: Label of a job with a validation file: its digest.
VALIDATION_LABEL = "llmtune-validation"


@dataclass(frozen=True, kw_only=True)
class StoredFile:
    """A file in the vendor's storage. `version` differs between two contents of one path."""

    path: str
    size: int
    version: str


@dataclass(frozen=True, kw_only=True)
class RentedJob:
    """A job as its vendor tells it. `seconds` are those that are billed so far, `raw_state` is the vendor's word."""

    id: str
    state: RunState
    raw_state: str
    message: str | None = None
    seconds: float = 0.0
    machine: str = ""
    url: str | None = None
    created: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Launch:
    """A job to start: `python -m llmtune_local.rented.entry` with `wheel` installed.

    `wheel` is the path of the wheel in the storage, below `inputs`. The machine sees the folders `inputs` (only read)
    and `run` of the storage, and `secrets` as variables. `seconds` is when the vendor itself must end the job.
    """

    machine: Machine
    wheel: str
    inputs: str
    run: str
    labels: Mapping[str, str]
    seconds: int
    secrets: Mapping[str, str] = field(default_factory=dict, repr=False)


class RentedVendor(Protocol):
    """A vendor of machines. Methods raise `TransientError` and `VendorError` as those of `Provider` do."""

    def list_machines(self) -> Sequence[Machine]:
        """Return the machines for rent, with today's prices."""
        ...

    def start_job(self, launch: Launch) -> RentedJob:
        """Start a job: one paid call, never repeated here."""
        ...

    def find_jobs(self, labels: Mapping[str, str]) -> Sequence[RentedJob]:
        """Return the jobs that carry all these labels (with none: every job of the account), oldest first."""
        ...

    def read_job(self, job_id: str) -> RentedJob:
        """Return what is known of a job."""
        ...

    def stop_job(self, job_id: str) -> None:
        """Stop a job; its process is asked to end first."""
        ...

    def list_files(self, folder: str) -> Sequence[StoredFile]:
        """Return the files below a folder of the private storage; none where there is no such folder."""
        ...

    def put_files(self, files: Mapping[str, Path | bytes]) -> None:
        """Store files under their paths, in place of earlier ones. The storage is made, private, where it is not
        there."""
        ...

    def fetch_files(self, files: Mapping[StoredFile, Path]) -> None:
        """Bring files to this machine."""
        ...

    def remove_files(self, paths: Sequence[str]) -> None:
        """Remove files; quietly done where they are gone."""
        ...
