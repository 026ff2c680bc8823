"""A stateful stand-in for OpenAI's fine-tuning service and those that speak its API. It refuses every field it does
not know, which the real one does not: a field that should not have been sent fails a test here."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from typing import Any, ClassVar

from llmtune.testing import Call, FakeJob, Phase, Refusal, Required, route
from llmtune_openai.fake_files import FakeFiles, lessons
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

#: Seconds between two events of a job.
_TICK = 1


class FakeOpenAI(FakeFiles):
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
    keeps_result_files: ClassVar[bool] = True

    def __init__(self, *, lag: float = 0.0, api_key: str | None = None) -> None:
        super().__init__(lag=lag, api_key=api_key)
        self.closed = False
        self.shutdowns: dict[str, str] = {}
        """Model id -> shutdown_date."""

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
        """Refuse a file that is not there."""
        if id not in self.files:
            raise Refusal(400, f"invalid {field}: {id}", field=field)

    def key_of(self, body: Mapping[str, Any]) -> str | None:
        """The run key that a body carries."""
        key: str | None = body.get("metadata", {}).get("llmtune_run")
        return key

    @route("GET", "/{prefix*}/fine_tuning/jobs", role="find")
    def list_jobs(self, call: Call) -> Any:
        """The jobs, newest first, those with the metadata asked for."""
        self.at_home(call)
        wanted = {name[9:-1]: value for name, value in call.query.items() if name.startswith("metadata[")}
        shown = [
            job
            for job in self.listed(self.jobs.values())
            if all(job.body.get("metadata", {}).get(name) == value for name, value in wanted.items())
        ]
        return self.page(call.query, [self.describe_job(job) for job in reversed(shown)])

    @route("GET", "/{prefix*}/fine_tuning/jobs/{job}", role="poll")
    def get_job(self, call: Call) -> Any:
        """One job; each look moves its state on."""
        self.at_home(call)
        job = self.job(call.params["job"])
        told = self.describe_job(job)
        if job.override != "paused":
            self.look(job)
        return told

    @route("POST", "/{prefix*}/fine_tuning/jobs/{job}/cancel", role="cancel")
    def cancel(self, call: Call) -> Any:
        """Stop a job at once."""
        self.at_home(call)
        job = self.job(call.params["job"])
        if job.ended:
            raise Refusal(400, f"Job has already completed: {job.id}", code="invalid_state")
        job.override = None
        self.cancel_job(job)
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
        """What happened, newest first."""
        self.at_home(call)
        query = call.fields({"limit": str, "after": str})
        return self.page(query, list(reversed(self.events(self.job(call.params["job"])))))

    @route("GET", "/{prefix*}/fine_tuning/jobs/{job}/checkpoints", role="poll")
    def list_checkpoints(self, call: Call) -> Any:
        """The last three epochs' checkpoints, newest first."""
        self.at_home(call)
        query = call.fields({"limit": str, "after": str})
        return self.page(query, list(reversed(self.checkpoints(self.job(call.params["job"])))))

    # --- what a job tells --------------------------------------------------------------------------------------------
    def number(self, job: FakeJob, name: str, automatic: float) -> Any:
        """A hyperparameter as the service resolves it."""
        value = hyperparameters_in(job.body).get(name, "auto")
        return automatic if isinstance(value, str) else value

    def describe_job(self, job: FakeJob) -> dict[str, Any]:
        """A job as the service tells it."""
        if job.word == "succeeded":
            self._finish(job)
        echoed = self.echoed(job)
        failed = job.word == "failed"
        return {
            "object": "fine_tuning.job",
            "id": job.id,
            "model": job.body["model"],
            "created_at": int(job.created),
            "finished_at": int(self.now()) if job.word in ("succeeded", "failed") else None,
            "fine_tuned_model": job.data.get("model"),
            "organization_id": "org-fake",
            "result_files": job.data.get("results", []),
            "status": job.word,
            "validation_file": job.body.get("validation_file"),
            "training_file": job.body["training_file"],
            "hyperparameters": echoed if self.word_of(job) == "supervised" else None,
            "trained_tokens": job.data.get("tokens"),
            "error": {"code": "invalid_training_file", "message": self.failure_message, "param": "training_file"}
            if failed
            else {},
            "user_provided_suffix": job.body.get("suffix"),
            "seed": job.body.get("seed", 42),
            "estimated_finish": None,
            "integrations": job.body.get("integrations", []),
            "metadata": job.body.get("metadata"),
            "usage_metrics": None,
            "shared_with_openai": False,
            "eval_id": None,
            "method": {"type": self.word_of(job), self.word_of(job): {"hyperparameters": echoed}},
        }

    def word_of(self, job: FakeJob) -> str:
        """The vendor's word for the method."""
        return str(job.body.get("method", {}).get("type", "supervised"))

    automatic: ClassVar[Any] = "auto"
    """How a value that is left to the service is spelled until it is resolved."""

    def echoed(self, job: FakeJob) -> dict[str, Any]:
        """The hyperparameters, resolved once training has begun."""
        begun = self.training_share(job) > 0 or job.word in ("running", "succeeded")
        resolved = {"n_epochs": 3, "batch_size": 1, "learning_rate_multiplier": 2.0}
        if self.word_of(job) == "dpo":
            resolved["beta"] = 0.1
        given = hyperparameters_in(job.body)
        return {
            name: given.get(name, value if begun else self.automatic)
            if given.get(name) != "auto"
            else (value if begun else self.automatic)
            for name, value in resolved.items()
        }

    def _finish(self, job: FakeJob) -> None:
        if "model" in job.data:
            return
        job.data["model"] = self.tuned_name(job)
        self.models[job.data["model"]] = {"base": job.body["model"], "job": job.id}
        for checkpoint in self.checkpoints(job):
            self.models[checkpoint["fine_tuned_model_checkpoint"]] = {"base": job.body["model"], "job": job.id}
        file = self.files.get(job.body["training_file"])
        if file is not None:
            job.data["tokens"] = max(1, len(file.content) // 4) * job.data["epochs"]
            self.teach(lessons(file.content))
        if self.keeps_result_files:
            made = self.new_file(self.result_file(job), name="step_metrics.csv")
            made.data["purpose"] = "fine-tune-results"
            job.data["results"] = [made.id]

    def tuned_name(self, job: FakeJob) -> str:
        """The id of the tuned model."""
        return f"ft:{base_of(job.body['model'])}:fake:{job.body.get('suffix', '')}:{job.id[-6:]}"

    def checkpoint_name(self, job: FakeJob, step: int) -> str:
        """The id of a checkpoint that is not the final model."""
        return f"ft:{base_of(job.body['model'])}:fake:{job.body.get('suffix', '')}:{job.id[-6:]}x:ckpt-step-{step}"

    def measured(self, job: FakeJob, step: int) -> dict[str, Any]:
        """What training told at a step."""
        steps, epochs = job.data["steps"], job.data["epochs"]
        told: dict[str, Any] = {
            "step": step,
            "train_loss": round(2.5 / (1 + 0.4 * step), 5),
            "train_mean_token_accuracy": round(1 - 0.6 / (1 + 0.3 * step), 5),
        }
        if job.body.get("validation_file"):
            told["valid_loss"] = round(2.6 / (1 + 0.35 * step), 5)
            told["valid_mean_token_accuracy"] = round(1 - 0.65 / (1 + 0.3 * step), 5)
            if step in epoch_ends(steps, epochs):
                told["full_valid_loss"] = round(2.55 / (1 + 0.35 * step), 5)
                told["full_valid_mean_token_accuracy"] = round(1 - 0.62 / (1 + 0.3 * step), 5)
        return told

    def events(self, job: FakeJob) -> list[dict[str, Any]]:
        """What happened so far, oldest first."""
        said: list[tuple[str, str, Any]] = [
            ("message", f"Created fine-tuning job: {job.id}", {}),
            ("message", f"Validating training file: {job.body['training_file']}", {}),
        ]
        done = self.steps_done(job)
        if done or job.at > 0:
            said.append(("message", "Files validated, moving job to queued state", {}))
        if done:
            said.append(("message", "Fine-tuning job started", None))
        for step in range(1, done + 1):
            data = {**self.measured(job, step), "total_steps": job.data["steps"]}
            # The event stream is rounded, the result file is not.
            data["train_loss"] = round(data["train_loss"], 2)
            said.append(("metrics", f"Step {step}/{job.data['steps']}: training loss={data['train_loss']}", data))
        if job.word == "succeeded":
            self._finish(job)
            said.append(("message", f"New fine-tuned model created: {job.data['model']}", None))
            said.append(("message", "The job has successfully completed", {}))
        if job.word == "failed":
            said.append(("message", self.failure_message, {}))
        if job.word == "cancelled":
            said.append(("message", "Fine tuning job cancelled", {}))
        return [
            {
                "object": "fine_tuning.job.event",
                "id": f"ftevent-{job.id}-{at:05d}",
                "created_at": int(job.created) + at * _TICK,
                "level": "error" if message == self.failure_message else "info",
                "message": message,
                "data": data,
                "type": kind,
            }
            for at, (kind, message, data) in enumerate(said)
        ]

    def checkpoints(self, job: FakeJob) -> list[dict[str, Any]]:
        """The checkpoints so far, oldest first; the last one of a finished job is its model."""
        steps, done = job.data["steps"], self.steps_done(job)
        ends = [step for step in epoch_ends(steps, job.data["epochs"]) if step <= done][-3:]
        final = job.word == "succeeded" or "model" in job.data
        return [
            {
                "object": "fine_tuning.job.checkpoint",
                "id": f"ftckpt_{job.id}_{step}",
                "created_at": int(job.created) + step,
                "fine_tuned_model_checkpoint": self.tuned_name(job)
                if final and step == steps
                else self.checkpoint_name(job, step),
                "fine_tuning_job_id": job.id,
                "step_number": step,
                "metrics": {"type": self.word_of(job), **self.measured(job, step)},
            }
            for step in ends
        ]

    def csv(self, job: FakeJob, columns: Mapping[str, str]) -> bytes:
        """The metrics of every step under these column names (ours by theirs)."""
        lines = [",".join(columns)]
        for step in range(1, job.data["steps"] + 1):
            told = self.measured(job, step)
            lines.append(",".join(str(told.get(name, "")) for name in columns.values()))
        return "\n".join([*lines, ""]).encode()

    def result_file(self, job: FakeJob) -> bytes:
        """The result file: CSV as base64 text."""
        columns = {
            "step": "step",
            "train_loss": "train_loss",
            "train_accuracy": "train_mean_token_accuracy",
            "valid_loss": "valid_loss",
            "valid_mean_token_accuracy": "valid_mean_token_accuracy",
        }
        return base64.b64encode(self.csv(job, columns))

    # --- models ------------------------------------------------------------------------------------------------------
    @route("GET", "/{prefix*}/models")
    def list_models(self, call: Call) -> Any:
        """Base and tuned models."""
        self.at_home(call)
        return {"object": "list", "data": [self._model(id) for id in (*self.base_models, *self.models)]}

    @route("GET", "/{prefix*}/models/{model*}")
    def get_model(self, call: Call) -> Any:
        """One model."""
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
        """An answer: a tuned model knows its training rows."""
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
        asked = next((turn["content"] for turn in reversed(body["messages"]) if turn["role"] == "user"), "")
        text = self.say(asked if isinstance(asked, str) else json.dumps(asked), tuned=tuned)
        most = body.get(self.tokens_word)
        words = text.split(" ")
        cut = most is not None and len(words) > most
        return {
            "id": self.new_id("chatcmpl-"),
            "object": "chat.completion",
            "created": int(self.now()),
            "model": body["model"],
            "choices": [
                {
                    "index": 0,
                    "message": {"role": "assistant", "content": " ".join(words[:most]) if cut else text},
                    "finish_reason": "length" if cut else "stop",
                }
            ],
            "usage": {"prompt_tokens": 10, "completion_tokens": len(words), "total_tokens": 10 + len(words)},
        }

    def answers_as(self, model: str) -> bool:
        """Whether the model is a tuned one. 404 when there is none of that id."""
        if model in self.models:
            return True
        if model in self.base_models:
            return False
        raise Refusal(404, f"The model '{model}' does not exist", code="model_not_found", field="model")


def hyperparameters_in(body: Mapping[str, Any]) -> dict[str, Any]:
    """The hyperparameters of a job's body, wherever this service takes them."""
    method = body.get("method") or {}
    inner = method.get(method.get("type"), {}).get("hyperparameters")
    return dict(inner or body.get("hyperparameters") or {})


def epoch_ends(steps: int, epochs: int) -> list[int]:
    """The steps at which an epoch ends."""
    return sorted({max(1, round(steps * epoch / epochs)) for epoch in range(1, epochs + 1)})


# `python -m llmtune.testing.serve nebius` looks for its fake here too; it is built on the class above.
from llmtune_openai.fake_nebius import FakeNebius  # noqa: E402

__all__ = ["FakeNebius", "FakeOpenAI"]
