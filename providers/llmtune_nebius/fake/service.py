"""The fake of Nebius Token Factory: OpenAI's calls with other fields."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from llmtune.testing.fake_vendor import FakeJob
from llmtune.testing.request_schema import Required
from llmtune_openai.fake.service import FakeOpenAI


class FakeNebius(FakeOpenAI):
    """Nebius: an absolute rate, a LoRA adapter, metrics in checkpoints and no result file."""

    name = "nebius"
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
    file_walk = ("uploaded",)
    base_models = ("meta-llama/Meta-Llama-3.1-8B-Instruct", "meta-llama/Llama-3.3-70B-Instruct")
    keeps_result_files = False

    def key_of(self, body: Mapping[str, Any]) -> str | None:
        """The run key at the end of the suffix."""
        return str(body["suffix"])[-12:] if "suffix" in body else None

    def echoed(self, job: FakeJob) -> dict[str, Any]:
        """All hyperparameters, the unset ones with their defaults."""
        defaults = {"batch_size": 8, "learning_rate": 1e-5, "n_epochs": 3, "packing": True, "lora_r": 8}
        return {**defaults, **job.body["hyperparameters"]}

    def describe_job(self, job: FakeJob) -> dict[str, Any]:
        """A job as Nebius tells it: with steps, without metadata and method."""
        told = super().describe_job(job)
        for name in ("metadata", "method", "user_provided_suffix", "usage_metrics", "shared_with_openai", "eval_id"):
            del told[name]
        return {
            **told,
            "suffix": job.body.get("suffix"),
            "trained_steps": self.steps_done(job),
            "total_steps": job.data["steps"],
        }

    def events(self, job: FakeJob) -> list[dict[str, Any]]:
        """Messages only: the metrics are in the checkpoints."""
        return [event for event in super().events(job) if event["type"] != "metrics"]

    def tuned_name(self, job: FakeJob) -> str:
        """The id of the tuned model."""
        return f"{job.body['model']}-{job.body.get('suffix', 'tuned')}"

    def checkpoint_name(self, job: FakeJob, step: int) -> str:
        """The id of a checkpoint."""
        return f"{self.tuned_name(job)}-step-{step}"
