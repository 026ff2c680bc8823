"""The request body, and the same body as arguments of the SDK's `create`, which builds it again.

The SDK sends every default of its own, so the body holds them too and a plan shows the whole request. Two values only
the SDK fills in, from the model's live limits: the LoRA rank when none is asked for, and alpha (twice the rank).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from llmtune.provider.receipt import place
from llmtune_together.declarations import DEFAULT_RATE
from llmtune_together.settings import given

if TYPE_CHECKING:
    from llmtune.provider import Files, Receipt


def build(receipt: Receipt, files: Files) -> dict[str, Any]:
    """The body of POST /v1/fine-tunes for this receipt. Pure; holds no key of any kind."""
    options = receipt.target.options
    body = _envelope(receipt, files)
    for path, value in _leaves(receipt.knobs()):
        place(body, path, value)
    if body["batch_size"] is None:  # gradient_accumulation_steps moved it: the micro-batch was computed there
        body["batch_size"] = receipt["batch_size"].encoded
    args = body["lr_scheduler"]["lr_scheduler_args"]
    if body["lr_scheduler"]["lr_scheduler_type"] == "linear":
        args.pop("num_cycles", None)
    elif args.get("num_cycles") is None:
        args["num_cycles"] = 0.5
    body |= given(options, "n_evals", "n_checkpoints", "early_stopping_warmup_evals")
    return body


def _envelope(receipt: Receipt, files: Files) -> dict[str, Any]:
    """Everything that is not a field of the job, with the SDK's defaults."""
    target, options = receipt.target, receipt.target.options
    body: dict[str, Any] = {"training_file": files["train"].id}
    if "validation" in files:
        body["validation_file"] = files["validation"].id
    if "from_checkpoint" in options:
        body["from_checkpoint"] = options["from_checkpoint"]
    else:
        body["model"] = target.model
    body |= {
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
    if "train_vision" in options:
        body["multimodal_params"] = {"train_vision": options["train_vision"]}
    for field, option in SECRETS.items():  # only the name of the variable; submit puts its value in
        if option in options:
            body[field] = f"${{{options[option]}}}"
    return body | given(
        options,
        "from_hf_model",
        "hf_model_revision",
        "hf_output_repo_name",
        "wandb_project_name",
        "wandb_name",
        "wandb_entity",
        "wandb_base_url",
    )


def _training_type(adapter: str) -> dict[str, Any]:
    if adapter == "full":
        return {"type": "Full"}
    return {"type": "Lora", "lora_dropout": 0.0, "lora_trainable_modules": "all-linear"}


def _training_method(method: str, options: dict[str, Any]) -> dict[str, Any]:
    if method != "dpo":
        return {"method": "sft", "train_on_inputs": "auto"}
    simpo = (options.get("simpo_gamma") or 0) > 0
    return {
        "method": "dpo",
        "dpo_normalize_logratios_by_length": simpo or bool(options.get("dpo_normalize_logratios_by_length")),
        "dpo_reference_free": simpo,
        **given(options, "rpo_alpha", "simpo_gamma"),
    }


def _leaves(knobs: dict[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    found: list[tuple[str, Any]] = []
    for key, value in knobs.items():
        path = f"{prefix}{key}"
        found += _leaves(value, f"{path}.") if isinstance(value, dict) else [(path, value)]
    return found


#: Body fields that hold a secret, and the option that names its environment variable.
SECRETS = {"wandb_key": "wandb_api_key_env", "hf_api_token": "hf_token_env"}

#: Body fields that are arguments of the SDK's `create` under the same name.
_SAME = (
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
    "n_checkpoints",
    "n_evals",
    "batch_size",
    "gradient_accumulation_steps",
    "early_stopping_enabled",
    "early_stopping_patience",
    "early_stopping_min_delta",
    "early_stopping_warmup_evals",
    "random_seed",
    "suffix",
    "from_hf_model",
    "hf_model_revision",
    "hf_output_repo_name",
    "wandb_project_name",
    "wandb_name",
    "wandb_entity",
    "wandb_base_url",
)

#: Body fields that are taken apart.
_NESTED = ("validation_file", "lr_scheduler", "training_type", "training_method", "multimodal_params")


def arguments(body: dict[str, Any]) -> dict[str, Any]:
    """The body as arguments of `client.fine_tuning.create`, which sends this body again.

    Raises:
        ValueError: the SDK has no argument for a field of the body.
    """
    unknown = sorted(set(body) - {*_SAME, *_NESTED, *SECRETS})
    if unknown:
        raise ValueError(f"the together SDK sends no field {unknown[0]!r}")
    found = {name: body[name] for name in _SAME if name in body}
    found["validation_file"] = body.get("validation_file")
    if "wandb_key" in body:
        found["wandb_api_key"] = body["wandb_key"]
    if "hf_api_token" in body:
        found["hf_api_token"] = body["hf_api_token"]
    schedule = body["lr_scheduler"]
    found["lr_scheduler_type"] = schedule["lr_scheduler_type"]
    found["min_lr_ratio"] = schedule["lr_scheduler_args"]["min_lr_ratio"]
    if "num_cycles" in schedule["lr_scheduler_args"]:
        found["scheduler_num_cycles"] = schedule["lr_scheduler_args"]["num_cycles"]
    kind = body["training_type"]
    found["lora"] = kind["type"] == "Lora"
    for name in ("lora_r", "lora_alpha", "lora_dropout", "lora_trainable_modules"):
        if name in kind:
            found[name] = kind[name]
    method = body["training_method"]
    found["training_method"] = method["method"]
    if method["method"] == "sft":
        found["train_on_inputs"] = method["train_on_inputs"]
    else:
        found["dpo_normalize_logratios_by_length"] = method["dpo_normalize_logratios_by_length"]
        for name in ("dpo_beta", "rpo_alpha", "simpo_gamma"):
            if name in method:
                found[name] = method[name]
    found["train_vision"] = body.get("multimodal_params", {}).get("train_vision", False)
    return found
