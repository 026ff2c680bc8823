"""What a target supports: by the catalogue, and by what the hub said last."""

from __future__ import annotations

from typing import Any

import pytest

from llmtune.provider.types import Target
from llmtune_sagemaker import SageMakerProvider, recipes
from llmtune_sagemaker.capabilities import find_family, hugging_face_id, load_catalog, wrong_region
from llmtune_sagemaker.fake.service import FakeSageMaker
from llmtune_sagemaker.recipes import Parameter, Recipe
from tests.providers.llmtune_sagemaker.conftest import LLAMA, NOVA, QWEN, provider_at, receipt_for


def target(model: str = QWEN, **fields: Any) -> Target:
    return Target(provider="sagemaker", kind="sagemaker", model=model, **fields)


@pytest.mark.parametrize(
    ("model", "method", "rows"),
    [
        (QWEN, "sft", "sagemaker_chat"),
        (QWEN, "dpo", "sagemaker_preference"),
        (NOVA, "sft", "bedrock_nova_2"),
        ("a-new-model", "sft", "sagemaker_chat"),
    ],
)
def test_rows_by_model_and_method(provider: SageMakerProvider, model: str, method: str, rows: str) -> None:
    assert provider.capabilities(target(model, method=method)).limits.format == rows


def test_a_model_is_tuned_only_as_its_recipes_say(provider: SageMakerProvider) -> None:
    nova = provider.capabilities(target(NOVA))
    assert nova.method("sft") is True
    assert "no DPO recipe" in getattr(nova.method("dpo"), "reason", "")
    assert not nova.adapter("full")
    gpt = provider.capabilities(target("openai-reasoning-gpt-oss-20b"))
    assert not gpt.method("dpo")
    assert not gpt.adapter("full")
    qwen = provider.capabilities(target())
    assert qwen.method("dpo") is True
    assert qwen.adapter("full") is True
    assert not qwen.adapter("qlora")


def test_the_hub_wins_over_the_catalogue(provider: SageMakerProvider) -> None:
    new = "huggingface-llm-of-tomorrow"
    assert provider.capabilities(target(new)).known_model is False
    assert any("not in the catalogue" in warning for warning in provider.capabilities(target(new)).warnings)
    recipes.keep(new, "us-east-1", [Recipe(technique="DPO", adapter="full")])
    found = provider.capabilities(target(new, method="dpo", adapter="full"))
    assert found.known_model
    assert found.warnings == ()
    assert found.method("dpo") is True
    assert not found.method("sft")
    assert found.adapter("full") is True
    assert not found.adapter("lora")


def test_a_plan_says_how_old_its_recipes_are(provider: SageMakerProvider, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLMTUNE_TODAY", "2026-12-30")
    (note,) = provider.plan_notes(receipt_for(provider))
    assert "2026-11-30, 30 days old" in note
    recipes.keep(QWEN, "us-east-1", [Recipe(technique="SFT", adapter="lora", parameters={"seed": Parameter()})])
    (note,) = provider.plan_notes(receipt_for(provider))
    assert "2026-12-30, of today (SageMakerPublicHub, us-east-1)" in note


def test_a_licence_that_is_not_accepted_is_warned_of(provider: SageMakerProvider) -> None:
    assert any("accept_eula" in warning for warning in provider.capabilities(target(LLAMA)).warnings)
    accepted = provider.capabilities(target(LLAMA, options={"accept_eula": True}))
    assert accepted.warnings == ()


def test_a_region_without_the_model_is_warned_of(vendor: FakeSageMaker) -> None:
    far = provider_at(vendor, region="eu-north-1").capabilities(target())
    assert any("the region is eu-north-1" in warning for warning in far.warnings)
    assert wrong_region(NOVA, "eu-west-1")
    assert not wrong_region(QWEN, "eu-west-1")
    assert not wrong_region(QWEN, None)


def test_answers_come_only_from_this_machine(vendor: FakeSageMaker, provider: SageMakerProvider) -> None:
    plain = provider.capabilities(target()).abilities
    assert not plain.serving
    assert "by the hour" in getattr(plain.serving, "reason", "")
    here = provider_at(vendor, evaluate_locally=True).capabilities(target()).abilities
    assert here.serving is True
    assert here.base_serving is True


def test_the_catalogue_names_families_and_hubs() -> None:
    assert find_family("nova-of-tomorrow") == "nova-2"
    assert hugging_face_id(QWEN) == "Qwen/Qwen3-8B"
    assert hugging_face_id(NOVA) is None
    for entry in load_catalog().models.values():
        assert entry.source
        assert entry.checked
        assert entry.family in ("open-weight", "nova-2")
