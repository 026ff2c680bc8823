"""A stateful stand-in for OpenAI's fine-tuning service and those that speak its API. It refuses every field it does
not know, which the real one does not: a field that should not have been sent fails a test here."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, ClassVar

from llmtune.testing.fake_vendor import FakeJob, Phase
from llmtune.testing.http import Call, Refusal, route
from llmtune.testing.request_schema import Required
from llmtune_openai.fake.job_timeline import JobStory, hyperparameters_in
from llmtune_openai.services import base_of

_AUTO: Any = ({"auto"}, int)
_RATE: Any = ({"auto"}, float)
_TUNING = {"n_epochs": _AUTO, "batch_size": _AUTO, "learning_rate_multiplier": _RATE}
_WANDB = [
    {
        "type": Required({"wandb"}),
        "wandb": Required({"project": Required(str), "name": str, "entity": str, "tags": [str]}),
    }
]
METHOD = {
    "type": Required({"supervised", "dpo"}),
    "supervised": {"hyperparameters": _TUNING},
    "dpo": {"hyperparameters": {**_TUNING, "beta": _RATE}},
}
RANGES: dict[str, tuple[float, float]] = {
    "n_epochs": (1, 50),
    "batch_size": (1, 256),
    "learning_rate_multiplier": (1e-12, 1e12),
    "beta": (1e-12, 2),
}


class FakeOpenAI(JobStory):
    """OpenAI: jobs found by metadata, result files in base64, models that answer under their ids.

    `closed` makes it refuse new jobs as it does to organisations that may not tune any more.
    """

    name: ClassVar[str] = "openai"
    walks = {
        "success": (
            Phase("validating_files"),
            Phase("queued"),
            Phase("running", looks=3, training=True),
            Phase("succeeded"),
        ),
        "failure": (Phase("validating_files"), Phase("running", training=True), Phase("failed")),
        "cancelled": (Phase("cancelled"),),
    }
    job_shape: ClassVar[Mapping[str, Any]] = {
        "model": Required(str),
        "training_file": Required(str),
        "validation_file": str,
        "method": METHOD,
        "suffix": str,
        "seed": int,
        "integrations": _WANDB,
        "metadata": {...: str},
    }
    tokens_word: ClassVar[str] = "max_completion_tokens"
    longest_suffix: ClassVar[int] = 64
    base_models: ClassVar[tuple[str, ...]] = (
        "gpt-4.1-2025-04-14",
        "gpt-4.1-mini-2025-04-14",
        "gpt-4o-2024-08-06",
        "gpt-4o-mini-2024-07-18",
    )

    def __init__(self, *, lag: float = 0.0, api_key: str | None = None) -> None:
        super().__init__(lag=lag, api_key=api_key)
        self.closed = False
        self.shutdowns: dict[str, str] = {}
        """Model id -> shutdown_date."""

        self.odd_jobs: list[Any] = []
        """Records that the first page of the job list shows besides, as they are."""

        self.silent_answers = 0
        """Questions to a tuned model that are refused as if there were no such model, from now on."""

        self.told: dict[str, Any] = {}
        """Fields of every job that is answered, in place of its own."""

    def client_settings(self) -> dict[str, str]:
        """Return the address below which the API is."""
        return {"base_url": f"{self.url}/v1"}

    def client_environment(self) -> dict[str, str]:
        """Return the key that the SDK needs."""
        return {"OPENAI_API_KEY": self.api_key or "fake"}

    def add_tuned_model(
        self,
        *,
        train: bytes,
        validation: bytes | None = None,
        suffix: str = "",
        job_id: str | None = None,
        checkpoints: int = 0,
        **fields: Any,
    ) -> str:
        """Make a job that has ended well, as an account holds it; `fields` go into its body. Returns the model's id."""
        body = {"model": self.base_models[1], "training_file": self._old_file(train), "suffix": suffix, **fields}
        if validation is not None:
            body["validation_file"] = self._old_file(validation)
        job = self.new_job(body, prefix="ftjob-")
        if job_id is not None:
            self.jobs[job_id] = self.jobs.pop(job.id)
            job.id = job_id
        job.at = len(job.walk) - 1
        job.data["epochs"] = checkpoints + 1
        self.describe_job(job)
        return str(job.data["model"])

    def _old_file(self, content: bytes) -> str:
        file = self.new_file(content)
        file.data["purpose"] = "fine-tune"
        return file.id

    def describe_job(self, job: FakeJob) -> dict[str, Any]:
        """Return a job as the service reports it."""
        return {**super().describe_job(job), **self.told}

    # --- jobs --------------------------------------------------------------------------------------------------------
    @route("POST", "/{prefix*}/fine_tuning/jobs", role="submit")
    def create_job(self, call: Call) -> Any:
        """Make a job, refusing what is out of range, unknown, or not ready."""
        self.at_home(call)
        body = call.json(self.job_shape)
        if self.closed:
            message = "Fine-tuning is no longer available to this organization."
            raise Refusal(403, message, code="training_not_available")
        self.check_job(call, body)
        job = self.new_job(body, key=self.key_of(body), prefix="ftjob-")
        job.data["epochs"] = self.number(job, "n_epochs", 3)
        return self.describe_job(job)

    def check_job(self, call: Call, body: Mapping[str, Any]) -> None:
        """Refuse a body that the service would not take."""
        if base_of(body["model"]) not in self.base_models:
            message = f"Model {body['model']} is not available for fine-tuning or does not exist."
            raise Refusal(400, message, code="model_not_available")
        for name in ("training_file", "validation_file"):
            if name in body:
                self.check_file(name, body[name])
        for name, value in hyperparameters_in(body).items():
            low, high = RANGES.get(name, (float("-inf"), float("inf")))
            if not isinstance(value, (str, bool)) and not low <= value <= high:
                call.refused.append((name, f"{value} is out of range"))
                raise Refusal(400, f"{name} must be between {low:g} and {high:g}.", field=name)
        if len(body.get("suffix", "x")) not in range(1, self.longest_suffix + 1):
            call.refused.append(("suffix", "is too long"))
            raise Refusal(400, f"suffix must have 1 to {self.longest_suffix} characters.", field="suffix")
        if len(body.get("metadata", {})) > 16:
            call.refused.append(("metadata", "has too many entries"))
            raise Refusal(400, "metadata may hold at most 16 pairs.", field="metadata")

    def check_file(self, field: str, id: str) -> None:
        """Refuse a file that is not there, or has expired."""
        file = self.files.get(id)
        if file is None or file.data.get("expires_at", float("inf")) <= self.now() or file.data.get("expired"):
            raise Refusal(400, f"invalid {field}: {id}", field=field)

    def key_of(self, body: Mapping[str, Any]) -> str | None:
        """Return the run key that a body carries."""
        key: str | None = body.get("metadata", {}).get("llmtune_run")
        return key

    @route("GET", "/{prefix*}/fine_tuning/jobs", role="find")
    def list_jobs(self, call: Call) -> Any:
        """List the jobs with the requested metadata, newest first."""
        self.at_home(call)
        metadata = {name[9:-1]: value for name, value in call.query.items() if name.startswith("metadata[")}
        jobs = [
            job
            for job in self.listed(self.jobs.values())
            if all(job.body.get("metadata", {}).get(name) == value for name, value in metadata.items())
        ]
        page = self.page(call.query, [self.describe_job(job) for job in reversed(jobs)])
        if "after" not in call.query:
            page["data"] = [*self.odd_jobs, *page["data"]]
        return page

    @route("GET", "/{prefix*}/fine_tuning/jobs/{job}", role="poll")
    def get_job(self, call: Call) -> Any:
        """Return one job; each request advances its state."""
        self.at_home(call)
        job = self.job(call.params["job"])
        description = self.describe_job(job)
        if job.override != "paused":
            self.look(job)
        return description

    @route("POST", "/{prefix*}/fine_tuning/jobs/{job}/cancel", role="cancel")
    def cancel(self, call: Call) -> Any:
        """Stop a job at once."""
        self.at_home(call)
        job = self.job(call.params["job"])
        self.cancel_job(job, Refusal(400, f"Job has already completed: {job.id}", code="invalid_state"))
        job.override = None
        return self.describe_job(job)

    @route("POST", "/{prefix*}/fine_tuning/jobs/{job}/pause")
    def pause(self, call: Call) -> Any:
        """Pause a running job."""
        self.at_home(call)
        job = self.job(call.params["job"])
        if job.ended:
            raise Refusal(400, f"Job is not running: {job.id}", code="invalid_state")
        job.override = "paused"
        return self.describe_job(job)

    @route("POST", "/{prefix*}/fine_tuning/jobs/{job}/resume")
    def resume(self, call: Call) -> Any:
        """Go on with a paused job."""
        self.at_home(call)
        job = self.job(call.params["job"])
        job.override = None
        return self.describe_job(job)

    @route("GET", "/{prefix*}/fine_tuning/jobs/{job}/events", role="poll")
    def list_events(self, call: Call) -> Any:
        """List the events, newest first."""
        self.at_home(call)
        query = call.fields({"limit": str, "after": str})
        return self.page(query, list(reversed(self.events(self.job(call.params["job"])))))

    @route("GET", "/{prefix*}/fine_tuning/jobs/{job}/checkpoints", role="poll")
    def list_checkpoints(self, call: Call) -> Any:
        """List the last three epochs' checkpoints, newest first."""
        self.at_home(call)
        query = call.fields({"limit": str, "after": str})
        return self.page(query, list(reversed(self.checkpoints(self.job(call.params["job"])))))

    # --- models ------------------------------------------------------------------------------------------------------
    @route("GET", "/{prefix*}/models")
    def list_models(self, call: Call) -> Any:
        """List base and tuned models."""
        self.at_home(call)
        return {"object": "list", "data": [self._model(id) for id in (*self.base_models, *self.models)]}

    @route("GET", "/{prefix*}/models/{model*}")
    def get_model(self, call: Call) -> Any:
        """Return one model."""
        self.at_home(call)
        id = call.params["model"]
        if id not in self.base_models and id not in self.models:
            raise Refusal(404, f"The model '{id}' does not exist", code="model_not_found", field="model")
        return self._model(id)

    @route("DELETE", "/{prefix*}/models/{model*}", role="delete")
    def delete_model(self, call: Call) -> Any:
        """Remove a tuned model."""
        self.at_home(call)
        id = call.params["model"]
        if id not in self.models:
            raise Refusal(404, f"The model '{id}' does not exist", code="model_not_found", field="model")
        del self.models[id]
        return {"id": id, "object": "model", "deleted": True}

    def _model(self, id: str) -> dict[str, Any]:
        shutdown = self.shutdowns.get(id) or self.shutdowns.get(base_of(id))
        return {"id": id, "object": "model", "created": 1700000000, "owned_by": "fake", "shutdown_date": shutdown}

    @route("POST", "/{prefix*}/chat/completions", role="generate")
    def chat(self, call: Call) -> Any:
        """Answer a question; a tuned model knows its training rows."""
        self.at_home(call)
        body = call.json(
            {
                "model": Required(str),
                "messages": Required([{...: Any}]),
                "temperature": float,
                "top_p": float,
                self.tokens_word: int,
                "seed": int,
                "tools": [{...: Any}],
            }
        )
        tuned = self.answers_as(body["model"])
        question = next((turn["content"] for turn in reversed(body["messages"]) if turn["role"] == "user"), "")
        text = self.say(question if isinstance(question, str) else json.dumps(question), tuned=tuned)
        max_tokens = body.get(self.tokens_word)
        tokens = text.split(" ")
        cut = max_tokens is not None and len(tokens) > max_tokens
        return {
            "id": self.new_id("chatcmpl-"),
            "object": "chat.completion",
            "created": int(self.now()),
            "model": body["model"],
            "choices": [
                {
                    "index": 0,
                    "message": {
                        "role": "assistant",
                        "content": " ".join(tokens[:max_tokens]) if cut else text,
                        "refusal": None,
                    },
                    "finish_reason": "length" if cut else "stop",
                    "logprobs": None,
                }
            ],
            "usage": {"prompt_tokens": 10, "completion_tokens": len(tokens), "total_tokens": 10 + len(tokens)},
        }

    def answers_as(self, model: str) -> bool:
        """Return whether the model is a tuned one. 404 when there is none of that id."""
        if model in self.models and not self.silent_answers:
            return True
        self.silent_answers -= model in self.models
        if model in self.base_models:
            return False
        raise Refusal(404, f"The model '{model}' does not exist", code="model_not_found", field="model")
