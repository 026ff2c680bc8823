"""What a serverless job on SageMaker takes: the recipe's own list of hyperparameters, under our names.

Nothing is declared by hand for one model: which parameters there are, with ranges and defaults, is what its recipe
says (`recipes.py`). Every value goes out as a string.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import llmtune.provider as core
from llmtune.provider import Converted, Declaration, Sent, Unsupported
from llmtune.provider.conversions import shortened
from llmtune_bedrock.declarations import as_text, tag_rules
from llmtune_sagemaker.recipes import Parameter, Seen

API = "botocore 1.44.5, CreateTrainingJob, 2026-11-30"
HERE = "tuned models are asked on this machine (evaluate_locally)"

_H = "HyperParameters."

#: Job names end in "-" and the run key (12 characters), and may have 63.
NAME_LENGTH = 63 - 13

#: Tags of a job: 50, of which one carries the run key.
MOST_TAGS = 49
TAGS = tag_rules(MOST_TAGS)

#: Our fields and the parameters of a recipe that mean the same.
SAME: Mapping[str, str] = {
    "epochs": "max_epochs",
    "max_steps": "max_steps",
    "batch_size": "global_batch_size",
    "learning_rate": "learning_rate",
    "lr_schedule": "lr_scheduler",
    "warmup_ratio": "lr_warmup_steps_ratio",
    "warmup_steps": "warmup_steps",
    "weight_decay": "weight_decay",
    "lora_rank": "lora_rank",
    "lora_dropout": "lora_dropout",
    "max_sequence_length": "dataset_max_len",
    "checkpoint_every": "save_steps",
    "seed": "seed",
}
#: Those whose name or meaning needs a word: the strength of DPO is called "adam_beta" in AWS's recipes.
BETA, CLIPPING, ALPHA = "adam_beta", "gradient_clipping_threshold", "lora_alpha"


def as_tags(tags: Mapping[str, str]) -> list[dict[str, str]]:
    """Format tags as SageMaker does."""
    return [{"Key": key, "Value": value} for key, value in tags.items()]


def _no(reason: str, source: str = "") -> Unsupported:
    return Unsupported(reason, source=source)


def _generation(name: str, type: core.ValueType) -> Sent:
    return Sent(name, type, source=HERE, where="generation")


_OWN_FIELDS: Mapping[str, Declaration] = {
    "name": Converted(
        "TrainingJobName",
        core.Text(NAME_LENGTH),
        shortened(NAME_LENGTH, allowed="A-Za-z0-9"),
        description=f"letters, digits and -, at most {NAME_LENGTH} characters",
        source=API,
        note="the run key is appended",
    ),
    "tags": Sent("Tags", TAGS, default=None, source=API, encode=as_tags),
    "temperature": _generation("temperature", core.Float(ge=0)),
    "top_p": _generation("top_p", core.Float(gt=0, le=1)),
    "top_k": _generation("top_k", core.Int(1)),
    "max_tokens": _generation("max_tokens", core.Int(1)),
}

#: Fields that a recipe seldom has, and what happens instead.
_OTHERWISE: Mapping[str, str] = {
    "seed": "the recipe has no seed: two runs of one job differ",
    "max_sequence_length": "the recipe has no such parameter; the option sequence_length chooses among recipes",
    "checkpoint_every": "the recipe keeps the final model only",
    "keep_checkpoints": "the recipe keeps the final model only",
    "eval_every": "the recipe evaluates on validation rows at intervals of its own",
    "early_stopping_patience": "the recipe trains for all epochs",
    "early_stopping_threshold": "the recipe trains for all epochs",
    "lora_target_modules": "the recipe chooses the layers that get an adapter",
    "replay_share": "the service trains on the rows that it is sent, and replays none of the model's own answers",
    "prompt_loss_weight": "there is no parameter, and AWS does not say how prompt tokens are weighed",
}
_CHOSEN = "the recipe has no parameter for it and does not say what it uses"


def declare(parameters: Mapping[str, Parameter], seen: Seen, *, method: str, adapter: str) -> core.Declarations:
    """Return the declarations for a recipe that takes these parameters; `seen` says since when."""
    source = f"{seen.source}, {seen.day}"
    fields: dict[str, Declaration] = {
        name: _no(_OTHERWISE.get(name, _CHOSEN), source) for name in core.DECLARED_FIELDS
    } | dict(_OWN_FIELDS)
    for name, own in SAME.items():
        if own in parameters:
            fields[name] = _sent(own, parameters[own], source)
    fields |= _lengths(parameters, source)
    if "learning_rate" in parameters:
        fields |= _multiplier(parameters["learning_rate"], source)
    if ALPHA in parameters:
        fields["lora_alpha"] = _whole(ALPHA, parameters[ALPHA], source)
    if CLIPPING in parameters:
        clipping = parameters[CLIPPING]
        fields["max_grad_norm"] = Sent(
            _H + CLIPPING,
            core.Float(gt=clipping.low or 0.0, le=clipping.high),
            default=clipping.default,
            source=source,
            encode=as_text,
            note="clipping cannot be switched off by 0",
        )
    if adapter == "full":
        for name in ("lora_rank", "lora_alpha", "lora_dropout", "lora_target_modules"):
            fields[name] = core.NotApplicable("all weights are trained", source=source)
    if method != "dpo":
        fields["dpo_beta"] = core.NotApplicable("only dpo has a reference model to stay close to", source=source)
    elif BETA in parameters:
        fields["dpo_beta"] = _sent(BETA, parameters[BETA], source, note="what the recipe calls adam_beta is DPO's beta")
    return core.Declarations(**fields)


def _sent(name: str, parameter: Parameter, source: str, note: str = "") -> Sent:
    default = parameter.default if parameter.default is not None else core.NOT_PUBLISHED
    return Sent(_H + name, parameter.value_type, default=default, source=source, encode=as_text, note=note)


def _whole(name: str, parameter: Parameter, source: str) -> Converted:
    default = parameter.default if parameter.default is not None else core.NOT_PUBLISHED
    return Converted(
        _H + name,
        parameter.value_type,
        core.whole_number,
        description="whole numbers only",
        default=default,
        source=source,
        encode=as_text,
    )


def _lengths(parameters: Mapping[str, Parameter], source: str) -> dict[str, Declaration]:
    """Declare steps and warm-up by what the recipe has in their place."""
    fields: dict[str, Declaration] = {}
    size = _as_int(parameters, "global_batch_size")
    epochs = _as_int(parameters, "max_epochs")
    if "max_steps" not in parameters and "max_epochs" in parameters:
        fields["max_steps"] = core.max_steps_as_epochs(
            _H + "max_epochs", parameters["max_epochs"].value_type, source, batch_size=size, encode=as_text
        )
    if "warmup_steps" not in parameters and "lr_warmup_steps_ratio" in parameters:
        fields["warmup_steps"] = Converted(
            _H + "lr_warmup_steps_ratio",
            parameters["lr_warmup_steps_ratio"].value_type,
            core.ratio_from_steps(size, epochs),
            description="as a share of the run's steps",
            source=source,
            encode=as_text,
        )
    if "max_epochs" not in parameters and "max_steps" in parameters:
        fields["epochs"] = _no("this recipe is given its length in steps: set max_steps", source)
    return fields


def _multiplier(parameter: Parameter, source: str) -> dict[str, Declaration]:
    rate = core.read_number(parameter.default)
    if not rate:
        return {"learning_rate_multiplier": _no("the recipe has no default rate that a multiplier could be of", source)}
    return {
        "learning_rate_multiplier": core.multiplier_as_rate(
            _H + "learning_rate", parameter.value_type, rate, "the recipe", source, encode=as_text
        )
    }


def _as_int(parameters: Mapping[str, Parameter], name: str) -> int | None:
    default: Any = core.read_number(parameters[name].default) if name in parameters else None
    return None if default is None else int(default)
