"""What Together's fine-tuning API takes, field by field, in the order of its reference page.

Defaults are those of the `together` SDK, which sends every one of them, so that a plan shows the whole request.
Upper limits are the model's own and are served live (`GET /v1/fine-tunes/models/limits`): `preflight` holds the
request to them before anything is paid. What stands here is what holds for every model.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import llmtune.provider as core
from llmtune.provider.conversions import shortened

SDK = "together SDK 3.1.1 (fine_tuning.create), read 2026-11-21"
SPEC = "Together OpenAPI (togethercomputer/openapi 090263a, 2026-04-28)"
CLI = "Together CLI reference, read 2026-11-21"
MODELS = "docs.together.ai/docs/fine-tuning/supported-models, read 2026-11-21"

#: The SDK's and the specification's default rate, the same for every model.
DEFAULT_RATE = 1e-5

#: A suffix may have 40 characters (SDK); "-" and the run key take 13 of them.
SUFFIX = 40
NAME_LENGTH = SUFFIX - 13

#: The row format, as registered.
ROW_FORMAT = "together"

#: Evaluations that early stopping skips before it counts, when `early_stopping_warmup_evals` is not set.
WARMUP_EVALS = 1
PATIENCE = 2

#: Highest number of evaluations that the CLI takes; the model's live limit may be lower.
MOST_EVALS = 100

ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")
MLP = ("gate_proj", "up_proj", "down_proj")

_LORA = "training_type."
_ARGS = "lr_scheduler.lr_scheduler_args."
_NO_PARAMETER = "the service has no such parameter and does not say what it uses"


def _rows_per_step(value: int, facts: core.ConversionContext) -> core.ConvertedValue | core.NotConvertible:
    """Convert batch_size: Together's is one micro-batch, ours is per optimizer step."""
    pieces = facts.hyperparameters.gradient_accumulation_steps or 1
    if value % pieces:
        return core.NotConvertible(f"{value} rows cannot be cut into {pieces} equal micro-batches", invalid=True)
    if pieces == 1:
        return core.ConvertedValue(value, "", exact=True)
    return core.ConvertedValue(
        value // pieces, f"{value} rows per step / {pieces} micro-batches = {value // pieces} rows each"
    )


def _micro_batches(value: int, facts: core.ConversionContext) -> core.ConvertedValue | core.NotConvertible:
    if facts.hyperparameters.batch_size is None:
        return core.NotConvertible(
            "needs batch_size: the service's own batch ('max') would be multiplied by it, which changes the gradient"
        )
    return core.ConvertedValue(value, "", exact=True)


def _cycles(value: float, facts: core.ConversionContext) -> core.ConvertedValue | core.NotConvertible:
    if facts.hyperparameters.lr_schedule == "linear":
        return core.NotConvertible("a linear schedule has no cycles; they belong to lr_schedule cosine")
    return core.ConvertedValue(value, "", exact=True)


def _modules(value: Any, facts: core.ConversionContext) -> core.ConvertedValue | core.NotConvertible:
    if value == "all-linear":
        return core.ConvertedValue(value, "", exact=True)
    presets = {"attention": ATTENTION, "mlp": MLP}
    names = presets.get(value, (value,)) if isinstance(value, str) else tuple(value)
    joined = ",".join(names)
    if isinstance(value, str) and value in presets:
        return core.ConvertedValue(
            joined, f"{value} = {joined}, the names of Llama-like models; preflight asks for this model's"
        )
    return core.ConvertedValue(joined, f"joined by commas: {joined}")


def _patience(warmup: int = WARMUP_EVALS, evaluations: int | None = None) -> core.Rule:
    """Return the rule that early stopping gets enough evaluations; `evaluations` is n_evals of the options."""

    def rule(value: int, facts: core.ConversionContext) -> core.ConvertedValue | core.NotConvertible:
        minimum = f"{value + warmup + 1} evaluations (patience + {warmup} skipped + 1)"
        every = facts.hyperparameters.eval_every
        if evaluations is not None:
            count, origin = evaluations, f"; provider_options set n_evals = {evaluations}"
        elif every is None:
            return core.NotConvertible(
                f"needs eval_every: the service evaluates only on request, and early stopping wants at least {minimum}",
                invalid=True,
            )
        else:
            counted = core.count_from_interval(epochs=1, max_count=MOST_EVALS)(every, facts)
            if not isinstance(counted, core.ConvertedValue):
                return core.ConvertedValue(value, "", exact=True)
            count = counted.value
            origin = f", and eval_every {every} makes {count}: evaluate more often"
        if count < value + warmup + 1:
            return core.NotConvertible(f"wants at least {minimum}{origin}", invalid=True)
        return core.ConvertedValue(value, "", exact=True)

    return rule


def _threshold(value: float, facts: core.ConversionContext) -> core.ConvertedValue | core.NotConvertible:
    if facts.hyperparameters.early_stopping_patience is None:
        return core.NotConvertible("needs early_stopping_patience: without it early stopping is off")
    return core.ConvertedValue(value, "", exact=True)


PARAMETERS = core.Declarations(
    epochs=core.Sent(
        "n_epochs", core.Int(1), default=1, source=SDK, note="the CLI reference says 1 to 20; live limit decides"
    ),
    max_steps=core.max_steps_as_epochs("n_epochs", core.Int(1), SDK),
    batch_size=core.Converted(
        "batch_size",
        core.Int(1),
        _rows_per_step,
        description="divided by gradient_accumulation_steps",
        default="max",
        source=SDK,
        also={"gradient_accumulation_steps": 1},
        note="with packing the rows of a step may differ from this (vendor's reference)",
    ),
    gradient_accumulation_steps=core.Converted(
        "gradient_accumulation_steps",
        core.Int(1),
        _micro_batches,
        description="with batch_size divided by it, so that a step sees the same rows",
        default="the model's own",
        source=MODELS,
        also={"batch_size": None},  # build divides: the service's batch is one micro-batch
    ),
    learning_rate=core.Sent("learning_rate", core.Float(gt=0), default=DEFAULT_RATE, source=SDK),
    learning_rate_multiplier=core.multiplier_as_rate("learning_rate", core.Float(gt=0), DEFAULT_RATE, "Together", SDK),
    min_lr_ratio=core.Sent(_ARGS + "min_lr_ratio", core.Float(ge=0, le=1), default=0.0, source=SDK),
    lr_schedule=core.Sent(
        "lr_scheduler.lr_scheduler_type",
        core.Choice("cosine", "linear"),
        default="cosine",
        source=SDK,
        also={_ARGS + "num_cycles": None},  # build leaves cycles out of a linear schedule
    ),
    lr_num_cycles=core.Converted(
        _ARGS + "num_cycles", core.Float(gt=0), _cycles, description="cosine schedules only", default=0.5, source=SDK
    ),
    warmup_ratio=core.Sent("warmup_ratio", core.Float(ge=0, le=1), default=0.0, source=SDK),
    warmup_steps=core.Converted(
        "warmup_ratio",
        core.Float(ge=0, le=1),
        core.ratio_from_steps(epochs=1),
        description="as a share of the run's steps",
        default=0,
        source=SDK,
    ),
    **dict.fromkeys(
        ("optimizer", "adam_beta1", "adam_beta2", "adam_epsilon", "label_smoothing"),
        core.Unsupported(_NO_PARAMETER, SPEC),
    ),
    replay_share=core.Unsupported(
        "the service trains on the rows that it is sent, and replays none of the model's own answers", SPEC
    ),
    weight_decay=core.Sent("weight_decay", core.Float(ge=0), default=0.0, source=SDK),
    max_grad_norm=core.Sent("max_grad_norm", core.Float(ge=0), default=1.0, source=SDK, note="0: off"),
    prompt_loss_weight=core.Converted(
        "training_method.train_on_inputs",
        core.Bool(),
        core.train_on_inputs(),
        description="0 or 1 as train_on_inputs false or true",
        default="auto",
        source=SPEC,
        note="auto: prompts are masked in chat and prompt/completion rows, not in plain text rows",
    ),
    lora_rank=core.Sent(
        _LORA + "lora_r", core.Int(1), default="the model's own", source=SDK, note="live limit decides the most"
    ),
    lora_alpha=core.Converted(
        _LORA + "lora_alpha",
        core.Int(1),
        core.whole_number,
        description="whole numbers only",
        default="2 x lora_rank",
        source=SDK,
    ),
    lora_dropout=core.Sent(_LORA + "lora_dropout", core.Float(ge=0, lt=1), default=0.0, source=SDK),
    lora_target_modules=core.Converted(
        _LORA + "lora_trainable_modules",
        core.Text(),
        _modules,
        description="module names joined by commas; presets spelled out",
        default="all-linear",
        source=SDK,
    ),
    layer_lr_multipliers=core.Unsupported("one rate holds for all layers", SPEC),
    **dict.fromkeys(
        ("dropout", "attention_dropout"),
        core.Unsupported("the base model's own dropout is used as it is; lora_dropout is there", SPEC),
    ),
    max_sequence_length=core.Sent(
        "max_seq_length", core.Int(1), default="the model's longest", source=SPEC, note="live limits decide the range"
    ),
    packing=core.Sent(
        "packing", core.Bool(), default=True, source=SDK, note="false bills rows x max_seq_length tokens (pricing page)"
    ),
    early_stopping_patience=core.Converted(
        "early_stopping_patience",
        core.Int(1),
        _patience(),
        description="with early stopping switched on; wants patience + 2 evaluations",
        default="off",
        source=SDK,
        also={"early_stopping_enabled": True},
    ),
    early_stopping_threshold=core.Converted(
        "early_stopping_min_delta",
        core.Float(ge=0),
        _threshold,
        description="only with early_stopping_patience",
        default=0.0,
        source=SDK,
    ),
    eval_every=core.Converted(
        "n_evals",
        core.Int(0),
        core.count_from_interval(epochs=1, max_count=MOST_EVALS),
        description=f"as a number of evaluations, at most {MOST_EVALS}",
        default="no evaluations",
        source=SDK,
    ),
    checkpoint_every=core.Converted(
        "n_checkpoints",
        core.Int(1),
        core.count_from_interval(epochs=1),
        description="as a number of checkpoints",
        default="one, at the end",
        source=SDK,
    ),
    keep_checkpoints=core.Unsupported("every checkpoint that is made is kept; checkpoint_every says how many", SPEC),
    dpo_beta=core.Sent("training_method.dpo_beta", core.Float(gt=0), default=0.1, source=SPEC),
    name=core.Converted(
        "suffix",
        core.Text(NAME_LENGTH),
        shortened(NAME_LENGTH),
        description=f"at most {NAME_LENGTH} of the suffix's {SUFFIX} characters; the run key takes the rest",
        source=SDK,
    ),
    seed=core.Sent("random_seed", core.Int(0), default=42, source=SPEC),
    tags=core.Unsupported("the service keeps no labels with a job", SPEC),
    temperature=core.Sent(
        "temperature", core.Float(ge=0), source="together SDK 3.1.1 (chat.completions)", where="generation"
    ),
    top_p=core.Sent(
        "top_p", core.Float(gt=0, le=1), source="together SDK 3.1.1 (chat.completions)", where="generation"
    ),
    top_k=core.Sent("top_k", core.Int(1), source="together SDK 3.1.1 (chat.completions)", where="generation"),
    max_tokens=core.Sent("max_tokens", core.Int(1), source="together SDK 3.1.1 (chat.completions)", where="generation"),
)


def declarations(options: Mapping[str, Any]) -> core.Declarations:
    """Return the declarations under these provider options: a count given there replaces our interval."""
    changed: dict[str, core.Declaration] = {
        field: core.Unsupported(f"provider_options set {option} = {options[option]}, which decides", SDK)
        for field, option in (("eval_every", "n_evals"), ("checkpoint_every", "n_checkpoints"))
        if option in options
    }
    warmup = options.get("early_stopping_warmup_evals")
    if "n_evals" in options or warmup is not None:
        rule = _patience(WARMUP_EVALS if warmup is None else warmup, options.get("n_evals"))
        patience = PARAMETERS["early_stopping_patience"]
        assert isinstance(patience, core.Converted)
        changed["early_stopping_patience"] = replace(patience, rule=rule)
    return PARAMETERS.replace(**changed) if changed else PARAMETERS


METHODS: dict[str, core.Ability] = {
    "sft": True,
    "dpo": True,
    "classification": core.NotOffered(
        "no classifier head is offered; method sft with the labels as answers comes closest"
    ),
    **core.NOT_YET_METHODS,
}

ADAPTERS: dict[str, core.Ability] = {
    "lora": True,
    "full": True,
    "qlora": core.NotOffered("the service does not tune a 4-bit base; use adapter lora"),
    "dora": core.NotOffered("the service has plain LoRA only; use adapter lora"),
}

ABILITIES = core.Abilities(
    pause=core.NotOffered("the service has no pause; continue later with provider_options.from_checkpoint"),
    billed_cost=core.NotOffered("the job reports the tokens it bills, and a total_price whose unit is not published"),
    deployment="required",
)

#: Its checker wants one row at least and refuses files above 50.1 GiB; a model's longest row is in the catalogue.
LIMITS = core.Limits(
    format=ROW_FORMAT,
    min_rows=1,
    max_bytes=int(50.1 * 2**30),
    source="together SDK 3.1.1 (lib/constants.py)",
    note="longer rows are cut at the model's max_seq_length",
)
