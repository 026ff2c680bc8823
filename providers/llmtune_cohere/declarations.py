"""What Cohere's fine-tuning takes, field by field: its API, and its open trainer `cohere-finetune`.

The API's fields are those of the `cohere` SDK 7.3.1, which checks no range; ranges and defaults are from Cohere's
archived documentation of chat fine-tuning (copy of 2026-08-20), written while the managed service still ran.
"""

from __future__ import annotations

from typing import Any

import llmtune.provider as core
from llmtune.provider.conversions import shortened, words

SDK = "cohere SDK 7.3.1 (finetuning types), read 2026-11-21"
ARCHIVE = "Cohere docs, archived chat fine-tuning pages (cohere-developer-experience e814c8a1, 2026-08-20)"
OPEN = "cohere-finetune README and configs.py (github.com/cohere-ai/cohere-finetune 0533a2f, 2025-03-13)"

#: Cohere's words for what a job trains (SDK BaseType).
BASE_TYPES = {"sft": "BASE_TYPE_CHAT", "classification": "BASE_TYPE_CLASSIFICATION"}

#: Dataset types of the datasets API, by method.
DATASET_TYPES = {
    "sft": "chat-finetune-input",
    "classification": "single-label-classification-finetune-input",
    "multilabel": "multi-label-classification-finetune-input",
}

MANAGED_RATE = 0.01
MANAGED_BATCH = 16
OPEN_RATE = 1e-4
OPEN_BATCH = 16

#: Characters of a name that are kept for the job's own; "-" and the run key follow.
NAME_LENGTH = 50

_H = "settings.hyperparameters."
_NO_PARAMETER = "Cohere has no such parameter and does not say what it uses"
_CHAT = "cohere SDK 7.3.1 (v2.chat)"

_Q, _K, _V, _O = ("q_proj", "k_proj", "v_proj", "o_proj")
_MANAGED_MODULES = {
    (_Q, _V): "LORA_TARGET_MODULES_QV",
    "attention": "LORA_TARGET_MODULES_QKVO",
    (_Q, _K, _V, _O): "LORA_TARGET_MODULES_QKVO",
    "all-linear": "LORA_TARGET_MODULES_QKVO_FFN",
}
_OPEN_MODULES = {
    _Q: "q",
    _K: "k",
    _V: "v",
    _O: "o",
    "gate_proj": "ffn_expansion",
    "up_proj": "ffn_expansion",
}
_OPEN_PRESETS = {
    "attention": ["q", "k", "v", "o"],
    "mlp": ["ffn_expansion"],
    "all-linear": ["q", "k", "v", "o", "ffn_expansion"],
}


def _open_modules(value: Any, facts: core.ConversionContext) -> core.ConvertedValue | core.NotConvertible:
    if isinstance(value, str) and value in _OPEN_PRESETS:
        return core.ConvertedValue(_OPEN_PRESETS[value], f"{value} = {', '.join(_OPEN_PRESETS[value])}")
    names = (value,) if isinstance(value, str) else tuple(value)
    if not names:
        return core.NotConvertible("must name at least one kind of module", invalid=True)
    unknown = [name for name in names if name not in _OPEN_MODULES]
    if unknown:
        choices = ", ".join([*_OPEN_PRESETS, *_OPEN_MODULES])
        return core.NotConvertible(f"{unknown[0]!r} cannot be tuned here; it can be {choices}", invalid=True)
    chosen = list(dict.fromkeys(_OPEN_MODULES[name] for name in names))
    return core.ConvertedValue(chosen, f"{', '.join(names)} = {', '.join(chosen)}")


#: What neither service has a parameter for.
_NEITHER = (
    *("min_lr_ratio", "lr_schedule", "lr_num_cycles", "warmup_ratio", "warmup_steps"),
    *("optimizer", "adam_beta1", "adam_beta2", "adam_epsilon", "weight_decay", "max_grad_norm"),
    *("lora_dropout", "dropout", "attention_dropout", "label_smoothing", "packing"),
)


def _declare(
    *,
    prefix: str,
    rate: float,
    batch: int,
    epochs: core.ValueType,
    batches: core.ValueType,
    rates: core.ValueType,
    source: str,
    **fields: Any,
) -> core.Declarations:
    """Declare what both transports share; `fields` are those in which they differ."""
    return core.Declarations(
        epochs=core.Sent(prefix + "train_epochs", epochs, default=1, source=source),
        max_steps=core.max_steps_as_epochs(prefix + "train_epochs", epochs, source, batch_size=batch),
        batch_size=core.Sent(prefix + "train_batch_size", batches, default=batch, source=source),
        learning_rate=core.Sent(prefix + "learning_rate", rates, default=rate, source=source),
        learning_rate_multiplier=core.multiplier_as_rate(prefix + "learning_rate", rates, rate, "Cohere", source),
        **dict.fromkeys(_NEITHER, core.Unsupported(_NO_PARAMETER, source)),
        replay_share=core.Unsupported(
            "the service trains on the rows that it is sent, and replays none of the model's own answers", source
        ),
        prompt_loss_weight=core.Unsupported(
            "there is no parameter, and Cohere does not say whether prompts are in the loss", source
        ),
        layer_lr_multipliers=core.Unsupported("one rate holds for all layers", source),
        eval_every=core.Unsupported("Cohere evaluates when it chooses to", source),
        **dict.fromkeys(
            ("checkpoint_every", "keep_checkpoints"), core.Unsupported("no checkpoints are offered", source)
        ),
        dpo_beta=core.NotApplicable("no preference tuning is offered", source),
        seed=core.Unsupported("no seed can be set: two runs of one job differ", source),
        tags=core.Unsupported("no labels are kept with a job", source),
        **fields,
    )


#: `client.finetuning`: POST /v1/finetuning/finetuned-models.
MANAGED = _declare(
    prefix=_H,
    rate=MANAGED_RATE,
    batch=MANAGED_BATCH,
    epochs=core.Int(1, 10),
    batches=core.Int(2, 16),
    rates=core.Float(ge=5e-5, le=0.1),
    source=ARCHIVE,
    gradient_accumulation_steps=core.Unsupported(_NO_PARAMETER, SDK),
    lora_rank=core.Sent(_H + "lora_rank", core.Int(1), source=SDK, note="range and default were never published"),
    lora_alpha=core.Converted(
        _H + "lora_alpha",
        core.Int(1),
        core.whole_number,
        description="whole numbers only",
        source=SDK,
        note="range and default were never published",
    ),
    lora_target_modules=core.Converted(
        _H + "lora_target_modules",
        core.Text(),
        words(_MANAGED_MODULES, "lora_target_modules"),
        description="one of three sets: query and value, attention, attention and feed-forward",
        source=SDK,
    ),
    max_sequence_length=core.Inherent(16_384, "a turn may have at most 16,384 tokens, and that is fixed", ARCHIVE),
    early_stopping_patience=core.Sent(_H + "early_stopping_patience", core.Int(0, 10), default=10, source=ARCHIVE),
    early_stopping_threshold=core.Sent(
        _H + "early_stopping_threshold", core.Float(ge=0.001, le=0.1), default=0.001, source=ARCHIVE
    ),
    name=core.Converted(
        "name", core.Text(NAME_LENGTH), shortened(NAME_LENGTH), description=f"at most {NAME_LENGTH} characters"
    ),
    temperature=core.Sent("temperature", core.Float(ge=0, le=1), source=_CHAT, where="generation"),
    top_p=core.Sent("p", core.Float(ge=0.01, le=0.99), source=_CHAT, where="generation"),
    top_k=core.Sent("k", core.Int(0, 500), source=_CHAT, where="generation"),
    max_tokens=core.Sent("max_tokens", core.Int(1), source=_CHAT, where="generation"),
)

#: `cohere-finetune`: POST /finetune of a container of your own.
SELF_HOSTED = _declare(
    prefix="",
    rate=OPEN_RATE,
    batch=OPEN_BATCH,
    epochs=core.Int(1),
    batches=core.Int(1),
    rates=core.Float(ge=1e-5, le=1),
    source=OPEN,
    gradient_accumulation_steps=core.Sent("gradient_accumulation_steps", core.Int(1), default=1, source=OPEN),
    lora_rank=core.Sent("lora_config.rank", core.Int(1), default=8, source=OPEN),
    lora_alpha=core.Converted(
        "lora_config.alpha",
        core.Int(1),
        core.whole_number,
        description="whole numbers only; with rsLoRA off, so that the update is scaled by alpha / rank",
        default="2 x lora_rank",
        source=OPEN,
        # The trainer's own default is rank-stabilised LoRA, which scales by alpha / sqrt(rank): another meaning.
        also={"lora_config.rslora": "false"},
    ),
    lora_target_modules=core.Converted(
        "lora_config.target_modules",
        core.AnyValue(),
        _open_modules,
        description="some of q, k, v, o, ffn_expansion",
        default=["q", "k", "v", "o"],
        source=OPEN,
    ),
    max_sequence_length=core.Unsupported("the trainer takes the longest row of the dataset", OPEN),
    **dict.fromkeys(
        ("early_stopping_patience", "early_stopping_threshold"),
        core.Unsupported("the trainer has no early stopping", OPEN),
    ),
    name=core.Converted(
        "finetune_name",
        core.Text(NAME_LENGTH),
        shortened(NAME_LENGTH),
        description=f"as the folder's name, at most {NAME_LENGTH} characters",
        source=OPEN,
    ),
    temperature=core.Sent("temperature", core.Float(ge=0), source=OPEN, where="generation"),
    top_p=core.Sent("top_p", core.Float(gt=0, le=1), source=OPEN, where="generation"),
    top_k=core.Sent("top_k", core.Int(1), source=OPEN, where="generation"),
    max_tokens=core.Sent("max_new_tokens", core.Int(1), source=OPEN, where="generation"),
)

MANAGED_METHODS: dict[str, core.Ability] = {
    "sft": True,
    "classification": True,
    "dpo": core.NotOffered("Cohere never offered preference tuning"),
    **core.NOT_YET_METHODS,
}
SELF_HOSTED_METHODS = MANAGED_METHODS | {
    "classification": core.NotOffered("cohere-finetune trains chat models only; method sft with labels comes closest"),
    "dpo": core.NotOffered("cohere-finetune does supervised tuning only"),
}
MANAGED_ADAPTERS: dict[str, core.Ability] = {
    "lora": True,
    "qlora": core.NotOffered("the service chose its own precision; use adapter lora"),
    "dora": core.NotOffered("the service had plain LoRA only; use adapter lora"),
    "full": core.NotOffered("the service trained adapters only; use adapter lora"),
}
SELF_HOSTED_ADAPTERS: dict[str, core.Ability] = {
    "lora": True,
    "qlora": True,
    **dict.fromkeys(("dora", "full"), core.NotOffered("cohere-finetune has LoRA and QLoRA only")),
}

MANAGED_ABILITIES = core.Abilities(
    pause=core.NotOffered("the service pauses jobs by itself only"),
    checkpoints=core.NotOffered("the API shows no checkpoints"),
)
_NO_METRICS = core.NotOffered("the trainer has no metrics endpoint; it can write to Weights & Biases")
SELF_HOSTED_ABILITIES = core.Abilities(
    pause=core.NotOffered("the trainer has no pause"),
    metrics=_NO_METRICS,
    validation_metrics=_NO_METRICS,
    checkpoints=core.NotOffered("the trainer does not serve its checkpoints; they lie in its folder"),
    billed_cost=core.NotOffered("your own machine: no vendor bills it"),
)


_SPLIT = "a fifth is split off where no evaluation rows are given"
CHAT_LIMITS = core.Limits(
    format="cohere_chat", min_rows=2, source=ARCHIVE, note=f"{_SPLIT}; a preamble may have 2,048 tokens"
)
SELF_HOSTED_LIMITS = core.Limits(format="cohere_chat", min_rows=1, source=OPEN, note=_SPLIT)
CLASSIFICATION_LIMITS = core.Limits(
    format="cohere_classification", min_rows=40, source=ARCHIVE, note="at least 5 rows a label and 2 labels"
)
