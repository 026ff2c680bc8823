"""What a model customization job on Bedrock takes, by family, as AWS's hyperparameter tables have it.

Every hyperparameter goes out as a string. Ranges and defaults are AWS's own ("Custom model hyperparameters", read
2026-11-21); where AWS publishes none, the note says so.
"""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from typing import Any

import llmtune.provider as core
from llmtune.provider import Converted, Declaration, Sent, Unsupported
from llmtune.provider.conversions import shortened

TABLES = "AWS, Custom model hyperparameters, 2026"
CONVERSE = "botocore 1.44.5, bedrock-runtime Converse, 2026-11-21"
API = "botocore 1.44.5, CreateModelCustomizationJob, 2026-11-21"

_H = "hyperParameters."

#: Job and model names end in "-" and the run key (12 characters); both may have 63.
NAME_LENGTH = 63 - 13

#: Tag that carries the run key; one of the 200 a resource may have.
RUN_TAG = "llmtune-run"
MOST_TAGS = 199


def as_text(value: Any) -> str:
    """Format a number for Bedrock's string map: 0.00001, not 1e-05."""
    if isinstance(value, float):
        text = format(Decimal(repr(value)), "f")
        return text.rstrip("0").rstrip(".") if "." in text else text
    return str(value)


def as_tags(tags: Mapping[str, str]) -> list[dict[str, str]]:
    """Format tags as AWS does."""
    return [{"key": key, "value": value} for key, value in tags.items()]


def tag_rules(most: int) -> core.Tags:
    """Return AWS's rules for tags, of which a resource may have `most` beside llmtune's own."""
    rule = "keys of at most 128 and values of at most 256 characters (a-z, A-Z, 0-9, spaces and _.:/=+-@), none in aws:"
    letters = r"[a-zA-Z0-9\s._:/=+@-]"
    return core.Tags(
        most=most, names=rf"(?!(?i:aws:)){letters}{{1,128}}", values=rf"{letters}{{0,256}}", rule=rule, own=RUN_TAG
    )


TAGS = tag_rules(MOST_TAGS)


def _length(
    high: int, default: int, *, batch: tuple[int, int, int] | None = None, note: str = ""
) -> dict[str, Declaration]:
    """Declare epochs, and max_steps for a family whose batch size (`batch`: lowest, highest, default) is known."""
    fields: dict[str, Declaration] = {"epochs": _sent("epochCount", core.Int(1, high), default, note=note)}
    if batch is not None:
        low, highest, size = batch
        fields["max_steps"] = core.max_steps_as_epochs(
            _H + "epochCount", core.Int(1, high), TABLES, batch_size=size, encode=as_text
        )
        fields["batch_size"] = _sent("batchSize", core.Int(low, highest), size)
    return fields


def _sent(name: str, type: Any, default: Any, note: str = "") -> Sent:
    return Sent(_H + name, type, default=default, source=TABLES, encode=as_text, note=note)


def _rate(low: float, high: float, default: float, of: str, note: str = "") -> dict[str, Declaration]:
    """Declare learning_rate as sent, and learning_rate_multiplier as converted by the published default rate."""
    takes = core.Float(ge=low, le=high)
    return {
        "learning_rate": _sent("learningRate", takes, default, note),
        "learning_rate_multiplier": core.multiplier_as_rate(
            _H + "learningRate", takes, default, of, TABLES, encode=as_text, note=note
        ),
    }


def _warmup(high: int, default: int, *, batch: int, epochs: int) -> dict[str, Declaration]:
    """Declare warm-up in steps, and as a ratio through the default batch size and epochs."""
    return {
        "warmup_steps": _sent("learningRateWarmupSteps", core.Int(0, high), default),
        "warmup_ratio": Converted(
            _H + "learningRateWarmupSteps",
            core.Int(0, high),
            core.steps_from_ratio(batch, epochs),
            description="steps, from rows, batch size and epochs",
            source=TABLES,
            encode=as_text,
        ),
    }


def _early_stopping(patience: int, threshold: float) -> dict[str, Declaration]:
    return {
        "early_stopping_patience": _sent("earlyStoppingPatience", core.Int(1, 10), patience),
        "early_stopping_threshold": _sent("earlyStoppingThreshold", core.Float(ge=0, le=0.1), threshold),
    }


def _no(reason: str) -> Unsupported:
    return Unsupported(reason, source=TABLES)


_NO_ADAPTER = _no("the service chooses how it adapts the model and does not say")
_NO_STOPPING = _no("this family trains for all epochs")
_FINAL_ONLY = _no("Bedrock gives the final model only")
#: Fields that no family has a parameter for, and those that only some families have.
_NO_PARAMETER = (
    *("epochs", "batch_size", "gradient_accumulation_steps", "learning_rate", "learning_rate_multiplier"),
    *("min_lr_ratio", "lr_schedule", "lr_num_cycles", "warmup_ratio", "warmup_steps"),
    *("optimizer", "adam_beta1", "adam_beta2", "adam_epsilon", "weight_decay", "max_grad_norm"),
    *("layer_lr_multipliers", "dropout", "attention_dropout", "label_smoothing", "packing"),
)

#: What holds for every family; the families below say what they add.
NOTHING = core.Declarations(
    **dict.fromkeys(_NO_PARAMETER, _no("the service chooses it and has no parameter for it")),
    replay_share=_no("the service trains on the rows that it is sent, and replays none of the model's own answers"),
    max_steps=_no("length is given in epochs, and the batch size that would convert them is not published"),
    prompt_loss_weight=_no("there is no parameter, and AWS does not say how prompt tokens are weighed"),
    **dict.fromkeys(("lora_rank", "lora_alpha", "lora_dropout", "lora_target_modules"), _NO_ADAPTER),
    max_sequence_length=_no("the limit is the model's own; longer rows fail the job"),
    **dict.fromkeys(("early_stopping_patience", "early_stopping_threshold"), _NO_STOPPING),
    eval_every=_no("the service evaluates on validation rows at intervals of its own"),
    **dict.fromkeys(("checkpoint_every", "keep_checkpoints"), _FINAL_ONLY),
    dpo_beta=core.NotApplicable("Bedrock has no preference tuning"),
    name=Converted(
        "customModelName",
        core.Text(NAME_LENGTH),
        shortened(NAME_LENGTH, allowed="A-Za-z0-9"),
        description=f"letters, digits and -, at most {NAME_LENGTH} characters",
        source=API,
        note="the run key is appended; the job gets the same name",
    ),
    seed=_no("the service takes no seed: two runs of one job differ"),
    tags=Sent("jobTags", TAGS, default=None, source=API, encode=as_tags),
    temperature=Sent("inferenceConfig.temperature", core.Float(ge=0, le=1), source=CONVERSE, where="generation"),
    top_p=Sent("inferenceConfig.topP", core.Float(gt=0, le=1), source=CONVERSE, where="generation"),
    top_k=Unsupported("Converse has no top_k; the model's own default holds", source=CONVERSE),
    max_tokens=Sent("inferenceConfig.maxTokens", core.Int(1), source=CONVERSE, where="generation"),
)

NOVA = NOTHING.replace(
    **_length(5, 2),
    **_rate(1e-6, 1e-4, 1e-5, "Nova"),
    warmup_steps=_sent("learningRateWarmupSteps", core.Int(0, 100), 10, "the older Nova guide says 0 to 20"),
    warmup_ratio=_no(
        "warm-up is given in steps, and the batch size that would convert a ratio is not published; set warmup_steps"
    ),
)

_NOVA_2_NOTE = "AWS publishes no table for Nova 2 Lite: key as for Nova 1, range unknown (unverified)"
NOVA_2 = NOTHING.replace(
    epochs=_sent("epochCount", core.Int(1), core.NOT_PUBLISHED, _NOVA_2_NOTE),
    learning_rate=_sent("learningRate", core.Float(gt=0), core.NOT_PUBLISHED, _NOVA_2_NOTE),
    learning_rate_multiplier=_no("no default rate is published that a multiplier could be taken of"),
    warmup_steps=_sent("learningRateWarmupSteps", core.Int(0), core.NOT_PUBLISHED, _NOVA_2_NOTE),
    warmup_ratio=_no("warm-up is given in steps, and the batch size is not published; set warmup_steps"),
    eval_every=_no("Nova 2 does not use validation rows"),
)

#: Where the hyperparameters of a reinforcement job stand; they are numbers there, not texts.
_RFT = "customizationConfig.rftConfig.hyperParameters."
RFT = "botocore 1.44.5, RFTHyperParameters, 2026-11-30"


def _rft(name: str, type: core.ValueType, note: str = "") -> Sent:
    return Sent(_RFT + name, type, source=RFT, note=note)


NOVA_2_REINFORCEMENT = NOTHING.replace(
    epochs=_rft("epochCount", core.Int(1, 50)),
    max_steps=core.max_steps_as_epochs(_RFT + "epochCount", core.Int(1, 50), RFT),
    batch_size=_rft("batchSize", core.Int(16, 512), "prompts a step, each with several answers"),
    learning_rate=_rft("learningRate", core.Float(ge=1e-7, le=1e-3)),
    learning_rate_multiplier=_no("no default rate is published that a multiplier could be taken of"),
    prompt_loss_weight=core.NotApplicable(
        "there are no tokens to learn from: the model learns from what its own answers earn"
    ),
    eval_every=_rft("evalInterval", core.Int(1, 100)),
    max_sequence_length=_no("prompts and answers have limits of their own: max_prompt_length and max_output_tokens"),
)

CLAUDE_3_HAIKU = NOTHING.replace(
    **_length(10, 2, batch=(4, 256, 32)),
    learning_rate=_no("the parameter is a multiplier of a rate that is not published; the service uses its own rate"),
    learning_rate_multiplier=_sent("learningRateMultiplier", core.Float(ge=0.1, le=2), 1.0),
    **_early_stopping(2, 0.001),
)

LLAMA = NOTHING.replace(**_length(10, 5, batch=(1, 1, 1)), **_rate(5e-6, 0.1, 1e-4, "Llama 3"))

_LLAMA_33_NOTE = "no table of its own: Llama 3.2's values are assumed (unverified)"
LLAMA_33 = LLAMA.replace(
    **_length(10, 5, note=_LLAMA_33_NOTE), **_rate(5e-6, 0.1, 1e-4, "Llama 3", note=_LLAMA_33_NOTE)
)

TITAN_PREMIER = NOTHING.replace(
    **_length(5, 2, batch=(1, 1, 1)),
    **_rate(1e-7, 1e-5, 1e-6, "Titan Text Premier"),
    **_warmup(20, 5, batch=1, epochs=2),
)

TITAN = NOTHING.replace(
    **_length(10, 5, batch=(1, 64, 1)),
    **_rate(0.0, 1.0, 1e-5, "Titan Text"),
    **_warmup(250, 5, batch=1, epochs=5),
)

COHERE = NOTHING.replace(
    **_length(100, 1, batch=(8, 8, 8)),
    **_rate(5e-6, 0.1, 1e-5, "Cohere Command", note="leave it unset when there is a validation set"),
    **_early_stopping(6, 0.01),
)
COHERE_LIGHT = COHERE.replace(batch_size=_sent("batchSize", core.Int(8, 32), 8))
