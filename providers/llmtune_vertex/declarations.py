"""What tuning on Vertex AI takes, by family, as Google's reference pages and SDKs have it.

Three families: Gemini under supervised tuning, Gemini under preference tuning, and open models. Values the service
chooses itself and does not tell are "not published": no default is invented here.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from llmtune.job.spec import NOT_YET
from llmtune.provider import (
    Abilities,
    Ability,
    Capabilities,
    Catalog,
    Changed,
    Choice,
    Converted,
    Declarations,
    Facts,
    Float,
    Int,
    Limits,
    ModelEntry,
    No,
    NotApplicable,
    Refused,
    Sent,
    Target,
    Text,
    Unsupported,
    epochs_from_steps,
    nearest_size,
)

TUNING = "Google Cloud, tuning API reference and google-genai 2.34 CreateTuningJobConfig, 2026-11-21"
ABOUT = "Google Cloud, About supervised fine-tuning for Gemini models, 2026"
PREFERENCE = "Google Cloud, About preference tuning, 2026, and google-genai 2.34, 2026-11-21"
OPEN = "Google Cloud, Tune an open model, 2026-09-25, and aiplatform v1beta1 protos, 2026-11-21"
GENERATE = "google-genai 2.34 GenerateContentConfig, 2026-11-21"

#: Row formats, as registered by this package's rows.
GEMINI_ROWS = "gemini"
PREFERENCE_ROWS = "gemini_preference"
#: Open models take rows of the Gemini kind too, but Google's example gives their answers another role than its text
#: says ("assistant", "model"); chat rows are unambiguous (Google Cloud, Tune an open model, 2026-09-25).
OPEN_ROWS = "chat"

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


@dataclass(frozen=True)
class Labels:
    """Google Cloud labels: keys and values of at most 64 characters from a-z, 0-9, _ and -; a key begins with a-z."""

    def fault(self, value: Any) -> str | None:
        if not isinstance(value, Mapping) or len(value) > MOST_LABELS:
            return f"must be {self.describe()}"
        for key, text in value.items():
            if key == RUN_LABEL:
                return f"must leave the label {RUN_LABEL!r} to llmtune"
            if not re.fullmatch(r"[a-z][a-z0-9_-]{0,63}", key) or not re.fullmatch(r"[a-z0-9_-]{0,64}", text):
                return f"must be {self.describe()}, not {key}={text}"
        return None

    def describe(self) -> str:
        return f"at most {MOST_LABELS} labels whose keys and values have at most 64 characters of a-z, 0-9, _ and -"


def labels(value: dict[str, str], facts: Facts) -> Changed | Refused:
    """tags -> labels: lower case, and '-' for what a label cannot hold; two tags never become one label."""

    def word(text: str) -> str:
        return re.sub(r"[^a-z0-9_-]+", "-", text.lower())

    made = {word(key): word(text) for key, text in value.items()}
    if len(made) < len(value):
        return Refused("two tags would become the same label: labels are lower case", invalid=True)
    if made == value:
        return Changed(value, "", exact=True)
    changed = [f"{key}={text}" for key, text in made.items() if value.get(key) != text]
    return Changed(made, f"labels are lower case a-z, 0-9, _ and -: {', '.join(changed)}")


def last_checkpoint_only(value: int, facts: Facts) -> Changed | Refused:
    """keep_checkpoints 1 -> exportLastCheckpointOnly; other counts cannot be said."""
    if value == 1:
        return Changed(True, "keep_checkpoints 1 = only the last checkpoint is exported")
    return Refused("the service exports all its checkpoints (leave it unset) or only the last (keep_checkpoints: 1)")


def adapter_size(size: int) -> str:
    """The enum's word for an adapter size."""
    return ADAPTER_SIZES[size]


def _rank(spec: str, sizes: tuple[int, ...], source: str) -> Converted:
    return Converted(
        f"{spec}.hyperParameters.adapterSize",
        Choice(*sizes),
        nearest_size(sizes),
        says=f"the next size of {', '.join(map(str, sizes))}",
        source=source,
        encode=adapter_size,
    )


_CHOSEN = "the service chooses it and has no knob for it"


def _nothing(reason: str = _CHOSEN) -> Unsupported:
    return Unsupported(reason, source=TUNING)


def _gemini(spec: str, sizes: tuple[int, ...], source: str) -> Declarations:
    knobs = f"{spec}.hyperParameters."
    return Declarations(
        epochs=Sent(knobs + "epochCount", Int(1), source=source),
        max_steps=_nothing("length is given in epochs, and the batch size that would convert them is not published"),
        batch_size=_nothing(),
        gradient_accumulation_steps=_nothing(),
        learning_rate=_nothing(
            "Gemini takes a multiplier of a rate that is not published, so an absolute rate cannot be converted;"
            " the service uses its own rate"
        ),
        learning_rate_multiplier=Sent(knobs + "learningRateMultiplier", Float(gt=0), source=source),
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
        prompt_loss_weight=_nothing("there is no knob, and the service does not say how it weighs prompt tokens"),
        lora_rank=_rank(spec, sizes, source),
        lora_alpha=_nothing(),
        lora_dropout=_nothing(),
        lora_target_modules=_nothing(),
        layer_lr_multipliers=_nothing(),
        dropout=_nothing(),
        attention_dropout=_nothing(),
        label_smoothing=_nothing(),
        max_sequence_length=_nothing("the limit is the model's own; longer rows are truncated by the service"),
        packing=_nothing(),
        early_stopping_patience=_nothing("the service trains for all epochs"),
        early_stopping_threshold=_nothing("the service trains for all epochs"),
        eval_every=_nothing("the service evaluates on validation rows at intervals of its own"),
        checkpoint_every=_nothing("the service makes checkpoints at intervals of its own"),
        keep_checkpoints=Converted(
            f"{spec}.exportLastCheckpointOnly",
            Choice(True),
            last_checkpoint_only,
            says="1 = exportLastCheckpointOnly",
            default=False,
            source=source,
            note="unset: all checkpoints are exported",
        ),
        dpo_beta=NotApplicable("supervised tuning has no beta"),
        name=Sent("tunedModelDisplayName", Text(128), source=TUNING),
        seed=_nothing("the service takes no seed: two runs of one job differ"),
        tags=Converted("labels", Labels(), labels, says="as labels, in lower case", default=None, source=TUNING),
        temperature=Sent("generationConfig.temperature", Float(ge=0, le=2), source=GENERATE, where="generation"),
        top_p=Sent("generationConfig.topP", Float(gt=0, le=1), source=GENERATE, where="generation"),
        top_k=Sent("generationConfig.topK", Int(1), source=GENERATE, where="generation"),
        max_tokens=Sent("generationConfig.maxOutputTokens", Int(1), source=GENERATE, where="generation"),
    )


_SFT = "supervisedTuningSpec"
_DPO = "preferenceOptimizationSpec"
_OPEN_KNOBS = f"{_SFT}.hyperParameters."


def _supervised(sizes: tuple[int, ...]) -> Declarations:
    return _gemini(_SFT, sizes, TUNING)


def _preference(sizes: tuple[int, ...]) -> Declarations:
    return _gemini(_DPO, sizes, PREFERENCE).but(
        prompt_loss_weight=NotApplicable("preference tuning compares two answers"),
        dpo_beta=Sent(f"{_DPO}.hyperParameters.beta", Float(gt=0), source=PREFERENCE),
    )


GEMINI = _supervised(GEMINI_SIZES)
GEMINI_PRO = _supervised(PRO_SIZES)
GEMINI_PREFERENCE = _preference(GEMINI_SIZES)
_SERVED = NotApplicable("open models are not asked here: their weights land in your bucket", source=OPEN)
OPEN_MODELS = GEMINI.but(
    epochs=Sent(_OPEN_KNOBS + "epochCount", Int(1), source=OPEN),
    max_steps=Converted(
        _OPEN_KNOBS + "epochCount",
        Int(1),
        epochs_from_steps(),
        says="whole epochs, rounded up, from rows and batch_size",
        source=OPEN,
    ),
    batch_size=Sent(_OPEN_KNOBS + "batchSize", Int(1), source=OPEN),
    learning_rate=Sent(_OPEN_KNOBS + "learningRate", Float(gt=0), source=OPEN),
    learning_rate_multiplier=Unsupported(
        "open models take an absolute rate, and no default is published that a multiplier could be taken of",
        source=OPEN,
    ),
    lora_rank=_rank(_SFT, tuple(ADAPTER_SIZES), OPEN),
    max_sequence_length=Unsupported("the limit is the model's own (8,192 tokens for most)", source=OPEN),
    temperature=_SERVED,
    top_p=_SERVED,
    top_k=_SERVED,
    max_tokens=_SERVED,
)

_NOT_YET: dict[str, Ability] = {name: No(f"not yet: {reason}") for name, reason in NOT_YET.items()}
_NO_CLASSIFIER = No("there is no classification head here; use method sft with the label as the answer")
_NO_PAUSE = No("the service has no pause")

GEMINI_ABILITIES = Abilities(
    pause=_NO_PAUSE,
    validation_metrics=True,
    billed_cost=True,
    deployment="none",
)
OPEN_ABILITIES = Abilities(
    pause=_NO_PAUSE,
    checkpoints=No("checkpoints of open models are files in your bucket, under the output folder"),
    serving=No("open models' weights land in your bucket; deploy them from Model Garden, then delete the endpoint"),
    base_serving=No("open base models answer only once you have deployed them from Model Garden"),
    billed_cost=True,
    deployment="none",
)

GEMINI_LIMITS = Limits(
    format=GEMINI_ROWS,
    max_rows=10_000_000,
    max_validation_rows=5_000,
    max_bytes=1_000_000_000,
    max_tokens_per_row=131_072,
    source=ABOUT,
    note="300,000 rows when they hold images; a validation set of more than 1,000 rows may be at most 30 % of train",
)


def family_of(entry: ModelEntry, known: bool) -> str:
    """gemini, gemini-pro or open; an id that is not listed is judged by its shape (publisher/model@version: open)."""
    if known:
        return entry.family
    return "open" if re.fullmatch(r"[\w.-]+/[\w.-]+@[\w.-]+", entry.id) else "gemini"


def capabilities(target: Target, catalog: Catalog, location: str | None = None) -> Capabilities:
    """Everything this target can express. `location` is where the account tunes, for warnings about regions."""
    entry, warnings = catalog.model(target.model)
    if not target.model or target.model.startswith("projects/"):  # no model, or a tuned one of the user's own
        warnings = ()
    family = family_of(entry, target.model in catalog.models)
    sizes = PRO_SIZES if family == "gemini-pro" else GEMINI_SIZES
    dpo = target.method == "dpo"
    if family == "open":
        parameters, abilities = OPEN_MODELS, OPEN_ABILITIES
        limits = Limits(format=OPEN_ROWS, max_tokens_per_row=entry.max_tokens_per_row, source=OPEN)
    else:
        parameters = _preference(sizes) if dpo else _supervised(sizes)
        abilities = GEMINI_ABILITIES
        limits = GEMINI_LIMITS if not dpo else _preference_limits()
    regions = entry.facts.get("regions", ())
    if location and regions and location not in regions:
        warnings = (*warnings, f"{entry.id} is tuned in {' or '.join(regions)}; location is {location!r}")
    return Capabilities(
        parameters=parameters,
        family={"open": "open models", "gemini-pro": "Gemini Pro"}.get(family, "Gemini"),
        limits=limits,
        lifecycle=entry.lifecycle or catalog.lifecycle,
        price=entry.price,
        abilities=abilities,
        methods=_methods(entry, family),
        adapters=_adapters(entry, family),
        concurrency=1,
        concurrency_source=f"{ABOUT}: 1 concurrent tuning job a project by default",
        known_model=target.model in catalog.models,
        warnings=warnings,
    )


def _preference_limits() -> Limits:
    return Limits(
        format=PREFERENCE_ROWS,
        max_rows=GEMINI_LIMITS.max_rows,
        max_validation_rows=GEMINI_LIMITS.max_validation_rows,
        max_bytes=GEMINI_LIMITS.max_bytes,
        max_tokens_per_row=131_072,
        source=PREFERENCE,
        note="text only; exactly one preferred and one dispreferred answer a row",
    )


def _methods(entry: ModelEntry, family: str) -> dict[str, Ability]:
    dpo: Ability = True
    if family == "open":
        dpo = No("open models are tuned by supervised tuning only")
    elif "dpo" not in entry.methods:
        dpo = No(f"preference tuning is offered for Gemini 2.5 Flash and 2.5 Flash-Lite, not for {entry.id}")
    return {"sft": True, "dpo": dpo, "classification": _NO_CLASSIFIER, **_NOT_YET}


def _adapters(entry: ModelEntry, family: str) -> dict[str, Ability]:
    offered = entry.adapters or ("lora", "full")
    if family != "open":
        full: Ability = No("Gemini is tuned through low-rank adapters only")
        lora: Ability = True
    else:
        full = True if "full" in offered else No(f"{entry.id} is tuned through adapters only (adapter: lora)")
        lora = True if "lora" in offered else No(f"{entry.id} is tuned in full only (adapter: full)")
    return {
        "lora": lora,
        "full": full,
        "qlora": No("the service does not tune on a 4-bit base"),
        "dora": No("the service offers plain low-rank adapters"),
    }
