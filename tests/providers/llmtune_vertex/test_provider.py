"""What Vertex AI says of itself: families, limits, lifecycle, readiness; offline, and without Google's SDKs."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from llmtune.errors import InvalidSettings
from llmtune.provider.declarations import Capabilities
from llmtune.provider.types import Target
from llmtune_vertex import VertexProvider
from llmtune_vertex.settings import VertexSettings


def ask(model: str, *, method: str = "sft", location: str | None = None) -> Capabilities:
    provider = VertexProvider(settings=VertexSettings(location=location))
    return provider.capabilities(Target(provider="vertex", kind="vertex", model=model, method=method))


def test_gemini_has_its_limits_and_price() -> None:
    flash = ask("gemini-2.5-flash")
    assert (flash.limits.max_rows, flash.limits.max_validation_rows) == (10_000_000, 5_000)
    assert flash.limits.max_tokens_per_row == 131_072
    assert flash.price.training == 5.0
    assert "not from Google" in flash.price.source
    assert flash.concurrency == 1
    assert "2026-10-16" in flash.lifecycle.note
    assert ask("gemini-3.5-flash-lite").price.training is None
    for model in ("gemini-3.5-flash", "gemini-3.1-flash-lite"):
        price = ask(model).price
        assert price.input == 1.5 * price.base_input  # type: ignore[operator]
        assert price.output == 1.5 * price.base_output  # type: ignore[operator]


def test_preference_tuning_is_for_two_models() -> None:
    assert ask("gemini-2.5-flash-lite", method="dpo").method("dpo") is True
    refused = ask("gemini-2.5-pro", method="dpo").method("dpo")
    assert not refused
    assert "2.5 Flash and 2.5 Flash-Lite" in refused.reason  # type: ignore[union-attr]
    assert ask("gemini-2.5-flash", method="dpo").limits.format == "gemini_preference"


def test_open_models_have_modes_of_their_own() -> None:
    gemma4 = ask("google/gemma4@gemma-4-31b-it")
    assert gemma4.adapter("lora") is True
    assert "adapters only" in gemma4.adapter("full").reason  # type: ignore[union-attr]
    gemma3 = ask("google/gemma3@gemma-3-4b-it")
    assert "in full only" in gemma3.adapter("lora").reason  # type: ignore[union-attr]
    assert gemma3.price.training == 1.14
    assert gemma3.abilities.deployment == "required"
    assert ask("meta/llama4@llama-4-scout-17b-16e-instruct").limits.max_tokens_per_row == 2048
    assert ask("acme/new@new-1b").family == "open models"


def test_regions_and_unknown_ids_are_warnings() -> None:
    (region,) = ask("gemini-3.1-flash-lite", location="asia-east1").warnings
    assert "us-central1 or europe-west4" in region
    assert "asia-east1" in region
    (unknown,) = ask("gemini-2.5-flas").warnings
    assert "nearest known: gemini-2.5-flash" in unknown


def test_readiness_names_what_is_missing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("GOOGLE_CLOUD_PROJECT", "GOOGLE_CLOUD_LOCATION", "GOOGLE_CLOUD_REGION", "CLOUDSDK_CONFIG"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    bare = VertexProvider().ready()
    assert bare.missing_settings == ("project", "location", "bucket")
    assert "[providers.vertex]" in (bare.hint or "")
    monkeypatch.setenv("GOOGLE_CLOUD_PROJECT", "p")
    monkeypatch.setenv("GOOGLE_CLOUD_LOCATION", "us-central1")
    with pytest.raises(InvalidSettings, match=r"vertex needs bucket .* LLMTUNE_VERTEX_BUCKET"):
        VertexSettings().require("vertex", "project", "location", "bucket")
    settings = VertexSettings(bucket="b")
    without = VertexProvider(settings=settings).ready()
    assert without.credentials in ("not found", "not checked")
    adc = tmp_path / "adc.json"
    adc.write_text("{}")
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(adc))
    ready = VertexProvider(settings=settings).ready()
    assert (ready.extra, ready.credentials, ready.hint) == ("installed", "found", None)


def test_importing_the_adapter_loads_no_sdk() -> None:
    code = (
        "import sys, llmtune_vertex;"
        "assert not [m for m in sys.modules if m.startswith(('google.genai', 'google.cloud.', 'google.auth'))]"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_asking_about_no_model_in_particular_warns_of_nothing() -> None:
    assert ask("").warnings == ()
