"""`llmtune prices NAME --live`: the service is asked once, by its own room, and plans go by what it answered."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from typer.testing import CliRunner

from llmtune.cli.app import app
from llmtune_azure.fake.service import FakeAzure
from llmtune_bedrock.fake.service import FakeBedrock
from llmtune_nebius.fake.service import FakeNebius
from llmtune_sagemaker.fake.service import FakeSageMaker
from llmtune_together.fake.service import FakeTogether


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLMTUNE_HOME", str(tmp_path))
    monkeypatch.setenv("LLMTUNE_TODAY", "2026-12-01")


def read_models(name: str, *words: str) -> dict[str, dict[str, Any]]:
    result = CliRunner().invoke(app, ["prices", name, "--json", *words])
    assert result.exit_code == 0, (result.output, result.exception)
    return {row["model"]: row for row in json.loads(result.stdout)["models"]}


def test_together_answers_the_prices_of_answers_and_hardware(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOGETHER_API_KEY", "key-for-tests")
    with FakeTogether(api_key="key-for-tests") as vendor:
        monkeypatch.setenv("LLMTUNE_TOGETHER_BASE_URL", vendor.url)
        before = read_models("together")["openai/gpt-oss-120b"]
        assert "hosting" in before["unknown"]
        row = read_models("together", "--live")["openai/gpt-oss-120b"]
        assert not vendor.complaints
    assert row["unknown"] == ["training"]
    assert row["prices"]["hosting"] == 12.98
    assert "GET /v2/supported-models" in row["sources"]["hosting"]
    assert row["checked"] == "2026-12-01"
    kept = read_models("together")["openai/gpt-oss-120b"]  # the service is gone, and is not asked
    assert kept["prices"] == row["prices"]


def test_nebius_answers_the_price_of_training(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NEBIUS_API_KEY", "nb-test")
    with FakeNebius(api_key="nb-test") as vendor:
        monkeypatch.setattr(vendor, "prices", {"meta-llama/Llama-3.3-70B-Instruct": 2.8})
        monkeypatch.setenv("LLMTUNE_NEBIUS_BASE_URL", f"{vendor.url}/v1")
        result = CliRunner().invoke(app, ["prices", "nebius", "--live"])
        assert result.exit_code == 0, (result.output, result.exception)
        assert not vendor.complaints
    assert "meta-llama/Llama-3.3-70B-Instruct: training was not known -> 2.8" in result.output
    assert read_models("nebius")["meta-llama/Llama-3.3-70B-Instruct"]["unknown"] == ["hosting"]


def test_bedrock_asks_the_price_list(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("AWS_PROFILE", "AWS_REGION", "AWS_DEFAULT_REGION", "AWS_SESSION_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    with FakeBedrock() as vendor:
        for name, value in vendor.client_environment().items():
            monkeypatch.setenv(name, value)
        for name, value in vendor.client_settings().items():
            monkeypatch.setenv(f"LLMTUNE_BEDROCK_{name.upper()}", value)
        row = read_models("bedrock", "--live")["amazon.nova-pro-v1:0:300k"]
        assert not vendor.complaints
    assert row["unknown"] == []
    assert row["prices"]["training"] == 8.0


def ask_azure(monkeypatch: pytest.MonkeyPatch, vendor: FakeAzure, *words: str, **settings: str) -> Result:
    """Ask by command, with credentials for everything but the public price list."""
    monkeypatch.setenv("AZURE_OPENAI_API_KEY", "key-for-tests")
    for name, value in (vendor.client_settings() | settings).items():
        monkeypatch.setenv(f"LLMTUNE_AZURE_{name.upper()}", value)
    return CliRunner().invoke(app, ["prices", "azure", "--live", *words], env={"COLUMNS": "400"})


def test_azure_asks_its_public_list_for_the_region_without_a_credential(monkeypatch: pytest.MonkeyPatch) -> None:
    with FakeAzure(api_key="key-for-tests") as vendor:
        result = ask_azure(monkeypatch, vendor)
        assert vendor.complaints == []
        assert vendor.counts["list_meters"] == 3
    assert result.exit_code == 0, (result.output, result.exception)
    assert "prices of 3 models in eastus2, deployed as Standard" in result.output
    assert "gpt-4.1-nano-2025-04-14: training 1.5 -> 1.65" in result.output
    assert "gpt-4.1-nano-2025-04-14: hosting 1.7 -> 1.87" in result.output
    for clause in (
        "gpt-4o-mini-0718-FT-Hstng-glbl: priced per 1 Day",
        "gpt-4o-mini-0718-FT-Outp-regnl: priced at 0, which the list also has for what it rounds",
        "gpt-4o-2024-08-06: the price of training is listed as global, not as regional",
        "41 (1 meter): belongs to no model here",
        "gpt 4.1 mini mdl (1 meter): belongs to no model here",
        "ministral 3bftregnl (1 meter): belongs to no model here",
    ):
        assert f"listed, and not used: {clause}" in result.output
    row = read_models("azure")["gpt-4.1-nano-2025-04-14"]  # the service is gone, and is not asked
    assert (row["prices"]["input"], row["prices"]["cached_input"], row["prices"]["output"]) == (0.11, 0.028, 0.44)
    assert "eastus2, deployed as Standard, asked on 2026-12-01" in row["sources"]["training"]


def test_azure_asks_for_another_region_and_kind_of_deployment(monkeypatch: pytest.MonkeyPatch) -> None:
    with FakeAzure() as vendor:
        settings = {"region": "West Europe", "deployment_sku": "GlobalStandard"}
        result = ask_azure(monkeypatch, vendor, "--json", **settings)
        assert vendor.complaints == []
    row = next(row for row in json.loads(result.stdout)["models"] if row["model"] == "Ministral-3B")
    assert row["prices"]["training"] == 1.2, "an open model is trained as GlobalStandard"
    assert row["prices"]["hosting"] == 0.78
    assert row["region"] == "westeurope, deployed as GlobalStandard; the others: global"


def test_azure_needs_a_region_that_its_list_has(monkeypatch: pytest.MonkeyPatch) -> None:
    with FakeAzure() as vendor:
        unknown = ask_azure(monkeypatch, vendor, region="moonbase1")
        odd = ask_azure(monkeypatch, vendor, region="eastus2' or 'a' eq 'a")
        monkeypatch.undo()
        monkeypatch.delenv("LLMTUNE_AZURE_REGION", raising=False)
        unset = CliRunner().invoke(app, ["prices", "azure", "--live"])
        assert vendor.counts["list_meters"] == 1
    assert "Azure lists no prices of Foundry Models in 'moonbase1'" in str(unknown.exception)
    assert "which is none of Azure's, and prices differ by region" in str(odd.exception)
    assert "the region of azure is not set, and prices differ by region" in str(unset.exception)


def test_sagemaker_asks_the_price_list_of_its_region(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_PROFILE", "AWS_REGION", "AWS_DEFAULT_REGION", "AWS_SESSION_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    with FakeSageMaker() as vendor:
        for name, value in vendor.client_environment().items():
            monkeypatch.setenv(name, value)
        for name, value in vendor.client_settings().items():
            monkeypatch.setenv(f"LLMTUNE_SAGEMAKER_{name.upper()}", value)
        result = CliRunner().invoke(app, ["prices", "sagemaker", "--live"], env={"COLUMNS": "400"})
        assert result.exit_code == 0, (result.output, result.exception)
        assert not vendor.complaints
    assert "openai-reasoning-gpt-oss-20b: training for sft was not known -> 2" in result.output
    assert "huggingface-reasoning-qwen3-8b: training for dpo was not known -> 2.4" in result.output
    assert "qwen3-8b, MultiTurnRFT:Finetuning, Train tokens: no training by SFT or DPO" in result.output
    assert "llama-3-2-1b-instruct, SFT:Finetuning, Train tokens: priced per Hour" in result.output
    rows = read_models("sagemaker")
    assert rows["huggingface-reasoning-qwen3-8b"]["by_method"] == {"sft": 1.2, "dpo": 2.4}
    # Its reinforcement is billed by what the model writes, at a price that the list does not have.
    assert rows["openai-reasoning-gpt-oss-20b"]["by_method"]["sft"] == 2.0
    assert rows["openai-reasoning-gpt-oss-20b"]["unknown"] == ["training"]
    assert rows["meta-textgeneration-llama-3-2-1b-instruct"]["unknown"] == ["training"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--live",), "--live asks one service"),
        (("openai", "--live"), "openai has no service that answers its prices"),
        (("local", "--live"), "local has no service that answers its prices"),
    ],
)
def test_without_a_service_that_answers_nothing_is_asked(words: tuple[str, ...], message: str) -> None:
    result = CliRunner().invoke(app, ["prices", *words])
    assert result.exit_code != 0
    assert message in str(result.exception)
