"""The generic fake vendor behind the `fake` provider: a small service that accepts jobs but trains nothing."""

from __future__ import annotations

import json
import math
from typing import Any, ClassVar

from llmtune.testing.fake_vendor import FakeDeployment, FakeFile, FakeJob, FakeVendor, Phase
from llmtune.testing.http import Call, Refusal, Reply, route
from llmtune.testing.request_schema import Required

_MESSAGE = {"role": Required(str), "content": (str, None)}

_JOB = {
    "model": Required(str),
    "method": Required(str),
    "adapter": Required(str),
    "files": Required({"train": Required(str), "validation": str}),
    "hyperparameters": {...: Any},
    "name": str,
    "seed": int,
    "tags": {...: str},
    "key": str,
}


class Fake(FakeVendor):
    """Jobs, files, deployments and answers, in JSON. `python -m llmtune.testing.serve fake` starts one."""

    name = "fake"
    walks: ClassVar[dict[str, tuple[Phase, ...]]] = {
        "success": (Phase("queued"), Phase("training", looks=3, training=True), Phase("succeeded")),
        "failure": (Phase("queued"), Phase("training", training=True), Phase("failed")),
        "cancelled": (Phase("cancelling"), Phase("cancelled")),
    }
    """States that a job passes through, by outcome."""

    # --- files -----------------------------------------------------------------------------------------------------
    @route("POST", "/v1/files", role="upload")
    def upload(self, call: Call) -> Any:
        """Store a file, sent as the body."""
        query = call.fields({"name": str})
        return self._file(self.new_file(call.body, name=query.get("name", "")))

    @route("GET", "/v1/files", role="find")
    def find_files(self, call: Call) -> Any:
        """Find files by the hash of their content."""
        sha256 = call.fields({"sha256": Required(str)})["sha256"]
        return {"data": [self._file(file) for file in self.listed(self.files.values()) if file.sha256 == sha256]}

    @route("GET", "/v1/files/{file}/content")
    def content(self, call: Call) -> Any:
        """Return a file's content."""
        return Reply(self.file(call.params["file"]).content)

    @route("DELETE", "/v1/files/{file}", role="delete")
    def delete_file(self, call: Call) -> Any:
        """Remove a file."""
        return self._file(self.files.pop(self.file(call.params["file"]).id))

    def _file(self, file: FakeFile) -> dict[str, Any]:
        return {"id": file.id, "sha256": file.sha256, "bytes": len(file.content), "name": file.name}

    # --- jobs ------------------------------------------------------------------------------------------------------
    @route("POST", "/v1/jobs", role="submit")
    def create_job(self, call: Call) -> Any:
        """Start a job; for an `Idempotency-Key` that was used before, return the first job of that key."""
        body = call.json(_JOB)
        train = self.file(body["files"]["train"])
        job = self.new_job(body, key=body.get("key"), token=call.headers.get("idempotency-key"))
        self._learn(train)
        return self._job(job)

    def _learn(self, file: FakeFile) -> None:
        for line in file.content.splitlines():
            messages = json.loads(line).get("messages", [])
            questions = [message["content"] for message in messages if message["role"] == "user"]
            answers = [message["content"] for message in messages if message["role"] == "assistant"]
            if questions and answers:
                self.teach([(str(questions[-1]), str(answers[-1]))])

    @route("GET", "/v1/jobs", role="find")
    def find_jobs(self, call: Call) -> Any:
        """Find jobs by their key."""
        key = call.fields({"key": Required(str)})["key"]
        return {"data": [self._job(job) for job in self.listed(self.jobs.values()) if job.key == key]}

    @route("GET", "/v1/jobs/{job}", role="poll")
    def get_job(self, call: Call) -> Any:
        """Return a job's state, with its metrics after a step and its events after a number."""
        query = call.fields({"after_step": str, "after_event": str})
        job = self.job(call.params["job"])
        state = self.look(job)
        steps = self.steps_done(job)
        if job.outcome == "success" and job.ended and state == job.word:
            self.models.setdefault(f"tuned:{job.id}", {"base": job.body["model"], "job": job.id})
        after = int(query.get("after_step", 0))
        events = [{"id": at, "time": job.created + at, "message": f"step {at} done"} for at in range(1, steps + 1)]
        return self._job(job) | {
            "status": state,
            "step": steps,
            "total_steps": job.data["steps"],
            "metrics": [self._metrics(job, step) for step in range(after + 1, steps + 1)],
            "events": events[int(query.get("after_event", 0)) :],
            "error": self.failure_message if state == "failed" else None,
            "billed_tokens": 1000 * steps if state == "succeeded" else None,
        }

    def _metrics(self, job: FakeJob, step: int) -> dict[str, Any]:
        losses = {"train_loss": 0.5 + 2.0 * math.exp(-step / 4)}
        if "validation" in job.body["files"] and step % 5 == 0:
            losses["valid_loss"] = 0.6 + 2.0 * math.exp(-step / 4)
        return {"step": step} | losses

    def _job(self, job: FakeJob) -> dict[str, Any]:
        model = f"tuned:{job.id}"
        return {"id": job.id, "status": job.word, "model": model if model in self.models else None, "body": job.body}

    @route("POST", "/v1/jobs/{job}/cancel", role="cancel")
    def cancel(self, call: Call) -> Any:
        """Cancel a job."""
        job = self.job(call.params["job"])
        self.cancel_job(job)
        return self._job(job)

    # --- models, deployments, answers ------------------------------------------------------------------------------
    @route("GET", "/v1/models")
    def list_models(self, call: Call) -> Any:
        """List every tuned model."""
        return {"data": [{"id": name} | model for name, model in self.models.items()]}

    @route("DELETE", "/v1/models/{model*}", role="delete")
    def delete_model(self, call: Call) -> Any:
        """Remove a tuned model."""
        if self.models.pop(call.params["model"], None) is None:
            raise Refusal(404, f"No such model: {call.params['model']}", code="not_found")
        return {}

    @route("POST", "/v1/deployments", role="deploy")
    def deploy(self, call: Call) -> Any:
        """Deploy a model; it costs money until removed."""
        body = call.json({"model": Required(str), "key": str})
        return self._deployment(self.new_deployment(body["model"], key=body.get("key")))

    @route("GET", "/v1/deployments", role="find")
    def find_deployments(self, call: Call) -> Any:
        """Find deployments by key."""
        key = call.fields({"key": Required(str)})["key"]
        return {
            "data": [self._deployment(deployment) for deployment in self.listed(self.standing) if deployment.key == key]
        }

    @route("DELETE", "/v1/deployments/{deployment}", role="undeploy")
    def undeploy(self, call: Call) -> Any:
        """Remove a deployment."""
        self.remove_deployment(call.params["deployment"])
        return {}

    def _deployment(self, deployment: FakeDeployment) -> dict[str, Any]:
        return {"id": deployment.id, "model": deployment.model}

    @route("POST", "/v1/generate", role="generate")
    def generate(self, call: Call) -> Any:
        """Generate one answer of a base model, a tuned model, or a deployment."""
        body = call.json(
            {
                "model": Required(str),
                "messages": Required([_MESSAGE]),
                "temperature": float,
                "top_p": float,
                "top_k": int,
                "max_tokens": int,
                "seed": int,
            }
        )
        name = body["model"]
        standing = {deployment.id: deployment.model for deployment in self.standing}
        if name.startswith("dep-") and name not in standing:
            raise Refusal(404, f"No such deployment: {name}", code="not_found")
        questions = [message["content"] or "" for message in body["messages"] if message["role"] == "user"]
        text = self.say(questions[-1] if questions else "", tuned=standing.get(name, name) in self.models)
        prompt_tokens = sum(len((message["content"] or "").split()) for message in body["messages"])
        return {"text": text, "prompt_tokens": prompt_tokens, "completion_tokens": len(text.split())}
