"""The protocol of a provider, small and stateless. Whatever must survive is in the references it returns.

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
    """Name of the provider, as in the entry point."""

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
        """Return what this target supports. Pure."""
        ...

    def ready(self) -> Readiness:
        """Return whether extra, settings and credentials are there, without using the network or importing the SDK."""
        ...

    def encode(self, data: Dataset, receipt: Receipt, into: Path) -> EncodedDataset:
        """Write the rows in this vendor's format to content-named files in `into`."""
        ...

    def build(self, receipt: Receipt, files: Files) -> Request:
        """Build the exact request. Pure; `files` may be placeholders."""
        ...

    # online
    def preflight(self, request: Request) -> list[Finding]:
        """Check live limits, quota, bucket and role before money is spent; changes nothing at the vendor."""
        ...

    def find_upload(self, digest: str) -> UploadRef | None:
        """Find an uploaded, usable file of ours with this content (`digest`: sha256, hexadecimal); None if there is
        none."""
        ...

    def upload(self, file: EncodedFile) -> UploadRef:
        """Upload one file and wait until the vendor accepts it."""
        ...

    def submit(self, request: Request, key: RunKey) -> JobRef:
        """Start the job: one paid call, with the SDK's own retries off."""
        ...

    def find(self, key: RunKey) -> JobRef | None:
        """Find the job that carries this key; None if the vendor shows none."""
        ...

    def poll(self, job: JobRef, since: Cursor | None) -> Snapshot:
        """Read state, progress, and what is new since the cursor."""
        ...

    def cancel(self, job: JobRef) -> None:
        """Ask the vendor to stop; `poll` tells when it has."""
        ...

    def deploy(self, model: ModelRef, key: RunKey) -> DeploymentRef | None:
        """Make the model answer, where that needs a deployment of its own; None where it does not."""
        ...

    def find_deployment(self, key: RunKey) -> DeploymentRef | None:
        """Find the deployment that carries this key; None if the vendor shows none."""
        ...

    def undeploy(self, ref: DeploymentRef) -> None:
        """Remove a deployment; quietly done when it is gone already."""
        ...

    def generator(self, ref: ModelRef | DeploymentRef) -> Generator | Unavailable:
        """Open the model for requests, or return why it cannot be asked."""
        ...

    def base_model(self, receipt: Receipt) -> ModelRef | Unavailable:
        """Return the untuned base model of that job as a reference for `generator`, or why it cannot be asked."""
        ...

    def snippet(self, ref: ModelRef | DeploymentRef) -> str:
        """Return a few lines of Python that call this model through the vendor's own SDK."""
        ...

    def inventory(self) -> Iterator[RemoteModel]:
        """Yield every tuned model that the account owns."""
        ...

    def fetch(self, remote: RemoteModel) -> RemoteJob:
        """Fetch the job behind a tuned model."""
        ...

    def download(self, file_id: str, into: Path) -> Path:
        """Download a file of a fetched job (`file_id`) into a folder and return its path."""
        ...

    def delete(self, ref: AnyRef) -> None:
        """Remove something we made; quietly done when it is gone already."""
        ...
