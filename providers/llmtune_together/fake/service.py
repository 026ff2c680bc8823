"""A stateful stand-in for Together's service, for tests and for trying llmtune out without an account.

Shapes are those of Together's OpenAPI (090263a, 2026-04-28) and of the together SDK 3.1.1, which is newer and adds
fields. It takes exactly the fields that the SDK sends; anything else is a complaint.
"""

from __future__ import annotations

import io
import json
import math
import tarfile
from typing import Any, ClassVar

from llmtune.testing.fake_vendor import FakeJob, Phase
from llmtune.testing.http import Call, Refusal, Reply, route
from llmtune.testing.request_schema import Required
from llmtune.testing.token_counts import count_file_tokens
from llmtune_together.fake.endpoints import FakeEndpoints, iso
from llmtune_together.fake.files import FakeFiles, lesson

#: What every model takes, unless `FakeTogether.limits` says otherwise.
LIMITS: dict[str, Any] = {
    "default_gradient_accumulation_steps": 1,
    "lora_training": {
        "default_rank": 8,
        "max_batch_size": 64,
        "max_batch_size_dpo": 64,
        "max_rank": 64,
        "min_batch_size": 1,
        "target_modules": ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"],
    },
    "full_training": {"max_batch_size": 64, "max_batch_size_dpo": 64, "min_batch_size": 1},
    "max_learning_rate": 0.1,
    "min_learning_rate": 1e-8,
    "max_num_checkpoints": 100,
    "max_num_epochs": 20,
    "max_num_evals": 100,
    "max_seq_length_dpo": 16384,
    "max_seq_length_sft": 32768,
    "min_max_seq_length": 128,
    "merge_output_lora": True,
    "supports_full_training": True,
    "supports_reasoning": False,
    "supports_tools": True,
    "supports_vision": False,
}

_LORA = {
    "type": Required({"Lora"}),
    "lora_r": Required(int),
    "lora_alpha": Required(int),
    "lora_dropout": float,
    "lora_trainable_modules": str,
}
_TRAINING_TYPE = (_LORA, {"type": Required({"Full"})})
_TRAINING_METHOD = (
    {"method": Required({"sft"}), "train_on_inputs": Required((bool, {"auto"}))},
    {
        "method": Required({"dpo"}),
        "dpo_beta": float,
        "rpo_alpha": float,
        "dpo_normalize_logratios_by_length": bool,
        "dpo_reference_free": bool,
        "simpo_gamma": float,
    },
)
_SCHEDULER = (
    {
        "lr_scheduler_type": Required({"cosine"}),
        "lr_scheduler_args": {"min_lr_ratio": Required(float), "num_cycles": Required(float)},
    },
    {"lr_scheduler_type": Required({"linear"}), "lr_scheduler_args": {"min_lr_ratio": float}},
)

#: The body of POST /v1/fine-tunes.
JOB_SHAPE: dict[str, Any] = {
    "training_file": Required(str),
    "validation_file": str,
    "packing": bool,
    "max_seq_length": int,
    "model": str,
    "n_epochs": int,
    "n_checkpoints": int,
    "n_evals": int,
    "batch_size": (int, {"max"}),
    "gradient_accumulation_steps": int,
    "learning_rate": float,
    "lr_scheduler": _SCHEDULER,
    "warmup_ratio": float,
    "max_grad_norm": float,
    "weight_decay": float,
    "random_seed": int,
    "suffix": str,
    "early_stopping_enabled": bool,
    "early_stopping_patience": int,
    "early_stopping_min_delta": float,
    "early_stopping_warmup_evals": int,
    "wandb_key": str,
    "wandb_base_url": str,
    "wandb_project_name": str,
    "wandb_name": str,
    "wandb_entity": str,
    "training_method": _TRAINING_METHOD,
    "training_type": _TRAINING_TYPE,
    "multimodal_params": {"train_vision": bool},
    "from_checkpoint": str,
    "from_hf_model": str,
    "hf_model_revision": str,
    "hf_api_token": str,
    "hf_output_repo_name": str,
}

_SECRETS = ("wandb_key", "hf_api_token")


class FakeTogether(FakeFiles, FakeEndpoints):
    """Together's files, fine-tuning, chat and dedicated endpoints."""

    name = "together"
    walks: ClassVar[dict[str, tuple[Phase, ...]]] = {
        "success": (
            Phase("pending"),
            Phase("queued"),
            Phase("running", looks=3, training=True),
            Phase("compressing"),
            Phase("uploading"),
            Phase("completed"),
        ),
        "failure": (Phase("pending"), Phase("running", training=True), Phase("error")),
        "user_error": (Phase("pending"), Phase("user_error")),
        "cancelled": (Phase("cancel_requested"), Phase("cancelled")),
    }

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.limits = json.loads(json.dumps(LIMITS))
        self.allowed = True
        self.estimable = True
        self.price_per_token = 4e-7

    def client_settings(self) -> dict[str, str]:
        """Return the address and a project, which endpoints need."""
        return {"base_url": self.url, "project_id": "fake"}

    def client_environment(self) -> dict[str, str]:
        """Return the key that the provider needs."""
        return {"TOGETHER_API_KEY": self.api_key or "fake"}

    # --- limits, price --------------------------------------------------------------------------------------
    @route("GET", "/v1/fine-tunes/models/limits")
    def model_limits(self, call: Call) -> Any:
        query = call.fields({"model_name": Required(str)})
        return self.limits | {"model_name": query["model_name"]}

    @route("POST", "/v1/fine-tunes/estimate-price")
    def estimate_price(self, call: Call) -> Any:
        body = call.json(
            {
                "training_file": Required(str),
                "validation_file": str,
                "model": str,
                "n_epochs": int,
                "n_evals": int,
                "training_method": _TRAINING_METHOD,
                "training_type": (*_TRAINING_TYPE, None),
                "from_checkpoint": str,
            }
        )
        if not self.estimable:
            return {"estimation_available": False, "unavailable_reason": "train_file_not_validated"}
        train = body.get("n_epochs", 1) * self._tokens(body["training_file"])
        evals = body.get("n_evals", 0) * self._tokens(body.get("validation_file"))
        return {
            "estimation_available": True,
            "estimated_total_price": (train + evals) * self.price_per_token,
            "allowed_to_proceed": self.allowed,
            "user_limit": 100.0 if self.allowed else 0.0,
            "estimated_train_token_count": train,
            "estimated_eval_token_count": evals,
        }

    def _tokens(self, file: str | None) -> int:
        return count_file_tokens(self.files[file].content) if file in self.files else 0

    # --- jobs --------------------------------------------------------------------------------------------------------
    @route("POST", "/v1/fine-tunes", role="submit")
    def create_job(self, call: Call) -> Any:
        body = call.json(JOB_SHAPE)
        if ("model" in body) == ("from_checkpoint" in body):
            raise Refusal(400, "Exactly one of model and from_checkpoint must be given.")
        for field in ("training_file", "validation_file"):
            if body.get(field) and body[field] not in self.files:
                raise Refusal(400, f"{field} {body[field]} does not exist.", field=field)
        if body.get("n_evals") and not body.get("validation_file"):
            raise Refusal(400, "n_evals needs a validation_file.", field="n_evals")
        if len(body.get("suffix", "")) > 40:
            raise Refusal(400, "The suffix may have at most 40 characters.", field="suffix")
        key = body.get("suffix", "").rpartition("-")[2] or None
        job = self.new_job({name: value for name, value in body.items() if name not in _SECRETS}, key=key, prefix="ft-")
        self.teach(lesson(self.files[body["training_file"]].content))
        job.data["secrets"] = {name: body[name] for name in _SECRETS if name in body}
        return self._truncated(job)

    @route("GET", "/v1/fine-tunes", role="find")
    def list_jobs(self, call: Call) -> Any:
        return {"data": [self._truncated(job) for job in self.listed(self.jobs.values())]}

    @route("GET", "/v1/fine-tunes/{job}", role="poll")
    def get_job(self, call: Call) -> Any:
        job = self.job(call.params["job"])
        return self._full(job, self.look(job))

    @route("GET", "/v1/fine-tunes/{job}/metrics", role="poll")
    def get_metrics(self, call: Call) -> Any:
        job = self.job(call.params["job"])
        query = call.fields({"global_step_from": str, "global_step_to": str, "resolution": str})
        low, high = int(query.get("global_step_from", 0)), int(query.get("global_step_to", 10**9))
        return {"metrics": [row for row in self._measured(job) if low <= row["train/global_step"] <= high]}

    @route("GET", "/v1/fine-tunes/{job}/events", role="poll")
    def get_events(self, call: Call) -> Any:
        return {"data": self._events(self.job(call.params["job"]))}

    @route("GET", "/v1/fine-tunes/{job}/checkpoints", role="poll")
    def get_checkpoints(self, call: Call) -> Any:
        job = self.job(call.params["job"])
        count = job.body.get("n_checkpoints", 1) if job.word == "completed" else 0
        interval = job.data["steps"] / max(1, count)
        return {
            "data": [
                {
                    "step": round(interval * (at + 1)),
                    "created_at": iso(job.created),
                    "path": f"s3://models/{job.id}/{at}",
                    "checkpoint_type": "Final" if at + 1 == count else "Intermediate",
                    "checkpoint": "adapter",
                }
                for at in range(count)
            ]
        }

    @route("POST", "/v1/fine-tunes/{job}/cancel", role="cancel")
    def cancel(self, call: Call) -> Any:
        job = self.job(call.params["job"])
        self.cancel_job(job, Refusal(400, f"Job {job.id} has ended and cannot be cancelled."))
        return self._truncated(job)

    @route("DELETE", "/v1/fine-tunes/{job}", role="delete")
    def delete_job(self, call: Call) -> Any:
        job = self.job(call.params["job"])
        del self.jobs[job.id]
        self.models.pop(self._output(job), None)
        return {"message": "Fine-tune deleted"}

    @route("GET", "/v1/finetune/download", role="other")
    def download(self, call: Call) -> Any:
        query = call.fields({"ft_id": Required(str), "checkpoint": {"adapter", "merged"}, "checkpoint_step": str})
        job = self.job(query["ft_id"])
        if job.body["training_type"]["type"] == "Full":
            return Reply(_archive({"model.safetensors": b"weights", "config.json": b"{}"}))
        kind = job.body["training_type"]
        config = {"peft_type": "LORA", "r": kind["lora_r"], "lora_alpha": kind["lora_alpha"]}
        return Reply(
            _archive({"adapter_config.json": json.dumps(config).encode(), "adapter_model.safetensors": b"weights"})
        )

    def _output(self, job: FakeJob) -> str:
        return f"acme/{job.body.get('model', 'continued')}:{job.body.get('suffix', '')}:{job.id}"

    def _truncated(self, job: FakeJob, status: str | None = None) -> dict[str, Any]:
        status = status or job.word
        done = status == "completed"
        if done:
            self.models[self._output(job)] = {"job": job.id}
        return {
            **job.body,
            "id": job.id,
            "status": status,
            "user_id": "user-1",
            "created_at": iso(job.created),
            "updated_at": iso(self.now()),
            "batch_size": job.body["batch_size"] if isinstance(job.body.get("batch_size"), int) else 16,
            "random_seed": job.body.get("random_seed", 42),
            **({"model_output_name": self._output(job)} if done else {}),
        }

    def _full(self, job: FakeJob, status: str) -> dict[str, Any]:
        steps, done = job.data["steps"], self.steps_done(job)
        registry = {"model_object_id": f"ml_{job.id}", "model_object_revision_id": f"rv_{job.id}"}
        tokens = job.body.get("n_epochs", 1) * self._tokens(job.body.get("training_file"))
        return {
            **self._truncated(job, status),
            "total_steps": steps,
            "steps_completed": done,
            "epochs_completed": int(job.body.get("n_epochs", 1) * done / max(1, steps)),
            "progress": {"estimate_available": done > 0, "seconds_remaining": (steps - done) * 2},
            **({"token_count": tokens, "total_price": 1500} | registry if status == "completed" else {}),
        }

    def _measured(self, job: FakeJob) -> list[dict[str, float]]:
        rows: list[dict[str, float]] = []
        steps, evals = job.data["steps"], job.body.get("n_evals", 0)
        every = max(1, steps // evals) if evals else 0
        for step in range(1, self.steps_done(job) + 1):
            row = {
                "train/global_step": step,
                "train/loss": round(2.0 * math.exp(-3 * step / steps) + 0.1, 6),
                "train/learning_rate": job.body["learning_rate"],
            }
            if every and step % every == 0:
                row["eval/loss"] = round(2.1 * math.exp(-3 * step / steps) + 0.2, 6)
            rows.append(row)
        return rows

    def _events(self, job: FakeJob) -> list[dict[str, Any]]:
        rows = [("job_pending", "info", "Fine tune request created")]
        if self.training_share(job) > 0:
            rows.append(("training_start", "info", "Training started"))
        if job.word == "completed":
            rows.append(("job_complete", "info", "Job finished"))
        if job.word in ("error", "user_error"):
            rows.append(("job_error", "error", self.failure_message))
        return [
            {
                "object": "fine-tune-event",
                "created_at": iso(job.created + at),
                "type": kind,
                "level": level,
                "message": message,
                "hash": f"{job.id}-{at}",
            }
            for at, (kind, level, message) in enumerate(rows)
        ]

    def error_body(self, refusal: Refusal) -> Any:
        return {
            "error": {
                "message": refusal.message,
                "type": "invalid_request_error",
                "param": refusal.field,
                "code": refusal.code,
            }
        }


def _archive(files: dict[str, bytes]) -> bytes:
    """Build a .tar.zst (or .tar.gz if zstandard is not installed), as the service sends models."""
    plain = io.BytesIO()
    with tarfile.open(fileobj=plain, mode="w") as tar:
        for name, content in files.items():
            info = tarfile.TarInfo(f"model/{name}")
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    try:
        import zstandard
    except ImportError:
        import gzip

        return gzip.compress(plain.getvalue())
    return zstandard.ZstdCompressor().compress(plain.getvalue())
