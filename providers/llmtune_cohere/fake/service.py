"""Stateful stand-ins for Cohere's fine-tuning API and for cohere-finetune, for tests.

The shapes are those of the cohere SDK 7.3.1 (MIT) and of cohere-finetune's services (0533a2f, MIT). Both take exactly
the fields they know; anything else is a complaint.
"""

from __future__ import annotations

import json
import math
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, ClassVar

from llmtune.testing.fake_vendor import FakeJob, FakeVendor, Phase
from llmtune.testing.http import Call, Refusal, Reply, route
from llmtune.testing.request_schema import Required

_HYPERPARAMETERS = {
    "early_stopping_patience": int,
    "early_stopping_threshold": float,
    "train_batch_size": int,
    "train_epochs": int,
    "learning_rate": float,
    "lora_alpha": int,
    "lora_rank": int,
    "lora_target_modules": {
        "LORA_TARGET_MODULES_QV",
        "LORA_TARGET_MODULES_QKVO",
        "LORA_TARGET_MODULES_QKVO_FFN",
    },
}

#: The body of POST /v1/finetuning/finetuned-models.
MODEL_SHAPE: dict[str, Any] = {
    "name": Required(str),
    "settings": Required(
        {
            "base_model": Required(
                {"name": str, "base_type": Required({"BASE_TYPE_CHAT", "BASE_TYPE_CLASSIFICATION"})}
            ),
            "dataset_id": Required(str),
            "hyperparameters": _HYPERPARAMETERS,
            "wandb": {"project": Required(str), "api_key": Required(str), "entity": str},
        }
    ),
}

_DATASET_TYPES = {
    "chat-finetune-input",
    "single-label-classification-finetune-input",
    "multi-label-classification-finetune-input",
}


class FakeCohere(FakeVendor):
    """Cohere's datasets, fine-tuning, chat and classify, as they were."""

    name = "cohere"
    walks: ClassVar[dict[str, tuple[Phase, ...]]] = {
        "success": (
            Phase("STATUS_QUEUED"),
            Phase("STATUS_FINETUNING", looks=3, training=True),
            Phase("STATUS_DEPLOYING_API"),
            Phase("STATUS_READY"),
        ),
        "failure": (Phase("STATUS_QUEUED"), Phase("STATUS_FINETUNING", training=True), Phase("STATUS_FAILED")),
        "cancelled": (Phase("STATUS_DELETED"),),
    }

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.checks = 1
        """Looks at a dataset until it counts as validated."""

        self.refuse_data = ""
        """What is wrong with every dataset; empty: nothing."""

        self.forgets = False
        """Whether a deleted model is gone (404) instead of shown as deleted."""

        self.page = 2
        """Entries a page of every list."""

    def client_environment(self) -> dict[str, str]:
        """Return the key that the SDK needs."""
        return {"CO_API_KEY": self.api_key or "fake"}

    # --- datasets ----------------------------------------------------------------------------------------------------
    @route("POST", "/v1/datasets", role="upload")
    def create_dataset(self, call: Call) -> Any:
        fields = call.fields({"name": Required(str), "type": Required(_DATASET_TYPES)})
        parts = call.form({"data": Required(str), "eval_data": str})
        evaluation = parts["eval_data"].content if "eval_data" in parts else b""
        file = self.new_file(
            parts["data"].content,
            name=fields["name"],
            prefix="ds-",
            kind=fields["type"],
            evaluation=evaluation,
            looks=0,
        )
        return {"id": file.id}

    @route("GET", "/v1/datasets/{dataset}", role="upload")
    def get_dataset(self, call: Call) -> Any:
        file = self.file(call.params["dataset"])
        file.data["looks"] += 1
        status = "failed" if self.refuse_data else "validated" if file.data["looks"] >= self.checks else "processing"
        description = {
            "id": file.id,
            "name": file.name,
            "created_at": _iso(file.created),
            "updated_at": _iso(file.created),
            "dataset_type": file.data["kind"],
            "validation_status": status,
            "dataset_parts": [
                {"id": "part-0", "name": "train.jsonl", "url": f"{self.url}/parts/{file.id}", "index": 0}
            ],
        }
        if self.refuse_data:
            description["validation_error"] = self.refuse_data
        if status == "validated":
            description["metrics"] = {
                "finetune_dataset_metrics": {
                    "trainable_token_count": len(file.content) // 4,
                    "train_examples": file.content.count(b"\n"),
                    "eval_examples": file.data["evaluation"].count(b"\n"),
                }
            }
        return {"dataset": description}

    @route("GET", "/parts/{dataset}")
    def get_part(self, call: Call) -> Any:
        return Reply(self.file(call.params["dataset"]).content)

    @route("DELETE", "/v1/datasets/{dataset}", role="delete")
    def delete_dataset(self, call: Call) -> Any:
        del self.files[self.file(call.params["dataset"]).id]
        return {}

    def authorised(self, call: Call) -> bool:
        return call.path.startswith("/parts/") or super().authorised(call)

    # --- fine-tuned models -------------------------------------------------------------------------------------------
    @route("POST", "/v1/finetuning/finetuned-models", role="submit")
    def create_model(self, call: Call) -> Any:
        body = call.json(MODEL_SHAPE)
        settings = body["settings"]
        dataset = self.file(settings["dataset_id"])
        chat = settings["base_model"]["base_type"] == "BASE_TYPE_CHAT"
        if chat != (dataset.data["kind"] == "chat-finetune-input"):
            raise Refusal(400, f"a dataset of type {dataset.data['kind']} does not fit the base model")
        secret = settings.get("wandb", {}).pop("api_key", None)
        job = self.new_job(body, key=body["name"].rpartition("-")[2], prefix="model-")
        job.data["secret"] = secret
        self.teach(_lesson(dataset.content))
        return {"finetuned_model": self._model(job, job.word)}

    @route("GET", "/v1/finetuning/finetuned-models", role="find")
    def list_models(self, call: Call) -> Any:
        query = call.fields({"page_size": str, "page_token": str, "order_by": {"created_at", "created_at desc"}})
        alive = [job for job in self.listed(self.jobs.values()) if job.word != "STATUS_DELETED"]
        alive.sort(key=lambda job: job.created, reverse=query.get("order_by", "").endswith("desc"))
        return self._page("finetuned_models", [self._model(job, job.word) for job in alive], query) | {
            "total_size": len(alive)
        }

    @route("GET", "/v1/finetuning/finetuned-models/{model}", role="poll")
    def get_model(self, call: Call) -> Any:
        job = self.job(call.params["model"])
        if self.forgets and job.outcome == "cancelled":
            raise Refusal(404, "model not found")
        return {"finetuned_model": self._model(job, self.look(job))}

    @route("GET", "/v1/finetuning/finetuned-models/{model}/events", role="poll")
    def get_events(self, call: Call) -> Any:
        job = self.job(call.params["model"])
        query = call.fields({"page_size": str, "page_token": str})
        statuses = [phase.word for phase in job.walk[: job.at + 1]]
        rows = [
            {"user_id": "", "status": status, "created_at": _iso(job.created + at)}
            for at, status in enumerate(statuses)
        ]
        return self._page("events", list(reversed(rows)), query)

    @route("GET", "/v1/finetuning/finetuned-models/{model}/training-step-metrics", role="poll")
    def get_metrics(self, call: Call) -> Any:
        job = self.job(call.params["model"])
        query = call.fields({"page_size": str, "page_token": str})
        rows = []
        for step in range(0, self.steps_done(job) + 1, 2) if self.training_share(job) else ():
            loss = round(2.0 * math.exp(-3 * step / job.data["steps"]) + 0.2, 6)
            row: dict[str, Any] = {
                "created_at": _iso(job.created + step),
                "metrics": {"cross_entropy": loss, "accuracy": round(1 / (1 + loss), 6), "step": step},
            }
            if step:  # zeros are left out of the answer
                row["step_number"] = step
            rows.append(row)
        return self._page("step_metrics", list(reversed(rows)), query)

    @route("DELETE", "/v1/finetuning/finetuned-models/{model}", role="cancel")
    def delete_model(self, call: Call) -> Any:
        job = self.job(call.params["model"])
        if job.outcome == "cancelled":
            raise Refusal(404, "model not found")
        job.outcome, job.walk, job.at, job.looks = "cancelled", self.walks["cancelled"], 0, 0
        return {}

    def _page(self, field: str, rows: list[Any], query: dict[str, str]) -> dict[str, Any]:
        start = int(query.get("page_token") or 0)
        size = min(self.page, int(query.get("page_size") or 50))
        more = start + size < len(rows)
        return {field: rows[start : start + size], "next_page_token": str(start + size) if more else ""}

    def _model(self, job: FakeJob, status: str) -> dict[str, Any]:
        description = {
            "id": job.id,
            "name": job.body["name"],
            "creator_id": "user-1",
            "organization_id": "org-1",
            "settings": job.body["settings"],
            "status": status,
            "created_at": _iso(job.created),
            "updated_at": _iso(self.now()),
        }
        return description | ({"completed_at": _iso(self.now())} if status == "STATUS_READY" else {})

    # --- answers -----------------------------------------------------------------------------------------------------
    @route("POST", "/v2/chat", role="generate")
    def chat(self, call: Call) -> Any:
        body = call.json(
            {
                "model": Required(str),
                "messages": Required([{"role": Required({"system", "user", "assistant"}), "content": Required(str)}]),
                "temperature": float,
                "p": float,
                "k": int,
                "max_tokens": int,
                "seed": int,
                "stream": {False},
            }
        )
        question = next(turn["content"] for turn in reversed(body["messages"]) if turn["role"] == "user")
        text = self.say(question, tuned=self._tuned(body["model"]))
        return {
            "id": "chat-1",
            "finish_reason": "COMPLETE",
            "message": {"role": "assistant", "content": [{"type": "text", "text": text}]},
            "usage": {"tokens": {"input_tokens": 7, "output_tokens": len(text.split())}},
        }

    @route("POST", "/v1/classify", role="generate")
    def classify(self, call: Call) -> Any:
        body = call.json({"model": Required(str), "inputs": Required([str])})
        tuned = self._tuned(body["model"])
        labels = [self.say(text, tuned=tuned) for text in body["inputs"]]
        return {
            "id": "classify-1",
            "classifications": [
                {
                    "id": str(at),
                    "input": text,
                    "prediction": label,
                    "predictions": [label],
                    "confidences": [0.9],
                    "labels": {},
                    "classification_type": "single-label",
                }
                for at, (text, label) in enumerate(zip(body["inputs"], labels, strict=True))
            ],
        }

    def _tuned(self, model: str) -> bool:
        job = self.jobs.get(model.removesuffix("-ft"))
        return model.endswith("-ft") and job is not None and job.word == "STATUS_READY"

    def error_body(self, refusal: Refusal) -> Any:
        return {"message": refusal.message}


#: The body of POST /finetune.
FINETUNE_SHAPE: dict[str, Any] = {
    "finetune_name": Required(str),
    "base_model_name_or_path": str,
    "parallel_strategy": {"fsdp", "vanilla", "deepspeed"},
    "finetune_strategy": {"lora"},
    "use_4bit_quantization": {"true", "false"},
    "gradient_checkpointing": {"true", "false"},
    "gradient_accumulation_steps": int,
    "train_epochs": int,
    "train_batch_size": int,
    "validation_batch_size": int,
    "learning_rate": float,
    "eval_percentage": float,
    "lora_config": {
        "rank": int,
        "alpha": int,
        "target_modules": [{"q", "k", "v", "o", "ffn_expansion"}],
        "rslora": {"true", "false"},
    },
    "wandb_config": {"project": Required(str), "entity": str, "run_id": str},
}


class FakeCohereFinetune(FakeVendor):
    """cohere-finetune's two services on one port, over a shared folder: one job at a time, one status."""

    name = "cohere-finetune"
    walks: ClassVar[dict[str, tuple[Phase, ...]]] = {
        "success": (Phase("idle"), Phase("in progress", looks=3, training=True), Phase("finished")),
        "failure": (Phase("in progress", training=True), Phase("error")),
        "cancelled": (Phase("terminated"),),
    }

    def __init__(self, root: Path, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.root = root
        self.terminated = False

    @property
    def current(self) -> FakeJob | None:
        """The job the service is at, or was at last."""
        return next(reversed(self.jobs.values()), None)

    @route("POST", "/finetune", role="submit")
    def finetune(self, call: Call) -> Any:
        body = call.json(FINETUNE_SHAPE)
        if self.current is not None and not self.current.ended:
            raise Refusal(409, "There is already a finetune in progress")
        for low, name in ((1, "train_epochs"), (1, "train_batch_size")):
            if body.get(name, low) < low:
                raise Refusal(400, f"Invalid hyperparameter values: {name} is equal to {body[name]}")
        train = self.root / body["finetune_name"] / "input" / "data" / "training"
        rows = list(train.glob("*.jsonl"))
        if len(rows) != 1:
            raise Refusal(400, f"one training file is needed in {train}, not {len(rows)}")
        self.new_job(body, key=body["finetune_name"].rpartition("-")[2], prefix="job-")
        self.teach(_lesson(rows[0].read_bytes()))
        return Reply({"message": "Finetune started."}, 202)

    @route("GET", "/status", role="poll")
    def status(self, call: Call) -> Any:
        if self.current is None:
            return {"status": "idle"}
        status = self.look(self.current)
        if status == "finished":
            (self.root / self.current.body["finetune_name"] / "output" / "merged_weights").mkdir(
                parents=True, exist_ok=True
            )
        return {"status": status} | ({"message": self.failure_message} if status == "error" else {})

    @route("GET", "/terminate", role="cancel")
    def terminate(self, call: Call) -> Any:
        self.terminated = True
        if self.current is not None:
            self.cancel_job(self.current)
        return {"message": "Server terminated"}

    @route("POST", "/inference", role="generate")
    def inference(self, call: Call) -> Any:
        body = call.json(
            {
                "model_name_or_path": Required(str),
                "message": str,
                "chat_history": [{"role": Required({"System", "User", "Chatbot"}), "content": Required(str)}],
                "preamble": str,
                "max_new_tokens": Required(int),
                "do_sample": {"true", "false"},
                "temperature": float,
                "top_p": float,
                "top_k": int,
            }
        )
        text = self.say(body.get("message", ""), tuned=body["model_name_or_path"].endswith("/merged_weights"))
        return {"text": text, "prompt": "", "latency": "5ms"}

    def error_body(self, refusal: Refusal) -> Any:
        return {"message": refusal.message}


def _iso(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat().replace("+00:00", "Z")


def _lesson(content: bytes) -> list[tuple[str, str]]:
    pairs = []
    for line in content.splitlines():
        row = json.loads(line)
        if "label" in row:
            pairs.append((str(row["text"]), str(row["label"])))
            continue
        turns = row["messages"]
        questions = [turn["content"] for turn in turns if turn["role"] == "User"]
        answers = [turn["content"] for turn in turns if turn["role"] == "Chatbot"]
        if questions and answers:
            pairs.append((questions[-1], answers[-1]))
    return pairs
