"""The `fake` provider: a whole backend for testing your own pipelines, without a vendor, a key or a GPU.

    report = tune(job, "fake")                                            # against a fake service in this process
    provider = get_provider("fake", base_url=vendor.url, submit_safety="none")   # against one of your own

Its settings and options change how the service behaves, so that a pipeline meets each case.
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
from llmtune.provider.limits import Abilities, Limits, No, Price
from llmtune.provider.sdk import ignore_not_found
from llmtune.provider.types import (
    Account,
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
from llmtune.provider.values import Anything

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
_PLACES = {"name": "name", "seed": "seed", "tags": "tags"}


def _declare(field: str) -> Declaration:
    if field in GENERATION_FIELDS:
        return Sent(field, Anything(), where="generation", default=None)
    return Sent(_PLACES.get(field, f"hyperparameters.{field}"), Anything(), default=None)


#: What the `fake` provider takes: every field, with any value.
PARAMETERS = Declarations(**{field: _declare(field) for field in DECLARED_FIELDS})


class FakeOptions(Options):
    """The fake provider has no options of its own."""


class FakeSettings(Account):
    """Which fake service, and how it behaves."""

    base_url: str | None = None
    """Address of a fake service; None starts one inside this process."""

    submit_safety: Literal["token", "searchable", "none"] = "token"
    """What the service offers against submitting twice."""

    window: float = Field(default=2.0, ge=0)
    """Seconds after which a searchable service surely lists a new job. >= 0."""

    hosted: bool = True
    """Whether its jobs count as leaving this machine, so that money is asked about."""

    price: float | None = 0.0
    """USD per million training tokens; None: not published."""

    deployment: Literal["none", "optional", "required"] = "none"
    """Whether a tuned model must be deployed before it answers."""

    timeout: float = Field(default=10.0, gt=0)
    """Seconds that a request waits for its answer. > 0."""


_inside: Fake | None = None
_starting = threading.Lock()


def service() -> Fake:
    """The fake service inside this process, started on first use."""
    global _inside
    from llmtune.testing.generic_vendor import Fake

    with _starting:
        if _inside is None:
            _inside = Fake().start()
        return _inside


class FakeProvider(BaseProvider):
    """A backend that tunes nothing: every call, state, metric and answer is real, the training is not."""

    kind = "fake"
    listed = False
    Options: type[BaseModel] = FakeOptions
    """It has none."""

    Settings: type[BaseModel] = FakeSettings
    """Which service, and how it behaves."""

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
        """The service that the settings name, or the one inside this process."""
        base = self.settings.base_url or service().url
        return Client(base, key_env="LLMTUNE_FAKE_API_KEY", timeout=self.settings.timeout)

    # --- offline ---------------------------------------------------------------------------------------------------
    def capabilities(self, target: Target) -> Capabilities:
        """Everything: each field goes out under its own name."""
        return replace(
            super().capabilities(target),
            price=Price(training=self.settings.price, hosting=self.settings.price, input=self.settings.price),
            abilities=Abilities(
                checkpoints=No("the fake service keeps none"),
                deployment=self.settings.deployment,
                billed_cost=True,
            ),
        )

    def build(self, receipt: Receipt, files: Files) -> Request:
        """The body of POST /v1/jobs."""
        target = receipt.target
        body = {
            "model": target.model,
            "method": target.method,
            "adapter": target.adapter,
            "files": {role: ref.id for role, ref in files.items()},
        }
        return Request(operation="POST /v1/jobs", body=body | receipt.knobs())

    # --- online ----------------------------------------------------------------------------------------------------
    def find_upload(self, digest: str) -> UploadRef | None:
        """A file of this content, by its `digest`."""
        found = self.client.get("/v1/files", sha256=digest)["data"]
        return UploadRef(id=found[0]["id"], digest=digest) if found else None

    def upload(self, file: EncodedFile) -> UploadRef:
        """Send one file."""
        made = self.client.send("POST", "/v1/files", file.path.read_bytes(), query={"name": file.path.name})
        return UploadRef(id=made["id"], digest=file.sha256, role=file.role)

    def submit(self, request: Request, key: RunKey) -> JobRef:
        """One POST. The key travels as a token, as a label, or not at all."""
        body = dict(request.body)
        headers: dict[str, str] = {}
        if self.submit_safety.kind == "token":
            headers["Idempotency-Key"] = key
        elif self.submit_safety.kind == "searchable":
            body["key"] = key
        made = self.client.send("POST", "/v1/jobs", body, headers=headers)
        return JobRef(id=made["id"])

    def find(self, key: RunKey) -> JobRef | None:
        """The job labelled with this key."""
        if self.submit_safety.kind != "searchable":
            return None
        found = self.client.get("/v1/jobs", key=key)["data"]
        return JobRef(id=found[0]["id"]) if found else None

    def poll(self, job: JobRef, since: Cursor | None) -> Snapshot:
        """How the job stands."""
        seen = since or {"step": 0, "event": 0}
        told = self.client.get(f"/v1/jobs/{job.id}", after_step=str(seen["step"]), after_event=str(seen["event"]))
        body = told["body"]
        points = [
            MetricPoint(series=_SERIES[name], step=row["step"], value=row[name], source="vendor_api", raw_name=name)
            for row in told["metrics"]
            for name in _SERIES
            if name in row
        ]
        events = [Event(id=f"e{each['id']}", time=each["time"], message=each["message"]) for each in told["events"]]
        billed = told["billed_tokens"]
        return self.snapshot(
            told["status"],
            progress=Progress(step=told["step"], total_steps=told["total_steps"]),
            points=tuple(points),
            events=tuple(events),
            model=ModelRef(id=told["model"], base=body["model"]) if told["model"] else None,
            billed=Billed(tokens=billed, source="GET /v1/jobs") if billed is not None else None,
            error=told["error"],
            not_reported={} if "validation" in body["files"] else {"validation/loss": "no validation file was sent"},
            cursor={
                "step": max([seen["step"], *(row["step"] for row in told["metrics"])]),
                "event": max([seen["event"], *(each["id"] for each in told["events"])]),
            },
        )

    def cancel(self, job: JobRef) -> None:
        """Stop a job."""
        self.client.send("POST", f"/v1/jobs/{job.id}/cancel", {})

    def deploy(self, model: ModelRef, key: RunKey) -> DeploymentRef | None:
        """Make a model answer, where the settings say that this is needed."""
        if self.settings.deployment == "none":
            return None
        return DeploymentRef(id=self.client.send("POST", "/v1/deployments", {"model": model.id, "key": key})["id"])

    def find_deployment(self, key: RunKey) -> DeploymentRef | None:
        """The standing deployment labelled with this key."""
        found = self.client.get("/v1/deployments", key=key)["data"]
        return DeploymentRef(id=found[0]["id"]) if found else None

    def undeploy(self, ref: DeploymentRef) -> None:
        """Remove a deployment."""
        self._remove(f"/v1/deployments/{ref.id}")

    def generator(self, ref: ModelRef | DeploymentRef) -> Generator | Unavailable:
        """The model in hand."""
        if isinstance(ref, ModelRef) and ref.tuned and self.settings.deployment == "required":
            return Unavailable("the tuned model answers only from a deployment")
        return FakeGenerator(self.client, ref.id)

    def base_model(self, receipt: Receipt) -> ModelRef | Unavailable:
        """The untuned model."""
        return ModelRef(id=receipt.target.model, tuned=False)

    def snippet(self, ref: ModelRef | DeploymentRef) -> str:
        """The call that asks this model."""
        return (
            "import json, urllib.request\n\n"
            f'body = {{"model": {ref.id!r}, "messages": [{{"role": "user", "content": "..."}}]}}\n'
            f"request = urllib.request.Request({self.client.base + '/v1/generate'!r}, json.dumps(body).encode())\n"
            'print(json.load(urllib.request.urlopen(request))["text"])\n'
        )

    def inventory(self) -> Iterator[RemoteModel]:
        """Every tuned model."""
        for model in self.client.get("/v1/models")["data"]:
            yield RemoteModel(id=model["id"], base=model["base"], job=model["job"])

    def fetch(self, remote: RemoteModel) -> RemoteJob:
        """The job behind a tuned model."""
        job = self.client.get(f"/v1/jobs/{remote.job}")
        body: dict[str, Any] = job["body"]
        known = {name: value for name, value in body.get("hyperparameters", {}).items() if name in DECLARED_FIELDS}
        rest = {name: value for name, value in body.get("hyperparameters", {}).items() if name not in known}
        return RemoteJob(
            id=job["id"],
            model=remote.id,
            base=body["model"],
            method=body["method"],
            hyperparameters=known,
            unmapped=rest,
            seed=body.get("seed"),
            files=body["files"],
        )

    def download(self, file_id: str, into: Path) -> Path:
        """The content of the file `file_id`, in a folder."""
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
            "messages": [{"role": each.role, "content": each.words} for each in request.messages],
        }
        body |= sampling_settings(request, {name: name for name in GENERATION_FIELDS} | {"seed": "seed"})
        reply = self._client.send("POST", "/v1/generate", body, safe=True)
        return Generation(
            text=reply["text"],
            finish_reason="stop",
            prompt_tokens=reply["prompt_tokens"],
            completion_tokens=reply["completion_tokens"],
        )
