"""What a backend is: a small, stateless protocol. Whatever must survive is in the references it returns.

The core writes each reference down before it takes the next step, so that a crash at any moment leaves a record
from which the run is found again. A provider never retries `submit` itself and never keeps a job in memory.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NewType, Protocol, runtime_checkable

from pydantic import BaseModel, ConfigDict

from llmtune.generation import Generation as Generation
from llmtune.generation import GenerationRequest as GenerationRequest
from llmtune.generation import Generator as Generator
from llmtune.generation import LabelScorer as LabelScorer
from llmtune.generation import TokenScorer as TokenScorer
from llmtune.generation import TokenStats as TokenStats
from llmtune.generation import Unavailable as Unavailable
from llmtune.metrics.points import MetricPoint as MetricPoint

if TYPE_CHECKING:
    from llmtune.capability import Capabilities
    from llmtune.data.dataset import Dataset
    from llmtune.data.example import Example
    from llmtune.data.findings import Finding
    from llmtune.data.peek import Peek
    from llmtune.footprint import Footprint
    from llmtune.translation import Receipt

#: `lt` and ten of [a-z0-9]: legal in every vendor's tag. Fixed when a run is planned; travels in whatever the
#: vendor lets us tag (metadata, client token, label, suffix, display name).
RunKey = NewType("RunKey", str)

#: Where the next `poll` continues: plain JSON data that only its provider reads.
Cursor = dict[str, Any]


class RunState(StrEnum):
    """The life of a run. The last four are final."""

    PLANNED = "planned"
    UPLOADING = "uploading"
    SUBMITTING = "submitting"
    QUEUED = "queued"
    RUNNING = "running"
    PAUSED = "paused"
    FINALIZING = "finalizing"
    CANCELLING = "cancelling"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"
    LOST = "lost"

    @property
    def final(self) -> bool:
        """Whether nothing more will happen to a run in this state."""
        return self in (RunState.SUCCEEDED, RunState.FAILED, RunState.CANCELLED, RunState.LOST)


class _Value(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Ref(_Value):
    """Something that exists at a vendor: its id, and whatever else is needed to reach it. Never a secret."""

    id: str
    data: dict[str, Any] = {}


class UploadRef(Ref):
    """A file at the vendor. `digest` is the sha256 of its content."""

    digest: str = ""
    role: str = "train"


class JobRef(Ref):
    """A tuning job at the vendor. `url` is where a person can look at it."""

    url: str | None = None


class ModelRef(Ref):
    """A model that answers: base, tuned, or a checkpoint. `base` is the model it was tuned from."""

    base: str | None = None
    tuned: bool = True


class DeploymentRef(Ref):
    """A deployment that costs money while it stands."""


AnyRef = UploadRef | JobRef | ModelRef | DeploymentRef


@dataclass(frozen=True, kw_only=True)
class SubmitSafety:
    """What a provider offers against submitting twice.

    token: the vendor recognises our key and answers a repeated submit with the first job.
    searchable: `find(key)` finds the job, at the latest `window` seconds after it was accepted.
    none: neither; an unclear submit ends `lost`, without a second one.
    """

    kind: Literal["token", "searchable", "none"]
    window: float = 0.0


class EncodedFile(_Value):
    """One file in the vendor's own row format, on disk, named by its content."""

    role: Literal["train", "validation"]
    path: Path
    sha256: str
    rows: int
    bytes: int
    format: str


class EncodedDataset(_Value):
    """The files to upload, and what could not be carried into them (by row)."""

    files: tuple[EncodedFile, ...]
    lossy: tuple[str, ...] = ()

    def file(self, role: str) -> EncodedFile | None:
        """The file of that role, if there is one."""
        return next((file for file in self.files if file.role == role), None)


#: Uploaded files by role. At plan time these are placeholders such as `UploadRef(id="<train file>")`.
Files = Mapping[str, UploadRef]


class Request(_Value):
    """The exact call that starts the job, without the run key (the key's place is the provider's business)."""

    operation: str
    """What is called, for people: "POST /fine_tuning/jobs", "start a worker process"."""

    body: dict[str, Any]
    """The exact body."""


class Event(_Value):
    """Something the vendor said, in its own words. `id` is unique within the run, so nothing is told twice."""

    id: str
    time: float
    level: Literal["info", "warning", "error"] = "info"
    message: str


class Progress(_Value):
    """How far the job is; None where the vendor does not say. Seconds left are the vendor's or measured."""

    step: int | None = None
    total_steps: int | None = None
    epoch: float | None = None
    seconds_left: float | None = None
    tokens_per_second: float | None = None


class Billed(_Value):
    """What the vendor says it billed. `tokens` are billed training tokens; `amount` is money, where it tells."""

    tokens: int | None = None
    amount: float | None = None
    currency: str = "USD"
    source: str = ""


class Snapshot(_Value):
    """What one `poll` saw."""

    state: RunState
    raw_state: str
    """The vendor's own word. One we do not know maps to running, with a warning."""

    progress: Progress = Progress()
    points: tuple[MetricPoint, ...] = ()
    """New metric points since the cursor; repeated ones do no harm."""

    events: tuple[Event, ...] = ()
    model: ModelRef | None = None
    """The tuned model, once there is one (a FAILED job may have a usable one)."""

    checkpoints: tuple[ModelRef, ...] = ()
    billed: Billed | None = None
    error: str | None = None
    """Why it failed, in the vendor's own words."""

    warnings: tuple[str, ...] = ()
    resolved: dict[str, Any] = {}
    """Values that were left to the vendor and that it has told since, by our field names."""

    not_reported: dict[str, str] = {}
    """Series that this vendor never reports, with the reason: {"validation/loss": "no validation file was sent"}."""

    cursor: Cursor | None = None


class Target(_Value):
    """What a capability question is about: one model, method and adapter at one provider, with its options."""

    provider: str
    """Name of the configured instance ("azure-eu")."""

    kind: str
    """Name of the adapter behind it ("azure")."""

    model: str
    method: str = "sft"
    adapter: str = "lora"
    options: dict[str, Any] = {}


class Requirement(_Value):
    """An optional dependency: the extra that installs it and the module that proves it is there."""

    extra: str
    module: str
    distribution: str


class Readiness(_Value):
    """Whether the backend could be used from here, found out offline and without importing its SDK."""

    extra: Literal["installed", "missing", "not needed"]
    credentials: Literal["found", "not found", "not checked", "not needed"]
    missing_settings: tuple[str, ...] = ()
    hint: str | None = None
    """The next command to type, when something is missing."""


class RemoteModel(_Value):
    """A tuned model that an account owns, as `inventory` lists it."""

    id: str
    base: str | None = None
    job: str | None = None
    created: float | None = None
    shutdown: str | None = None
    """Date (YYYY-MM-DD) on which it stops answering, where known."""

    data: dict[str, Any] = {}


class RemoteJob(_Value):
    """A job fetched back from a vendor: enough to run it again elsewhere.

    `hyperparameters` are by our names; `unmapped` holds the vendor's others, so that none vanishes.
    """

    id: str
    model: str
    base: str
    method: str = "sft"
    hyperparameters: dict[str, Any] = {}
    unmapped: dict[str, Any] = {}
    seed: int | None = None
    files: dict[str, str] = {}
    """Vendor file ids by role; `Provider.download` brings them."""

    data: dict[str, Any] = {}


class Options(BaseModel):
    """Base of a provider's own options, the ones that travel with the job. Unknown keys are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class Account(BaseModel):
    """Base of a provider's account settings (project, region, bucket, base URL, names of keys). Never a secret."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


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
    Options: type[BaseModel]
    Settings: type[BaseModel]
    requirements: tuple[Requirement, ...]

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
        """A file of ours with this content that is already there and usable."""
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
        """Bring a file of a fetched job here."""
        ...

    def delete(self, ref: AnyRef) -> None:
        """Remove something we made; quietly done when it is gone already."""
        ...


@runtime_checkable
class Continuing(Protocol):
    """A provider for which training on from a tuned model needs more than that model's id."""

    def continue_from(self, model: ModelRef) -> tuple[str, dict[str, Any]]:
        """The model id to name, and the options to set, to train on from this model or checkpoint."""
        ...


class CheckResult(_Value):
    """Something that was looked at once a model was there: that templates agree, that the model ends its turn."""

    name: str
    passed: bool
    says: str


@runtime_checkable
class SelfChecking(Protocol):
    """A provider that can look at its own results more closely than their scores do."""

    def check(self, model: ModelRef, examples: Sequence[Example]) -> Sequence[CheckResult]:
        """Look at a tuned model with some held-out rows."""
        ...


@runtime_checkable
class Pausable(Protocol):
    """A provider whose jobs can be paused and resumed."""

    def pause(self, job: JobRef) -> None: ...
    def resume(self, job: JobRef) -> None: ...


@runtime_checkable
class Peeking(Protocol):
    """A provider that shows which tokens of a row it would train on, to stand beside llmtune's own view."""

    def peek(self, model: str, examples: Sequence[Example]) -> list[Peek]:
        """These rows as this base model is trained on them. May upload them for the look, and takes them away."""
        ...


@runtime_checkable
class Exporting(Protocol):
    """A provider whose tuned models can be had as files."""

    def export(self, model: ModelRef, format: Literal["adapter", "merged"], into: Path) -> Sequence[str]:
        """Write the model to a folder that is not there yet; how it is loaded and served, in sentences."""
        ...


@runtime_checkable
class Weighed(Protocol):
    """A provider that trains on this machine, and can tell how much memory a run will take."""

    def footprint(self, receipt: Receipt, dataset: Dataset) -> Footprint:
        """An estimate of the peak, without loading anything."""
        ...


@runtime_checkable
class Equipped(Protocol):
    """A provider that trains on this machine, and can say what it finds here."""

    def machine(self) -> Mapping[str, str]:
        """Device, cores and memory it would use, in words. May import its libraries; sends nothing."""
        ...
