"""What a backend is: a small, stateless protocol. Whatever must survive is in the references it returns.

The core writes each reference down before it takes the next step, so that a crash at any moment leaves a record
from which the run is found again. A provider never retries `submit` itself and never keeps a job in memory.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from pydantic import BaseModel

from llmtune.provider.types import (
    AnyRef,
    Cursor,
    DeploymentRef,
    EncodedDataset,
    EncodedFile,
    Files,
    JobRef,
    ModelRef,
    Readiness,
    RemoteJob,
    RemoteModel,
    Request,
    Requirement,
    RunKey,
    Snapshot,
    SubmitSafety,
    Target,
    UploadRef,
)

if TYPE_CHECKING:
    from llmtune.data.dataset import Dataset
    from llmtune.data.findings import Finding
    from llmtune.provider.declarations import Capabilities
    from llmtune.provider.generation import Generator, Unavailable
    from llmtune.provider.receipt import Receipt


class Provider(Protocol):
    """A backend. The class is registered under the entry-point group `llmtune.providers`; see docs/providers.md.

    `plan`-time methods (`capabilities`, `encode`, `build`, `ready`) are pure: no network, no vendor SDK. The rest
    talk to the vendor and raise `TransientError` where the same call may be tried again, `VendorError` with the
    vendor's own words otherwise, and the closer classes of `llmtune.errors` where they fit.
    """

    name: str
    """Name of this configured instance."""

    kind: str
    """Name of the adapter, as in the entry point."""

    hosted: bool
    """Whether jobs leave this machine and may cost money."""

    listed: bool
    """Whether it stands in the matrix and, while it takes jobs, among the alternatives (a fake does not)."""

    submit_safety: SubmitSafety
    """What it offers against submitting twice."""

    Options: type[BaseModel]
    """The options of a job that only this provider knows."""

    Settings: type[BaseModel]
    """Its account settings; never a secret."""

    requirements: tuple[Requirement, ...]
    """Optional packages that its online methods import."""

    def __init__(self, name: str, settings: Any) -> None: ...

    # offline
    def capabilities(self, target: Target) -> Capabilities:
        """What this target can express. Pure."""
        ...

    def ready(self) -> Readiness:
        """Whether extra, settings and credentials are there, without using the network or importing the SDK."""
        ...

    def encode(self, data: Dataset, receipt: Receipt, into: Path) -> EncodedDataset:
        """Write the rows in this vendor's format to content-named files in `into`."""
        ...

    def build(self, receipt: Receipt, files: Files) -> Request:
        """The exact request. Pure; `files` may be placeholders."""
        ...

    # online
    def preflight(self, request: Request) -> list[Finding]:
        """Read-only questions to the vendor before money is spent: live limits, quota, bucket, role."""
        ...

    def find_upload(self, digest: str) -> UploadRef | None:
        """A file of ours with this content (`digest`: sha256, hexadecimal) that is already there and usable."""
        ...

    def upload(self, file: EncodedFile) -> UploadRef:
        """Upload one file and wait until the vendor accepts it."""
        ...

    def submit(self, request: Request, key: RunKey) -> JobRef:
        """Start the job: one paid call, with the SDK's own retries off."""
        ...

    def find(self, key: RunKey) -> JobRef | None:
        """The job that carries this key, if the vendor shows one."""
        ...

    def poll(self, job: JobRef, since: Cursor | None) -> Snapshot:
        """State, progress, and what is new since the cursor."""
        ...

    def cancel(self, job: JobRef) -> None:
        """Ask the vendor to stop; `poll` tells when it has."""
        ...

    def deploy(self, model: ModelRef, key: RunKey) -> DeploymentRef | None:
        """Make the model answer, where that needs a deployment of its own; None where it does not."""
        ...

    def find_deployment(self, key: RunKey) -> DeploymentRef | None:
        """The deployment that carries this key, if the vendor shows one."""
        ...

    def undeploy(self, ref: DeploymentRef) -> None:
        """Remove a deployment; quietly done when it is gone already."""
        ...

    def generator(self, ref: ModelRef | DeploymentRef) -> Generator | Unavailable:
        """The model in hand, or why not."""
        ...

    def base_model(self, receipt: Receipt) -> ModelRef | Unavailable:
        """The untuned base model of that job as something `generator` takes, or why it cannot be asked."""
        ...

    def snippet(self, ref: ModelRef | DeploymentRef) -> str:
        """A few lines of Python that call this model through the vendor's own SDK."""
        ...

    def inventory(self) -> Iterator[RemoteModel]:
        """Every tuned model the account owns."""
        ...

    def fetch(self, remote: RemoteModel) -> RemoteJob:
        """The job behind a tuned model."""
        ...

    def download(self, file_id: str, into: Path) -> Path:
        """Bring a file of a fetched job (`file_id`) into a folder; its path."""
        ...

    def delete(self, ref: AnyRef) -> None:
        """Remove something we made; quietly done when it is gone already."""
        ...
