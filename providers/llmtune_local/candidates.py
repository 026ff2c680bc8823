"""Base models for a dataset: those on this machine, and well-known ones that it could train. Loads no weights."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from llmtune.data.facts import OTHER_SCRIPTS
from llmtune.errors import LlmtuneError
from llmtune.provider import ModelSuggestion
from llmtune.provider.memory import size
from llmtune_local.batching.sizes import token_budget
from llmtune_local.default_settings import FULL_ENCODERS_BELOW, choose_adapter, choose_settings, count_parameters
from llmtune_local.duration import estimate_training
from llmtune_local.images.families import FAMILIES
from llmtune_local.libraries import usable_cores
from llmtune_local.models import memory_estimate, precision
from llmtune_local.models.hub import EMBEDDED, ENCODERS
from llmtune_local.models.shape import Shape, cached_models, find_model_folder, read_shape

if TYPE_CHECKING:
    from llmtune.data.facts import DatasetFacts

Source = Literal["package", "cache", "folder", "hub"]


@dataclass(frozen=True)
class WellKnown:
    """A model of the Hugging Face hub that people tune on one machine; `tools`: its chat template renders tools;
    `images`: it reads images, and is suggested where rows have some."""

    model: str
    parameters: int
    context: int
    languages: str
    encoder: bool = False
    tools: bool = True
    images: bool = False


#: Parameters, context and languages as the models' own cards on the hub round them (2026-11), small to large:
#: instruction-tuned chat models, and encoders. Of models of text and images, parameters are what their names say.
WELL_KNOWN = (
    WellKnown("HuggingFaceTB/SmolLM2-135M-Instruct", 135_000_000, 8_192, "English", tools=False),
    WellKnown("HuggingFaceTB/SmolLM2-360M-Instruct", 362_000_000, 8_192, "English", tools=False),
    WellKnown("Qwen/Qwen3-0.6B", 600_000_000, 32_768, "over 100 languages"),
    WellKnown("Qwen/Qwen3-1.7B", 1_700_000_000, 32_768, "over 100 languages"),
    WellKnown("Qwen/Qwen3-4B", 4_000_000_000, 32_768, "over 100 languages"),
    WellKnown("Qwen/Qwen3-8B", 8_200_000_000, 32_768, "over 100 languages"),
    WellKnown("distilbert/distilbert-base-uncased", 66_000_000, 512, "English", encoder=True),
    WellKnown("answerdotai/ModernBERT-base", 149_000_000, 8_192, "English", encoder=True),
    WellKnown("FacebookAI/xlm-roberta-base", 278_000_000, 512, "100 languages", encoder=True),
    WellKnown("answerdotai/ModernBERT-large", 395_000_000, 8_192, "English", encoder=True),
    WellKnown("HuggingFaceTB/SmolVLM-256M-Instruct", 256_000_000, 0, "English", tools=False, images=True),
    WellKnown("HuggingFaceTB/SmolVLM-500M-Instruct", 500_000_000, 0, "English", tools=False, images=True),
    WellKnown("Qwen/Qwen3-VL-2B-Instruct", 2_000_000_000, 0, "", images=True),
    WellKnown("Qwen/Qwen3-VL-4B-Instruct", 4_000_000_000, 0, "", images=True),
)
#: Well-known models that are suggested of each method at most: the largest that this machine can train overnight.
MOST_WELL_KNOWN = 2
OVERNIGHT = 8 * 3600
#: Share of the device's memory that a run may take.
MEMORY_SHARE = 0.8
#: How many tokens of a small vocabulary the estimate's one is, for text in Latin script (about 4.7 bytes a token), and
#: for others (4 to 6 bytes), of which such a vocabulary has single bytes alone.
LATIN_TOKENS, OTHER_TOKENS, SMALL_VOCABULARY = 1.9, 5.5, 16_000
#: Bytes a parameter in training all weights (weights, gradients, two moments of AdamW), or an adapter beside frozen
#: weights in float32 or bfloat16, and of the file it is loaded from; what a process, activations and logits take.
BYTES_FULL, BYTES_FLOAT, BYTES_HALF, BYTES_FILE, WORKING_MEMORY = 16, 4.2, 2.2, 2, 1 << 30
NO_TOOLS = "its chat template renders no tools, which the rows have"


def suggest_models(facts: DatasetFacts, named: str | None = None) -> list[ModelSuggestion]:
    """Return the models that suit the kind of rows, each with what speaks against it.

    In order: `named`, then those on this machine, the largest first, then well-known ones that are not here.
    """
    local = [suggestion for model, source in _list_local_models() if (suggestion := _suggest(model, source, facts))]
    local.sort(key=lambda suggestion: -(suggestion.parameters or 0))
    suggestions = [suggestion for suggestion in local if suggestion.model != named]
    here = {suggestion.model for suggestion in local} | {named}
    suggestions += _suggest_well_known([entry for entry in WELL_KNOWN if entry.model not in here], facts)
    return suggestions if named is None else [_suggest_named(named, facts), *suggestions]


def list_local_models() -> list[str]:
    """Return the ids of the embedded models and of those in the hub's cache."""
    return [model for model, _ in _list_local_models()]


def _list_local_models() -> Iterator[tuple[str, Source]]:
    for model in EMBEDDED:
        yield model, "package"
    for model in cached_models():
        yield model, "cache"


def _suggest_named(model: str, facts: DatasetFacts) -> ModelSuggestion:
    """Return what is known of a model that the user named, which may be anything."""
    source: Source = "package" if model in EMBEDDED else "folder" if Path(model).is_dir() else "cache"
    suggestion = _suggest(model, source, facts)
    if suggestion is not None:
        return suggestion
    entry = next((entry for entry in WELL_KNOWN if entry.model == model), None)
    if entry is not None:
        return _suggest_unseen(entry, facts)
    parameters = count_parameters(model)
    if parameters is None:
        return ModelSuggestion(model=model, method=_chat_method(facts), source="hub")
    return _suggest_unseen(WellKnown(model, parameters, 0, ""), facts)


def _suggest(model: str, source: Source, facts: DatasetFacts) -> ModelSuggestion | None:
    """Describe a model on this machine; None where its files are incomplete or it is of another kind."""
    try:
        folder, shape = find_model_folder(model, None), read_shape(model)
    except (OSError, ValueError, KeyError, LlmtuneError):
        return None
    if folder is None or shape is None or not _is_complete(folder):
        return None
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    method = _method_of(config, facts)
    if method is None:
        return None
    adapter = choose_adapter(model, method)
    obstacle = _find_obstacle(folder, facts, method)
    device = memory_estimate.current_device("auto")
    available = memory_estimate.available_memory(device)
    peak = _estimate_memory(model, shape, method, adapter, facts)
    too_long = _is_too_long(shape.context, shape.vocabulary, facts)
    languages = "English" if model in EMBEDDED else _find_languages(model)
    return ModelSuggestion(
        model=model,
        method=method,
        source=source,
        parameters=shape.parameters,
        languages=languages,
        context=shape.context,
        memory=peak,
        available_memory=available,
        seconds=_estimate_seconds(model, method, adapter, shape.parameters, facts),
        obstacle=obstacle or _find_memory_obstacle(peak, available),
        warning=_find_warning(languages, shape.context, facts, too_long=too_long),
        rows_too_long=too_long,
    )


def _chat_method(facts: DatasetFacts) -> str:
    return "dpo" if facts.kind == "preference" else "sft"


def _method_of(config: dict[str, Any], facts: DatasetFacts) -> str | None:
    """Return the method by which a model of this configuration learns such rows; None where there is none."""
    names = " ".join(config.get("architectures") or ())
    if config.get("model_type") in ENCODERS and not config.get("is_decoder"):
        return "classification" if facts.labels else None
    generates = "ForCausalLM" in names or "LMHeadModel" in names
    return _chat_method(facts) if generates or ("text_config" in config and "ForConditional" in names) else None


def _is_complete(folder: Path) -> bool:
    """Return whether every weight file that the index names is there: a download may have been broken off."""
    index = folder / "model.safetensors.index.json"
    if not index.is_file():
        return True
    files = json.loads(index.read_text(encoding="utf-8")).get("weight_map", {}).values()
    return all((folder / name).is_file() for name in set(files))


def _find_obstacle(folder: Path, facts: DatasetFacts, method: str) -> str:
    if facts.image_rows and not _reads_images(folder):
        return _find_image_obstacle(facts)
    if method == "classification" or facts.kind == "text":
        return ""
    template = _read_template(folder)
    if not template:
        return "it has no chat template (provider_options.local.chat_template names one)"
    if facts.tool_rows and "tools" not in template:
        return NO_TOOLS
    return ""


def _reads_images(folder: Path) -> bool:
    """Return whether the images that rows show to the model in this folder are read here."""
    kind = json.loads((folder / "config.json").read_text(encoding="utf-8")).get("model_type")
    return any(kind in family.models for family in FAMILIES)


def _find_image_obstacle(facts: DatasetFacts) -> str:
    if not facts.image_rows:
        return ""
    return f"no images are read with it, and {facts.image_rows:,} of {facts.total:,} rows have some"


def _read_template(folder: Path) -> str:
    for name in ("chat_template.jinja", "chat_template.json"):
        if (folder / name).is_file():
            return (folder / name).read_text(encoding="utf-8")
    path = folder / "tokenizer_config.json"
    settings = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    template = settings.get("chat_template")
    return json.dumps(template) if template else ""


def _find_languages(model: str) -> str:
    return next((entry.languages for entry in WELL_KNOWN if entry.model == model), "")


def _find_warning(languages: str, context: int | None, facts: DatasetFacts, *, too_long: bool) -> str:
    warnings = []
    if facts.language and languages == "English":
        warnings.append(f"it was made for English, and the rows are {facts.language}")
    if too_long:
        warnings.append(f"it takes rows of at most {context:,} tokens, and the longest here is probably longer")
    return "; ".join(warnings)


def _is_too_long(context: int | None, vocabulary: int, facts: DatasetFacts) -> bool:
    rate = 1.0
    if 0 < vocabulary < SMALL_VOCABULARY:
        rate = LATIN_TOKENS if facts.latin_share > 1 - OTHER_SCRIPTS else OTHER_TOKENS
    return bool(context) and rate * facts.longest_row > (context or 0)


def _find_memory_obstacle(peak: int | None, available: int | None) -> str:
    if peak is None or available is None or peak <= MEMORY_SHARE * available:
        return ""
    return f"training takes about {size(peak)}, and this machine has {size(available)}"


def _estimate_memory(model: str, shape: Shape, method: str, adapter: str, facts: DatasetFacts) -> int | None:
    """Return the bytes at the peak of training at the default settings."""
    device = memory_estimate.current_device("auto")
    settings = choose_settings(model, method, adapter, facts.rows)
    per_row = facts.training_tokens / max(1, facts.rows["train"]) * (2 if method == "dpo" else 1)
    step = round(per_row * settings.batch_size)
    longest = min(facts.longest_row, shape.context or facts.longest_row)
    tokens = max(1, longest, min(step, token_budget(device)))
    plan = memory_estimate.Plan(
        adapter=adapter,
        tokens=tokens,
        trained_tokens=max(1, tokens // 4),
        dtype=precision.resolve_precision("auto", device, shape),
        device=device,
        micro_batches=-(-step // tokens),
        longest=longest,
    )
    return memory_estimate.estimate(shape, plan).peak


def _estimate_seconds(model: str, method: str, adapter: str, parameters: int, facts: DatasetFacts) -> float:
    """Return about how long training takes at the default settings, between the least and the most of a plan."""
    tokens = facts.training_tokens * choose_settings(model, method, adapter, facts.rows).epochs
    device, validates = memory_estimate.current_device("auto"), bool(facts.rows.get("validation"))
    span = estimate_training(parameters, adapter, tokens, device, usable_cores(), validates=validates)
    return math.sqrt(span.low * span.high)


def _suggest_well_known(entries: list[WellKnown], facts: DatasetFacts) -> list[ModelSuggestion]:
    """Return the largest well-known models of each method that could be trained overnight, the largest first."""
    suggestions: list[ModelSuggestion] = []
    for encoder in (False, True) if facts.labels else (False,):
        shows_images = facts.image_rows > 0
        unseen = [
            _suggest_unseen(entry, facts)
            for entry in reversed(entries)
            if entry.encoder == encoder and (encoder or entry.images == shows_images)
        ]
        suited = [model for model in unseen if not (model.obstacle or model.warning)]
        if encoder and not facts.language:
            suited = [model for model in suited if model.languages == "English"]
        suggestions += [model for model in suited if (model.seconds or 0) <= OVERNIGHT][:MOST_WELL_KNOWN]
    return suggestions


def _suggest_unseen(entry: WellKnown, facts: DatasetFacts) -> ModelSuggestion:
    """Describe a model that is not on this machine, by its size alone."""
    method = "classification" if entry.encoder else _chat_method(facts)
    adapter = choose_adapter(entry.model, method)
    if entry.encoder and entry.parameters < FULL_ENCODERS_BELOW:
        adapter = "full"  # most names of encoders do not say their size
    device = memory_estimate.current_device("auto")
    available = memory_estimate.available_memory(device)
    halved = device == "cuda" or (device == "cpu" and precision.cpu_has_half() and not entry.encoder)
    per_parameter = BYTES_FULL if adapter == "full" else BYTES_HALF if halved else BYTES_FLOAT
    if device == "cpu":  # while it is loaded, the file's own weights lie beside those in memory
        per_parameter = max(per_parameter, BYTES_FILE + (BYTES_HALF if halved else BYTES_FLOAT))
    peak = math.ceil(entry.parameters * per_parameter) + WORKING_MEMORY
    too_long = _is_too_long(entry.context, 0, facts)
    obstacle = ("" if entry.images else _find_image_obstacle(facts)) or _find_memory_obstacle(peak, available)
    if facts.tool_rows and not entry.tools:
        obstacle = NO_TOOLS
    return ModelSuggestion(
        model=entry.model,
        method=method,
        source="hub",
        parameters=entry.parameters,
        languages=entry.languages,
        context=entry.context or None,
        memory=peak,
        available_memory=available,
        seconds=_estimate_seconds(entry.model, method, adapter, entry.parameters, facts),
        obstacle=obstacle,
        warning=_find_warning(entry.languages, entry.context, facts, too_long=too_long),
        rows_too_long=too_long,
    )
