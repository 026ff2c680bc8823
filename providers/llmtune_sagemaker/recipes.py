"""What a model's recipes take: read from the hub, kept with the day on which it was read, or from the catalogue.

A document of SageMaker's public hub lists the recipes of one model, one for each technique, adapter and sequence
length; a file in S3 says which hyperparameters a recipe takes, with their ranges and defaults. Both can be read for
nothing, and change without notice: a plan goes by what was read last, and says when that was.
"""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import date
from functools import cache
from pathlib import Path
from typing import Any

from llmtune import _clock
from llmtune.config import home
from llmtune.provider import AnyValue, Bool, Choice, Float, Int, Text, ValueType, load_json, read_number

CATALOG = Path(__file__).with_name("catalog.toml")
HUB = "SageMakerPublicHub"
TECHNIQUES: Mapping[str, str] = {"sft": "SFT", "dpo": "DPO", "reinforcement": "RLVR"}
#: Where a job names the evaluator with its reward function.
EVALUATOR_ARN = "EvaluatorArn"
#: The types that are numbers.
_NUMERIC = ("integer", "float", "number")


@dataclass(frozen=True, kw_only=True)
class Parameter:
    """One hyperparameter of a recipe. `low` and `high` are None where there is no bound."""

    type: str = "string"
    """integer, float, boolean or string."""

    low: float | None = None
    high: float | None = None
    choices: tuple[Any, ...] = ()
    default: Any = None

    @property
    def value_type(self) -> ValueType:
        """The values that it takes."""
        if self.choices:
            return Choice(*self.choices)
        if self.type == "integer":
            return Int(_whole(self.low), _whole(self.high))
        if self.type in _NUMERIC:
            return Float(ge=self.low, le=self.high)
        return {"boolean": Bool(), "string": Text()}.get(self.type, AnyValue())

    def fault(self, text: str) -> str | None:
        """Return what is wrong with a value as it is sent ("0.5"); None if nothing is."""
        if self.type in _NUMERIC:
            number = read_number(text)
            if number is None:
                return f"must be a number, not {text!r}"
            whole = self.type == "integer" and number.is_integer()
            return self.value_type.error(int(number) if whole else number)
        if self.type == "boolean":
            return None if text.lower() in ("true", "false") else f"must be true or false, not {text!r}"
        return self.value_type.error(text)


def _whole(bound: float | None) -> int | None:
    return None if bound is None else int(bound)


def read_parameter(raw: Mapping[str, Any]) -> Parameter:
    """Read a parameter as a recipe's file has it: `{"type": "float", "min": 0, "max": 1, "default": 0.1}`."""
    choices = raw.get("enum")
    return Parameter(
        type=str(raw.get("type", "string")),
        low=read_number(raw.get("min")),
        high=read_number(raw.get("max")),
        choices=tuple(choice for choice in choices if choice is not None) if isinstance(choices, list) else (),
        default=raw.get("default"),
    )


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """One way in which a model can be tuned, and what it takes."""

    technique: str
    """SFT, DPO, RLVR or RLAIF."""

    adapter: str
    """lora or full."""

    sequence_length: str | None = None
    """As the request names it: "4K"."""

    parameters: Mapping[str, Parameter] = field(default_factory=dict)
    """Empty where the file with them was not read."""

    overrides: str = ""
    """Address of that file in S3."""


@dataclass(frozen=True, kw_only=True)
class Seen:
    """The recipes of one model as they were read. `live` is whether that was from the hub, and not for the catalogue.

    `day` and `source` say when and where.
    """

    recipes: tuple[Recipe, ...]
    day: date
    source: str
    live: bool = False

    def find(self, technique: str, adapter: str, sequence_length: str | None = None) -> Recipe | None:
        """Return the recipe for these; of several sequence lengths the first that says what it takes."""
        matching = [recipe for recipe in self.recipes if (recipe.technique, recipe.adapter) == (technique, adapter)]
        if sequence_length is not None:
            matching = [recipe for recipe in matching if recipe.sequence_length in (None, sequence_length)]
        return next((recipe for recipe in matching if recipe.parameters), matching[0] if matching else None)

    def sentence(self) -> str:
        """Say how old this is: "recipes as of 2026-11-30, 3 days old (SOURCE)"."""
        days = (_clock.today() - self.day).days
        age = "of today" if days <= 0 else f"{days} day{'' if days == 1 else 's'} old"
        return f"recipes as of {self.day}, {age} ({self.source})"


# --- the hub's document ----------------------------------------------------------------------------------------------
def read_document(text: str) -> tuple[Recipe, ...]:
    """Read the recipes out of a model's document in the hub, without their parameters; what is odd is left out."""
    try:
        document = load_json(text.encode())
    except ValueError:
        return ()
    collection = document.get("RecipeCollection") if isinstance(document, dict) else None
    recipes = []
    for entry in collection if isinstance(collection, list) else ():
        if not isinstance(entry, dict) or not isinstance(entry.get("CustomizationTechnique"), str):
            continue
        if entry.get("Type", "FineTuning") != "FineTuning":
            continue
        length, overrides = entry.get("SequenceLength"), entry.get("SmtjOverrideParamsS3Uri")
        recipes.append(
            Recipe(
                technique=entry["CustomizationTechnique"].upper(),
                adapter="lora" if str(entry.get("Peft") or "").upper() == "LORA" else "full",
                sequence_length=length if isinstance(length, str) else None,
                overrides=overrides if isinstance(overrides, str) else "",
            )
        )
    return tuple(recipes)


def read_parameters(content: bytes) -> dict[str, Parameter]:
    """Read the file that says what a recipe takes; what is odd is left out."""
    try:
        data = load_json(content)
    except ValueError:
        return {}
    entries = data.items() if isinstance(data, dict) else ()
    return {name: read_parameter(raw) for name, raw in entries if isinstance(raw, dict) and "type" in raw}


def list_faults(sent: Mapping[str, str], recipe: Recipe) -> Iterable[tuple[str, str]]:
    """Yield (name, what is wrong) for each hyperparameter that a recipe does not take as it is sent."""
    for name, text in sent.items():
        if name not in recipe.parameters:
            yield name, "is no hyperparameter of this recipe"
        elif fault := recipe.parameters[name].fault(text):
            yield name, fault


# --- kept on this machine, and the catalogue -------------------------------------------------------------------------
def find(model: str, region: str | None, family: str) -> Seen | None:
    """Return a model's recipes: those read from the hub last, else those of the catalogue for its `family`."""
    return (read_kept(model, region) if region else None) or from_catalog(family)


def kept_path(model: str, region: str) -> Path:
    """Return the file in which a model's recipes are kept."""
    plain = re.sub(r"[^A-Za-z0-9.-]", "_", f"{region}-{model}")
    return home() / "sagemaker" / f"{plain[:120]}.json"


def keep(model: str, region: str, recipes: Iterable[Recipe]) -> None:
    """Keep a model's recipes with today's date; a disk that takes nothing is no fault of the job's."""
    entries = [
        {
            "technique": recipe.technique,
            "adapter": recipe.adapter,
            "sequence_length": recipe.sequence_length,
            "parameters": {name: as_raw(parameter) for name, parameter in recipe.parameters.items()},
        }
        for recipe in recipes
    ]
    path = kept_path(model, region)
    with suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_suffix(".part")
        unfinished.write_text(json.dumps({"seen": f"{_clock.today()}", "recipes": entries}), encoding="utf-8")
        unfinished.replace(path)


def read_kept(model: str, region: str) -> Seen | None:
    """Return the recipes that were kept of a model; None where there are none, or the file is damaged."""
    try:
        data = json.loads(kept_path(model, region).read_text(encoding="utf-8"))
        recipes = tuple(_read_recipe(entry) for entry in data["recipes"])
        day = date.fromisoformat(data["seen"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    return Seen(recipes=recipes, day=day, source=f"{HUB}, {region}", live=True) if recipes else None


def from_catalog(family: str) -> Seen | None:
    """Return the recipes of a family of models as the catalogue has them; None for a family without any."""
    return _catalogued().get(family)


@cache
def _catalogued() -> Mapping[str, Seen]:
    families: dict[str, Any] = tomllib.loads(CATALOG.read_text(encoding="utf-8"))["recipes"]
    return {
        name: Seen(
            recipes=tuple(_read_recipe(entry) for entry in family["recipes"]),
            day=family["checked"],
            source=family["source"],
        )
        for name, family in families.items()
    }


def _read_recipe(entry: Mapping[str, Any]) -> Recipe:
    return Recipe(
        technique=str(entry["technique"]),
        adapter=str(entry["adapter"]),
        sequence_length=entry.get("sequence_length"),
        parameters={name: read_parameter(raw) for name, raw in entry["parameters"].items()},
    )


def as_raw(parameter: Parameter) -> dict[str, Any]:
    """Return a parameter as a recipe's file has it."""
    raw = {"type": parameter.type, "min": parameter.low, "max": parameter.high, "default": parameter.default}
    return {key: value for key, value in raw.items() if value is not None} | (
        {"enum": list(parameter.choices)} if parameter.choices else {}
    )
