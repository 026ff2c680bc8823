"""The model families of Vertex AI: what each takes as a dataset, how it is tuned, and what exists beside training."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import llmtune.provider as core
from llmtune.provider import Abilities, Ability, Capabilities, Catalog, Limits, ModelEntry, NotOffered, catalog
from llmtune_vertex import declarations as fields
from llmtune_vertex.graders import GRADER

CATALOG = Path(__file__).with_name("catalog.toml")

#: Row formats, as registered by this package's rows.
GEMINI_ROWS = "gemini"
PREFERENCE_ROWS = "gemini_preference"
REINFORCEMENT_ROWS = "gemini_reinforcement"
#: Open models take rows of the Gemini kind too, but Google's example gives their answers another role than its text
#: says ("assistant", "model"); chat rows are unambiguous (Google Cloud, Tune an open model, 2026-09-25).
OPEN_ROWS = "vertex_chat"

MAX_TOKENS = 131_072
MAX_ROWS = 10_000_000
MAX_BYTES = 1_000_000_000
MAX_VALIDATION_ROWS = 5_000

GEMINI_LIMITS = Limits(
    format=GEMINI_ROWS,
    max_rows=MAX_ROWS,
    max_validation_rows=MAX_VALIDATION_ROWS,
    max_bytes=MAX_BYTES,
    max_tokens_per_row=MAX_TOKENS,
    source=fields.ABOUT,
    note="300,000 rows when they hold images; a validation set of more than 1,000 rows may be at most 30 % of train",
)
PREFERENCE_LIMITS = replace(
    GEMINI_LIMITS,
    format=PREFERENCE_ROWS,
    source=fields.PREFERENCE,
    note="text only; exactly one preferred and one dispreferred answer a row",
)

REINFORCEMENT_LIMITS = Limits(
    format=REINFORCEMENT_ROWS,
    source=fields.REINFORCEMENT,
    note="without validation rows Google holds out a quarter of the training rows, or 50 where that is more",
)

GEMINI_ABILITIES = Abilities(billed_cost=True)
OPEN_ABILITIES = replace(
    GEMINI_ABILITIES,
    checkpoints=NotOffered("checkpoints of open models are files in your bucket, under the output folder"),
    deployment="required",
    base_serving=NotOffered("open base models answer only once you have deployed them from Model Garden"),
)

#: Google's REST references (v1, v1beta1) have no preference tuning; its guide and google-genai have it, for two models.
DOUBTFUL_PREFERENCE = (
    "whether preference tuning is still taken is doubtful (unverified): Google documents it for Gemini 2.5 Flash and"
    " 2.5 Flash-Lite alone, whose retirement its table has on 2026-10-16, and the guide of 3.x does not mention it"
    f" ({fields.PREFERENCE}; read 2026-12-01)"
)

_NO_CLASSIFIER = NotOffered("there is no classification head here; use method sft with the label as the answer")
METHODS: Mapping[str, Ability] = {
    "sft": True,
    "dpo": True,
    "classification": _NO_CLASSIFIER,
    **core.NOT_YET_METHODS,
    "reinforcement": True,
}

#: Options that travel among a reinforcement job's hyperparameters.
REINFORCEMENT_OPTIONS = ("samples_per_prompt", "max_output_tokens", "thinking_level")

#: Google states prices of supervised tuning, by the token; of reinforcement tuning none was found in a dated source.
_NO_REINFORCEMENT_PRICE = (
    "no training price of reinforcement tuning was found in a dated source, nor what it is billed by (unverified)"
)
ADAPTERS: Mapping[str, Ability] = {
    "lora": True,
    "full": NotOffered("Gemini is tuned through low-rank adapters only"),
    "qlora": NotOffered("the service does not tune on a 4-bit base"),
    "dora": NotOffered("the service offers plain low-rank adapters"),
}


def load_catalog() -> Catalog:
    """Return the catalogue, with the user's own laid over it."""
    return catalog.load("vertex", CATALOG)


def find_family(model: str) -> str:
    """Return gemini, gemini-pro or open; an id that is not listed is judged by its shape (publisher/model@version:
    open)."""
    listed = load_catalog().models.get(model)
    if listed is not None:
        return listed.family
    return "open" if re.fullmatch(r"[\w.-]+/[\w.-]+@[\w.-]+", model) else load_catalog().default.family


def by_family(declared: Capabilities, target: core.Target, location: str | None) -> Capabilities:
    """Return what holds for a target, out of what holds for Gemini; `location` is where the account tunes."""
    model, dpo, reinforced = target.model, target.method == "dpo", target.method == "reinforcement"
    family = find_family(model)
    entry, warnings = load_catalog().model(model)
    if not model or model.startswith("projects/"):  # no model, or a tuned one of the user's own
        warnings = ()
    if problem := wrong_location(model, location):
        warnings = (*warnings, problem)
    if dpo and family != "open":
        warnings = (*warnings, DOUBTFUL_PREFERENCE)
    unsent = [name for name in REINFORCEMENT_OPTIONS if target.options.get(name) is not None and not reinforced]
    if unsent:
        listed = ", ".join(f"provider_options.{target.provider}.{name}" for name in unsent)
        warnings = (*warnings, f"{listed} is not sent: it is of method reinforcement")
    declared = replace(
        declared,
        methods={
            **declared.methods,
            "dpo": _preference_tuning(entry, family),
            "reinforcement": _reinforcement_tuning(entry, family),
        },
        epochs_if_unset=fields.REINFORCEMENT_EPOCHS if reinforced else fields.UNKNOWN_EPOCHS,
        concurrency=1,
        concurrency_source=f"{fields.ABOUT}: 1 concurrent tuning job a project by default",
        known_model=model in load_catalog().models,
        warnings=warnings,
    )
    if family == "open":
        return replace(
            declared,
            parameters=fields.OPEN_MODELS,
            family="open models",
            limits=Limits(format=OPEN_ROWS, max_tokens_per_row=entry.max_tokens_per_row, source=fields.OPEN),
            abilities=OPEN_ABILITIES,
            adapters={**declared.adapters, **_open_adapters(entry)},
        )
    sizes = adapter_sizes(model)
    if reinforced:
        price = declared.price
        note = "; ".join(filter(None, (price.note, _NO_REINFORCEMENT_PRICE)))
        return replace(
            declared,
            parameters=fields.reinforcement(sizes),
            family="Gemini Pro" if family == "gemini-pro" else "Gemini",
            limits=REINFORCEMENT_LIMITS,
            grader=GRADER,
            price=replace(price, training=None, by_method={}, note=note),
            abilities=replace(declared.abilities, billed_cost=NotOffered("what Google bills by is not published")),
        )
    return replace(
        declared,
        parameters=fields.preference(sizes) if dpo else fields.supervised(sizes),
        family="Gemini Pro" if family == "gemini-pro" else "Gemini",
        limits=PREFERENCE_LIMITS if dpo else GEMINI_LIMITS,
    )


def facts(model: str) -> Mapping[str, Any]:
    """Return the catalogue's own columns for a model: "regions", "generation", "cmek"."""
    return load_catalog().model(model)[0].facts


def wrong_location(model: str, location: str | None) -> str:
    """Return a sentence that says where a model is tuned when that is not in `location`; else ""."""
    regions = facts(model).get("regions", ())
    if not location or not regions or location in regions:
        return ""
    return f"{model} is tuned in {' or '.join(regions)}; location is {location!r}"


def _preference_tuning(entry: ModelEntry, family: str) -> Ability:
    if family == "open":
        return NotOffered("open models are tuned by supervised tuning only")
    if "dpo" in entry.methods:
        return True
    return NotOffered(f"preference tuning is offered for Gemini 2.5 Flash and 2.5 Flash-Lite, not for {entry.id}")


def _reinforcement_tuning(entry: ModelEntry, family: str) -> Ability:
    if family == "open":
        return NotOffered("open models are tuned by supervised tuning only")
    if "reinforcement" in entry.methods:
        return True
    return NotOffered(
        f"Google shows reinforcement tuning for gemini-3.5-flash alone, not for {entry.id or 'this model'}"
    )


def adapter_sizes(model: str) -> tuple[int, ...]:
    """Return the adapter sizes that a base model takes, as Google documents them; for open models, all there are."""
    family = find_family(model)
    if family == "open":
        return tuple(fields.ADAPTER_SIZES)
    return fields.PRO_SIZES if family == "gemini-pro" else fields.GEMINI_SIZES


def _open_adapters(entry: ModelEntry) -> dict[str, Ability]:
    offered = entry.adapters or ("lora", "full")
    return {
        "lora": True if "lora" in offered else NotOffered(f"{entry.id} is tuned in full only (adapter: full)"),
        "full": True if "full" in offered else NotOffered(f"{entry.id} is tuned through adapters only (adapter: lora)"),
    }
