"""What the local trainer takes: everything, with its defaults and where they come from.

The trainer is ours, so a default here is a fact and not a guess: the value stands in the request that the worker reads.
"""

from __future__ import annotations

import importlib.util
from typing import Any

from llmtune.provider import (
    GENERATION_FIELDS,
    NOT_YET_METHODS,
    Abilities,
    Ability,
    Anything,
    Bool,
    Capabilities,
    Choice,
    Declarations,
    Float,
    Int,
    Limits,
    Mapped,
    No,
    NotApplicable,
    Sent,
    Text,
    ValueType,
    multiplier_as_rate,
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


def _sent(type: ValueType, default: Any, note: str = "", source: str = _OURS) -> dict[str, Any]:
    return {"type": type, "default": default, "note": note, "source": source}


#: Training settings that go out under their own name.
_SAME_NAME: dict[str, dict[str, Any]] = {
    "epochs": _sent(Int(1), 3),
    "max_steps": _sent(Int(1), None, "whichever of the two ends first"),
    "batch_size": _sent(Int(1), 16),
    "gradient_accumulation_steps": _sent(Int(1), None, "unset: by token budget"),
    "min_lr_ratio": _sent(Float(ge=0, le=1), 0.0),
    "lr_schedule": _sent(Choice(*SCHEDULES), "linear"),
    "lr_num_cycles": _sent(Float(gt=0), None, "unset: 0.5, restarts 1"),
    "warmup_ratio": _sent(Float(ge=0, le=1), 0.0),
    "warmup_steps": _sent(Int(0), None),
    "optimizer": _sent(Choice(*OPTIMIZERS), "adamw_torch"),
    "adam_beta1": _sent(Float(ge=0, lt=1), 0.9, source="arXiv:1412.6980"),
    "adam_beta2": _sent(Float(ge=0, lt=1), 0.999, source="arXiv:1412.6980"),
    "adam_epsilon": _sent(Float(gt=0), 1e-8, source="arXiv:1412.6980"),
    "weight_decay": _sent(Float(ge=0), 0.0),
    "max_grad_norm": _sent(Float(ge=0), 1.0, "0: off"),
    "prompt_loss_weight": _sent(Float(ge=0, le=1), 0.0, "fractions are exact"),
    "lora_rank": _sent(Int(1), 16),
    "lora_alpha": _sent(Float(gt=0), None, "unset: 2 x rank"),
    "lora_dropout": _sent(Float(ge=0, lt=1), 0.0),
    "lora_target_modules": _sent(
        Anything(), "all-linear", "presets: linear layers of the text model; routed experts by name: [experts]"
    ),
    "layer_lr_multipliers": _sent(Mapped(), None),
    "dropout": _sent(Float(ge=0, lt=1), None, "unset: the model's own"),
    "attention_dropout": _sent(Float(ge=0, lt=1), None, "unset: the model's own"),
    "label_smoothing": _sent(Float(ge=0, lt=1), 0.0),
    "max_sequence_length": _sent(Int(1), None, "unset: the model's context"),
    "packing": _sent(Bool(), True, "changes speed, never the loss"),
    "early_stopping_patience": _sent(Int(1), None, "unset: off"),
    "early_stopping_threshold": _sent(Float(ge=0), 0.0),
    "eval_every": _sent(Int(1), None, "unset: ten times over the run"),
    "checkpoint_every": _sent(Int(1), None, "unset: each epoch"),
    "keep_checkpoints": _sent(Int(1), 2),
    "dpo_beta": _sent(Float(gt=0), 0.1, source="arXiv:2305.18290"),
}


def _declarations(rate: float, of: str) -> Declarations:
    return Declarations(
        **{name: Sent(_H + name, **facts) for name, facts in _SAME_NAME.items()},
        learning_rate=Sent(_H + "learning_rate", Float(gt=0), default=rate, source=_OURS),
        learning_rate_multiplier=multiplier_as_rate(_H + "learning_rate", Float(gt=0), rate, of, _OURS),
        name=Sent("name", Text(), source=_OURS),
        seed=Sent("seed", Int(0), default=0, source=_OURS),
        tags=Sent("tags", Mapped(), default=None, source=_OURS),
        temperature=Sent("temperature", Float(ge=0), default=0.0, source=_OURS, where="generation"),
        top_p=Sent("top_p", Float(gt=0, le=1), default=None, source=_OURS, where="generation"),
        top_k=Sent("top_k", Int(1), default=None, source=_OURS, where="generation"),
        max_tokens=Sent("max_tokens", Int(1), default=None, source=_OURS, where="generation"),
    )


def _preferences(rate: float, of: str) -> Declarations:
    pairs = "the share of pairs that may be the wrong way round"
    smoothing = _sent(Float(ge=0, lt=0.5), 0.0, pairs, source="arXiv:2305.18290v3")
    return _declarations(rate, of).but(label_smoothing=Sent(_H + "label_smoothing", **smoothing))


_NO_TOKENS = NotApplicable("an encoder is tuned to labels: there are no tokens to answer with")


def _labels(rate: float, of: str) -> Declarations:
    return _declarations(rate, of).but(
        packing=NotApplicable("texts go through an encoder in padded batches of like length"),
        **dict.fromkeys(GENERATION_FIELDS, _NO_TOKENS),
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
    **dict.fromkeys(("sft", "dpo", "classification"), True),
    **NOT_YET_METHODS,
}
ADAPTERS: dict[str, Ability] = dict.fromkeys(("lora", "dora", "full", "qlora"), True)
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
