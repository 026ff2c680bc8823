"""What tuning on Vertex AI takes, by family, as Google's reference pages and SDKs have it.

Three families: Gemini under supervised tuning, Gemini under preference tuning, and open models. Values the service
chooses itself and does not tell are "not published": no default is invented here.
"""

from __future__ import annotations

import re

import llmtune.provider as core
from llmtune.provider import (
    ConversionContext,
    Converted,
    ConvertedValue,
    Declarations,
    NotConvertible,
    Sent,
    Unsupported,
)

TUNING = "Google Cloud, tuning API reference and google-genai 2.34 CreateTuningJobConfig, 2026-11-21"
ABOUT = "Google Cloud, About supervised fine-tuning for Gemini models, 2026"
PREFERENCE = "Google Cloud, About preference tuning, 2026, and google-genai 2.34, 2026-11-21"
REINFORCEMENT = (
    "Google Cloud, Reinforcement learning fine-tuning (Agent Platform, 2026), and google-genai 2.34"
    " ReinforcementTuningHyperParameters"
)
OPEN = "Google Cloud, Tune an open model, 2026-09-25, and aiplatform v1beta1 protos, 2026-11-21"
GENERATE = "google-genai 2.34 GenerateContentConfig, 2026-11-21"

#: Enum words of the sizes. The enum's numbers are not sizes, so only words are ever sent.
ADAPTER_SIZES = {
    1: "ADAPTER_SIZE_ONE",
    2: "ADAPTER_SIZE_TWO",
    4: "ADAPTER_SIZE_FOUR",
    8: "ADAPTER_SIZE_EIGHT",
    16: "ADAPTER_SIZE_SIXTEEN",
    32: "ADAPTER_SIZE_THIRTY_TWO",
}
GEMINI_SIZES = (1, 2, 4, 8, 16)
PRO_SIZES = (1, 2, 4, 8)
TUNING_MODES = {"lora": "TUNING_MODE_PEFT_ADAPTER", "full": "TUNING_MODE_FULL"}

#: The label that carries the run key (no hyphen: list filters then need no quoting), and how many labels are left for
#: the user (64 a resource).
RUN_LABEL = "llmtune_run"
MOST_LABELS = 63


LABELS = core.Tags(
    most=MOST_LABELS,
    names=r"[a-z][a-z0-9_-]{0,63}",
    values=r"[a-z0-9_-]{0,64}",
    rule="whose keys and values have at most 64 characters of a-z, 0-9, _ and -",
    own=RUN_LABEL,
)


def labels(value: dict[str, str], facts: ConversionContext) -> ConvertedValue | NotConvertible:
    """Convert tags to labels: lower case, and '-' for what a label cannot hold; two tags never become one label."""

    def word(text: str) -> str:
        return re.sub(r"[^a-z0-9_-]+", "-", text.lower())

    converted = {word(key): word(text) for key, text in value.items()}
    if len(converted) < len(value):
        return NotConvertible("two tags would become the same label: labels are lower case", invalid=True)
    if converted == value:
        return ConvertedValue(value, "", exact=True)
    changed = [f"{key}={text}" for key, text in converted.items() if value.get(key) != text]
    return ConvertedValue(converted, f"labels are lower case a-z, 0-9, _ and -: {', '.join(changed)}")


def last_checkpoint_only(value: int, facts: ConversionContext) -> ConvertedValue | NotConvertible:
    """Convert keep_checkpoints 1 to exportLastCheckpointOnly; other counts are refused."""
    if value == 1:
        return ConvertedValue(True, "keep_checkpoints 1 = only the last checkpoint is exported")
    return NotConvertible(
        "the service exports all its checkpoints (leave it unset) or only the last (keep_checkpoints: 1)"
    )


def adapter_size(size: int) -> str:
    """Return the enum's word for an adapter size."""
    return ADAPTER_SIZES[size]


def _rank(spec: str, sizes: tuple[int, ...], source: str) -> Converted:
    return Converted(
        f"{spec}.hyperParameters.adapterSize",
        core.Choice(*sizes),
        core.nearest_size(sizes),
        description=f"the next size of {', '.join(map(str, sizes))}",
        source=source,
        encode=adapter_size,
    )


def _no(reason: str) -> Unsupported:
    return Unsupported(reason, source=TUNING)


#: Fields that Gemini has no parameter for.
_NO_PARAMETER = (
    *("batch_size", "gradient_accumulation_steps", "min_lr_ratio", "lr_schedule", "lr_num_cycles"),
    *("warmup_ratio", "warmup_steps", "optimizer", "adam_beta1", "adam_beta2", "adam_epsilon"),
    *("weight_decay", "max_grad_norm", "lora_alpha", "lora_dropout", "lora_target_modules"),
    *("layer_lr_multipliers", "dropout", "attention_dropout", "label_smoothing", "packing"),
)


def _gemini(spec: str, sizes: tuple[int, ...], source: str) -> Declarations:
    prefix = f"{spec}.hyperParameters."
    all_epochs = _no("the service trains for all epochs")
    return Declarations(
        **dict.fromkeys(_NO_PARAMETER, _no("the service chooses it and has no parameter for it")),
        replay_share=_no("the service trains on the rows that it is sent, and replays none of the model's own answers"),
        epochs=Sent(prefix + "epochCount", core.Int(1), source=source),
        max_steps=_no("length is given in epochs, and the batch size that would convert them is not published"),
        learning_rate=_no(
            "Gemini takes a multiplier of a rate that is not published, so an absolute rate cannot be converted;"
            " the service uses its own rate"
        ),
        learning_rate_multiplier=Sent(prefix + "learningRateMultiplier", core.Float(gt=0), source=source),
        prompt_loss_weight=_no("there is no parameter, and the service does not say how it weighs prompt tokens"),
        lora_rank=_rank(spec, sizes, source),
        max_sequence_length=_no("the limit is the model's own; longer rows are truncated by the service"),
        **dict.fromkeys(("early_stopping_patience", "early_stopping_threshold"), all_epochs),
        eval_every=_no("the service evaluates on validation rows at intervals of its own"),
        checkpoint_every=_no("the service makes checkpoints at intervals of its own"),
        keep_checkpoints=Converted(
            f"{spec}.exportLastCheckpointOnly",
            core.Choice(True),
            last_checkpoint_only,
            description="1 = exportLastCheckpointOnly",
            default=False,
            source=source,
            note="unset: all checkpoints are exported",
        ),
        dpo_beta=core.NotApplicable("supervised tuning has no beta"),
        name=Sent("tunedModelDisplayName", core.Text(128), source=TUNING),
        seed=_no("the service takes no seed: two runs of one job differ"),
        tags=Converted("labels", LABELS, labels, description="as labels, in lower case", default=None, source=TUNING),
        temperature=Sent("generationConfig.temperature", core.Float(ge=0, le=2), source=GENERATE, where="generation"),
        top_p=Sent("generationConfig.topP", core.Float(gt=0, le=1), source=GENERATE, where="generation"),
        top_k=Sent("generationConfig.topK", core.Int(1), source=GENERATE, where="generation"),
        max_tokens=Sent("generationConfig.maxOutputTokens", core.Int(1), source=GENERATE, where="generation"),
    )


_SFT = "supervisedTuningSpec"
_DPO = "preferenceOptimizationSpec"
_OPEN_PREFIX = f"{_SFT}.hyperParameters."


def supervised(sizes: tuple[int, ...]) -> Declarations:
    """Declare the fields of a supervised job on a Gemini with these adapter sizes."""
    return _gemini(_SFT, sizes, TUNING)


def preference(sizes: tuple[int, ...]) -> Declarations:
    """Declare the fields of a preference job on a Gemini with these adapter sizes."""
    return _gemini(_DPO, sizes, PREFERENCE).replace(
        prompt_loss_weight=core.NotApplicable("preference tuning compares two answers"),
        dpo_beta=Sent(f"{_DPO}.hyperParameters.beta", core.Float(gt=0), source=PREFERENCE),
    )


_RFT = "reinforcementTuningSpec"
_DEFAULT_BATCH = 32

#: How many epochs are trained where the job does not say.
UNKNOWN_EPOCHS = core.EpochRange(1, None, "the vendor chooses the number of epochs and publishes no limit", TUNING)
REINFORCEMENT_EPOCHS = core.EpochRange(
    1, 10, "Google trains 110 batches' worth of prompts, over ten epochs at most", REINFORCEMENT
)


def _as_step_count(value: int, facts: ConversionContext) -> ConvertedValue | NotConvertible:
    """Send max_steps as the number of steps; Google takes either steps or epochs."""
    if facts.hyperparameters.epochs is not None:
        return NotConvertible(
            "stepCount and epochCount exclude each other: set one of max_steps and epochs", invalid=True
        )
    return ConvertedValue(value, "", exact=True)


def reinforcement(sizes: tuple[int, ...]) -> Declarations:
    """Declare the fields of a reinforcement job on a Gemini with these adapter sizes."""
    prefix = f"{_RFT}.hyperParameters."
    own_loss = core.NotApplicable("there are no tokens to learn from: the model learns from what its own answers earn")
    return _gemini(_RFT, sizes, REINFORCEMENT).replace(
        max_steps=Converted(
            prefix + "stepCount",
            core.Int(1),
            _as_step_count,
            description="as stepCount, where epochs is not set",
            source=REINFORCEMENT,
        ),
        batch_size=Sent(
            prefix + "batchSize",
            core.Int(1),
            default=_DEFAULT_BATCH,
            source=REINFORCEMENT,
            note="prompts a step, each with several answers",
        ),
        learning_rate_multiplier=Sent(
            prefix + "learningRateMultiplier", core.Float(ge=0.25, le=4), default=1.0, source=REINFORCEMENT
        ),
        prompt_loss_weight=own_loss,
        dpo_beta=core.NotApplicable("reinforcement tuning has no beta"),
        eval_every=Sent(prefix + "evaluateInterval", core.Int(1), source=REINFORCEMENT, note="unset: once an epoch"),
        checkpoint_every=Sent(
            prefix + "checkpointInterval", core.Int(1), source=REINFORCEMENT, note="unset: once an epoch"
        ),
        keep_checkpoints=_no("reinforcement tuning has no parameter for it"),
    )


GEMINI = supervised(GEMINI_SIZES)
GEMINI_PRO = supervised(PRO_SIZES)
GEMINI_PREFERENCE = preference(GEMINI_SIZES)
#: The generation fields of chat completions, which a deployed open model answers.
_ANSWERS = "a deployed open model, by chat completions"
OPEN_MODELS = GEMINI.replace(
    epochs=Sent(_OPEN_PREFIX + "epochCount", core.Int(1), source=OPEN),
    max_steps=core.max_steps_as_epochs(_OPEN_PREFIX + "epochCount", core.Int(1), OPEN),
    batch_size=Sent(_OPEN_PREFIX + "batchSize", core.Int(1), source=OPEN),
    learning_rate=Sent(_OPEN_PREFIX + "learningRate", core.Float(gt=0), source=OPEN),
    learning_rate_multiplier=Unsupported(
        "open models take an absolute rate, and no default is published that a multiplier could be taken of",
        source=OPEN,
    ),
    lora_rank=_rank(_SFT, tuple(ADAPTER_SIZES), OPEN),
    max_sequence_length=Unsupported("the limit is the model's own (8,192 tokens for most)", source=OPEN),
    temperature=Sent("temperature", core.Float(ge=0, le=2), source=OPEN, where="generation", note=_ANSWERS),
    top_p=Sent("top_p", core.Float(gt=0, le=1), source=OPEN, where="generation", note=_ANSWERS),
    top_k=Unsupported("not among the fields of chat completions", source=OPEN),
    max_tokens=Sent("max_tokens", core.Int(1), source=OPEN, where="generation", note=_ANSWERS),
)
