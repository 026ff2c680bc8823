"""The base class of every provider: it uploads files, starts a job, and polls it.

Four methods make a backend that trains (`build`, `upload`, `submit`, `poll`), and what the vendor takes is declared as
data. Whatever else a provider may do is answered here by what is true of one that does not do it: there is no guess and
no silent nothing. Override those answers one by one; docs/plugin.md goes the whole way.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NoReturn

from pydantic import BaseModel, Field

from llmtune.config import read_secret
from llmtune.errors import TransientError, VendorError
from llmtune.provider import catalog
from llmtune.provider.catalog import Catalog
from llmtune.provider.declarations import Capabilities, Declarations
from llmtune.provider.generation import Generator, Unavailable
from llmtune.provider.http import Client
from llmtune.provider.limits import Abilities, Ability, Limits, NotOffered
from llmtune.provider.reading import read_state
from llmtune.provider.types import (
    AnyRef,
    Cursor,
    DeploymentRef,
    EncodedDataset,
    EncodedFile,
    Files,
    JobRef,
    ModelRef,
    Options,
    ProviderSettings,
    Readiness,
    RemoteJob,
    RemoteModel,
    Request,
    Requirement,
    RunKey,
    RunState,
    Settling,
    Snapshot,
    SubmitSafety,
    Target,
    UploadRef,
)

if TYPE_CHECKING:
    from llmtune.data.dataset import Dataset
    from llmtune.data.findings import Finding
    from llmtune.provider.protocol import Provider
    from llmtune.provider.receipt import Receipt

#: Whether credentials are there, and the command that would provide them where there is one.
Credentials = tuple[Literal["found", "not found", "not checked", "not needed"], str | None]

#: The abilities of a provider that overrides nothing: it trains, and reports the training loss.
BARE = Abilities(
    cancel=NotOffered("jobs cannot be cancelled from here yet"),
    validation_metrics=NotOffered("only the training loss is read so far"),
    checkpoints=NotOffered("checkpoints are not read yet"),
    serving=NotOffered("tuned models cannot be asked from here yet"),
    base_serving=NotOffered("base models cannot be asked from here yet"),
)


class ServiceSettings(ProviderSettings):
    """The address of a vendor's service. The key is no setting: only the vendor's own environment variable holds it."""

    base_url: str | None = None
    """Address of the service, for another region, a gateway or a test; unset: the vendor's own."""

    timeout: float = Field(default=60.0, gt=0)
    """Seconds that a request may wait for its answer. > 0."""


class OptionalReads:
    """The optional part of a poll (events, checkpoints, result files), whose failure does not stop a run.

        optional = OptionalReads()
        with optional.reading("its events"):
            events = ...
        return optional.complete(snapshot)

    What cannot be read for now is `pending`: it is asked for again, for some minutes after the job has succeeded, and
    then the run ends with a warning. What is refused is a warning at once.
    """

    def __init__(self) -> None:
        self.pending: tuple[str, ...] = ()
        self.warnings: tuple[str, ...] = ()

    @contextmanager
    def reading(self, name: str) -> Iterator[None]:
        """Note that what is called `name` in sentences could not be read, if reading it inside fails."""
        try:
            yield
        except TransientError:
            if name not in self.pending:
                self.pending = (*self.pending, name)
        except VendorError as error:
            self.warnings = (*self.warnings, f"{name} could not be read: {error.message}")

    def complete(self, snapshot: Snapshot) -> Snapshot:
        """Return the snapshot with what could not be read."""
        pending = (*snapshot.pending, *self.pending)
        return snapshot.model_copy(update={"pending": pending, "warnings": (*snapshot.warnings, *self.warnings)})


class BaseProvider(ABC):
    """A provider whose vendor is polled. The class attributes describe the vendor; set at least `kind` and
    `parameters`.

    Args:
        name: name of the configured instance; the kind when none is given.
        settings: account settings, of the class in `Settings`.
    """

    kind: str = ""
    """Name of the provider, as in the entry point."""

    parameters: Declarations
    """What becomes of every field of a job, by the vendor's reference page."""

    states: Mapping[str, RunState] = {}
    """The vendor's words for the states of a job, and what they mean."""

    catalog: Path | None = None
    """The `catalog.toml` with model ids, prices and dates, each with source and day; None where there is none."""

    limits: Limits = Limits()
    """What is taken as a dataset, and in which row format."""

    methods: Mapping[str, Ability] = {"sft": True}
    """Methods of training, or why not."""

    adapters: Mapping[str, Ability] = {"lora": True}
    """What is trained, or why not."""

    abilities: Abilities = BARE
    """What exists beside training. Change it with every method that is overridden."""

    base_url: str = ""
    """The vendor's own address, for `client`; unused where a vendor's SDK is called."""

    key_env: str = ""
    """The vendor's own environment variable for its key; "" where there is none."""

    hosted: bool = True
    """Whether jobs leave this machine and may cost money."""

    listed: bool = True
    """Whether it is named among the alternatives when another backend refuses a job."""

    submit_safety: SubmitSafety = SubmitSafety(kind="none")
    """What there is against submitting twice; "none" until `find` is given, or the key travels as a token."""

    settling: Settling = Settling()
    """What the vendor makes good only after its last word on a job, and which refusals mean that."""

    paused_hint: str = "resume it in the vendor's own console"
    """How a job goes on that the vendor has paused."""

    Options: type[BaseModel] = Options
    """The provider's own options of a job."""

    Settings: type[BaseModel] = ServiceSettings
    """Its account settings, a subclass of `ProviderSettings`."""

    requirements: tuple[Requirement, ...] = ()
    """Packages that it imports when it talks to the vendor."""

    def __init__(self, name: str = "", settings: Any = None) -> None:
        self.name = name or self.kind
        self.settings: Any = settings if settings is not None else self.Settings()

    # --- to be given -----------------------------------------------------------------------------------------------
    @abstractmethod
    def build(self, receipt: Receipt, files: Files) -> Request:
        """Build the exact request: the vendor's envelope around `receipt.request_parameters()`.

        Pure: nothing is read or sent, and `files` may be placeholders.
        """

    @abstractmethod
    def upload(self, file: EncodedFile) -> UploadRef:
        """Upload one file and wait until the vendor accepts it.

        Raises:
            TransientError: the same call may be tried again.
            VendorError: the vendor refuses it, in its own words.
        """

    @abstractmethod
    def submit(self, request: Request, key: RunKey) -> JobRef:
        """Start the job: one paid call, never repeated here. The key goes wherever the vendor lets it be found.

        Raises:
            TransientError: no answer, or "later"; `sent` says whether the job may have been taken.
            VendorError: the vendor refuses it, in its own words.
        """

    @abstractmethod
    def poll(self, job: JobRef, since: Cursor | None) -> Snapshot:
        """Read state, progress, and what is new since the cursor (points may be reported again, events may not).

        Raises:
            TransientError: the same call may be tried again.
            VendorError: there is no such job, or the vendor refuses to tell.
        """

    # --- help for those four ---------------------------------------------------------------------------------------
    @property
    def key_variable(self) -> str:
        """The environment variable that holds the key: `api_key_env` of the settings, else `key_env`; "" for none."""
        return getattr(self.settings, "api_key_env", None) or self.key_env

    @property
    def address(self) -> str:
        """Where the service is called: at the `base_url` of the settings, else at the vendor's own."""
        return self.settings.value_of("base_url") or self.base_url

    @cached_property
    def client(self) -> Client:
        """The vendor's service over HTTP, at `address` and with the key of `key_variable`."""
        timeout = getattr(self.settings, "timeout", 60.0)
        return Client(self.address, key_env=self.key_variable or None, timeout=timeout)

    def snapshot(self, raw_state: str, **fields: Any) -> Snapshot:
        """Build the snapshot of a job whose state the vendor calls `raw_state` (see `states`), with the other `fields`
        given.

        A word that is not among the states is running, with a warning: an unknown state is never an end.
        """
        state, unknown = read_state(raw_state, self.states, self.name)
        fields["warnings"] = (*fields.get("warnings", ()), *unknown)
        return Snapshot(state=state, raw_state=raw_state, **fields)

    # --- offline ---------------------------------------------------------------------------------------------------
    def capabilities(self, target: Target) -> Capabilities:
        """Return what this target supports: the class attributes, and the model's entry in the catalogue. Pure.

        Where a target changes more than that, override it and `dataclasses.replace` what differs.
        """
        limits = self.limits
        from_catalog: dict[str, Any] = {"family": self.kind}
        if self.catalog is not None:
            models = catalog.load(self.kind, self.catalog)
            entry, warnings = models.model(target.model) if target.model else (models.default, ())
            if entry.max_tokens_per_row is not None:
                limits = replace(limits, max_tokens_per_row=entry.max_tokens_per_row)
            from_catalog = {
                "family": entry.family,
                "lifecycle": entry.lifecycle or models.lifecycle,
                "price": entry.price,
                "known_model": not warnings,
                "regions": tuple(entry.facts.get("regions", ())),
                "warnings": warnings,
            }
        return Capabilities(
            parameters=self.parameters,
            limits=limits,
            abilities=self.abilities,
            methods=self.methods,
            adapters=self.adapters,
            **from_catalog,
        )

    def read_catalog(self) -> Catalog | None:
        """Return the catalogue, with what the user laid over it; None where there is none."""
        return None if self.catalog is None else catalog.load(self.kind, self.catalog)

    def find_credentials(self) -> Credentials:
        """Return whether the key of `key_variable` is there; override for a vendor with a credential chain of its own.

        Returns:
            the status, and the command that would provide the credentials, or None. Files and variables are looked
            at; nothing is imported or sent.
        """
        if not self.key_variable:
            return "not needed", None
        if read_secret(self.key_variable):
            return "found", None
        return "not found", f"export {self.key_variable}=..."

    def ready(self) -> Readiness:
        """Return whether the packages of `requirements`, the required settings and the credentials are there.

        Imports and sends nothing. The hint is the first thing to do.
        """
        absent = next((requirement for requirement in self.requirements if not requirement.is_installed), None)
        missing = self.settings.missing()
        credentials, hint = self.find_credentials()
        if missing:
            hint = self.settings.describe_missing(self.name, missing)
        if absent is not None:
            hint = absent.install_command
        return Readiness(
            extra="not needed" if not self.requirements else "missing" if absent else "installed",
            credentials=credentials,
            missing_settings=missing,
            hint=hint,
        )

    def encode(self, data: Dataset, receipt: Receipt, into: Path) -> EncodedDataset:
        """Write the rows in the format of `limits` to content-named files in `into`.

        Raises:
            InvalidData: a row of another kind, which the format cannot hold at all.
        """
        from llmtune.provider.encoding import encode_dataset

        limits = self.capabilities(receipt.target).limits
        return encode_dataset(
            data, limits.format_of(data.kind), into, validation=limits.validation != "unused", target=receipt.target
        )

    # --- what a provider that overrides nothing does not do --------------------------------------------------------
    def preflight(self, request: Request) -> list[Finding]:
        """Return no findings: nothing is checked online before the paid call."""
        return []

    def find_upload(self, digest: str) -> UploadRef | None:
        """Return None: no file of that `digest` is searched for, so each is uploaded."""
        return None

    def find(self, key: RunKey) -> JobRef | None:
        """Return None: no job can be searched for, as `submit_safety` "none" says."""
        return None

    def cancel(self, job: JobRef) -> None:
        """Raise `VendorError`: the job cannot be stopped from here, so it runs to its end."""
        self._raise_not_implemented("cancel a job")

    def deploy(self, model: ModelRef, key: RunKey) -> DeploymentRef | None:
        """Return None: a tuned model needs no deployment."""
        return None

    def find_deployment(self, key: RunKey) -> DeploymentRef | None:
        """Return None: there are no deployments."""
        return None

    def undeploy(self, ref: DeploymentRef) -> None:
        """Raise `VendorError`: nothing was deployed from here, and a deployment that costs money must not stay
        unnoticed."""
        self._raise_not_implemented("remove a deployment")

    def generator(self, ref: ModelRef | DeploymentRef) -> Generator | Unavailable:
        """Return why tuned models cannot be asked, as `abilities` has it."""
        return self._unavailable(self.abilities.serving)

    def base_model(self, receipt: Receipt) -> ModelRef | Unavailable:
        """Return the base model of that job if `abilities` says that base models answer, otherwise the reason."""
        if self.abilities.base_serving is True:
            return ModelRef(id=receipt.target.model, tuned=False)
        return self._unavailable(self.abilities.base_serving)

    def snippet(self, ref: ModelRef | DeploymentRef) -> str:
        """Return the id of the model, with a comment that the call is not known here."""
        return f"# {self.name} calls it {ref.id!r}; how it is asked is in the vendor's documentation\n"

    def inventory(self) -> Iterator[RemoteModel]:
        """Raise `VendorError`: an account that cannot be listed must not look empty."""
        self._raise_not_implemented("list the account's tuned models")

    def fetch(self, remote: RemoteModel) -> RemoteJob:
        """Raise `VendorError`."""
        self._raise_not_implemented("fetch the job of a tuned model")

    def download(self, file_id: str, into: Path) -> Path:
        """Raise `VendorError`, whatever the `file_id`."""
        self._raise_not_implemented("download a file")

    def delete(self, ref: AnyRef) -> None:
        """Raise `VendorError`: what was not removed must not look removed."""
        self._raise_not_implemented(f"remove {ref.id}")

    def _raise_not_implemented(self, what: str) -> NoReturn:
        raise VendorError(f"{self.name}: this provider cannot {what} yet", hint="the vendor's own console can")

    def _unavailable(self, able: Ability) -> Unavailable:
        return Unavailable(able.reason if isinstance(able, NotOffered) else "this provider cannot ask its models yet")


if TYPE_CHECKING:

    def _is_a_provider(provider: BaseProvider) -> Provider:
        return provider
