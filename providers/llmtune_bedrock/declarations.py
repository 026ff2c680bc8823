"""What a model customization job on Bedrock takes, by family, as AWS's hyperparameter tables have it.

Every hyperparameter goes out as a string. Ranges and defaults are AWS's own ("Custom model hyperparameters", read
2026-11-21); where AWS publishes none, the note says so.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from llmtune.provider import (
    Converted,
    Declaration,
    Declarations,
    Float,
    Int,
    NotApplicable,
    Sent,
    Text,
    Unsupported,
    epochs_from_steps,
    rate_from_multiplier,
    steps_from_ratio,
)
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
    """A number as Bedrock's string map wants it: 0.00001, not 1e-05."""
    if isinstance(value, float):
        text = format(Decimal(repr(value)), "f")
        return text.rstrip("0").rstrip(".") if "." in text else text
    return str(value)


def as_tags(tags: Mapping[str, str]) -> list[dict[str, str]]:
    """Tags as AWS writes them."""
    return [{"key": key, "value": value} for key, value in tags.items()]


@dataclass(frozen=True)
class Tags:
    """AWS tags: keys of 1 to 128 and values of at most 256 characters out of a-z, A-Z, 0-9, space and
    _.:/=+-@ (botocore's pattern)."""

    def fault(self, value: Any) -> str | None:
        if not isinstance(value, Mapping) or len(value) > MOST_TAGS:
            return f"must be {self.describe()}"
        for key, text in value.items():
            if key == RUN_TAG or key.lower().startswith("aws:"):
                return f"must leave the tag {key!r} alone: it is not yours to set"
            if not re.fullmatch(r"[a-zA-Z0-9\s._:/=+@-]{1,128}", key) or not re.fullmatch(
                r"[a-zA-Z0-9\s._:/=+@-]{0,256}", text
            ):
                return f"must be {self.describe()}, not {key}={text}"
        return None

    def describe(self) -> str:
        return (
            f"at most {MOST_TAGS} tags with keys of at most 128 and values of at most 256 characters"
            " (a-z, A-Z, 0-9, spaces and _.:/=+-@)"
        )


def _nothing(reason: str = "the service chooses it and has no knob for it") -> Unsupported:
    return Unsupported(reason, source=TABLES)


def _epochs(high: int | None, default: Any, source: str = TABLES, note: str = "") -> Sent:
    return Sent(_H + "epochCount", Int(1, high), default=default, source=source, encode=as_text, note=note)


def _steps(batch: int, high: int) -> Converted:
    """max_steps for a family whose batch size is known."""
    return Converted(
        _H + "epochCount",
        Int(1, high),
        epochs_from_steps(batch),
        says=f"whole epochs, rounded up, from rows and batch size (default {batch})",
        source=TABLES,
        encode=as_text,
    )


def _batch(low: int, high: int, default: int) -> Sent:
    return Sent(_H + "batchSize", Int(low, high), default=default, source=TABLES, encode=as_text)


def _rate(low: float, high: float, default: float, of: str, note: str = "") -> dict[str, Declaration]:
    """learning_rate as the knob, and learning_rate_multiplier through its published default."""
    takes = Float(ge=low, le=high)
    return {
        "learning_rate": Sent(_H + "learningRate", takes, default=default, source=TABLES, encode=as_text, note=note),
        "learning_rate_multiplier": Converted(
            _H + "learningRate",
            takes,
            rate_from_multiplier(default, of),
            says=f"x {of}'s published default {default:g}",
            default=1.0,
            source=TABLES,
            encode=as_text,
            note=note,
        ),
    }


def _warmup_steps(high: int, default: int, note: str = "") -> Sent:
    return Sent(_H + "learningRateWarmupSteps", Int(0, high), default=default, source=TABLES, encode=as_text, note=note)


def _warmup_ratio(high: int, batch: int, epochs: int) -> Converted:
    return Converted(
        _H + "learningRateWarmupSteps",
        Int(0, high),
        steps_from_ratio(batch, epochs),
        says="steps, from rows, batch size and epochs",
        source=TABLES,
        encode=as_text,
    )


def _early_stopping(patience: int, threshold: float) -> dict[str, Declaration]:
    return {
        "early_stopping_patience": Sent(
            _H + "earlyStoppingPatience", Int(1, 10), default=patience, source=TABLES, encode=as_text
        ),
        "early_stopping_threshold": Sent(
            _H + "earlyStoppingThreshold", Float(ge=0, le=0.1), default=threshold, source=TABLES, encode=as_text
        ),
    }


#: What holds for every family; the families below say what they add.
NOTHING = Declarations(
    epochs=_nothing(),
    max_steps=_nothing("length is given in epochs, and the batch size that would convert them is not published"),
    batch_size=_nothing(),
    gradient_accumulation_steps=_nothing(),
    learning_rate=_nothing(),
    learning_rate_multiplier=_nothing(),
    min_lr_ratio=_nothing(),
    lr_schedule=_nothing(),
    lr_num_cycles=_nothing(),
    warmup_ratio=_nothing(),
    warmup_steps=_nothing(),
    optimizer=_nothing(),
    adam_beta1=_nothing(),
    adam_beta2=_nothing(),
    adam_epsilon=_nothing(),
    weight_decay=_nothing(),
    max_grad_norm=_nothing(),
    prompt_loss_weight=_nothing("there is no knob, and AWS does not say how prompt tokens are weighed"),
    lora_rank=_nothing("the service chooses how it adapts the model and does not say"),
    lora_alpha=_nothing("the service chooses how it adapts the model and does not say"),
    lora_dropout=_nothing("the service chooses how it adapts the model and does not say"),
    lora_target_modules=_nothing("the service chooses how it adapts the model and does not say"),
    layer_lr_multipliers=_nothing(),
    dropout=_nothing(),
    attention_dropout=_nothing(),
    label_smoothing=_nothing(),
    max_sequence_length=_nothing("the limit is the model's own; longer rows fail the job"),
    packing=_nothing(),
    early_stopping_patience=_nothing("this family trains for all epochs"),
    early_stopping_threshold=_nothing("this family trains for all epochs"),
    eval_every=_nothing("the service evaluates on validation rows at intervals of its own"),
    checkpoint_every=_nothing("Bedrock gives the final model only"),
    keep_checkpoints=_nothing("Bedrock gives the final model only"),
    dpo_beta=NotApplicable("Bedrock has no preference tuning"),
    name=Converted(
        "customModelName",
        Text(NAME_LENGTH),
        shortened(NAME_LENGTH, allowed="A-Za-z0-9"),
        says=f"letters, digits and -, at most {NAME_LENGTH} characters",
        source=API,
        note="the run key is appended; the job gets the same name",
    ),
    seed=_nothing("the service takes no seed: two runs of one job differ"),
    tags=Sent("jobTags", Tags(), default=None, source=API, encode=as_tags),
    temperature=Sent("inferenceConfig.temperature", Float(ge=0, le=1), source=CONVERSE, where="generation"),
    top_p=Sent("inferenceConfig.topP", Float(gt=0, le=1), source=CONVERSE, where="generation"),
    top_k=Unsupported("Converse has no top_k; the model's own default holds", source=CONVERSE),
    max_tokens=Sent("inferenceConfig.maxTokens", Int(1), source=CONVERSE, where="generation"),
)

NOVA = NOTHING.but(
    epochs=_epochs(5, 2),
    **_rate(1e-6, 1e-4, 1e-5, "Nova"),
    warmup_steps=_warmup_steps(100, 10, note="the older Nova guide says 0 to 20"),
    warmup_ratio=_nothing(
        "warm-up is given in steps, and the batch size that would convert a ratio is not published; set warmup_steps"
    ),
)

_NOVA_2_NOTE = "AWS publishes no table for Nova 2 Lite: key as for Nova 1, range unknown (unverified)"
NOVA_2 = NOTHING.but(
    epochs=_epochs(None, "not published", note=_NOVA_2_NOTE),
    learning_rate=Sent(_H + "learningRate", Float(gt=0), source=TABLES, encode=as_text, note=_NOVA_2_NOTE),
    learning_rate_multiplier=_nothing("no default rate is published that a multiplier could be taken of"),
    warmup_steps=Sent(_H + "learningRateWarmupSteps", Int(0), source=TABLES, encode=as_text, note=_NOVA_2_NOTE),
    warmup_ratio=_nothing("warm-up is given in steps, and the batch size is not published; set warmup_steps"),
    eval_every=_nothing("Nova 2 does not use validation rows"),
)

CLAUDE_3_HAIKU = NOTHING.but(
    epochs=_epochs(10, 2),
    max_steps=_steps(32, 10),
    batch_size=_batch(4, 256, 32),
    learning_rate=_nothing("the knob is a multiplier of a rate that is not published; the service uses its own rate"),
    learning_rate_multiplier=Sent(
        _H + "learningRateMultiplier", Float(ge=0.1, le=2), default=1.0, source=TABLES, encode=as_text
    ),
    **_early_stopping(2, 0.001),
)

LLAMA = NOTHING.but(
    epochs=_epochs(10, 5),
    max_steps=_steps(1, 10),
    batch_size=_batch(1, 1, 1),
    **_rate(5e-6, 0.1, 1e-4, "Llama 3"),
)

_LLAMA_33_NOTE = "no table of its own: Llama 3.2's values are assumed (unverified)"
LLAMA_33 = LLAMA.but(
    epochs=_epochs(10, 5, note=_LLAMA_33_NOTE), **_rate(5e-6, 0.1, 1e-4, "Llama 3", note=_LLAMA_33_NOTE)
)

TITAN_PREMIER = NOTHING.but(
    epochs=_epochs(5, 2),
    max_steps=_steps(1, 5),
    batch_size=_batch(1, 1, 1),
    **_rate(1e-7, 1e-5, 1e-6, "Titan Text Premier"),
    warmup_steps=_warmup_steps(20, 5),
    warmup_ratio=_warmup_ratio(20, 1, 2),
)

TITAN = NOTHING.but(
    epochs=_epochs(10, 5),
    max_steps=_steps(1, 10),
    batch_size=_batch(1, 64, 1),
    **_rate(0.0, 1.0, 1e-5, "Titan Text"),
    warmup_steps=_warmup_steps(250, 5),
    warmup_ratio=_warmup_ratio(250, 1, 5),
)

_COHERE_NOTE = "leave it unset when there is a validation set"
COHERE = NOTHING.but(
    epochs=_epochs(100, 1),
    max_steps=_steps(8, 100),
    batch_size=_batch(8, 8, 8),
    **_rate(5e-6, 0.1, 1e-5, "Cohere Command", note=_COHERE_NOTE),
    **_early_stopping(6, 0.01),
)
COHERE_LIGHT = COHERE.but(batch_size=_batch(8, 32, 8))

#: Family (as in the catalogue) -> its knobs.
FAMILIES: Mapping[str, Declarations] = {
    "nova": NOVA,
    "nova-2": NOVA_2,
    "claude-3-haiku": CLAUDE_3_HAIKU,
    "llama-3.1": LLAMA,
    "llama-3.2": LLAMA,
    "llama-3.3": LLAMA_33,
    "titan-premier": TITAN_PREMIER,
    "titan": TITAN,
    "cohere": COHERE,
    "cohere-light": COHERE_LIGHT,
}
