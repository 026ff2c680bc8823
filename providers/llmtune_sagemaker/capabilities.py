"""What SageMaker offers for a model: techniques and adapters by its recipes, and the rows that they take."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

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
from llmtune_bedrock.graders import name_function
from llmtune_sagemaker import recipes
from llmtune_sagemaker.declarations import declare

CATALOG = Path(__file__).with_name("catalog.toml")
FORMATS = "AWS, Open weight model customization, 2026-11"

CHAT_ROWS = "sagemaker_chat"
PREFERENCE_ROWS = "sagemaker_preference"
REINFORCEMENT_ROWS = "sagemaker_reinforcement"
#: Bedrock's rows, which Nova takes here too.
CONVERSE_ROWS = "bedrock_nova_2"

TITLES: Mapping[str, str] = {"open-weight": "open models", "nova-2": "Amazon Nova 2"}

METHODS: Mapping[str, Ability] = {
    "sft": True,
    "dpo": True,
    "classification": NotOffered("there is no classification head here; use method sft with the label as the answer"),
    **NOT_YET_METHODS,
    "reinforcement": True,
}
ADAPTERS: Mapping[str, Ability] = {
    "lora": True,
    "full": True,
    "qlora": NotOffered("SageMaker's recipes have no 4-bit base"),
    "dora": NotOffered("SageMaker's recipes have no DoRA"),
}
#: AWS bills RLVR by the tokens that the model writes and is trained on, of which nobody knows the number before.
NO_REINFORCEMENT_PRICE = (
    "how many tokens a reinforcement job is billed for depends on the answers that the model writes"
)
#: The option that names the evaluator of a job.
EVALUATOR = "evaluator_arn"
NO_ENDPOINT = (
    "a tuned model answers only from an endpoint that is billed by the hour, and llmtune starts none here: set"
    " evaluate_locally to ask it on this machine, or deploy it in SageMaker's console"
)
ABILITIES = Abilities(
    pause=NotOffered("SageMaker has no pause"),
    checkpoints=NotOffered("SageMaker registers the final model only"),
    serving=NotOffered(NO_ENDPOINT),
    base_serving=NotOffered("base models answer only from an endpoint that is billed by the hour"),
    billed_cost=True,
)


def load_catalog() -> Catalog:
    """Return the catalogue, with the user's own laid over it."""
    return catalog.load("sagemaker", CATALOG)


def find_family(model: str) -> str:
    """Return the family of a model id: as the catalogue has it, else by its name."""
    listed = load_catalog().models.get(model)
    if listed is not None:
        return listed.family
    return "nova-2" if model.startswith("nova-") else "open-weight"


def row_format(method: str, model: str) -> str:
    """Return the name of the format in which this model takes rows for a method."""
    if method == "reinforcement":
        return REINFORCEMENT_ROWS
    if find_family(model) == "nova-2":
        return CONVERSE_ROWS
    return PREFERENCE_ROWS if method == "dpo" else CHAT_ROWS


def for_target(declared: Capabilities, target: Target, region: str | None) -> Capabilities:
    """Return what holds for a target, out of what holds for all; `region` is where the account tunes."""
    model, family = target.model, find_family(target.model)
    seen = recipes.find(model, region, family) or recipes.from_catalog("open-weight")
    assert seen is not None
    technique = recipes.TECHNIQUES.get(target.method, "SFT")
    recipe = seen.find(technique, target.adapter, target.options.get("sequence_length"))
    parameters = recipe.parameters if recipe is not None else {}
    if not parameters:  # the hub lists the recipe, and the file that says what it takes has not been read
        offline = recipes.from_catalog(family)
        listed = offline.find(technique, target.adapter) if offline is not None else None
        parameters = listed.parameters if listed is not None else {}
    if target.method == "reinforcement":
        price = declared.price
        note = "; ".join(filter(None, (price.note, NO_REINFORCEMENT_PRICE)))
        evaluator = target.options.get(EVALUATOR)
        path = f"ServerlessJobConfig.{recipes.EVALUATOR_ARN}"
        declared = replace(
            declared,
            grader=name_function(
                evaluator, path, provider=target.provider, option=EVALUATOR, runs_as="SageMaker's evaluator"
            ),
            price=replace(price, training=None, by_method={}, note=note),
        )
    return replace(
        declared,
        parameters=declare(parameters, seen, method=target.method, adapter=target.adapter),
        family=TITLES.get(family, family),
        limits=Limits(
            format=row_format(target.method, model),
            max_tokens_per_row=declared.limits.max_tokens_per_row,
            source=FORMATS,
            note=f"{_CUT[target.method == 'reinforcement']}; without a validation set the recipe holds out a tenth",
        ),
        methods=_methods(model, target.adapter, seen),
        adapters=_adapters(model, technique, seen),
        known_model=model in load_catalog().models or seen.live,
        warnings=(
            *(() if seen.live else declared.warnings),
            *filter(
                None,
                (
                    wrong_region(model, region),
                    missing_eula(model, target.options),
                    _unused_evaluator(target.method, target.options, target.provider),
                ),
            ),
        ),
    )


#: What becomes of longer rows, by whether the job is one of reinforcement.
_CUT = (
    "longer rows are cut at max_sequence_length",
    "prompts have at most max_prompt_length tokens (extra_hyperparameters), 1,024 where it is not set",
)


def _unused_evaluator(method: str, options: Mapping[str, object], provider: str) -> str:
    """Return a sentence when an evaluator is named that the method does not use; else ""."""
    if method == "reinforcement" or not options.get(EVALUATOR):
        return ""
    return f"provider_options.{provider}.{EVALUATOR} is not sent: it is of method reinforcement"


def _methods(model: str, adapter: str, seen: recipes.Seen) -> dict[str, Ability]:
    return dict(METHODS) | {
        method: NotOffered(f"{model or 'the model'} has no {technique} recipe ({seen.sentence()})")
        for method, technique in recipes.TECHNIQUES.items()
        if not _offers(model, method, None, seen)
    }


def _adapters(model: str, technique: str, seen: recipes.Seen) -> dict[str, Ability]:
    method = next(name for name, word in recipes.TECHNIQUES.items() if word == technique)
    return dict(ADAPTERS) | {
        adapter: NotOffered(f"{model or 'the model'} has no {technique} recipe with adapter {adapter}")
        for adapter in ("lora", "full")
        if not _offers(model, method, adapter, seen)
    }


def _offers(model: str, method: str, adapter: str | None, seen: recipes.Seen) -> bool:
    """Return whether there is a recipe: by the hub where it was read, else by the model's entry in the catalogue."""
    technique = recipes.TECHNIQUES[method]
    in_recipes = any(recipe.technique == technique and adapter in (None, recipe.adapter) for recipe in seen.recipes)
    if seen.live:
        return in_recipes
    entry = load_catalog().model(model)[0] if model else load_catalog().default
    return in_recipes and method in entry.methods and (adapter is None or adapter in entry.adapters)


def wrong_region(model: str, region: str | None) -> str:
    """Return a sentence that says where a model is tuned when that is not in `region`; else ""."""
    regions = load_catalog().model(model)[0].facts.get("regions", ())
    if not region or not regions or region in regions:
        return ""
    return f"{model} is tuned in {', '.join(regions)}; the region is {region}"


def missing_eula(model: str, options: Mapping[str, object]) -> str:
    """Return a sentence when a model's licence has to be accepted and the job does not; else ""."""
    if not load_catalog().model(model)[0].facts.get("eula") or options.get("accept_eula"):
        return ""
    return f"{model} is trained only once its licence is accepted: read it, then set accept_eula: true (an option)"


def hugging_face_id(model: str) -> str | None:
    """Return the id of a base model at the Hugging Face Hub, where the catalogue has it."""
    entry = load_catalog().models.get(model)
    name = entry.facts.get("hugging_face") if entry is not None else None
    return str(name) if name else None


def for_catalog() -> Declarations:
    """Return the declarations of the default family, for supervised fine-tuning of an adapter."""
    seen = recipes.from_catalog("open-weight")
    assert seen is not None
    recipe = seen.find("SFT", "lora")
    return declare(recipe.parameters if recipe is not None else {}, seen, method="sft", adapter="lora")
