"""What each family on Bedrock takes as a dataset, where it is tuned, how it is served: capabilities as a whole."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from llmtune.job.spec import NOT_YET
from llmtune.provider import Abilities, Ability, Capabilities, Catalog, Limits, ModelEntry, No, Target
from llmtune_bedrock.declarations import API, FAMILIES

PREPARE = "AWS, Prepare data for fine-tuning your models, 2026"
SERVING = "AWS, Deploy a custom model for on-demand inference, 2026"

#: Row formats: Converse and Claude as registered by this package's rows, prompt/completion by the core.
CONVERSE_ROWS = "bedrock_converse"
CLAUDE_ROWS = "claude"
PROMPT_ROWS = "prompt_completion"

_LLAMA_NOTE = "training and validation rows together at least 100; the upper limit can be raised"
_NOVA = Limits(
    format=CONVERSE_ROWS,
    source=PREPARE,
    note="at least 100 rows a task are recommended; hard limits are not published (unverified)",
)


def _llama(format: str) -> Limits:
    return Limits(format=format, max_total_rows=10_000, max_tokens_per_row=16_000, source=PREPARE, note=_LLAMA_NOTE)


_TITAN = Limits(
    format=PROMPT_ROWS,
    max_bytes=1_000_000_000,
    max_tokens_per_row=4_096,
    source=PREPARE,
    note="2,048 tokens a row at larger batch sizes; the quota on rows is not published (unverified)",
)
_COHERE = Limits(
    format=PROMPT_ROWS,
    min_rows=32,
    max_rows=10_000,
    max_validation_rows=1_000,
    source=PREPARE,
    note="4,096 tokens a prompt, 2,048 an answer",
)

LIMITS: Mapping[str, Limits] = {
    "nova": _NOVA,
    "nova-2": Limits(
        format=CONVERSE_ROWS,
        min_rows=200,
        validation="unused",
        source=PREPARE,
        note="2,000 to 10,000 rows are recommended; tool sections may fail the job; validation rows are not used",
    ),
    "claude-3-haiku": Limits(
        format=CLAUDE_ROWS,
        min_rows=32,
        max_rows=10_000,
        max_validation_rows=1_000,
        max_total_rows=10_000,
        max_bytes=10_000_000_000,
        max_tokens_per_row=32_000,
        source=PREPARE,
        note="the row limits can be raised; validation files of at most 1 GB",
    ),
    "llama-3.1": _llama(PROMPT_ROWS),
    "llama-3.2": _llama(CONVERSE_ROWS),
    "llama-3.3": _llama(CONVERSE_ROWS),
    "titan-premier": _TITAN,
    "titan": _TITAN,
    "cohere": _COHERE,
    "cohere-light": _COHERE,
}

_TITLES = {
    "nova": "Amazon Nova",
    "nova-2": "Amazon Nova 2",
    "claude-3-haiku": "Claude 3 Haiku",
    "llama-3.1": "Llama 3.1",
    "llama-3.2": "Llama 3.2",
    "llama-3.3": "Llama 3.3",
    "titan-premier": "Titan Text Premier",
    "titan": "Titan Text",
    "cohere": "Cohere Command",
    "cohere-light": "Cohere Command Light",
}

#: Parts of an id that tell the family of a model which the catalogue does not list.
HINTS = (
    ("amazon.nova-2", "nova-2"),
    ("amazon.nova", "nova"),
    ("anthropic.claude", "claude-3-haiku"),
    ("meta.llama3-1", "llama-3.1"),
    ("meta.llama3-2", "llama-3.2"),
    ("meta.llama", "llama-3.3"),
    ("amazon.titan-text-premier", "titan-premier"),
    ("amazon.titan", "titan"),
    ("cohere.command-light", "cohere-light"),
    ("cohere.command", "cohere"),
)

METHODS: Mapping[str, Ability] = {
    "sft": True,
    "dpo": No(f"Bedrock's API has no preference tuning ({API})"),
    "classification": No("there is no classification head here; use method sft with the label as the answer"),
    **{name: No(f"not yet: {reason}") for name, reason in NOT_YET.items()},
}
ADAPTERS: Mapping[str, Ability] = {
    "lora": True,
    "full": No("Bedrock chooses how it adapts the model; training in full cannot be asked for"),
    "qlora": No("Bedrock chooses how it adapts the model; a 4-bit base cannot be asked for"),
    "dora": No("Bedrock chooses how it adapts the model; DoRA cannot be asked for"),
}


def abilities(family: str) -> Abilities:
    """What exists beside training for this family."""
    return Abilities(
        pause=No("Bedrock has no pause"),
        checkpoints=No("Bedrock gives the final model only"),
        validation_metrics=No("Nova 2 does not use validation rows") if family == "nova-2" else True,
        billed_cost=No("Bedrock does not tell what it billed for a job"),
        deployment="required",
    )


def family_of(entry: ModelEntry, known: bool) -> str:
    """The family of a model; an id that is not listed is judged by its name."""
    if known:
        return entry.family
    return next((family for hint, family in HINTS if hint in entry.id), entry.family)


def inference_id(tuning_id: str) -> str:
    """The id under which a base model answers: the tuning id without its context suffix.

    amazon.nova-micro-v1:0:128k -> amazon.nova-micro-v1:0
    """
    parts = tuning_id.split(":")
    return ":".join(parts[:2]) if len(parts) == 3 and not tuning_id.startswith("arn:") else tuning_id


def on_demand(entry: ModelEntry) -> bool:
    """Whether a model tuned from this base can be served without buying provisioned throughput."""
    return bool(entry.facts.get("on_demand", False))


def capabilities(target: Target, catalog: Catalog, region: str | None = None) -> Capabilities:
    """Everything this target can express. `region` is where the account tunes, for warnings."""
    known = target.model in catalog.models
    entry, warnings = catalog.model(target.model)
    if not target.model or ":custom-model/" in target.model:  # no model, or a custom one of the user's own
        warnings = ()
    elif not known and (tuned := tuning_id_of(target.model, catalog)):
        warnings = (f"{target.model!r} is the id for inference; the one for tuning is {tuned!r}",)
    family = family_of(entry, known)
    regions = entry.facts.get("regions", ())
    if region and regions and region not in regions:
        warnings = (*warnings, f"{entry.id} is tuned in {' or '.join(regions)}; the region is {region!r}")
    if family == "nova-2":
        warnings = (*warnings, "AWS publishes no hyperparameter table for Nova 2 Lite; the keys are Nova 1's")
    limits = LIMITS[family]
    if entry.max_tokens_per_row and entry.max_tokens_per_row != limits.max_tokens_per_row:
        limits = replace(limits, max_tokens_per_row=entry.max_tokens_per_row)
    return Capabilities(
        parameters=FAMILIES[family],
        family=_TITLES[family],
        limits=limits,
        lifecycle=entry.lifecycle or catalog.lifecycle,
        price=entry.price,
        abilities=abilities(family),
        methods=METHODS,
        adapters=ADAPTERS,
        concurrency=None,
        known_model=known,
        warnings=warnings,
    )


def tuning_id_of(id: str, catalog: Catalog) -> str | None:
    """The tuning id whose inference id this is, if the catalogue knows one."""
    return next((each for each in catalog.models if inference_id(each) == id and each != id), None)
