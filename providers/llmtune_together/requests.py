"""The request body, and the same body as arguments of the SDK's `create`, which builds it again.

The SDK sends every default of its own, so the body holds them too and a plan shows the whole request. Two values only
the SDK fills in, from the model's live limits: the LoRA rank when none is asked for, and alpha (twice the rank).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from llmtune.provider import deep_merge
from llmtune_together.declarations import DEFAULT_RATE

if TYPE_CHECKING:
    from llmtune.provider import Files, Receipt

#: Body fields that hold a secret, and the option that names its environment variable.
SECRETS = {"wandb_key": "wandb_api_key_env", "hf_api_token": "hf_token_env"}

#: Body fields that are options of the same name, and arguments of the SDK's `create` too.
_OPTIONS = (
    "from_hf_model",
    "hf_model_revision",
    "hf_output_repo_name",
    "wandb_project_name",
    "wandb_name",
    "wandb_entity",
    "wandb_base_url",
    "n_evals",
    "n_checkpoints",
    "early_stopping_warmup_evals",
)

#: Body fields that are arguments of the SDK's `create` under the same name.
_SAME = (
    *_OPTIONS,
    "training_file",
    "model",
    "from_checkpoint",
    "packing",
    "max_seq_length",
    "n_epochs",
    "learning_rate",
    "warmup_ratio",
    "max_grad_norm",
    "weight_decay",
    "batch_size",
    "gradient_accumulation_steps",
    "early_stopping_enabled",
    "early_stopping_patience",
    "early_stopping_min_delta",
    "random_seed",
    "suffix",
)

#: Body fields that are taken apart.
_NESTED = ("validation_file", "lr_scheduler", "training_type", "training_method", "multimodal_params")


def build(receipt: Receipt, files: Files) -> dict[str, Any]:
    """Build the body of POST /v1/fine-tunes for this receipt. Pure; holds no key of any kind."""
    body = deep_merge(_envelope(receipt, files), receipt.request_parameters())
    if body["batch_size"] is None:  # gradient_accumulation_steps moved it: the micro-batch was computed there
        body["batch_size"] = receipt["batch_size"].encoded
    args = body["lr_scheduler"]["lr_scheduler_args"]
    if body["lr_scheduler"]["lr_scheduler_type"] == "linear":
        args.pop("num_cycles", None)
    elif args.get("num_cycles") is None:
        args["num_cycles"] = 0.5
    return body | _set_values(receipt.target.options, *_OPTIONS)


def _set_values(options: Mapping[str, Any], *names: str) -> dict[str, Any]:
    return {name: options[name] for name in names if options.get(name) is not None}


def _envelope(receipt: Receipt, files: Files) -> dict[str, Any]:
    """Return everything that is not a field of the job, with the SDK's defaults."""
    target, options = receipt.target, receipt.target.options
    body: dict[str, Any] = {"training_file": files["train"].id}
    if "validation" in files:
        body["validation_file"] = files["validation"].id
    if "from_checkpoint" in options:
        body["from_checkpoint"] = options["from_checkpoint"]
    else:
        body["model"] = target.model
    if "train_vision" in options:
        body["multimodal_params"] = {"train_vision": options["train_vision"]}
    for field, option in SECRETS.items():  # only the name of the variable; submit puts its value in
        if option in options:
            body[field] = f"${{{options[option]}}}"
    return body | {
        "packing": True,
        "n_epochs": 1,
        "learning_rate": DEFAULT_RATE,
        "lr_scheduler": {
            "lr_scheduler_type": "cosine",
            "lr_scheduler_args": {"min_lr_ratio": 0.0, "num_cycles": 0.5},
        },
        "warmup_ratio": 0.0,
        "max_grad_norm": 1.0,
        "weight_decay": 0.0,
        "n_checkpoints": 1,
        "n_evals": 0,
        "batch_size": "max",
        "early_stopping_enabled": False,
        "training_type": _training_type(target.adapter),
        "training_method": _training_method(target.method, options),
    }


def _training_type(adapter: str) -> dict[str, Any]:
    if adapter == "full":
        return {"type": "Full"}
    return {"type": "Lora", "lora_dropout": 0.0, "lora_trainable_modules": "all-linear"}


def _training_method(method: str, options: Mapping[str, Any]) -> dict[str, Any]:
    if method != "dpo":
        return {"method": "sft", "train_on_inputs": "auto"}
    simpo = (options.get("simpo_gamma") or 0) > 0
    return {
        "method": "dpo",
        "dpo_normalize_logratios_by_length": simpo or bool(options.get("dpo_normalize_logratios_by_length")),
        "dpo_reference_free": simpo,
        **_set_values(options, "rpo_alpha", "simpo_gamma"),
    }


def arguments(body: Mapping[str, Any]) -> dict[str, Any]:
    """Return the body as arguments of `client.fine_tuning.create`, which sends this body again.

    Raises:
        ValueError: the SDK has no argument for a field of the body.
    """
    unknown = sorted(set(body) - {*_SAME, *_NESTED, *SECRETS})
    if unknown:
        raise ValueError(f"the together SDK sends no field {unknown[0]!r}")
    schedule, training_type, method = body["lr_scheduler"], body["training_type"], body["training_method"]
    arguments = _set_values(body, *_SAME) | {
        "validation_file": body.get("validation_file"),
        "train_vision": body.get("multimodal_params", {}).get("train_vision", False),
        "lr_scheduler_type": schedule["lr_scheduler_type"],
        "min_lr_ratio": schedule["lr_scheduler_args"]["min_lr_ratio"],
        "lora": training_type["type"] == "Lora",
        "training_method": method["method"],
    }
    if "num_cycles" in schedule["lr_scheduler_args"]:
        arguments["scheduler_num_cycles"] = schedule["lr_scheduler_args"]["num_cycles"]
    if "wandb_key" in body:
        arguments["wandb_api_key"] = body["wandb_key"]
    arguments |= _set_values(body, "hf_api_token")
    arguments |= _set_values(training_type, "lora_r", "lora_alpha", "lora_dropout", "lora_trainable_modules")
    if method["method"] == "sft":
        return arguments | {"train_on_inputs": method["train_on_inputs"]}
    return arguments | _set_values(method, "dpo_normalize_logratios_by_length", "dpo_beta", "rpo_alpha", "simpo_gamma")
