"""The request bodies of the two transports. Pure; no key of any kind is in them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from llmtune.provider.receipt import place
from llmtune_cohere.declarations import BASE_TYPES
from llmtune_cohere.self_hosted import FILES

if TYPE_CHECKING:
    from llmtune.provider import Files, Receipt


def managed(receipt: Receipt, files: Files) -> dict[str, Any]:
    """The body of POST /v1/finetuning/finetuned-models: a FinetunedModel with its settings."""
    target, options = receipt.target, receipt.target.options
    base: dict[str, Any] = {"base_type": BASE_TYPES[target.method]}
    if target.method == "sft":  # a classifier's base has no name (archived docs)
        base["name"] = target.model
    settings: dict[str, Any] = {"base_model": base, "dataset_id": files["train"].id}
    body: dict[str, Any] = {"settings": settings}
    _merge(body, receipt.knobs())
    if "wandb_project" in options:
        settings["wandb"] = {"project": options["wandb_project"]}
        if "wandb_entity" in options:
            settings["wandb"]["entity"] = options["wandb_entity"]
        if "wandb_api_key_env" in options:  # only the name of the variable; submit puts its value in
            settings["wandb"]["api_key"] = f"${{{options['wandb_api_key_env']}}}"
    return body


def self_hosted(receipt: Receipt, files: Files) -> dict[str, Any]:
    """The body of POST /finetune of cohere-finetune; yes and no are words there.

    `files` is no field of the service: it reads a shared folder, into which `submit` lays them.
    """
    target, options = receipt.target, receipt.target.options
    body: dict[str, Any] = {FILES: {role: file.id for role, file in files.items()}}
    body |= {"base_model_name_or_path": target.model, "finetune_strategy": "lora"}
    if target.adapter == "qlora":
        body["use_4bit_quantization"] = "true"
    _merge(body, receipt.knobs())
    for name in ("parallel_strategy", "validation_batch_size", "eval_percentage"):
        if name in options:
            body[name] = options[name]
    if "gradient_checkpointing" in options:
        body["gradient_checkpointing"] = _word(options["gradient_checkpointing"])
    if "rslora" in options:
        body.setdefault("lora_config", {})["rslora"] = _word(options["rslora"])
    wandb = {
        key: options[option]
        for key, option in (("project", "wandb_project"), ("entity", "wandb_entity"), ("run_id", "wandb_run_id"))
        if option in options
    }
    if wandb:
        body["wandb_config"] = wandb
    return body


def _word(value: bool) -> str:
    return "true" if value else "false"


def _merge(body: dict[str, Any], knobs: dict[str, Any], prefix: str = "") -> None:
    for key, value in knobs.items():
        if isinstance(value, dict):
            _merge(body, value, f"{prefix}{key}.")
        else:
            place(body, f"{prefix}{key}", value)
