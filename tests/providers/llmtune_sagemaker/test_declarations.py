"""Declarations: made from what a recipe takes."""

from __future__ import annotations

from datetime import date

from llmtune.provider.declarations import Converted, NotApplicable, Sent, Unsupported
from llmtune_sagemaker import SageMakerProvider, recipes
from llmtune_sagemaker.declarations import declare
from llmtune_sagemaker.recipes import Parameter, Seen
from tests.providers.llmtune_sagemaker.conftest import NOVA, receipt_for

SEEN = Seen(recipes=(), day=date(2026, 12, 1), source="a test")


def test_values_go_out_as_text(provider: SageMakerProvider) -> None:
    receipt = receipt_for(
        provider, epochs=3, learning_rate=1e-5, lora_alpha=64.0, batch_size=16, seed=7, lr_schedule="constant"
    )
    assert receipt.request_parameters()["HyperParameters"] == {
        "max_epochs": "3",
        "learning_rate": "0.00001",
        "lora_alpha": "64",
        "global_batch_size": "16",
        "seed": "7",
        "lr_scheduler": "constant",
    }


def test_values_that_no_recipe_takes_are_refused_by_the_range(provider: SageMakerProvider) -> None:
    receipt = receipt_for(provider, batch_size=12, learning_rate=1e-3, lora_rank=7)
    assert {name: receipt[name].support for name in ("batch_size", "learning_rate", "lora_rank")} == {
        "batch_size": "invalid",
        "learning_rate": "invalid",
        "lora_rank": "invalid",
    }
    assert "one of 8, 16" in str(receipt["batch_size"].reason)


def test_steps_become_epochs_and_warmup_a_share(provider: SageMakerProvider) -> None:
    receipt = receipt_for(provider, max_steps=250, batch_size=8)  # 1,000 rows: 125 steps an epoch
    assert receipt.request_parameters()["HyperParameters"]["max_epochs"] == "2"
    receipt = receipt_for(provider, warmup_steps=25, batch_size=8, epochs=2)
    assert receipt.request_parameters()["HyperParameters"]["lr_warmup_steps_ratio"] == "0.1"


def test_the_strength_of_dpo_goes_out_under_the_recipes_odd_name(provider: SageMakerProvider) -> None:
    sft, dpo = receipt_for(provider, dpo_beta=0.05), receipt_for(provider, dpo_beta=0.05, method="dpo")
    assert sft["dpo_beta"].support == "not_applicable"
    assert dpo.request_parameters()["HyperParameters"] == {"adam_beta": "0.05"}
    assert receipt_for(provider, dpo_beta=0.2, method="dpo")["dpo_beta"].support == "invalid"


def test_all_weights_have_no_adapter(provider: SageMakerProvider) -> None:
    receipt = receipt_for(provider, adapter="full", lora_rank=8)
    assert receipt["lora_rank"].support == "not_applicable"


def test_clipping_cannot_be_switched_off(provider: SageMakerProvider) -> None:
    assert receipt_for(provider, max_grad_norm=0.0)["max_grad_norm"].support == "invalid"
    sent = receipt_for(provider, max_grad_norm=0.5).request_parameters()["HyperParameters"]
    assert sent == {"gradient_clipping_threshold": "0.5"}


def test_nova_is_given_its_length_in_steps(provider: SageMakerProvider) -> None:
    receipt = receipt_for(provider, NOVA, max_steps=100)
    assert receipt.request_parameters()["HyperParameters"] == {"max_steps": "100"}
    epochs = receipt_for(provider, NOVA, epochs=2)["epochs"]
    assert epochs.support == "unsupported"
    assert "max_steps" in str(epochs.reason)


def test_a_recipe_without_parameters_has_none() -> None:
    declared = declare({}, SEEN, method="dpo", adapter="lora")
    fields = ("epochs", "max_steps", "learning_rate", "learning_rate_multiplier", "lora_alpha", "dpo_beta", "seed")
    assert all(isinstance(declared[name], Unsupported) for name in fields)
    assert isinstance(declared["name"], Converted)


def test_a_rate_without_a_default_has_no_multiplier() -> None:
    declared = declare({"learning_rate": Parameter(type="float")}, SEEN, method="sft", adapter="lora")
    assert isinstance(declared["learning_rate"], Sent)
    assert isinstance(declared["learning_rate_multiplier"], Unsupported)
    assert isinstance(declared["dpo_beta"], NotApplicable)


def test_ranges_that_were_read_replace_those_of_the_catalogue(provider: SageMakerProvider) -> None:
    recipe = recipes.Recipe(
        technique="SFT",
        adapter="lora",
        parameters={"max_epochs": Parameter(type="integer", low=1, high=4, default=2)},
    )
    model = "huggingface-reasoning-qwen3-8b"
    recipes.keep(model, "us-east-1", [recipe])
    receipt = receipt_for(provider, epochs=5, learning_rate=1e-5)
    assert receipt["epochs"].support == "invalid"
    assert receipt["learning_rate"].support == "unsupported"
    assert receipt_for(provider)["epochs"].effective == 2
