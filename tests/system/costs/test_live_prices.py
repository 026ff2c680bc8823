"""`llmtune prices NAME --live`: the service is asked once, by its own room, and plans go by what it answered."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from llmtune.cli.app import app
from llmtune_bedrock.fake.service import FakeBedrock
from llmtune_nebius.fake.service import FakeNebius
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
