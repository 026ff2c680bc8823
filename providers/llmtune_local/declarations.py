"""What the local trainer accepts: everything, with its defaults and where they come from.

The trainer is ours, so a default here is a fact and not a guess: the value is written into the request that the worker
reads.
"""

from __future__ import annotations

import importlib.util
import re
from dataclasses import dataclass, replace
from typing import Any

from llmtune.job.graders import Grader, list_parts
from llmtune.provider import (
    GENERATION_FIELDS,
    NOT_YET_METHODS,
    Abilities,
    Ability,
    AnyValue,
    Bool,
    Capabilities,
    Choice,
    ConversionContext,
    Converted,
    ConvertedValue,
    Declarations,
    Float,
    Int,
    Limits,
    MappingValue,
    NotApplicable,
    NotConvertible,
    NotOffered,
    Sent,
    Target,
    Text,
    ValueType,
    multiplier_as_rate,
)
from llmtune_local.default_settings import DefaultSettings, choose_settings

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

#: An optimizer named by its class; whether torch has it is checked before a run starts.
_BY_CLASS = re.compile(r"torch\.optim\.[A-Za-z]\w*")


@dataclass(frozen=True)
class OptimizerName(ValueType):
    """A name of transformers', or a class of torch's by its dotted name."""

    def error(self, value: Any) -> str | None:
        if isinstance(value, str) and _BY_CLASS.fullmatch(value):
            return None
        problem = Choice(*OPTIMIZERS).error(value)
        return None if problem is None else problem.replace(", not ", ", or a class such as torch.optim.NAdam, not ", 1)

    def describe(self) -> str:
        return f"{Choice(*OPTIMIZERS).describe()}, or a class such as torch.optim.NAdam"


_H = "hyperparameters."
_OURS = "llmtune's local trainer"


def _sent(type: ValueType, default: Any, note: str = "", source: str = _OURS) -> dict[str, Any]:
    return {"type": type, "default": default, "note": note, "source": source}


#: Training settings that go out under their own name.
_SAME_NAME: dict[str, dict[str, Any]] = {
    "epochs": _sent(Int(1), None),
    "max_steps": _sent(Int(1), None, "whichever of the two ends first"),
    "batch_size": _sent(Int(1), None),
    "gradient_accumulation_steps": _sent(Int(1), None, "unset: by token budget"),
    "min_lr_ratio": _sent(Float(ge=0, le=1), 0.0),
    "lr_schedule": _sent(Choice(*SCHEDULES), "linear"),
    "lr_num_cycles": _sent(Float(gt=0), None, "unset: 0.5, restarts 1"),
    "warmup_ratio": _sent(Float(ge=0, le=1), None),
    "warmup_steps": _sent(Int(0), None),
    "optimizer": _sent(OptimizerName(), "adamw_torch"),
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
        AnyValue(), "all-linear", "presets: linear layers of the text model; routed experts by name: [experts]"
    ),
    "layer_lr_multipliers": _sent(MappingValue(), None),
    "dropout": _sent(Float(ge=0, lt=1), None, "unset: the model's own"),
    "attention_dropout": _sent(Float(ge=0, lt=1), None, "unset: the model's own"),
    "label_smoothing": _sent(Float(ge=0, lt=1), 0.0),
    "replay_share": _sent(Float(ge=0, le=0.5), 0.0, "greedy answers of the model before the first step"),
    "max_sequence_length": _sent(Int(1), None, "unset: the model's context"),
    "packing": _sent(Bool(), True, "changes speed, never the loss"),
    "early_stopping_patience": _sent(Int(1), None),
    "early_stopping_threshold": _sent(Float(ge=0), 0.0),
    "eval_every": _sent(Int(1), None, "unset: up to ten times over the run"),
    "checkpoint_every": _sent(Int(1), None, "unset: each epoch"),
    "keep_checkpoints": _sent(Int(1), 2),
    "dpo_beta": _sent(Float(gt=0), 0.1, source="arXiv:2305.18290"),
}


_NO_TOKENS = NotApplicable("an encoder is tuned to labels: there are no tokens to answer with")
_GENERATION: dict[str, tuple[ValueType, Any]] = {
    "temperature": (Float(ge=0), 0.0),
    "top_p": (Float(gt=0, le=1), None),
    "top_k": (Int(1), None),
    "max_tokens": (Int(1), None),
}


#: Where a job says how long to train, or how to warm up, nothing is added to it.
_UNLESS = {"early_stopping_patience": ("epochs", "max_steps"), "warmup_ratio": ("warmup_steps",)}


def _declare_parameters(method: str, settings: DefaultSettings, *, stops_early: bool) -> Declarations:
    """Return what becomes of each field, with the defaults that `settings` has for this model and dataset."""
    chosen = {name: getattr(settings, name) for name in ("epochs", "batch_size", "warmup_ratio")}
    if stops_early and settings.early_stopping_patience is not None:
        chosen["early_stopping_patience"] = settings.early_stopping_patience
    fields = {name: Sent(_H + name, **facts) for name, facts in _SAME_NAME.items()}
    fields |= {
        name: replace(fields[name], default=value, default_rule=settings.rule, default_unless=_UNLESS.get(name, ()))
        for name, value in chosen.items()
    }
    rate, trainer = settings.learning_rate, "the local trainer"
    declared = Declarations(
        **fields,
        learning_rate=Sent(_H + "learning_rate", Float(gt=0), default=rate, default_rule=settings.rule, source=_OURS),
        learning_rate_multiplier=multiplier_as_rate(_H + "learning_rate", Float(gt=0), rate, trainer, _OURS),
        name=Sent("name", Text(), source=_OURS),
        seed=Sent("seed", Int(0), default=0, source=_OURS),
        tags=Sent("tags", MappingValue(), default=None, source=_OURS),
        **{
            name: Sent(name, type, default=default, source=_OURS, where="generation")
            for name, (type, default) in _GENERATION.items()
        },
    )
    if method == "dpo":
        pairs = "the share of pairs that may be the wrong way round"
        smoothing = _sent(Float(ge=0, lt=0.5), 0.0, pairs, source="arXiv:2305.18290v3")
        return declared.replace(label_smoothing=Sent(_H + "label_smoothing", **smoothing))
    if method == "classification":
        return declared.replace(
            packing=NotApplicable("texts go through an encoder in padded batches of like length"),
            **dict.fromkeys(GENERATION_FIELDS, _NO_TOKENS),
        )
    if method == "reinforcement":
        return declared.replace(
            label_smoothing=NotApplicable("there are no right tokens whose probability could be spread"),
            early_stopping_threshold=Sent(
                _H + "early_stopping_threshold",
                **_sent(Float(ge=0), 0.0, "rise of the validation rows' mean reward, in its units"),
            ),
        )
    return declared


#: Kinds of graders that the worker does not ask: it runs for days without whoever has their keys, and an answer that
#: nobody scored must not count as a wrong one.
_ELSEWHERE = ("http", "lambda", "judge")


def _convert_grader(grader: Grader, _: ConversionContext) -> ConvertedValue | NotConvertible:
    for part in list_parts(grader):
        if part.kind in _ELSEWHERE:
            return NotConvertible(
                f"a grader of kind {part.kind} runs elsewhere, and the local trainer takes those that run on this"
                " machine: match, regex, similarity, tool_call, schema, python, and weighted of these",
                invalid=True,
            )
    return ConvertedValue(grader.model_dump(mode="json", exclude_none=True), "", exact=True)


#: The grader goes to the worker as it is.
GRADER = Converted(
    "grader",
    MappingValue(),
    _convert_grader,
    description="as it is, where it runs on this machine",
    default=None,
    source=_OURS,
)

_FORMATS = {"dpo": "preference", "classification": "labelled"}
_FAMILIES = {"classification": "transformers models with a head for labels (encoders)"}

METHODS: dict[str, Ability] = {
    **dict.fromkeys(("sft", "dpo", "classification"), True),
    **NOT_YET_METHODS,
    "reinforcement": True,
}
ADAPTERS: dict[str, Ability] = dict.fromkeys(("lora", "dora", "full", "qlora"), True)
#: Of an encoder.
_NO_ANSWERS = NotOffered("an encoder is tuned to labels: it answers with no text to look at")
ABILITIES = Abilities(
    samples=True,
    pause=NotOffered("cancel and attach again instead; a run continues from its last checkpoint"),
    logits=True,
    billed_cost=NotOffered("your own machine: no vendor bills it"),
)


def row_format(method: str) -> str:
    """Return the canonical row format that the worker reads for a method."""
    return _FORMATS.get(method, "chat")


def _adapters(method: str) -> dict[str, Ability]:
    if method != "classification":
        return ADAPTERS
    return ADAPTERS | {"qlora": NotOffered("an encoder is small: its base is not quantised; use lora")}


def _warnings(adapter: str) -> tuple[str, ...]:
    if adapter != "qlora" or importlib.util.find_spec("bitsandbytes") is not None:
        return ()
    return ("adapter qlora needs bitsandbytes, which is not installed here: the run will be refused",)


def capabilities(target: Target) -> Capabilities:
    """Return everything the local trainer can express for this model, method and adapter, with its defaults for them.

    Defaults depend on the number of rows, where `target.rows` has them.
    """
    method = target.method if METHODS.get(target.method) is True else "sft"
    settings = choose_settings(
        target.model, method, target.adapter, target.rows, revision=target.options.get("revision")
    )
    return Capabilities(
        parameters=_declare_parameters(method, settings, stops_early=method != "dpo"),
        family=_FAMILIES.get(method, "transformers causal language models"),
        limits=Limits(
            format=row_format(method), text_format="text" if method == "sft" else None, min_rows=1, source=_OURS
        ),
        abilities=replace(ABILITIES, samples=_NO_ANSWERS) if method == "classification" else ABILITIES,
        grader=GRADER if method == "reinforcement" else None,
        methods=METHODS,
        adapters=_adapters(method),
        warnings=_warnings(target.adapter),
        concurrency=1,
        concurrency_source="one run a device",
    )
