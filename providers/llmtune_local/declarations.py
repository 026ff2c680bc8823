"""What the local trainer takes: everything, with its defaults and where they come from.

The trainer is ours, so a default here is a fact and not a guess: the value stands in the request that the worker reads.
"""

from __future__ import annotations

import importlib.util

from llmtune.job.spec import NOT_YET
from llmtune.provider import (
    Abilities,
    Ability,
    Anything,
    Bool,
    Capabilities,
    Choice,
    Converted,
    Declarations,
    Float,
    Int,
    Limits,
    Mapped,
    No,
    NotApplicable,
    Sent,
    Text,
    rate_from_multiplier,
)

#: Default peak rates. LoRA wants about ten times the rate of full tuning (Thinking Machines, "LoRA Without
#: Regret", 2025-09); 2e-4 is the QLoRA paper's rate for small models (arXiv:2305.14314, table 9).
LORA_RATE = 2e-4
FULL_RATE = 2e-5
#: DPO moves in much smaller steps: 1e-6 is the paper's rate for all weights (arXiv:2305.18290, appendix B); LoRA again
#: ten times that.
DPO_LORA_RATE = 1e-5
DPO_FULL_RATE = 1e-6
#: An encoder's rates: the BERT paper tunes all weights at 2e-5 to 5e-5 (arXiv:1810.04805, appendix A.3).
LABELS_LORA_RATE = 3e-4
LABELS_FULL_RATE = 3e-5

SCHEDULES = (
    "linear",
    "cosine",
    "constant",
    "constant_with_warmup",
    "cosine_with_restarts",
    "cosine_with_min_lr",
    "polynomial",
    "inverse_sqrt",
    "warmup_stable_decay",
)
OPTIMIZERS = ("adamw_torch", "adamw_torch_fused", "adafactor", "sgd", "rmsprop", "adagrad")

_H = "hyperparameters."
_OURS = "llmtune's local trainer"


def _declarations(rate: float, of: str) -> Declarations:
    return Declarations(
        epochs=Sent(_H + "epochs", Int(1), default=3, source=_OURS),
        max_steps=Sent(_H + "max_steps", Int(1), default=None, source=_OURS, note="whichever of the two ends first"),
        batch_size=Sent(_H + "batch_size", Int(1), default=16, source=_OURS),
        gradient_accumulation_steps=Sent(
            _H + "gradient_accumulation_steps", Int(1), default=None, source=_OURS, note="unset: by token budget"
        ),
        learning_rate=Sent(_H + "learning_rate", Float(gt=0), default=rate, source=_OURS),
        learning_rate_multiplier=Converted(
            _H + "learning_rate",
            Float(gt=0),
            rate_from_multiplier(rate, of),
            says=f"x the default rate {rate:g}",
            default=1.0,
            source=_OURS,
        ),
        min_lr_ratio=Sent(_H + "min_lr_ratio", Float(ge=0, le=1), default=0.0, source=_OURS),
        lr_schedule=Sent(_H + "lr_schedule", Choice(*SCHEDULES), default="linear", source=_OURS),
        lr_num_cycles=Sent(
            _H + "lr_num_cycles", Float(gt=0), default=None, source=_OURS, note="unset: 0.5, restarts 1"
        ),
        warmup_ratio=Sent(_H + "warmup_ratio", Float(ge=0, le=1), default=0.0, source=_OURS),
        warmup_steps=Sent(_H + "warmup_steps", Int(0), default=None, source=_OURS),
        optimizer=Sent(_H + "optimizer", Choice(*OPTIMIZERS), default="adamw_torch", source=_OURS),
        adam_beta1=Sent(_H + "adam_beta1", Float(ge=0, lt=1), default=0.9, source="arXiv:1412.6980"),
        adam_beta2=Sent(_H + "adam_beta2", Float(ge=0, lt=1), default=0.999, source="arXiv:1412.6980"),
        adam_epsilon=Sent(_H + "adam_epsilon", Float(gt=0), default=1e-8, source="arXiv:1412.6980"),
        weight_decay=Sent(_H + "weight_decay", Float(ge=0), default=0.0, source=_OURS),
        max_grad_norm=Sent(_H + "max_grad_norm", Float(ge=0), default=1.0, source=_OURS, note="0: off"),
        prompt_loss_weight=Sent(
            _H + "prompt_loss_weight", Float(ge=0, le=1), default=0.0, source=_OURS, note="fractions are exact"
        ),
        lora_rank=Sent(_H + "lora_rank", Int(1), default=16, source=_OURS),
        lora_alpha=Sent(_H + "lora_alpha", Float(gt=0), default=None, source=_OURS, note="unset: 2 x rank"),
        lora_dropout=Sent(_H + "lora_dropout", Float(ge=0, lt=1), default=0.0, source=_OURS),
        lora_target_modules=Sent(
            _H + "lora_target_modules",
            Anything(),
            default="all-linear",
            source=_OURS,
            note="presets: linear layers of the text model; routed experts by name: [experts]",
        ),
        layer_lr_multipliers=Sent(_H + "layer_lr_multipliers", Mapped(), default=None, source=_OURS),
        dropout=Sent(_H + "dropout", Float(ge=0, lt=1), default=None, source=_OURS, note="unset: the model's own"),
        attention_dropout=Sent(
            _H + "attention_dropout", Float(ge=0, lt=1), default=None, source=_OURS, note="unset: the model's own"
        ),
        label_smoothing=Sent(_H + "label_smoothing", Float(ge=0, lt=1), default=0.0, source=_OURS),
        max_sequence_length=Sent(
            _H + "max_sequence_length", Int(1), default=None, source=_OURS, note="unset: the model's context"
        ),
        packing=Sent(_H + "packing", Bool(), default=True, source=_OURS, note="changes speed, never the loss"),
        early_stopping_patience=Sent(
            _H + "early_stopping_patience", Int(1), default=None, source=_OURS, note="unset: off"
        ),
        early_stopping_threshold=Sent(_H + "early_stopping_threshold", Float(ge=0), default=0.0, source=_OURS),
        eval_every=Sent(_H + "eval_every", Int(1), default=None, source=_OURS, note="unset: ten times over the run"),
        checkpoint_every=Sent(_H + "checkpoint_every", Int(1), default=None, source=_OURS, note="unset: each epoch"),
        keep_checkpoints=Sent(_H + "keep_checkpoints", Int(1), default=2, source=_OURS),
        dpo_beta=Sent(_H + "dpo_beta", Float(gt=0), default=0.1, source="arXiv:2305.18290"),
        name=Sent("name", Text(), source=_OURS),
        seed=Sent("seed", Int(0), default=0, source=_OURS),
        tags=Sent("tags", Mapped(), default=None, source=_OURS),
        temperature=Sent("temperature", Float(ge=0), default=0.0, source=_OURS, where="generation"),
        top_p=Sent("top_p", Float(gt=0, le=1), default=None, source=_OURS, where="generation"),
        top_k=Sent("top_k", Int(1), default=None, source=_OURS, where="generation"),
        max_tokens=Sent("max_tokens", Int(1), default=None, source=_OURS, where="generation"),
    )


def _preferences(rate: float, of: str) -> Declarations:
    return _declarations(rate, of).but(
        label_smoothing=Sent(
            _H + "label_smoothing",
            Float(ge=0, lt=0.5),
            default=0.0,
            source="arXiv:2305.18290v3",
            note="the share of pairs that may be the wrong way round",
        ),
    )


_NO_TOKENS = "an encoder is tuned to labels: there are no tokens to answer with"


def _labels(rate: float, of: str) -> Declarations:
    return _declarations(rate, of).but(
        packing=NotApplicable("texts go through an encoder in padded batches of like length"),
        temperature=NotApplicable(_NO_TOKENS),
        top_p=NotApplicable(_NO_TOKENS),
        top_k=NotApplicable(_NO_TOKENS),
        max_tokens=NotApplicable(_NO_TOKENS),
    )


_DECLARED = {
    ("sft", False): _declarations(LORA_RATE, "the local trainer"),
    ("sft", True): _declarations(FULL_RATE, "the local trainer (full)"),
    ("dpo", False): _preferences(DPO_LORA_RATE, "the local trainer (dpo)"),
    ("dpo", True): _preferences(DPO_FULL_RATE, "the local trainer (dpo, full)"),
    ("classification", False): _labels(LABELS_LORA_RATE, "the local trainer (classification)"),
    ("classification", True): _labels(LABELS_FULL_RATE, "the local trainer (classification, full)"),
}

_FORMATS = {"dpo": "preference", "classification": "labelled"}
_FAMILIES = {"classification": "transformers models with a head for labels (encoders)"}

METHODS: dict[str, Ability] = {
    "sft": True,
    "dpo": True,
    "classification": True,
    **{name: No(f"not yet: {reason}") for name, reason in NOT_YET.items()},
}
ADAPTERS: dict[str, Ability] = {
    "lora": True,
    "dora": True,
    "full": True,
    "qlora": True,
}
ABILITIES = Abilities(
    pause=No("cancel and attach again instead; a run continues from its last checkpoint"),
    logits=True,
    billed_cost=No("your own machine: no vendor bills it"),
)


def row_format(method: str) -> str:
    """The canonical row format that the worker reads for a method."""
    return _FORMATS.get(method, "chat")


def _adapters(method: str) -> dict[str, Ability]:
    if method != "classification":
        return ADAPTERS
    return ADAPTERS | {"qlora": No("an encoder is small: its base is not quantised; use lora")}


def _warnings(adapter: str) -> tuple[str, ...]:
    if adapter != "qlora" or importlib.util.find_spec("bitsandbytes") is not None:
        return ()
    return ("adapter qlora needs bitsandbytes, which is not installed here: the run will be refused",)


def capabilities(adapter: str, method: str = "sft") -> Capabilities:
    """Everything the local trainer can express with this method and adapter."""
    known = method if (method, False) in _DECLARED else "sft"
    return Capabilities(
        parameters=_DECLARED[known, adapter == "full"],
        family=_FAMILIES.get(method, "transformers causal language models"),
        limits=Limits(format=row_format(method), min_rows=1, source=_OURS),
        abilities=ABILITIES,
        methods=METHODS,
        adapters=_adapters(method),
        warnings=_warnings(adapter),
        concurrency=1,
        concurrency_source="one run a device",
    )
