"""Jobs as Together lists them, read back into our words: enough to run one again elsewhere."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from llmtune.provider import RemoteJob, RemoteModel
from llmtune_together import responses

#: The vendor's name of a hyperparameter, and ours.
_NAMES = {
    "n_epochs": "epochs",
    "batch_size": "batch_size",
    "learning_rate": "learning_rate",
    "warmup_ratio": "warmup_ratio",
    "weight_decay": "weight_decay",
    "max_grad_norm": "max_grad_norm",
    "max_seq_length": "max_sequence_length",
    "packing": "packing",
}
_LORA = {"lora_r": "lora_rank", "lora_alpha": "lora_alpha", "lora_dropout": "lora_dropout"}
_UNMAPPED = ("n_evals", "n_checkpoints", "from_checkpoint", "from_hf_model", "hf_model_revision", "suffix")


def model(job: Mapping[str, Any]) -> RemoteModel:
    """A finished job as a tuned model."""
    return RemoteModel(
        id=str(job["model_output_name"]),
        base=job.get("model"),
        job=str(job["id"]),
        created=responses.moment(job.get("created_at")),
    )


def fetched(job: Mapping[str, Any]) -> RemoteJob:
    """A job's record as hyperparameters of ours; what has no place among them is in `unmapped`."""
    found = {ours: job[theirs] for theirs, ours in _NAMES.items() if job.get(theirs) is not None}
    unmapped = {name: job[name] for name in _UNMAPPED if job.get(name) is not None}
    pieces = job.get("gradient_accumulation_steps")
    if isinstance(found.get("batch_size"), int) and isinstance(pieces, int) and pieces > 1:
        found["batch_size"] *= pieces
        found["gradient_accumulation_steps"] = pieces
    elif not isinstance(found.get("batch_size"), int) and "batch_size" in found:
        unmapped["batch_size"] = found.pop("batch_size")
    schedule = job.get("lr_scheduler") or {}
    if schedule.get("lr_scheduler_type"):
        found["lr_schedule"] = schedule["lr_scheduler_type"]
    args = schedule.get("lr_scheduler_args") or {}
    if args.get("min_lr_ratio") is not None:
        found["min_lr_ratio"] = args["min_lr_ratio"]
    if args.get("num_cycles") is not None and schedule.get("lr_scheduler_type") == "cosine":
        found["lr_num_cycles"] = args["num_cycles"]
    kind = job.get("training_type") or {}
    found |= {ours: kind[theirs] for theirs, ours in _LORA.items() if kind.get(theirs) is not None}
    modules = kind.get("lora_trainable_modules")
    if modules:
        found["lora_target_modules"] = modules if modules == "all-linear" else modules.split(",")
    method = job.get("training_method") or {}
    inputs = method.get("train_on_inputs", job.get("train_on_inputs"))
    if isinstance(inputs, bool):
        found["prompt_loss_weight"] = float(inputs)
    elif inputs is not None:
        unmapped["train_on_inputs"] = inputs
    if method.get("dpo_beta"):
        found["dpo_beta"] = method["dpo_beta"]
    unmapped |= {name: method[name] for name in ("rpo_alpha", "simpo_gamma") if method.get(name)}
    files = {
        role: str(job[key])
        for role, key in (("train", "training_file"), ("validation", "validation_file"))
        if job.get(key)
    }
    return RemoteJob(
        id=str(job["id"]),
        model=str(job.get("model_output_name") or ""),
        base=str(job.get("model") or ""),
        method=str(method.get("method") or "sft"),
        hyperparameters=found,
        unmapped=unmapped,
        seed=job.get("random_seed"),
        files=files,
        data={"adapter": "full" if kind.get("type") == "Full" else "lora"},
    )
