"""The request bodies of the two services. Pure; no key of any kind is in them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from llmtune.provider import deep_merge
from llmtune_cohere.declarations import BASE_TYPES

if TYPE_CHECKING:
    from llmtune.provider import Files, Receipt

#: The key under which the files travel to `submit` of one's own trainer; it is taken out before the body is sent.
FILES = "files"


def managed(receipt: Receipt, files: Files) -> dict[str, Any]:
    """Build the body of POST /v1/finetuning/finetuned-models: a FinetunedModel with its settings."""
    target, options = receipt.target, receipt.target.options
    base: dict[str, Any] = {"base_type": BASE_TYPES[target.method]}
    if target.method == "sft":  # a classifier's base has no name (archived docs)
        base["name"] = target.model
    settings: dict[str, Any] = {"base_model": base, "dataset_id": files["train"].id}
    if "wandb_project" in options:
        settings["wandb"] = _rename(options, {"wandb_project": "project", "wandb_entity": "entity"})
        if "wandb_api_key_env" in options:  # only the name of the variable; submit puts its value in
            settings["wandb"]["api_key"] = f"${{{options['wandb_api_key_env']}}}"
    return deep_merge({"settings": settings}, receipt.request_parameters())


def self_hosted(receipt: Receipt, files: Files) -> dict[str, Any]:
    """Build the body of POST /finetune of cohere-finetune, where booleans are the words yes and no.

    `files` is no field of the service: it reads a shared folder, into which `submit` lays them.
    """
    target, options = receipt.target, receipt.target.options
    body: dict[str, Any] = {
        FILES: {role: file.id for role, file in files.items()},
        "base_model_name_or_path": target.model,
        "finetune_strategy": "lora",
    }
    if target.adapter == "qlora":
        body["use_4bit_quantization"] = "true"
    body = deep_merge(body, receipt.request_parameters())
    for name in ("parallel_strategy", "validation_batch_size", "eval_percentage", "gradient_checkpointing"):
        if name in options:
            body[name] = _lower_boolean(options[name])
    if "rslora" in options:
        body.setdefault("lora_config", {})["rslora"] = _lower_boolean(options["rslora"])
    wandb = _rename(options, {"wandb_project": "project", "wandb_entity": "entity", "wandb_run_id": "run_id"})
    return body | ({"wandb_config": wandb} if wandb else {})


def _rename(options: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    return {vendor_name: options[our_name] for our_name, vendor_name in names.items() if our_name in options}


def _lower_boolean(value: Any) -> Any:
    return str(value).lower() if isinstance(value, bool) else value
