"""A provider that knows only why it can do nothing, and says so instead of "unknown provider"."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from pydantic import BaseModel

from llmtune.errors import ProviderClosed
from llmtune.provider import (
    DECLARED_FIELDS,
    Abilities,
    Account,
    Capabilities,
    Declarations,
    Lifecycle,
    Limits,
    No,
    NotApplicable,
    Options,
    Price,
    Readiness,
    Requirement,
    SubmitSafety,
    Target,
)

if TYPE_CHECKING:
    from llmtune.data.dataset import Dataset
    from llmtune.data.findings import Finding
    from llmtune.provider import (
        AnyRef,
        Cursor,
        DeploymentRef,
        EncodedDataset,
        EncodedFile,
        Files,
        Generator,
        JobRef,
        ModelRef,
        Receipt,
        RemoteJob,
        RemoteModel,
        Request,
        RunKey,
        Snapshot,
        Unavailable,
        UploadRef,
    )

TABLE = Path(__file__).with_name("vendors.toml")
METHODS = ("sft", "dpo", "classification", "reinforcement", "distillation", "continued_pretraining")


@dataclass(frozen=True, kw_only=True)
class Gone:
    """One row of the table: what is so, since when, who says so, and what to do instead."""

    vendor: str
    fact: str
    way_on: str
    alternatives: tuple[str, ...]
    source: str
    checked: date
    closes: date | None = None
    since: str = ""

    @property
    def sentence(self) -> str:
        """The fact with its subject."""
        return f"{self.vendor} {self.fact}"


@dataclass(frozen=True, kw_only=True)
class _Told(Lifecycle):
    """A lifecycle whose sentence the table gives: not every vendor has a day on which it closed."""

    told: str = ""

    def sentence(self, today: date) -> str:
        return self.told


@cache
def table() -> dict[str, Gone]:
    """Every vendor that is gone, by name."""
    rows = tomllib.loads(TABLE.read_text(encoding="utf-8"))
    return {name: Gone(**(row | {"alternatives": tuple(row["alternatives"])})) for name, row in rows.items()}


class RetiredProvider:
    """A vendor that is gone. Everything that would reach it raises `ProviderClosed` with the way on."""

    kind: str = ""
    hosted = True
    listed = False
    submit_safety = SubmitSafety(kind="none")
    Options: type[BaseModel] = Options
    Settings: type[BaseModel] = Account
    requirements: tuple[Requirement, ...] = ()

    def __init__(self, name: str | None = None, settings: BaseModel | None = None) -> None:
        self.name = name or self.kind
        self.settings = settings or Account()
        self.gone = table()[self.kind]

    def capabilities(self, target: Target) -> Capabilities:
        """Nothing, with the reason, the date and the source. Pure."""
        gone = self.gone
        reason = f"{gone.vendor} tunes no models"
        told = f"retired {gone.since}" if gone.since else "no fine-tuning: inference only"
        return Capabilities(
            parameters=Declarations(
                **{name: NotApplicable("no service is there to take it", gone.source) for name in DECLARED_FIELDS}
            ),
            family=gone.vendor,
            limits=Limits(source=gone.source),
            lifecycle=_Told(
                status="retired",
                closes=gone.closes,
                note=f"{gone.sentence}. Instead: {gone.way_on}",
                source=f"{gone.source}; checked {gone.checked}",
                alternatives=gone.alternatives,
                told=told,
            ),
            price=Price(source=gone.source, checked=gone.checked, note="no fine-tuning is sold"),
            abilities=Abilities(
                cancel=No(reason), metrics=No(reason), validation_metrics=No(reason), checkpoints=No(reason)
            ),
            methods=dict.fromkeys(METHODS, No(reason)),
            adapters=dict.fromkeys(("lora", "qlora", "dora", "full"), True),
        )

    def ready(self) -> Readiness:
        """Nothing is needed to learn that the vendor is gone."""
        return Readiness(extra="not needed", credentials="not needed", hint=self.gone.way_on)

    def refuse(self) -> NoReturn:
        """Raise the refusal every call ends in."""
        gone = self.gone
        raise ProviderClosed(
            f"{self.name}: {gone.sentence} ({gone.source}; checked {gone.checked})",
            provider=self.name,
            since=gone.closes,
            alternatives=gone.alternatives,
            hint=gone.way_on,
        )

    # Every one of these raises ProviderClosed.
    def encode(self, data: Dataset, receipt: Receipt, into: Path) -> EncodedDataset:
        self.refuse()

    def build(self, receipt: Receipt, files: Files) -> Request:
        self.refuse()

    def preflight(self, request: Request) -> list[Finding]:
        self.refuse()

    def find_upload(self, digest: str) -> UploadRef | None:
        self.refuse()

    def upload(self, file: EncodedFile) -> UploadRef:
        self.refuse()

    def submit(self, request: Request, key: RunKey) -> JobRef:
        self.refuse()

    def find(self, key: RunKey) -> JobRef | None:
        self.refuse()

    def poll(self, job: JobRef, since: Cursor | None) -> Snapshot:
        self.refuse()

    def cancel(self, job: JobRef) -> None:
        self.refuse()

    def deploy(self, model: ModelRef, key: RunKey) -> DeploymentRef | None:
        self.refuse()

    def find_deployment(self, key: RunKey) -> DeploymentRef | None:
        self.refuse()

    def undeploy(self, ref: DeploymentRef) -> None:
        self.refuse()

    def generator(self, ref: ModelRef | DeploymentRef) -> Generator | Unavailable:
        self.refuse()

    def base_model(self, receipt: Receipt) -> ModelRef | Unavailable:
        self.refuse()

    def snippet(self, ref: ModelRef | DeploymentRef) -> str:
        self.refuse()

    def inventory(self) -> Iterator[RemoteModel]:
        self.refuse()

    def fetch(self, remote: RemoteModel) -> RemoteJob:
        self.refuse()

    def download(self, file_id: str, into: Path) -> Path:
        self.refuse()

    def delete(self, ref: AnyRef) -> None:
        self.refuse()


class GoogleAIStudio(RetiredProvider):
    """Google AI Studio; tune on Vertex AI instead."""

    kind = "google-ai-studio"


class Mistral(RetiredProvider):
    """Mistral's API."""

    kind = "mistral"


class Databricks(RetiredProvider):
    """Databricks Foundation Model Fine-tuning."""

    kind = "databricks"


class Groq(RetiredProvider):
    """Groq, which serves adapters and tunes none."""

    kind = "groq"


if TYPE_CHECKING:
    from llmtune.provider import Provider

    _: Provider = RetiredProvider()
