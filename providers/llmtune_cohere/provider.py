"""The Cohere backend: truthful about the retired service, complete for whoever still has one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import BaseModel

from llmtune.provider import (
    AnyRef,
    Capabilities,
    Cursor,
    DeploymentRef,
    EncodedDataset,
    Files,
    Generator,
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
    Unavailable,
    UploadRef,
    catalog,
)
from llmtune_cohere import declarations, managed, requests, self_hosted
from llmtune_cohere import settings as account
from llmtune_cohere.settings import CohereOptions, CohereSettings

if TYPE_CHECKING:
    from llmtune.data.dataset import Dataset
    from llmtune.data.findings import Finding
    from llmtune.provider import EncodedFile, Provider, Receipt

CATALOG = Path(__file__).with_name("catalog.toml")


class CohereProvider:
    """Cohere's fine-tuning API at an endpoint that still serves it, or its open trainer.

    Without `base_url` or `service_url` this is the public service, retired on 2025-09-15: it can be asked about, and
    every paid call is refused with the date, the source and the way on.
    """

    kind = "cohere"
    Options: type[BaseModel] = CohereOptions
    Settings: type[BaseModel] = CohereSettings
    requirements: tuple[Requirement, ...] = (Requirement(extra="cohere", module="cohere", distribution="cohere"),)

    def __init__(self, name: str = "cohere", settings: CohereSettings | None = None) -> None:
        self.name = name
        self.settings = settings or CohereSettings()
        self.transport = account.transport(self.settings)
        self._made: managed.Managed | self_hosted.SelfHosted | None = None
        self.listed = True
        self.hosted = self.transport != "self-hosted"
        # The open trainer shows no list of jobs: an unclear start must not be repeated.
        self.submit_safety = (
            SubmitSafety(kind="none")
            if self.transport == "self-hosted"
            else SubmitSafety(kind="searchable", window=60.0)
        )

    # --- offline -----------------------------------------------------------------------------------------------------
    def capabilities(self, target: Target) -> Capabilities:
        """What this target can express. Pure."""
        own = self.transport == "self-hosted"
        known = catalog.load(self.kind, CATALOG)
        entry, warnings = known.model(target.model) if target.model else (known.default, ())
        if own and target.model.startswith("/"):
            warnings = ()  # a checkpoint of the user's own, by its path in the container
        return Capabilities(
            parameters=declarations.SELF_HOSTED if own else declarations.MANAGED,
            family="cohere-finetune" if own else entry.family,
            limits=declarations.limits(target.method, self_hosted=own),
            lifecycle=account.lifecycle(self.settings, known, entry),
            price=known.default.price,
            abilities=declarations.SELF_HOSTED_ABILITIES if own else declarations.MANAGED_ABILITIES,
            methods=declarations.SELF_HOSTED_METHODS if own else declarations.MANAGED_METHODS,
            adapters=declarations.SELF_HOSTED_ADAPTERS if own else declarations.MANAGED_ADAPTERS,
            concurrency=1 if own else None,
            concurrency_source=declarations.OPEN if own else "",
            known_model=not warnings,
            warnings=warnings,
        )

    def ready(self) -> Readiness:
        """What is there, offline; for the retired service nothing is asked for."""
        return account.ready(self.settings)

    def build(self, receipt: Receipt, files: Files) -> Request:
        """The exact body. Pure."""
        if self.transport == "self-hosted":
            return Request(operation="POST /finetune", body=requests.self_hosted(receipt, files))
        return Request(operation="POST /v1/finetuning/finetuned-models", body=requests.managed(receipt, files))

    def encode(self, data: Dataset, receipt: Receipt, into: Path) -> EncodedDataset:
        """Write the rows in Cohere's format to content-named files in `into`."""
        from llmtune.provider import encode_dataset

        own = self.transport == "self-hosted"
        encoded = encode_dataset(data, self.capabilities(receipt.target).limits.format, into)
        train, validation = encoded.file("train"), encoded.file("validation")
        if own or train is None or validation is None:
            return encoded
        # The API takes both in one dataset: the training file's name says which validation file goes with it.
        path = train.path.with_name(managed.pair_name(train.sha256, validation.sha256))
        train.path.replace(path)
        files = tuple(file.model_copy(update={"path": path}) if file is train else file for file in encoded.files)
        return encoded.model_copy(update={"files": files})

    # --- online ------------------------------------------------------------------------------------------------------
    def preflight(self, request: Request) -> list[Finding]:
        """Whether the service answers, and is free."""
        return self._service().preflight(request)

    def find_upload(self, digest: str) -> UploadRef | None:
        """A file of ours with this content (not at the API, whose datasets hold two files)."""
        return self._service().find_upload(digest)

    def upload(self, file: EncodedFile) -> UploadRef:
        """Make a dataset and wait until it is valid, or put the file into the shared folder."""
        return self._service().upload(file)

    def submit(self, request: Request, key: RunKey) -> JobRef:
        """Start the job. Raises `ProviderClosed` for the retired public service."""
        return self._service().submit(request, key)

    def find(self, key: RunKey) -> JobRef | None:
        """The job that carries this key in its name, where the service shows one."""
        return self._service().find(key)

    def poll(self, job: JobRef, since: Cursor | None) -> Snapshot:
        """State, evaluations and events."""
        return self._service().poll(job, since)

    def cancel(self, job: JobRef) -> None:
        """Stop the job: at the API by deleting it, at one's own trainer by ending the service."""
        self._service().cancel(job)

    def deploy(self, model: ModelRef, key: RunKey) -> DeploymentRef | None:
        """None: a tuned model needs no deployment of its own."""
        return None

    def find_deployment(self, key: RunKey) -> DeploymentRef | None:
        """None: there are no deployments."""
        return None

    def undeploy(self, ref: DeploymentRef) -> None:
        """Nothing to do: there are no deployments."""

    def generator(self, ref: ModelRef | DeploymentRef) -> Generator | Unavailable:
        """The model in hand, or why not."""
        if self.transport == "closed":
            return Unavailable("models tuned at Cohere stopped answering on 2025-09-15")
        if isinstance(ref, DeploymentRef):
            return Unavailable("Cohere has no deployments")
        return self._service().generator(ref)

    def base_model(self, receipt: Receipt) -> ModelRef | Unavailable:
        """The untuned model, where the service answers for it."""
        if receipt.target.method == "classification":
            return Unavailable("the classifier's base has no head to answer with before it is tuned")
        if self.transport == "closed":
            return Unavailable("Cohere's fine-tuning is retired")
        return ModelRef(id=receipt.target.model, tuned=False)

    def snippet(self, ref: ModelRef | DeploymentRef) -> str:
        """A few lines that call this model: through the SDK, or the inference container."""
        if self.transport == "self-hosted":
            address = self.settings.inference_url or "http://localhost:5001"
            return (
                "import httpx\n\n"
                f'answer = httpx.post("{address}/inference", timeout=600, json={{\n'
                f'    "model_name_or_path": "{ref.id}",\n'
                '    "message": "Hello!",\n'
                '    "max_new_tokens": 1024,\n'
                '    "do_sample": "false",\n'
                '})\nprint(answer.json()["text"])\n'
            )
        base = f', base_url="{self.settings.base_url}"' if self.settings.base_url else ""
        variable = self.settings.api_key_env or account.KEY_VARIABLES[0]
        start = f'import os\n\nimport cohere\n\nclient = cohere.ClientV2(os.environ["{variable}"]{base})\n'
        if isinstance(ref, ModelRef) and ref.data.get("base_type") == declarations.BASE_TYPES["classification"]:
            return (
                f'{start}answer = client.classify(model="{ref.id}", inputs=["Hello!"])\n'
                "print(answer.classifications[0].prediction)\n"
            )
        return (
            f'{start}answer = client.chat(model="{ref.id}", messages=[{{"role": "user", "content": "Hello!"}}])\n'
            "print(answer.message.content[0].text)\n"
        )

    def inventory(self) -> Iterator[RemoteModel]:
        """Every tuned model the account, or the shared folder, holds."""
        return self._service().inventory()

    def fetch(self, remote: RemoteModel) -> RemoteJob:
        """The job behind a tuned model."""
        return self._service().fetch(remote)

    def download(self, file_id: str, into: Path) -> Path:
        """Bring a dataset's rows here."""
        return self._service().download(file_id, into)

    def delete(self, ref: AnyRef) -> None:
        """Remove something we made; quietly done when it is gone already."""
        if not isinstance(ref, DeploymentRef):
            self._service().delete(ref)

    def _service(self) -> managed.Managed | self_hosted.SelfHosted:
        if self.transport == "closed":
            known = catalog.load(self.kind, CATALOG)
            raise account.closed(self.name, known, known.default)
        if self._made is None:
            kind = self_hosted.SelfHosted if self.transport == "self-hosted" else managed.Managed
            self._made = kind(self.name, self.settings)
        return self._made


if TYPE_CHECKING:
    _: Provider = CohereProvider()
