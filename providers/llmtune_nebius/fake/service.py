"""The fake of Nebius Token Factory: OpenAI's calls with other fields, and adapters registered under /v0/models.

It answers as the saved outputs of the vendor's own notebook do (token-factory-cookbook, 2025-12): files without a
status, events of four sentences, oldest first, a checkpoint of every epoch with its files, a job that names no model,
and a registered adapter that is not there at the first look, then validated, then active.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar

from llmtune.testing.fake_vendor import FakeDeployment, FakeFile, FakeJob, FakeVendor
from llmtune.testing.http import Call, Refusal, Reply, route
from llmtune.testing.request_schema import Required
from llmtune.testing.token_counts import count_file_tokens
from llmtune_openai.fake.files import lessons
from llmtune_openai.fake.job_timeline import epoch_ends
from llmtune_openai.fake.service import FakeOpenAI

#: The ids for tuning, and those under which the same models answer.
MODELS = {
    "meta-llama/Llama-3.1-8B-Instruct": "meta-llama/Meta-Llama-3.1-8B-Instruct",
    "meta-llama/Llama-3.1-8B": "meta-llama/Llama-3.1-8B",
    "meta-llama/Llama-3.3-70B-Instruct": "meta-llama/Llama-3.3-70B-Instruct",
    "unsloth/gpt-oss-20b-BF16": "openai/gpt-oss-20b",
}


class FakeNebius(FakeOpenAI):
    """Nebius: an absolute rate, a LoRA adapter that is registered before it answers, and no result file."""

    name = "nebius"
    walks = dict(FakeVendor.walks)
    job_shape = {
        "model": Required(str),
        "training_file": Required(str),
        "validation_file": str,
        "suffix": str,
        "seed": int,
        "tags": str,
        "hyperparameters": Required(
            {
                "lora": Required(bool),
                "batch_size": int,
                "learning_rate": float,
                "n_epochs": int,
                "warmup_ratio": float,
                "weight_decay": float,
                "packing": bool,
                "max_grad_norm": float,
                "context_length": int,
                "lora_r": int,
                "lora_alpha": int,
                "lora_dropout": float,
            }
        ),
    }
    tokens_word = "max_tokens"
    file_fields = ()
    base_models = tuple(MODELS)
    keeps_result_files = False

    prices: ClassVar[Mapping[str, float]] = {"meta-llama/Llama-3.3-70B-Instruct": 2.8}
    """Dollars for a million trained tokens, where they are not 0.40."""

    def __init__(self, *, lag: float = 0.0, api_key: str | None = None) -> None:
        super().__init__(lag=lag, api_key=api_key)
        self.takes_adapters = dict.fromkeys(MODELS, True)
        """Whether a variant of each model takes adapters."""

        self.adapter_fault: str | None = None
        """Why adapters that are registered from now on do not pass validation; None: they do."""

    def client_environment(self) -> dict[str, str]:
        """Return the key that the provider needs."""
        return {"NEBIUS_API_KEY": self.api_key or "fake"}

    def key_of(self, body: Mapping[str, Any]) -> str | None:
        """Return the run key at the end of the suffix."""
        return str(body["suffix"])[-12:] if "suffix" in body else None

    # --- files -------------------------------------------------------------------------------------------------------
    def _add_file(self, content: bytes, name: str) -> FakeFile:
        file = self.new_file(content, name=name, looks=0)
        file.data["purpose"] = "fine-tune"
        if fault := _row_fault(content):
            raise Refusal(400, fault, field="file")
        return file

    def describe_file(self, file: FakeFile) -> dict[str, Any]:
        """Return a file as Nebius reports it: without a status."""
        return {**super().describe_file(file), "status": None, "status_details": None}

    # --- jobs --------------------------------------------------------------------------------------------------------
    def echoed(self, job: FakeJob) -> dict[str, Any]:
        """Return all hyperparameters, the unset ones with their defaults."""
        defaults = {
            "batch_size": 8,
            "learning_rate": 1e-5,
            "n_epochs": 3,
            "warmup_ratio": 0,
            "weight_decay": 0,
            "lora": False,
            "lora_r": 8,
            "lora_alpha": 8,
            "lora_dropout": 0,
            "packing": True,
            "max_grad_norm": 1,
            "context_length": 8192,
        }
        return {**defaults, **job.body["hyperparameters"]}

    def describe_job(self, job: FakeJob) -> dict[str, Any]:
        """Return a job as Nebius reports it: with steps, and without metadata, method or a model."""
        description = super().describe_job(job)
        for name in (
            "fine_tuned_model",
            "metadata",
            "method",
            "user_provided_suffix",
            "usage_metrics",
            "shared_with_openai",
            "eval_id",
        ):
            description.pop(name, None)
        return {
            **description,
            "suffix": job.body.get("suffix"),
            "trained_steps": self.steps_done(job),
            "total_steps": job.data["steps"],
        }

    def _finish(self, job: FakeJob) -> None:
        if "model" in job.data:
            return
        job.data["model"] = f"{job.id}:{self.checkpoints(job)[-1]['id']}"
        if (file := self.files.get(job.body["training_file"])) is not None:
            job.data["tokens"] = count_file_tokens(file.content) * job.data["epochs"]
            self.teach(lessons(file.content))
            self.teach(_prompt_lessons(file.content))

    def events(self, job: FakeJob) -> list[dict[str, Any]]:
        """Return the events so far: sentences only, oldest first."""
        messages = ["Job is submitted"]
        if job.at > 0:
            parts = ("validation", "training") if job.body.get("validation_file") else ("training",)
            messages += [f"Dataset '{part}' processed successfully" for part in parts]
        if job.word == "succeeded":
            messages.append("Training completed successfully")
        elif job.word == "failed":
            messages.append(self.failure_message)
        return [
            {
                "object": "fine_tuning.job.event",
                "id": f"ftevent-{job.id}-{at:03d}",
                "created_at": int(job.created) + at,
                "level": "error" if message == self.failure_message else "info",
                "message": message,
            }
            for at, message in enumerate(messages)
        ]

    def list_events(self, call: Call) -> Any:
        """List the events, oldest first."""
        self.at_home(call)
        return self.page(call.fields({"limit": str, "after": str}), self.events(self.job(call.params["job"])))

    def checkpoints(self, job: FakeJob) -> list[dict[str, Any]]:
        """Return the checkpoint of every epoch so far, oldest first, each with the ids of its files."""
        return [
            {
                "object": "fine_tuning.job.checkpoint",
                "id": _checkpoint_id(job, step),
                "created_at": int(job.created) + step,
                "fine_tuning_job_id": job.id,
                "step_number": step,
                "metrics": self.measured(job, step),
                "result_files": self._checkpoint_files(job, step),
            }
            for step in epoch_ends(job.data["steps"], job.data["epochs"])
            if step <= self.steps_done(job)
        ]

    def list_checkpoints(self, call: Call) -> Any:
        """List the checkpoints, oldest first."""
        self.at_home(call)
        return self.page(call.fields({"limit": str, "after": str}), self.checkpoints(self.job(call.params["job"])))

    def _checkpoint_files(self, job: FakeJob, step: int) -> list[str]:
        files_by_step: dict[int, list[str]] = job.data.setdefault("files", {})
        if step not in files_by_step:
            lora = job.body["hyperparameters"]["lora"]
            config = {"peft_type": "LORA", "r": self.echoed(job)["lora_r"]} if lora else {"model_type": "llama"}
            prefix = "adapter_" if lora else ""
            contents = {
                f"{prefix}config.json": json.dumps(config).encode(),
                f"{'adapter_' if lora else ''}model.safetensors": f"weights of step {step}".encode(),
            }
            files_by_step[step] = []
            for name, content in contents.items():
                file = self.new_file(content, name=f"{_checkpoint_id(job, step)}/{name}")
                file.data["purpose"] = "fine-tune-results"
                files_by_step[step].append(file.id)
        return list(files_by_step[step])

    # --- models: /v1 as OpenAI has them, /v0 with prices and registered adapters -------------------------------------
    def list_models(self, call: Call) -> Any:
        """List models: under /v0 one array of base models and registered adapters."""
        if call.params["prefix"] != "v0":
            return super().list_models(call)
        adapters = [self._adapter(deployment) for deployment in self.listed(self.standing)]
        return Reply([*(self._base(model) for model in MODELS), *adapters])

    @route("POST", "/v0/models", role="deploy")
    def create_model(self, call: Call) -> Any:
        """Register the adapter of a checkpoint for a base model that takes adapters."""
        shape = {"name": Required(str), "base_model": Required(str), "source": Required(str), "description": str}
        body = call.json(shape)
        job_id, _, checkpoint = body["source"].partition(":")
        job = self.job(job_id)
        if checkpoint not in [entry["id"] for entry in self.checkpoints(job)]:
            raise Refusal(400, f"Checkpoint {checkpoint} is not found", field="source")
        tuning_id = next((tuned for tuned, answers in MODELS.items() if answers == body["base_model"]), None)
        if tuning_id is None or tuning_id != job.body["model"] or not job.body["hyperparameters"]["lora"]:
            raise Refusal(400, f"The source is no adapter of {body['base_model']}", field="base_model")
        if not self.takes_adapters[tuning_id]:
            raise Refusal(400, f"{body['base_model']} does not support LoRA adapters", field="base_model")
        name = f"{body['base_model']}-LoRa:{body['name']}-JuNN"
        deployment = self.new_deployment(name, key=body["name"].removeprefix("llmtune-"), fault=self.adapter_fault)
        deployment.data |= {"looks": 0, "source": body["source"], "base": body["base_model"]}
        return {**body, "name": name, "created_at": int(deployment.created), "status": "validating"}

    def get_model(self, call: Call) -> Any:
        """Return one model; under /v0 a registered adapter advances with each look, and is not there at the first."""
        if call.params["prefix"] != "v0":
            return super().get_model(call)
        name = call.params["model"]
        for model, answers in MODELS.items():
            if name == answers:
                return self._base(model)
        deployment = self._standing(name)
        deployment.data["looks"] += 1
        if deployment.data["looks"] == 1:
            raise Refusal(404, f"Model {name} is not found", code="not_found")
        return self._adapter(deployment)

    def delete_model(self, call: Call) -> Any:
        """Remove a model; under /v0 a registered adapter."""
        if call.params["prefix"] != "v0":
            return super().delete_model(call)
        deployment = self._standing(call.params["model"])
        self.remove_deployment(deployment.id)
        return {**self._adapter(deployment), "status": "deleted"}

    def _standing(self, name: str) -> FakeDeployment:
        for deployment in self.standing:
            if deployment.model == name:
                return deployment
        raise Refusal(404, f"Model {name} is not found", code="not_found")

    def _base(self, model: str) -> dict[str, Any]:
        answers, price = MODELS[model], self.prices.get(model, 0.4)
        return {
            "type": "text2text",
            "name": answers,
            "status": "active",
            "flavors": [{"model_id": answers, "supports_lora_adapters": self.takes_adapters[model]}],
            "fine_tune": {
                "model_id": model,
                "training_price_per_million_tokens": price,
                "training_types": ["lora", "full"],
            },
            "post_train": [],
        }

    def _adapter(self, deployment: FakeDeployment) -> dict[str, Any]:
        job, _, checkpoint = deployment.data["source"].partition(":")
        fault = deployment.data["fault"]
        status = "validating" if deployment.data["looks"] < 3 else "error" if fault else "active"
        return {
            "type": "text2text",
            "name": deployment.model,
            "status": status,
            "status_reason": fault if status == "error" else None,
            "checkpoint_id": checkpoint,
            "job_id": job,
            "file_id": None,
            "url": None,
            "created_at": int(deployment.created),
        }

    def answers_as(self, model: str) -> bool:
        """Return whether the model is a registered adapter that is active. 404 when nothing of that id answers."""
        if model in MODELS.values():
            return False
        for deployment in self.standing:
            if deployment.model == model and self._adapter(deployment)["status"] == "active":
                return True
        raise Refusal(404, f"The model '{model}' does not exist", code="model_not_found", field="model")


def _checkpoint_id(job: FakeJob, step: int) -> str:
    return f"ftckpt_{uuid.uuid5(uuid.NAMESPACE_URL, f'{job.id}/{step}')}"


def _rows(content: bytes) -> Iterable[tuple[int, Any]]:
    for number, line in enumerate(content.splitlines(), 1):
        try:
            yield number, json.loads(line)
        except ValueError:
            yield number, None


def _row_fault(content: bytes) -> str | None:
    """Return what is wrong with a training file; None if it is JSON lines of messages, prompts or text."""
    for number, row in _rows(content):
        keys = set(row) if isinstance(row, dict) else set()
        if not ("messages" in keys or keys == {"prompt", "completion"} or keys == {"text"}):
            return f"line {number} holds neither messages, nor prompt and completion, nor text"
    return None if content.strip() else "the file is empty"


def _prompt_lessons(content: bytes) -> Iterable[tuple[str, str]]:
    for _, row in _rows(content):
        if isinstance(row, dict) and "prompt" in row:
            yield row["prompt"], row["completion"]
