"""The list of prices: page and date for each, unknown ones too, and no more of those than were agreed on."""

from __future__ import annotations

import json
from datetime import date
from pathlib import Path

import pytest
from typer.testing import CliRunner

from llmtune.cli.app import app
from llmtune.errors import InvalidSettings, UnknownName
from llmtune.planning.prices import count_unknown, list_prices
from llmtune.provider.limits import PRICE_UNITS

DAY = date(2026, 12, 1)
HOSTED = ("azure", "bedrock", "cohere", "nebius", "openai", "sagemaker", "tinker", "together", "vertex")


def test_every_price_and_every_unknown_one_has_a_page_and_a_day() -> None:
    for row in list_prices(HOSTED, today=DAY):
        if not row.tunable:
            continue
        where = f"{row.provider} {row.model}"
        assert row.source, where
        assert row.checked, where
        assert set(row.sources) <= set(PRICE_UNITS), where
        assert row.prices or row.unknown, where


def test_at_most_two_in_five_tunable_models_have_an_unknown_price() -> None:
    """32 of 80 when this was written; 14 of them are SageMaker's, whose prices are drawn by a script."""
    rows = list_prices(HOSTED, today=DAY)
    unknown, tunable = count_unknown(rows)
    assert tunable >= 75
    assert unknown / tunable <= 0.40
    unknown, tunable = count_unknown(row for row in rows if row.provider != "sagemaker")
    assert unknown / tunable <= 0.28


def test_models_that_have_ended_count_as_gone() -> None:
    gone = {row.model for row in list_prices(["bedrock"], today=DAY) if not row.tunable}
    assert "anthropic.claude-3-haiku-20240307-v1:0:200k" in gone
    assert "meta.llama3-2-90b-instruct-v1:0:128k" in gone
    before = {row.model for row in list_prices(["bedrock"], today=date(2026, 7, 6)) if row.tunable}
    assert "meta.llama3-2-90b-instruct-v1:0:128k" in before


@pytest.mark.parametrize(
    ("provider", "model", "prices"),
    [
        ("openai", "gpt-4.1-mini-2025-04-14", {"training": 5.0, "input": 0.8, "cached_input": 0.2, "output": 3.2}),
        ("openai", "gpt-4o-2024-08-06", {"training": 25.0, "input": 3.75, "cached_input": 1.875, "output": 15.0}),
        ("openai", "o4-mini-2025-04-16", {"training_hour": 100.0, "cached_input": 1.0}),
        ("azure", "gpt-5-2025-08-07", {"training_hour": 100.0, "hosting": 1.7}),
        ("azure", "gpt-4.1-nano-2025-04-14", {"training": 1.5, "input": 0.1, "cached_input": 0.025, "output": 0.4}),
        ("azure", "Ministral-3B", {"training": 1.0, "input": 0.05, "output": 0.15, "hosting": 0.65}),
        ("azure", "Qwen-32B", {"training": 3.2, "input": 0.3, "output": 1.2, "hosting": 0.3}),
        ("azure", "Llama-3.3-70B-Instruct", {"training": 4.5, "input": 0.71, "output": 0.71, "hosting": 0.3}),
        ("vertex", "gemini-3.5-flash", {"training": 10.0, "input": 2.25, "output": 13.5}),
        ("vertex", "gemini-3.1-flash-lite", {"training": 3.0, "input": 0.375, "output": 2.25}),
        ("vertex", "qwen/qwen3@qwen3-32b", {"training": 6.57}),
        ("vertex", "gemini-2.5-pro", {"training": 25.0}),
        ("bedrock", "amazon.nova-2-lite-v1:0:256k", {"training": 3.78, "storage": 1.95}),
        ("bedrock", "meta.llama3-1-70b-instruct-v1:0:128k", {"hosting": 24.0}),
        ("nebius", "meta-llama/Llama-3.1-8B-Instruct", {"training": 0.4, "hosting": 4.05}),
        ("nebius", "unsloth/gpt-oss-20b-BF16", {"training": 2.0, "hosting": 4.05}),
    ],
)
def test_prices_are_those_of_their_pages(provider: str, model: str, prices: dict[str, float]) -> None:
    row = next(row for row in list_prices([provider], today=DAY) if row.model == model)
    assert row.prices.items() >= prices.items()


def test_a_provider_without_a_catalogue_has_no_prices_and_an_unknown_one_is_an_error() -> None:
    assert list_prices(["local"]) == []
    with pytest.raises(UnknownName):
        list_prices(["nosuch"])


def test_a_price_file_that_names_no_provider_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "prices.toml").write_text('[opeani."gpt-4.1"]\ntraining = 1.0\n')
    monkeypatch.setenv("LLMTUNE_PRICES", str(tmp_path / "prices.toml"))
    with pytest.raises(InvalidSettings, match="did you mean 'openai'"):
        list_prices()


def test_the_command_prints_the_count_and_json_has_it() -> None:
    printed = CliRunner().invoke(app, ["prices", "openai"])
    assert printed.exit_code == 0
    assert "0 of 4 models that can be tuned have an unknown price" in printed.output
    document = json.loads(CliRunner().invoke(app, ["prices", "openai", "--json"]).stdout)
    assert document["with_unknown_price"] == 0
    assert document["units"]["training"].startswith("million training tokens")
