"""The model families of Bedrock: what tells them apart, how each is tuned, and what it takes as a dataset.

`FAMILIES` is the only place of these facts; which family a model belongs to, and where it is tuned, is in
`catalog.toml`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from llmtune.provider import (
    Abilities,
    Ability,
    Capabilities,
    Catalog,
    Declarations,
    Limits,
    NotOffered,
    Target,
    catalog,
)
from llmtune.provider.limits import NOT_YET_METHODS
from llmtune_bedrock import declarations as fields
from llmtune_bedrock.graders import name_function

CATALOG = Path(__file__).with_name("catalog.toml")
PREPARE = "AWS, Prepare data for fine-tuning your models, 2026"

#: Row formats, as registered by this package's rows.
CONVERSE_ROWS = "bedrock_converse"
#: The same with the reasoning before an answer, which of all families Nova 2 alone is trained on.
NOVA_2_ROWS = "bedrock_nova_2"
CLAUDE_ROWS = "claude"
PROMPT_ROWS = "bedrock_prompt_completion"
#: Plain text, for continued pre-training.
TEXT_ROWS = "bedrock_text"
REINFORCEMENT_ROWS = "bedrock_reinforcement"
#: The families that AWS's page on continued pre-training named; Titan Text has since left the table of tunable models.
_PRETRAINED = ("titan", "titan-premier")


@dataclass(frozen=True, kw_only=True)
class Family:
    """What holds for all models of a family."""

    name: str
    """As in the catalogue."""

    title: str
    id_part: str
    """The part of a model id that tells the family where the catalogue does not list the model."""

    parameters: Declarations
    limits: Limits
    min_total_rows: int | None = None
    """Least training and validation rows together."""

    max_validation_bytes: int | None = None
    warning: str = ""
    """Stands on every plan."""


def _family(
    name: str, title: str, id_part: str, parameters: Declarations, rows: str, *, note: str, **facts: Any
) -> Family:
    """Return a family that takes `rows` as its format; `note` and other `facts` are fields of it or of its limits."""
    family_facts = {
        key: facts.pop(key) for key in ("min_total_rows", "max_validation_bytes", "warning") if key in facts
    }
    limits = Limits(format=rows, source=PREPARE, note=note, **facts)
    return Family(name=name, title=title, id_part=id_part, parameters=parameters, limits=limits, **family_facts)


_LLAMA: dict[str, Any] = {
    "note": "training and validation rows together at least 100; the upper limit can be raised",
    "min_total_rows": 100,
    "max_total_rows": 10_000,
    "max_tokens_per_row": 16_000,
}
_TITAN: dict[str, Any] = {
    "note": "2,048 tokens a row at larger batch sizes; the quota on rows is not published (unverified)",
    "max_bytes": 1_000_000_000,
    "max_validation_bytes": 100_000_000,
    "max_tokens_per_row": 4_096,
}
_COHERE: dict[str, Any] = {
    "note": "4,096 tokens a prompt, 2,048 an answer",
    "min_rows": 32,
    "max_rows": 10_000,
    "max_validation_rows": 1_000,
    "max_tokens_per_row": 4_096 + 2_048,
}

_LISTED = (
    _family(
        *("nova-2", "Amazon Nova 2", "nova-2", fields.NOVA_2, NOVA_2_ROWS),
        note="2,000 to 10,000 rows are recommended; tool sections may fail the job; validation rows are not used",
        min_rows=200,
        validation="unused",
        warning="AWS publishes no hyperparameter table for Nova 2 Lite; the keys are Nova 1's",
    ),
    _family(
        *("nova", "Amazon Nova", "nova", fields.NOVA, CONVERSE_ROWS),
        note="at least 100 rows a task are recommended; hard limits are not published (unverified)",
    ),
    _family(
        *("claude-3-haiku", "Claude 3 Haiku", "claude", fields.CLAUDE_3_HAIKU, CLAUDE_ROWS),
        note="the row limits can be raised; validation files of at most 1 GB",
        min_rows=32,
        max_rows=10_000,
        max_validation_rows=1_000,
        max_total_rows=10_000,
        max_bytes=10_000_000_000,
        max_validation_bytes=1_000_000_000,
        max_tokens_per_row=32_000,
    ),
    _family("llama-3.1", "Llama 3.1", "llama3-1", fields.LLAMA, PROMPT_ROWS, **_LLAMA),
    _family("llama-3.2", "Llama 3.2", "llama3-2", fields.LLAMA, CONVERSE_ROWS, **_LLAMA),
    _family("llama-3.3", "Llama 3.3", "llama", fields.LLAMA_33, CONVERSE_ROWS, **_LLAMA),
    _family("titan-premier", "Titan Text Premier", "titan-text-premier", fields.TITAN_PREMIER, PROMPT_ROWS, **_TITAN),
    _family("titan", "Titan Text", "titan", fields.TITAN, PROMPT_ROWS, **_TITAN),
    _family("cohere-light", "Cohere Command Light", "command-light", fields.COHERE_LIGHT, PROMPT_ROWS, **_COHERE),
    _family("cohere", "Cohere Command", "cohere", fields.COHERE, PROMPT_ROWS, **_COHERE),
)
#: The families by name. An id that is not listed belongs to the first whose part it holds.
FAMILIES: Mapping[str, Family] = {family.name: family for family in _LISTED}

METHODS: Mapping[str, Ability] = {
    "sft": True,
    "dpo": NotOffered(f"Bedrock's API has no preference tuning ({fields.API})"),
    "classification": NotOffered("there is no classification head here; use method sft with the label as the answer"),
    **NOT_YET_METHODS,
    "reinforcement": True,
}

#: Where a reinforcement job names its function.
LAMBDA_ARN = "customizationConfig.rftConfig.graderConfig.lambdaGrader.lambdaArn"
#: Options of a reinforcement job, and AWS's hyperparameters for them.
REINFORCEMENT_OPTIONS: Mapping[str, str] = {
    "samples_per_prompt": "trainingSamplePerPrompt",
    "max_prompt_length": "maxPromptLength",
    "max_output_tokens": "inferenceMaxTokens",
    "reasoning_effort": "reasoningEffort",
}
RFT_GUIDE = "AWS, Fine-tune Amazon Nova models with reinforcement fine-tuning (Bedrock guide, copy of 2026)"
REINFORCEMENT_LIMITS = Limits(
    format=REINFORCEMENT_ROWS,
    min_rows=100,
    max_rows=20_000,
    source=RFT_GUIDE,
    note="training rows are prompts; the role of the job needs lambda:InvokeFunction on the function that scores",
)
#: AWS states prices of supervised tuning by the token; of reinforcement fine-tuning none was found.
_NO_REINFORCEMENT_PRICE = (
    "no training price of reinforcement fine-tuning was found in a dated source, nor whether it is billed by the hour"
    " (unverified)"
)
ADAPTERS: Mapping[str, Ability] = {
    "lora": True,
    "full": NotOffered("Bedrock chooses how it adapts the model; training in full cannot be asked for"),
    "qlora": NotOffered("Bedrock chooses how it adapts the model; a 4-bit base cannot be asked for"),
    "dora": NotOffered("Bedrock chooses how it adapts the model; DoRA cannot be asked for"),
}
ABILITIES = Abilities(
    pause=NotOffered("Bedrock has no pause"),
    checkpoints=NotOffered("Bedrock gives the final model only"),
    billed_cost=NotOffered("Bedrock does not report what it billed for a job"),
    deployment="required",
)


def load_catalog() -> Catalog:
    """Return the catalogue, with the user's own laid over it."""
    return catalog.load("bedrock", CATALOG)


def find_family(model: str) -> Family | None:
    """Return the family of a model id: as the catalogue has it, else by its parts; None when neither tells.

    Where the catalogue has a longest row for the model itself, that one is among the limits.
    """
    listed = load_catalog().models.get(model)
    if listed is None:
        return next((family for family in FAMILIES.values() if family.id_part in model), None)
    family = FAMILIES[listed.family]
    if listed.max_tokens_per_row is None:
        return family
    return replace(family, limits=replace(family.limits, max_tokens_per_row=listed.max_tokens_per_row))


def by_family(declared: Capabilities, target: Target, region: str | None) -> Capabilities:
    """Return what holds for a target, out of what holds for all; `region` is where the account tunes, for warnings."""
    model, options = target.model, target.options
    family = find_family(model) or FAMILIES["nova"]
    warnings = declared.warnings
    if ":custom-model/" in model:  # one of the user's own
        warnings = ()
    elif tuned := tuning_id(model):
        warnings = (f"{model!r} is the id for inference; the one for tuning is {tuned!r}",)
    limits, pretraining = family.limits, ""
    if options.get("continued_pretraining"):
        limits = replace(limits, format=TEXT_ROWS)
        if family.name not in _PRETRAINED:
            pretraining = (
                f"continued pre-training of {family.title} is unverified: AWS's API has the type, and its page named"
                " Titan Text alone, which has left the table of tunable models"
                f" ({PREPARE})"
            )
    if target.method == "reinforcement":
        return _reinforced(declared, target, family, (*warnings, *filter(None, [wrong_region(model, region)])))
    added = (wrong_region(model, region), family.warning, pretraining, _unused_options(target))
    abilities = declared.abilities
    if family.limits.validation == "unused":
        abilities = replace(abilities, validation_metrics=NotOffered("Nova 2 does not use validation rows"))
    return replace(
        declared,
        parameters=family.parameters,
        family=family.title,
        limits=limits,
        abilities=abilities,
        methods={**declared.methods, "reinforcement": _reinforcement_tuning(family, model)},
        known_model=model in load_catalog().models,
        warnings=(*warnings, *(warning for warning in added if warning)),
    )


def _reinforcement_tuning(family: Family, model: str) -> Ability:
    if family.name == "nova-2":
        return True
    return NotOffered(f"Bedrock tunes Amazon Nova 2 Lite by reinforcement, not {model or 'this model'} ({RFT_GUIDE})")


def _reinforced(declared: Capabilities, target: Target, family: Family, warnings: tuple[str, ...]) -> Capabilities:
    """Return what holds for a reinforcement job."""
    function = target.options.get("grader_function")
    price = declared.price
    if extra := [name for name in ("extra_hyperparameters", "eval_percentage") if target.options.get(name)]:
        listed = ", ".join(f"provider_options.{target.provider}.{name}" for name in extra)
        warnings = (*warnings, f"{listed} is not sent: it is not of method reinforcement")
    return replace(
        declared,
        parameters=fields.NOVA_2_REINFORCEMENT,
        family=family.title,
        limits=REINFORCEMENT_LIMITS,
        methods={**declared.methods, "reinforcement": _reinforcement_tuning(family, target.model)},
        grader=name_function(function, LAMBDA_ARN, provider=target.provider, option="grader_function"),
        price=replace(
            price,
            training=None,
            by_method={},
            note="; ".join(filter(None, (price.note, _NO_REINFORCEMENT_PRICE))),
        ),
        known_model=target.model in load_catalog().models,
        warnings=warnings,
    )


def _unused_options(target: Target) -> str:
    """Return a sentence that names the options which are of method reinforcement alone; else ""."""
    names = [name for name in ("grader_function", *REINFORCEMENT_OPTIONS) if target.options.get(name) is not None]
    listed = ", ".join(f"provider_options.{target.provider}.{name}" for name in names)
    return f"{listed} is not sent: it is of method reinforcement" if names else ""


def wrong_region(model: str, region: str | None) -> str:
    """Return a sentence that says where a model is tuned when that is not in `region`; else ""."""
    regions = load_catalog().model(model)[0].facts.get("regions", ())
    if not region or not regions or region in regions:
        return ""
    return f"{model} is tuned in {' or '.join(regions)}; the region is {region}"


def inference_id(tuning_id: str) -> str:
    """Return the id under which a base model answers: the tuning id without its context suffix.

    amazon.nova-micro-v1:0:128k -> amazon.nova-micro-v1:0
    """
    parts = tuning_id.split(":")
    return ":".join(parts[:2]) if len(parts) == 3 and not tuning_id.startswith("arn:") else tuning_id


def tuning_id(id: str) -> str | None:
    """Return the tuning id whose inference id this is, if the catalogue has one."""
    return next((model for model in load_catalog().models if inference_id(model) == id and model != id), None)


def on_demand(base: str) -> bool:
    """Return whether a model tuned from this base (a tuning or inference id) needs no bought throughput to be
    served."""
    models = load_catalog().models
    entry = models.get(base) or models.get(tuning_id(base) or "")
    return entry is not None and bool(entry.facts.get("on_demand", False))
