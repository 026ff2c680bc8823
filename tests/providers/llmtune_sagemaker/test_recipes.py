"""Recipes: read from the hub's document, kept with a date, and from the catalogue."""

from __future__ import annotations

import json
from datetime import date

import pytest

from llmtune_sagemaker import recipes
from llmtune_sagemaker.recipes import Parameter, Recipe, Seen

DOCUMENT = {
    "RecipeCollection": [
        {"Type": "FineTuning", "CustomizationTechnique": "SFT", "Peft": "LORA", "SequenceLength": "4K",
         "SmtjOverrideParamsS3Uri": "s3://b/k.json"},
        {"CustomizationTechnique": "dpo"},
        {"Type": "Evaluation", "EvaluationType": "DeterministicEvaluation"},
        {"CustomizationTechnique": 5},
        "odd",
    ]
}  # fmt: skip


def test_a_document_lists_techniques_adapters_and_lengths() -> None:
    first, second = recipes.read_document(json.dumps(DOCUMENT))
    assert (first.technique, first.adapter, first.sequence_length, first.overrides) == (
        *("SFT", "lora", "4K"),
        "s3://b/k.json",
    )
    assert (second.technique, second.adapter, second.overrides) == ("DPO", "full", "")


@pytest.mark.parametrize("text", ["", "[]", "null", "{", '{"RecipeCollection": 7}', '{"RecipeCollection": {"a": 1}}'])
def test_an_odd_document_lists_nothing(text: str) -> None:
    assert recipes.read_document(text) == ()


def test_parameters_are_read_with_their_ranges() -> None:
    content = {
        "max_epochs": {"type": "integer", "min": 1, "max": 100, "default": 5},
        "global_batch_size": {"type": "integer", "enum": [8, 16, None], "default": 8},
        "learning_rate": {"type": "float", "min": "5e-07", "max": 1e-4},
        "merge_weights": {"type": "boolean", "default": True},
        "namespace": {"default": "kubeflow"},
        "odd": 5,
    }
    read = recipes.read_parameters(json.dumps(content).encode())
    assert read["max_epochs"] == Parameter(type="integer", low=1.0, high=100.0, default=5)
    assert read["global_batch_size"].choices == (8, 16)
    assert read["learning_rate"].low == 5e-7
    assert set(read) == {"max_epochs", "global_batch_size", "learning_rate", "merge_weights"}
    assert recipes.read_parameters(b"[1, 2") == {}


@pytest.mark.parametrize(
    ("parameter", "text", "fault"),
    [
        (Parameter(type="integer", low=1, high=100), "3", None),
        (Parameter(type="integer", low=1, high=100), "0", "a whole number from 1 to 100"),
        (Parameter(type="integer", low=1, high=100), "2.5", "a whole number"),
        (Parameter(type="integer", choices=(8, 16)), "16", None),
        (Parameter(type="integer", choices=(8, 16)), "12", "one of 8, 16"),
        (Parameter(type="float", low=0, high=1), "0.00001", None),
        (Parameter(type="float", low=0, high=1), "2", "<= 1"),
        (Parameter(type="float"), "much", "must be a number"),
        (Parameter(type="boolean"), "false", None),
        (Parameter(type="boolean"), "no", "true or false"),
        (Parameter(type="string", choices=("cosine",)), "linear", "cosine"),
    ],
)
def test_a_value_is_checked_as_it_is_sent(parameter: Parameter, text: str, fault: str | None) -> None:
    found = parameter.fault(text)
    assert (found is None) if fault is None else (found is not None and fault in found)


def test_what_a_recipe_does_not_know_is_a_fault() -> None:
    recipe = Recipe(technique="SFT", adapter="lora", parameters={"seed": Parameter(type="integer", low=0)})
    faults = dict(recipes.list_faults({"seed": "-1", "warmup": "3"}, recipe))
    assert set(faults) == {"seed", "warmup"}
    assert "no hyperparameter of this recipe" in faults["warmup"]


def test_recipes_are_kept_with_the_day(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLMTUNE_TODAY", "2026-12-01")
    recipe = Recipe(
        technique="SFT",
        adapter="lora",
        sequence_length="8K",
        parameters={"lora_rank": Parameter(type="integer", choices=(8, 16), default=8)},
    )
    recipes.keep("a/../model", "us-east-1", [recipe])
    monkeypatch.setenv("LLMTUNE_TODAY", "2026-12-04")
    seen = recipes.read_kept("a/../model", "us-east-1")
    assert seen is not None
    assert seen.live
    assert seen.recipes == (recipe,)
    assert seen.sentence().startswith("recipes as of 2026-12-01, 3 days old")
    assert recipes.read_kept("a/../model", "us-west-2") is None
    assert recipes.find("a/../model", "us-east-1", "open-weight") == seen


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"seen": "x", "recipes": []}', '{"seen": "2026-12-01", "recipes": [1]}']
)
def test_a_damaged_file_is_passed_over(text: str) -> None:
    path = recipes.kept_path("m", "us-east-1")
    path.parent.mkdir(parents=True)
    path.write_text(text)
    assert recipes.read_kept("m", "us-east-1") is None
    assert recipes.find("m", "us-east-1", "open-weight") == recipes.from_catalog("open-weight")


def test_the_catalogue_has_recipes_with_source_and_day() -> None:
    for family in ("open-weight", "nova-2"):
        seen = recipes.from_catalog(family)
        assert seen is not None
        assert seen.source
        assert seen.day >= date(2026, 11, 30)
        assert seen.find("SFT", "lora") is not None
    assert recipes.from_catalog("nothing") is None


def test_of_several_lengths_the_one_asked_for_is_taken() -> None:
    short, long = (Recipe(technique="SFT", adapter="lora", sequence_length=length) for length in ("4K", "8K"))
    seen = Seen(recipes=(short, long), day=date(2026, 12, 1), source="x")
    assert seen.find("SFT", "lora", "8K") is long
    assert seen.find("SFT", "lora") is short
    assert seen.find("SFT", "lora", "2K") is None
    assert seen.find("DPO", "lora") is None
