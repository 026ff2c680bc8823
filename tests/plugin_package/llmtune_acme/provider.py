"""Requests to Acme, and how its answers are read."""

from functools import partial
from pathlib import Path

from llmtune.provider import (
    Abilities,
    BaseProvider,
    FunctionGenerator,
    Generation,
    JobRef,
    MetricPoint,
    ModelRef,
    NotOffered,
    Request,
    RunState,
    SubmitSafety,
    UploadRef,
    ignore_not_found,
)
from llmtune_acme.declarations import LIMITS, PARAMETERS


class AcmeProvider(BaseProvider):
    """Models tuned at Acme."""

    kind = "acme"
    base_url = "https://api.acme.example"
    key_env = "ACME_API_KEY"
    parameters = PARAMETERS
    limits = LIMITS
    catalog = Path(__file__).with_name("catalog.toml")
    submit_safety = SubmitSafety(kind="searchable", window=30)
    abilities = Abilities(
        validation_metrics=NotOffered("Acme evaluates nothing while it trains"),
        checkpoints=NotOffered("Acme keeps the last weights only"),
    )
    states = {
        "waiting": RunState.QUEUED,
        "training": RunState.RUNNING,
        "stopping": RunState.CANCELLING,
        "done": RunState.SUCCEEDED,
        "broken": RunState.FAILED,
        "stopped": RunState.CANCELLED,
    }

    def build(self, receipt, files):
        body = {"model": receipt.target.model, "file": files["train"].id} | receipt.request_parameters()
        return Request(operation="POST /v1/tunes", body=body)

    def upload(self, file):
        reply = self.client.send("POST", "/v1/files", file.path.read_bytes())
        return UploadRef(id=reply["id"], digest=file.sha256, role=file.role)

    def submit(self, request, key):
        return JobRef(id=self.client.send("POST", "/v1/tunes", request.body | {"label": key})["id"])

    def poll(self, job, since):
        reply = self.client.get(f"/v1/tunes/{job.id}")
        points = [MetricPoint(series="train/loss", source="vendor_api", **row) for row in reply["losses"]]
        model = ModelRef(id=reply["tuned"], base=reply["model"]) if reply["tuned"] else None
        return self.snapshot(reply["state"], points=points, model=model, error=reply["error"])

    def find(self, key):
        tunes = self.client.get("/v1/tunes", label=key)["tunes"]
        return JobRef(id=tunes[0]["id"]) if tunes else None

    def find_upload(self, digest):
        files = self.client.get("/v1/files", sha256=digest)["files"]
        return UploadRef(id=files[0]["id"], digest=digest) if files else None

    def cancel(self, job):
        self.client.send("POST", f"/v1/tunes/{job.id}/stop")

    def delete(self, ref):
        kind = "files" if isinstance(ref, UploadRef) else "models"
        with ignore_not_found():
            self.client.send("DELETE", f"/v1/{kind}/{ref.id}")

    def generator(self, ref):
        return FunctionGenerator(partial(self.answer, ref.id))

    def answer(self, model, request):
        messages = [{"role": message.role, "content": message.words} for message in request.messages]
        body = {"model": model, "messages": messages, "temperature": request.temperature}
        if request.max_tokens is not None:
            body["max_tokens"] = request.max_tokens
        reply = self.client.send("POST", "/v1/chat", body, safe=True)
        return Generation(text=reply["text"], prompt_tokens=reply["read"], completion_tokens=reply["written"])
