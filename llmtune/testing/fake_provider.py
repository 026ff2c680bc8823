"""The `fake` provider: a complete backend for testing your own pipelines, without a vendor, a key or a GPU.

    report = tune(job, "fake")                                            # against a fake service in this process
    provider = get_provider("fake", base_url=vendor.url, submit_safety="none")   # against one of your own

Its settings change how the service behaves, so that a pipeline can be tested in each case.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, Field

from llmtune.metrics.points import MetricPoint
from llmtune.provider.base import BaseProvider
from llmtune.provider.chat import BaseGenerator, sampling_settings
from llmtune.provider.declarations import (
    DECLARED_FIELDS,
    GENERATION_FIELDS,
    Capabilities,
    Declaration,
    Declarations,
    Sent,
)
from llmtune.provider.generation import Generation, GenerationRequest, Generator, Unavailable
from llmtune.provider.http import Client
from llmtune.provider.limits import Abilities, Limits, NotOffered, Price
from llmtune.provider.sdk import ignore_not_found
from llmtune.provider.types import (
    AnyRef,
    Billed,
    Cursor,
    DeploymentRef,
    EncodedFile,
    Event,
    Files,
    JobRef,
    ModelRef,
    Options,
    Progress,
    ProviderSettings,
    RemoteJob,
    RemoteModel,
    Request,
    RunKey,
    RunState,
    Snapshot,
    SubmitSafety,
    Target,
    UploadRef,
)
from llmtune.provider.values import AnyValue

if TYPE_CHECKING:
    from llmtune.provider.receipt import Receipt
    from llmtune.testing.generic_vendor import Fake

_STATES = {
    "queued": RunState.QUEUED,
    "training": RunState.RUNNING,
    "cancelling": RunState.CANCELLING,
    "succeeded": RunState.SUCCEEDED,
    "failed": RunState.FAILED,
    "cancelled": RunState.CANCELLED,
}
_SERIES = {"train_loss": "train/loss", "valid_loss": "validation/loss"}
_PATHS = {"name": "name", "seed": "seed", "tags": "tags"}


def _declare(field: str) -> Declaration:
    if field in GENERATION_FIELDS:
        return Sent(field, AnyValue(), where="generation", default=None)
    return Sent(_PATHS.get(field, f"hyperparameters.{field}"), AnyValue(), default=None)


#: Parameters of the `fake` provider: every field, with any value.
PARAMETERS = Declarations(**{field: _declare(field) for field in DECLARED_FIELDS})


class FakeOptions(Options):
    """Options of the fake provider: none."""


class FakeSettings(ProviderSettings):
    """Settings of the fake provider: which fake service it uses, and how that behaves."""

    base_url: str | None = None
    """Address of a fake service; None starts one inside this process."""

    submit_safety: Literal["token", "searchable", "none"] = "token"
    """How the service protects against submitting a job twice."""

    window: float = Field(default=2.0, ge=0)
    """Seconds after which a searchable service is guaranteed to list a new job. >= 0."""

    hosted: bool = True
    """Whether its jobs count as billed by a vendor, so that the cost must be confirmed."""

    price: float | None = 0.0
    """USD per million training tokens; None for not published."""

    deployment: Literal["none", "optional", "required"] = "none"
    """Whether a tuned model must be deployed before it answers."""

    timeout: float = Field(default=10.0, gt=0)
    """Seconds that a request waits for its answer. > 0."""


_service: Fake | None = None
_service_lock = threading.Lock()


def service() -> Fake:
    """Return the fake service inside this process, started on first use."""
    global _service
    from llmtune.testing.generic_vendor import Fake

    with _service_lock:
        if _service is None:
            _service = Fake().start()
        return _service


class FakeProvider(BaseProvider):
    """A backend with real requests, states, metrics and answers, but without training."""

    kind = "fake"
    listed = False
    Options: type[BaseModel] = FakeOptions
    """Model of its options: it has none."""

    Settings: type[BaseModel] = FakeSettings
    """Model of its settings: which service it uses, and how that behaves."""

    parameters = PARAMETERS
    states = _STATES
    methods = {"sft": True, "dpo": True}
    adapters = {"lora": True, "qlora": True, "dora": True, "full": True}
    limits = Limits(format="chat", min_rows=1, note="a fake service takes any chat rows")

    def __init__(self, name: str = "fake", settings: FakeSettings | None = None) -> None:
        super().__init__(name, settings)
        self.hosted = self.settings.hosted
        window = self.settings.window if self.settings.submit_safety == "searchable" else 0.0
        self.submit_safety = SubmitSafety(kind=self.settings.submit_safety, window=window)

    @cached_property
    def client(self) -> Client:
        """Client of the service that the settings name, or of the one inside this process."""
        base = self.settings.base_url or service().url
        return Client(base, key_env="LLMTUNE_FAKE_API_KEY", timeout=self.settings.timeout)

    # --- offline ---------------------------------------------------------------------------------------------------
    def capabilities(self, target: Target) -> Capabilities:
        """Declare that every field is sent, under its own name."""
        return replace(
            super().capabilities(target),
            price=Price(
                training=self.settings.price,
                input=self.settings.price,
                output=self.settings.price,
                base_input=self.settings.price,
                base_output=self.settings.price,
                hosting=self.settings.price,
            ),
            abilities=Abilities(
                checkpoints=NotOffered("the fake service saves none"),
                deployment=self.settings.deployment,
                billed_cost=True,
            ),
        )

    def build(self, receipt: Receipt, files: Files) -> Request:
        """Build the body of POST /v1/jobs."""
        target = receipt.target
        body = {
            "model": target.model,
            "method": target.method,
            "adapter": target.adapter,
            "files": {role: ref.id for role, ref in files.items()},
        }
        return Request(operation="POST /v1/jobs", body=body | receipt.request_parameters())

    # --- online ----------------------------------------------------------------------------------------------------
    def find_upload(self, digest: str) -> UploadRef | None:
        """Find a file by the SHA-256 of its content, `digest`."""
        files = self.client.get("/v1/files", sha256=digest)["data"]
        return UploadRef(id=files[0]["id"], digest=digest) if files else None

    def upload(self, file: EncodedFile) -> UploadRef:
        """Upload one file."""
        reply = self.client.send("POST", "/v1/files", file.path.read_bytes(), query={"name": file.path.name})
        return UploadRef(id=reply["id"], digest=file.sha256, role=file.role)

    def submit(self, request: Request, key: RunKey) -> JobRef:
        """Submit the job in one POST. The run key is sent as a token, as a label, or not at all."""
        body = dict(request.body)
        headers: dict[str, str] = {}
        if self.submit_safety.kind == "token":
            headers["Idempotency-Key"] = key
        elif self.submit_safety.kind == "searchable":
            body["key"] = key
        reply = self.client.send("POST", "/v1/jobs", body, headers=headers)
        return JobRef(id=reply["id"])

    def find(self, key: RunKey) -> JobRef | None:
        """Find the job labelled with this key."""
        if self.submit_safety.kind != "searchable":
            return None
        jobs = self.client.get("/v1/jobs", key=key)["data"]
        return JobRef(id=jobs[0]["id"]) if jobs else None

    def poll(self, job: JobRef, since: Cursor | None) -> Snapshot:
        """Return the job's state, and its metrics and events since the cursor."""
        cursor = since or {"step": 0, "event": 0}
        reply = self.client.get(f"/v1/jobs/{job.id}", after_step=str(cursor["step"]), after_event=str(cursor["event"]))
        body = reply["body"]
        points = [
            MetricPoint(series=_SERIES[name], step=row["step"], value=row[name], source="vendor_api", raw_name=name)
            for row in reply["metrics"]
            for name in _SERIES
            if name in row
        ]
        events = [
            Event(id=f"e{event['id']}", time=event["time"], message=event["message"]) for event in reply["events"]
        ]
        billed = reply["billed_tokens"]
        return self.snapshot(
            reply["status"],
            progress=Progress(step=reply["step"], total_steps=reply["total_steps"]),
            points=tuple(points),
            events=tuple(events),
            model=ModelRef(id=reply["model"], base=body["model"]) if reply["model"] else None,
            billed=Billed(tokens=billed, source="GET /v1/jobs") if billed is not None else None,
            error=reply["error"],
            not_reported={} if "validation" in body["files"] else {"validation/loss": "no validation file was sent"},
            cursor={
                "step": max([cursor["step"], *(row["step"] for row in reply["metrics"])]),
                "event": max([cursor["event"], *(event["id"] for event in reply["events"])]),
            },
        )

    def cancel(self, job: JobRef) -> None:
        """Cancel a job."""
        self.client.send("POST", f"/v1/jobs/{job.id}/cancel", {})

    def deploy(self, model: ModelRef, key: RunKey) -> DeploymentRef | None:
        """Deploy a model, if the settings say that deployments are used."""
        if self.settings.deployment == "none":
            return None
        return DeploymentRef(id=self.client.send("POST", "/v1/deployments", {"model": model.id, "key": key})["id"])

    def find_deployment(self, key: RunKey) -> DeploymentRef | None:
        """Find the deployment labelled with this key."""
        deployments = self.client.get("/v1/deployments", key=key)["data"]
        return DeploymentRef(id=deployments[0]["id"]) if deployments else None

    def undeploy(self, ref: DeploymentRef) -> None:
        """Remove a deployment."""
        self._remove(f"/v1/deployments/{ref.id}")

    def generator(self, ref: ModelRef | DeploymentRef) -> Generator | Unavailable:
        """Return a generator of the model."""
        if isinstance(ref, ModelRef) and ref.tuned and self.settings.deployment == "required":
            return Unavailable("the tuned model answers only from a deployment")
        return FakeGenerator(self.client, ref.id)

    def base_model(self, receipt: Receipt) -> ModelRef | Unavailable:
        """Return the base model."""
        return ModelRef(id=receipt.target.model, tuned=False)

    def snippet(self, ref: ModelRef | DeploymentRef) -> str:
        """Return code that asks this model."""
        return (
            "import json, urllib.request\n\n"
            f'body = {{"model": {ref.id!r}, "messages": [{{"role": "user", "content": "..."}}]}}\n'
            f"request = urllib.request.Request({self.client.base + '/v1/generate'!r}, json.dumps(body).encode())\n"
            'print(json.load(urllib.request.urlopen(request))["text"])\n'
        )

    def inventory(self) -> Iterator[RemoteModel]:
        """List every tuned model."""
        for model in self.client.get("/v1/models")["data"]:
            yield RemoteModel(id=model["id"], base=model["base"], job=model["job"])

    def fetch(self, remote: RemoteModel) -> RemoteJob:
        """Fetch the job of a tuned model."""
        job = self.client.get(f"/v1/jobs/{remote.job}")
        body: dict[str, Any] = job["body"]
        mapped = {name: value for name, value in body.get("hyperparameters", {}).items() if name in DECLARED_FIELDS}
        unmapped = {name: value for name, value in body.get("hyperparameters", {}).items() if name not in mapped}
        return RemoteJob(
            id=job["id"],
            model=remote.id,
            base=body["model"],
            method=body["method"],
            hyperparameters=mapped,
            unmapped=unmapped,
            seed=body.get("seed"),
            files=body["files"],
        )

    def download(self, file_id: str, into: Path) -> Path:
        """Download the file `file_id` to the folder `into`; return its path."""
        into.mkdir(parents=True, exist_ok=True)
        path = into / f"{file_id}.jsonl"
        path.write_bytes(self.client.content(f"/v1/files/{file_id}/content"))
        return path

    def delete(self, ref: AnyRef) -> None:
        """Remove a file, a model or a deployment; the service keeps the records of its jobs."""
        if isinstance(ref, UploadRef):
            self._remove(f"/v1/files/{ref.id}")
        elif isinstance(ref, ModelRef):
            self._remove(f"/v1/models/{ref.id}")
        elif isinstance(ref, DeploymentRef):
            self.undeploy(ref)

    def _remove(self, path: str) -> None:
        with ignore_not_found():
            self.client.send("DELETE", path)


class FakeGenerator(BaseGenerator):
    """A model of the fake service."""

    max_concurrency = 8

    def __init__(self, client: Client, name: str) -> None:
        self._client, self._name = client, name

    def answer(self, request: GenerationRequest) -> Generation:
        """Ask the service once."""
        body: dict[str, Any] = {
            "model": self._name,
            "messages": [{"role": message.role, "content": message.words} for message in request.messages],
        }
        body |= sampling_settings(request, {name: name for name in GENERATION_FIELDS} | {"seed": "seed"})
        reply = self._client.send("POST", "/v1/generate", body, safe=True)
        return Generation(
            text=reply["text"],
            finish_reason="stop",
            prompt_tokens=reply["prompt_tokens"],
            completion_tokens=reply["completion_tokens"],
        )
