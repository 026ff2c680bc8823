"""What a plan for Azure OpenAI says, without a network or an SDK."""

from __future__ import annotations

from datetime import date
from typing import Any

import pytest

from llmtune.errors import InvalidJob
from llmtune.job.spec import TuningJob
from llmtune.planning.plan import build_target, get_lifecycle_status
from llmtune.provider.receipt import Receipt
from llmtune.provider.registry import check_options
from llmtune.provider.translate import translate
from llmtune.provider.types import Target, UploadRef
from llmtune.testing.wire_check import check_request_fields
from llmtune_azure import AzureProvider
from llmtune_azure.settings import AzureSettings

FILES = {"train": UploadRef(id="file-train")}
MODEL = "gpt-4.1-mini-2025-04-14"


def receipt(provider: Any, model: str = MODEL, **job: Any) -> Receipt:
    tuning_job = TuningJob.model_validate({"name": "router", "dataset": "rows.jsonl", "model": model, **job})
    target = build_target(tuning_job, provider)
    return translate(tuning_job, target, provider.capabilities(target))


@pytest.mark.parametrize("method", ["sft", "dpo"])
def test_wire_truth(method: str) -> None:
    mismatches = check_request_fields(
        AzureProvider(), MODEL, method=method, options={"training_type": "GlobalStandard"}
    )
    assert not mismatches, "\n".join(map(str, mismatches))


@pytest.mark.parametrize("training_type", ["Standard", "GlobalStandard", "developerTier"])
def test_the_training_type_goes_out_under_azures_name(training_type: str) -> None:
    azure = AzureProvider()
    azure_receipt = receipt(azure, provider_options={"azure": {"training_type": training_type}})
    assert azure.build(azure_receipt, FILES).body["trainingType"] == training_type
    assert "trainingType" not in azure.build(receipt(azure), FILES).body


def test_a_training_type_that_azure_would_stumble_over_is_refused() -> None:
    with pytest.raises(InvalidJob, match="training_type"):
        check_options(AzureProvider(), {"training_type": "Developer"})


def test_the_suffix_leaves_room_for_the_run_key_and_has_no_dots() -> None:
    azure_receipt = receipt(AzureProvider(), name="a.very.long.name.that.goes.on.and.on.for.ever")
    suffix = azure_receipt["name"].effective
    assert len(suffix) <= 27
    assert "." not in suffix


def test_hosting_has_its_price_unless_the_deployment_is_a_developers() -> None:
    target = Target(provider="azure", kind="azure", model=MODEL)
    assert AzureProvider().capabilities(target).price.hosting == 1.70
    developer = AzureProvider("azure", AzureSettings(deployment_sku="DeveloperTier"))
    price = developer.capabilities(target).price
    assert price.hosting == 0.0
    assert "regional training costs" in price.note
    assert "removed after 24 hours" in price.note
    assert AzureProvider().capabilities(target).abilities.deployment == "required"


def test_the_training_price_is_not_invented() -> None:
    price = AzureProvider().capabilities(Target(provider="azure", kind="azure", model="gpt-oss-20b")).price
    assert price.unknown() == ("training", "input", "output", "hosting")
    assert "2026-10-09" in price.source
    assert "region" in price.note


def test_lifecycle_is_azures_own() -> None:
    lifecycle = AzureProvider().capabilities(Target(provider="azure", kind="azure", model=MODEL)).lifecycle
    assert get_lifecycle_status(lifecycle, date(2027, 1, 7)).open
    verdict = get_lifecycle_status(lifecycle, date(2027, 4, 14))
    assert not verdict.open
    assert "2027-04-14" in verdict.sentence
    assert "2027-10-14" in verdict.sentence


def test_a_model_tuned_on_azure_has_its_bases_facts() -> None:
    capabilities = AzureProvider().capabilities(Target(provider="azure", kind="azure", model=f"{MODEL}.ft-{'0' * 32}"))
    assert capabilities.known_model
    assert capabilities.lifecycle.closes == date(2027, 4, 14)


def test_an_open_model_wants_global_training() -> None:
    azure = AzureProvider()
    plain = azure.capabilities(Target(provider="azure", kind="azure", model="gpt-oss-20b"))
    assert "GlobalStandard" in plain.warnings[0]
    chosen = Target(provider="azure", kind="azure", model="gpt-oss-20b", options={"training_type": "GlobalStandard"})
    assert not azure.capabilities(chosen).warnings


def test_gpt_4o_mini_takes_no_preferences() -> None:
    assert receipt(AzureProvider(), "gpt-4o-mini-2024-07-18", method="dpo").refusals


def test_ready_names_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    ready = AzureProvider().ready()
    assert ready.missing_settings == ("endpoint",)
    assert "[providers.azure]" in str(ready.hint)
    monkeypatch.setenv("AZURE_OPENAI_ENDPOINT", "https://mine.openai.azure.com")
    assert AzureProvider().ready().credentials == "not checked"
    assert AzureProvider().ready().hint == "az login"
    monkeypatch.setenv("AZURE_OPENAI_API_KEY", "k")
    assert AzureProvider().ready().credentials == "found"


@pytest.mark.parametrize(
    ("endpoint", "url"),
    [
        ("https://mine.openai.azure.com", "https://mine.openai.azure.com/openai/v1/"),
        ("https://mine.openai.azure.com/", "https://mine.openai.azure.com/openai/v1/"),
        ("https://x.ai.azure.com/api/projects/p/openai/v1/", "https://x.ai.azure.com/api/projects/p/openai/v1/"),
    ],
)
def test_the_v1_endpoint(endpoint: str, url: str) -> None:
    assert AzureProvider("azure", AzureSettings(endpoint=endpoint)).address == url


@pytest.mark.parametrize(("model", "unverified"), [("gpt-4.1-mini", True), ("gpt-4.1-nano", True), ("gpt-4.1", False)])
def test_preference_tuning_of_the_small_models_is_marked_unverified(model: str, unverified: bool) -> None:
    target = Target(provider="azure", kind="azure", model=model, method="dpo")
    capabilities = AzureProvider().capabilities(target)
    assert capabilities.methods["dpo"] is True
    assert any("is unverified" in warning for warning in capabilities.warnings) is unverified
    supervised = AzureProvider().capabilities(target.model_copy(update={"method": "sft"}))
    assert not any("is unverified" in warning for warning in supervised.warnings)


def test_both_of_microsofts_opinions_on_the_multiplier_are_told() -> None:
    capabilities = AzureProvider().capabilities(Target(provider="azure", kind="azure", model="gpt-4.1"))
    note = str(capabilities.parameters["learning_rate_multiplier"])
    assert "0.02 to 0.2 (Microsoft Learn" in note
    assert "0.1 to 2.0 as usual (Microsoft azure-skills" in note


def test_a_model_that_is_not_named_has_no_empty_id() -> None:
    methods = AzureProvider().capabilities(Target(provider="azure", kind="azure", model="")).methods
    assert "a model that is not listed is not offered for dpo" in str(methods["dpo"])
