"""Checks before anything is paid for."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from llmtune.data.findings import Finding
from llmtune.errors import TransientError
from llmtune.testing import refusal, server_error
from llmtune_sagemaker import SageMakerProvider, recipes
from llmtune_sagemaker.fake.service import HUB_BUCKET, FakeSageMaker
from llmtune_sagemaker.settings import SageMakerSettings
from tests.providers.llmtune_sagemaker.conftest import LLAMA, QWEN, encoded, provider_at, receipt_for


def check(provider: SageMakerProvider, tmp_path: Path, model: str = QWEN, **fields: Any) -> list[Finding]:
    files = {"train": provider.upload(encoded(tmp_path))}
    return provider.preflight(provider.build(receipt_for(provider, model, **fields), files))


def codes(findings: list[Finding]) -> list[str]:
    return [finding.code for finding in findings]


def test_a_sound_job_has_no_findings_and_its_recipe_is_kept(
    vendor: FakeSageMaker, provider: SageMakerProvider, tmp_path: Path
) -> None:
    assert check(provider, tmp_path, epochs=3, lora_rank=8, method="dpo") == []
    seen = recipes.read_kept(QWEN, "us-east-1")
    assert seen is not None
    assert seen.find("DPO", "lora").parameters["adam_beta"].high == 0.1  # type: ignore[union-attr]
    assert seen.find("SFT", "full").parameters["max_epochs"].default == 5  # type: ignore[union-attr]
    assert vendor.jobs == {}
    assert vendor.complaints == []


def test_without_settings_nothing_is_asked() -> None:
    provider = SageMakerProvider(settings=SageMakerSettings())
    request = provider.build(receipt_for(provider), {"train": encoded_placeholder()})
    assert codes(provider.preflight(request)) == ["setting"]


def encoded_placeholder() -> Any:
    from llmtune.provider.types import UploadRef

    return UploadRef(id="<train file>")


def test_the_range_of_today_wins(vendor: FakeSageMaker, provider: SageMakerProvider, tmp_path: Path) -> None:
    recipe = next(each for each in vendor.list_recipes(QWEN) if (each.technique, each.adapter) == ("SFT", "lora"))
    content = {"max_epochs": {"type": "integer", "min": 1, "max": 2, "default": 1}}
    vendor._put(HUB_BUCKET, vendor._override_key(QWEN, recipe), json.dumps(content).encode())
    findings = check(provider, tmp_path, epochs=3, lora_rank=8)
    assert codes(findings) == ["hyperparameter", "hyperparameter"]
    text = " ".join(finding.message for finding in findings)
    assert "max_epochs must be a whole number from 1 to 2" in text
    assert "lora_rank is no hyperparameter of this recipe" in text
    # and the next plan goes by what was read
    receipt = receipt_for(provider, epochs=3, lora_rank=8)
    assert receipt["epochs"].support == "invalid"
    assert receipt["lora_rank"].support == "unsupported"


def test_a_model_without_such_a_recipe(vendor: FakeSageMaker, provider: SageMakerProvider, tmp_path: Path) -> None:
    findings = check(provider, tmp_path, "openai-reasoning-gpt-oss-20b", method="dpo")
    assert codes(findings) == ["recipe"]
    assert "no DPO recipe" in findings[0].message


def test_a_model_that_the_hub_does_not_have(provider: SageMakerProvider, tmp_path: Path) -> None:
    (finding,) = check(provider, tmp_path, "huggingface-llm-of-nobody")
    assert finding.code == "model"


@pytest.mark.slow
def test_a_licence_has_to_be_accepted(provider: SageMakerProvider, tmp_path: Path) -> None:
    assert codes(check(provider, tmp_path, LLAMA)) == ["eula"]
    assert check(provider, tmp_path, LLAMA, options={"accept_eula": True}) == []


def test_a_hub_that_may_not_be_read_is_a_warning(
    vendor: FakeSageMaker, provider: SageMakerProvider, tmp_path: Path
) -> None:
    vendor.faults.add(refusal(403, "not you", "AccessDeniedException"), route="describe_hub_content")
    (finding,) = check(provider, tmp_path)
    assert (finding.code, finding.severity) == ("recipe", "warning")
    vendor.faults.add(server_error(503), route="describe_hub_content")
    with pytest.raises(TransientError):
        check(provider, tmp_path)


def test_a_recipe_whose_file_is_gone_is_a_warning(
    vendor: FakeSageMaker, provider: SageMakerProvider, tmp_path: Path
) -> None:
    for name in [name for name in vendor.objects if name[0] == HUB_BUCKET]:
        del vendor.objects[name]
    (finding,) = check(provider, tmp_path)
    assert (finding.code, finding.severity) == ("recipe", "warning")
    assert recipes.read_kept(QWEN, "us-east-1") is None


def test_a_missing_group_needs_consent(vendor: FakeSageMaker, provider: SageMakerProvider, tmp_path: Path) -> None:
    vendor.groups.clear()
    (finding,) = check(provider, tmp_path)
    assert finding.code == "group"
    assert "create_model_package_group" in finding.remedy
    assert check(provider_at(vendor, create_model_package_group=True), tmp_path) == []
    assert vendor.groups == set()  # a preflight changes nothing
    vendor.faults.add(refusal(403, "not you", "AccessDeniedException"), route="describe_model_package_group")
    (finding,) = check(provider, tmp_path)
    assert finding.severity == "warning"


def test_what_awss_model_refuses(vendor: FakeSageMaker, tmp_path: Path) -> None:
    provider = provider_at(vendor, role_arn="arn:aws:iam::12:role/x", subnet_ids=["subnet-1"])
    text = " ".join(finding.message for finding in check(provider, tmp_path))
    assert "RoleArn must match" in text
    assert "VpcConfig.SecurityGroupIds must have at least 1" in text


def test_a_bucket_elsewhere_or_nowhere(vendor: FakeSageMaker, provider: SageMakerProvider, tmp_path: Path) -> None:
    request = provider.build(receipt_for(provider), {"train": provider.upload(encoded(tmp_path))})
    vendor.buckets["my-bucket"] = "eu-west-1"
    assert codes(provider.preflight(request)) == ["region"]
    del vendor.buckets["my-bucket"]
    assert "bucket" in codes(provider.preflight(request))


def test_a_file_that_is_gone(vendor: FakeSageMaker, provider: SageMakerProvider, tmp_path: Path) -> None:
    request = provider.build(receipt_for(provider), {"train": provider.upload(encoded(tmp_path))})
    for name in [name for name in vendor.objects if name[0] == "my-bucket"]:
        del vendor.objects[name]
    assert codes(provider.preflight(request)) == ["file"]


def test_a_length_that_no_recipe_offers(
    vendor: FakeSageMaker, provider: SageMakerProvider, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dataclasses import replace

    plain = vendor.list_recipes
    monkeypatch.setattr(
        "llmtune_sagemaker.preflight.recipes.read_document",
        lambda text: tuple(replace(each, sequence_length="4K", parameters={}) for each in plain(QWEN)),
    )
    (finding,) = check(provider, tmp_path, options={"sequence_length": "8K"})
    assert "8K is not among 4K" in finding.message
    assert codes(check(provider, tmp_path, options={"sequence_length": "4K"})) == ["recipe"]  # a warning: no file
