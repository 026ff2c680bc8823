"""The values that the core and a backend hand each other: references, requests, snapshots, targets, readiness."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar, Literal, NewType

from llmtune._models import DocumentedModel, FrozenModel
from llmtune.config import setting_variable
from llmtune.errors import InvalidSettings, MissingExtra, VendorError
from llmtune.metrics.points import MetricPoint
from llmtune.metrics.samples import Sample

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


class Ref(FrozenModel):
    """Something that exists at a vendor: its id, and whatever else is needed to reach it. Never a secret."""

    id: str
    data: dict[str, Any] = {}


class UploadRef(Ref):
    """A file at the vendor. `digest` is the sha256 of its content.

    `role` is "train" or "validation".
    """

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


#: What can be removed at a vendor.
AnyRef = UploadRef | JobRef | ModelRef | DeploymentRef


@dataclass(frozen=True, kw_only=True)
class SubmitSafety:
    """What a provider offers against submitting twice.

    token: the vendor recognises our key and answers a repeated submit with the first job.
    searchable: `find(key)` finds the job, at the latest `window` seconds after it was accepted.
    none: neither; an unclear submit ends `lost`, without a second one.

    `kind` is one of those three; `window` is in seconds.
    """

    kind: Literal["token", "searchable", "none"]
    window: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Settling:
    """What a vendor makes good only after its last word on a job, and for how long it is asked again.

    Seconds, counted from the moment the job was seen to have ended (`gone_seconds`: from the first such answer).
    """

    model_seconds: float = 300.0
    """For how long a job that has succeeded without naming its model is polled again."""

    answer_seconds: float = 600.0
    """For how long a model that was just made is asked again while it is refused as `means_not_ready` says."""

    gone_seconds: float = 120.0
    """For how long a job that the vendor calls unknown is looked for before its run ends."""

    statuses: frozenset[int] = frozenset({404, 409})
    """HTTP statuses by which a model that was just made says that it does not answer yet."""

    words: tuple[str, ...] = ("loading", "not ready", "not yet ready", "warming up")
    """The same in words, in lower case, whatever the status."""

    def means_not_ready(self, error: VendorError) -> bool:
        """Return whether a refusal only says that a new model does not answer yet."""
        text = f"{error.message} {error.raw or ''}".lower()
        return error.status in self.statuses or any(phrase in text for phrase in self.words)


class EncodedFile(FrozenModel):
    """One file in the vendor's own row format, on disk, named by its content.

    `role` says what it is for, `path` where it lies; `sha256` (hexadecimal), `rows` and `bytes` describe its
    content.
    """

    role: Literal["train", "validation"]
    path: Path
    sha256: str
    rows: int
    bytes: int
    format: str


class EncodedDataset(FrozenModel):
    """The files to upload, and what could not be carried into them (by row).

    `lossy` holds those, one sentence each; a run refuses them unless it was asked to go on.
    """

    files: tuple[EncodedFile, ...]
    lossy: tuple[str, ...] = ()

    def file(self, role: str) -> EncodedFile | None:
        """Return the file of that role, or None."""
        return next((file for file in self.files if file.role == role), None)


#: Uploaded files by role. At plan time these are placeholders such as `UploadRef(id="<train file>")`.
Files = Mapping[str, UploadRef]


class Request(FrozenModel):
    """The exact call that starts the job, without the run key (the key's place is the provider's business)."""

    operation: str
    """What is called, for people: "POST /fine_tuning/jobs", "start a worker process"."""

    body: dict[str, Any]
    """The exact body."""


class Event(FrozenModel):
    """Something the vendor said, in its own words. `id` is unique within the run, so nothing is reported twice.

    `time` is in Unix seconds, `level` the vendor's weight of it.
    """

    id: str
    time: float
    level: Literal["info", "warning", "error"] = "info"
    message: str


class Progress(FrozenModel):
    """How far the job is; None where the vendor does not say. Seconds left are the vendor's or measured.

    `step` of `total_steps` optimizer steps, `epoch` with fractions, `seconds_left`, and `tokens_per_second` of
    training. Of the evaluation after it: `answers` of `total_answers`, over all models and rows that are asked.
    """

    step: int | None = None
    total_steps: int | None = None
    epoch: float | None = None
    seconds_left: float | None = None
    tokens_per_second: float | None = None
    answers: int | None = None
    total_answers: int | None = None


class Billed(FrozenModel):
    """What the vendor says it billed. `tokens` are billed training tokens; `amount` is money, where it tells.

    `currency` is an ISO 4217 code; `source` is the call or file that told.
    """

    tokens: int | None = None
    amount: float | None = None
    currency: str = "USD"
    source: str = ""


class Snapshot(FrozenModel):
    """The result of one `poll`.

    `state` is ours; `progress`, new `events`, usable `checkpoints`, what was `billed`, and `warnings` come with it.
    `cursor` goes into the next poll.
    """

    state: RunState
    raw_state: str
    """The vendor's own word. One we do not know maps to running, with a warning."""

    progress: Progress = Progress()
    points: tuple[MetricPoint, ...] = ()
    """New metric points since the cursor; repeated ones do no harm."""

    events: tuple[Event, ...] = ()
    samples: tuple[Sample, ...] = ()
    """New answers to validation rows, all of a step together; repeated ones do no harm."""

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

    pending: tuple[str, ...] = ()
    """What a job has not told yet and is asked for again, for some minutes after its end ("the model's endpoint")."""

    cursor: Cursor | None = None


class Target(FrozenModel):
    """What a capability question is about: one model, method and adapter at one provider, with its options."""

    provider: str
    """Name of the configured instance ("azure-eu")."""

    kind: str
    """Name of the adapter behind it ("azure")."""

    model: str
    method: str = "sft"
    adapter: str = "lora"
    options: dict[str, Any] = {}
    rows: dict[str, int] = {}
    """Rows by part (train, validation), where the dataset has been read: defaults may depend on them."""


class Requirement(FrozenModel):
    """An optional dependency: the module that proves it is there, and what pip calls its `distribution`.

    `extra` is the extra of llmtune that installs it, "" where there is none.
    """

    extra: str
    module: str
    distribution: str

    @property
    def is_installed(self) -> bool:
        """Whether the module can be imported; only its parent packages are imported to find out."""
        try:
            return find_spec(self.module) is not None
        except ModuleNotFoundError:
            return False

    def require(self, purpose: str) -> None:
        """Raise `MissingExtra`, which says what the package is needed for (`purpose`), unless it is installed."""
        if not self.is_installed:
            raise MissingExtra(self.extra, self.distribution, purpose=purpose)

    @property
    def install_command(self) -> str:
        """The command that installs it: by llmtune's extra, or by its own name where `extra` is empty."""
        return f"pip install 'llmtune-sdk[{self.extra}]'" if self.extra else f"pip install {self.distribution}"


class Readiness(FrozenModel):
    """Whether the backend could be used from here, found out offline and without importing its SDK.

    `extra` is about packages, `credentials` about keys, `missing_settings` are names of account settings.
    """

    extra: Literal["installed", "missing", "not needed"]
    credentials: Literal["found", "not found", "not checked", "not needed"]
    missing_settings: tuple[str, ...] = ()
    hint: str | None = None
    """The next command to type, when something is missing."""


class RemoteModel(FrozenModel):
    """A tuned model that an account owns, as `inventory` lists it.

    `base` is the base model's id, `job` the id of the job it came from, `created` in Unix seconds.
    """

    id: str
    base: str | None = None
    job: str | None = None
    created: float | None = None
    shutdown: str | None = None
    """Date (YYYY-MM-DD) on which it stops answering, where known."""

    checkpoint_of: str | None = None
    """The id of the tuned model whose training left it, where it is a checkpoint."""

    data: dict[str, Any] = {}


class RemoteJob(FrozenModel):
    """A job fetched back from a vendor: enough to run it again elsewhere.

    `hyperparameters` are by our names; `unmapped` holds the vendor's others, so that none vanishes.

    `model` is the tuned model's id, `base` that of its base; `method` and `seed` are as in a job. A method that no
    job of ours has is in the vendor's word.
    """

    id: str
    model: str
    base: str
    method: str = "sft"
    hyperparameters: dict[str, Any] = {}
    unmapped: dict[str, Any] = {}
    chosen: dict[str, Any] = {}
    """Values that the vendor chose by itself, under the vendor's names: another backend chooses its own."""

    seed: int | None = None
    name: str | None = None
    """What the user called it: a suffix or a display name."""

    tags: dict[str, str] = {}
    """The user's own labels."""

    options: dict[str, Any] = {}
    """Of this vendor's own options, those that the job was sent with."""

    names: dict[str, str] = {}
    """What the vendor calls a hyperparameter or an option, by our name."""

    record: dict[str, Any] = {}
    """What else the vendor tells of the job, under its names: an import answers every key of it."""

    files: dict[str, str] = {}
    """Vendor file ids by role; `Provider.download` brings them."""

    data: dict[str, Any] = {}


class Options(DocumentedModel):
    """Base of a provider's own options, the ones that travel with the job. Unknown keys are refused."""


class ProviderSettings(DocumentedModel):
    """Base of a provider's account settings (project, region, bucket, base URL, names of keys). Never a secret."""

    variables: ClassVar[Mapping[str, tuple[str, ...]]] = {}
    """The vendor's own environment variables that a setting is read from when it is unset, by setting."""

    required: ClassVar[Mapping[str, str]] = {}
    """Settings without which no job can be sent, and how a sentence calls each: 'region ("us-east-1")'."""

    def value_of(self, setting: str) -> str | None:
        """Return a setting, from here or else from the vendor's environment variables."""
        values = (getattr(self, setting, None), *(os.environ.get(name) for name in self.variables.get(setting, ())))
        return next((value for value in values if value), None)

    def missing(self) -> tuple[str, ...]:
        """Return the required settings that have no value."""
        return tuple(setting for setting in self.required if not self.value_of(setting))

    def require(self, name: str, *settings: str) -> None:
        """Raise `InvalidSettings` naming those of `settings` that the instance `name` lacks and where to set them."""
        if missing := [setting for setting in self.missing() if setting in settings]:
            raise InvalidSettings(self.describe_missing(name, missing))

    def describe_missing(self, name: str, settings: Sequence[str]) -> str:
        """Return one sentence that says which settings the instance `name` needs and where they are set."""
        *first, last = (self.required[setting] for setting in settings)
        needed = " and ".join([*([", ".join(first)] if first else []), last])
        variables = ", ".join(setting_variable(name, setting) for setting in settings)
        return f"{name} needs {needed}: set it under [providers.{name}] in llmtune.toml, or as {variables}"
