"""`config show`: every setting of every instance that something is said of, and where each comes from."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from llmtune.cli.app import app


@pytest.fixture(autouse=True)
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    config = tmp_path / "config.toml"
    config.write_text('[providers.mine]\nkind = "openai"\norganization = "o-1"\n')
    monkeypatch.setenv("LLMTUNE_CONFIG", str(config))
    monkeypatch.setenv("LLMTUNE_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("LLMTUNE_STORE", raising=False)
    return config


def test_each_setting_stands_with_its_origin(settings: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLMTUNE_OPENAI_BASE_URL", "https://gateway.example/v1")
    result = CliRunner().invoke(app, ["config", "show", "--json"])
    assert result.exit_code == 0, result.output
    document = json.loads(result.stdout)
    assert document["origins"] == {"home": "LLMTUNE_HOME", "store": "default"}
    openai = document["providers"]["openai"]  # in no file, and set all the same
    assert openai["values"]["base_url"] == "https://gateway.example/v1"
    assert openai["origins"]["base_url"] == "LLMTUNE_OPENAI_BASE_URL"
    instance = document["providers"]["mine"]
    assert instance["origins"]["organization"] == str(settings)
    assert instance["origins"]["base_url"] == "default"
    text = CliRunner().invoke(app, ["config", "show"]).stdout
    assert "LLMTUNE_HOME" in text
    assert "LLMTUNE_OPENAI_BASE_URL" in text
