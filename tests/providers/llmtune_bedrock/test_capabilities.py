"""What Bedrock says of itself: families, limits, lifecycle, readiness; offline, and without boto3."""

from __future__ import annotations

import subprocess
import sys
from datetime import date
from pathlib import Path

import pytest

from llmtune.provider.declarations import Capabilities
from llmtune.provider.types import Target
from llmtune_bedrock import BedrockProvider
from llmtune_bedrock.capabilities import on_demand
from llmtune_bedrock.responses import base_id
from llmtune_bedrock.settings import BedrockSettings

TODAY = date(2026, 11, 21)


def ask(model: str, *, method: str = "sft", region: str | None = None) -> Capabilities:
    provider = BedrockProvider(settings=BedrockSettings(region=region))
    return provider.capabilities(Target(provider="bedrock", kind="bedrock", model=model, method=method))


def test_each_family_has_its_rows_and_limits() -> None:
    haiku = ask("anthropic.claude-3-haiku-20240307-v1:0:200k")
    assert (haiku.limits.min_rows, haiku.limits.max_total_rows, haiku.limits.max_tokens_per_row) == (32, 10_000, 32_000)
    assert ask("meta.llama3-1-8b-instruct-v1:0:128k").limits.format == "bedrock_prompt_completion"
    assert ask("meta.llama3-2-90b-instruct-v1:0:128k").limits.max_tokens_per_row == 10_000
    nova = ask("amazon.nova-2-lite-v1:0:256k")
    assert nova.limits.validation == "unused"
    assert not nova.abilities.validation_metrics
    assert nova.abilities.deployment == "required"


def test_what_it_cannot_do_says_why() -> None:
    capabilities = ask("amazon.nova-micro-v1:0:128k")
    assert "preference" in capabilities.method("dpo").reason  # type: ignore[union-attr]
    assert "cannot be asked for" in capabilities.adapter("full").reason  # type: ignore[union-attr]
    assert "Nova 2 Lite by reinforcement" in capabilities.method("reinforcement").reason  # type: ignore[union-attr]


def test_an_unknown_id_is_a_warning_and_an_inference_id_is_told_apart() -> None:
    (warning,) = ask("amazon.nova-micro-v1:0").warnings
    assert warning == (
        "'amazon.nova-micro-v1:0' is the id for inference; the one for tuning is 'amazon.nova-micro-v1:0:128k'"
    )
    newer = ask("meta.llama3-2-7b-instruct-v1:0:128k")
    assert newer.family == "Llama 3.2"
    assert "nearest known" in newer.warnings[0]
    assert not newer.known_model


def test_a_model_is_tuned_where_it_is_tuned() -> None:
    (warning,) = ask("meta.llama3-3-70b-instruct-v1:0:128k", region="us-east-1").warnings
    assert "us-west-2" in warning
    assert "us-east-1" in warning
    assert ask("meta.llama3-3-70b-instruct-v1:0:128k", region="us-west-2").warnings == ()


def test_models_that_are_gone_say_so() -> None:
    gone = ask("cohere.command-text-v14:7:4k").lifecycle
    assert gone.closed_on(TODAY)
    assert gone.sentence(TODAY) == "retired 2025-09-15"
    assert not ask("amazon.nova-micro-v1:0:128k").lifecycle.closed_on(TODAY)


def test_readiness_names_what_is_missing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("AWS_REGION", "AWS_DEFAULT_REGION", "AWS_PROFILE", "AWS_ACCESS_KEY_ID"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    bare = BedrockProvider(name="bedrock-eu").ready()
    assert bare.missing_settings == ("region", "bucket", "role_arn")
    assert "[providers.bedrock-eu]" in (bare.hint or "")
    assert "LLMTUNE_BEDROCK_EU_ROLE_ARN" in (bare.hint or "")
    full = BedrockSettings(region="us-east-1", bucket="b", role_arn="arn:aws:iam::123456789012:role/r")
    assert BedrockProvider(settings=full).ready().credentials in ("not found", "not checked")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIA")
    assert BedrockProvider(settings=full).ready().model_dump() == {
        "extra": "installed",
        "credentials": "found",
        "missing_settings": (),
        "hint": None,
    }


def test_importing_the_adapter_loads_no_sdk() -> None:
    code = "import sys, llmtune_bedrock; assert not {'boto3', 'botocore'} & set(sys.modules), sorted(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_model_named_by_its_inference_id_is_served_like_its_tuning_id() -> None:
    for base, expected in (
        ("amazon.nova-micro-v1:0", True),
        ("meta.llama3-3-70b-instruct-v1:0:128k", True),
        ("meta.llama3-1-8b-instruct-v1:0", False),
        ("somebody.new-model-v1:0", False),
    ):
        assert on_demand(base) is expected


def test_asking_about_no_model_in_particular_warns_of_nothing() -> None:
    assert ask("").warnings == ()


def test_a_custom_model_of_ones_own_is_judged_by_its_base() -> None:
    custom_model = "arn:aws:bedrock:us-east-1:123456789012:custom-model/amazon.nova-micro-v1:0:128k/abcdefghijkl"
    capabilities = ask(custom_model)
    assert capabilities.family == "Amazon Nova"
    assert capabilities.warnings == ()
    assert base_id(custom_model) == "amazon.nova-micro-v1:0:128k"
    assert base_id("arn:aws:bedrock:us-east-1::foundation-model/a.b:0") == "a.b:0"


def test_prices_that_are_not_known_stay_unknown() -> None:
    price = ask("meta.llama3-1-8b-instruct-v1:0:128k").price
    assert price.unknown() == ("training", "hosting")
    assert "not found in a dated primary source" in price.note
    assert price.storage == 1.95
    assert "storage alone" in price.source_of("storage")


def test_a_price_of_ones_own_is_used_as_the_page_says(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The overlay that docs/providers/bedrock.md shows."""
    page = (Path(__file__).parents[3] / "docs" / "providers" / "bedrock.md").read_text(encoding="utf-8")
    example = page.split("```toml\n# catalog.toml", 1)[1].split("```", 1)[0]
    (tmp_path / "catalog.toml").write_text("#" + example)
    monkeypatch.setenv("LLMTUNE_CATALOG", str(tmp_path / "catalog.toml"))
    price = ask("amazon.nova-micro-v1:0:128k").price
    assert (price.training, price.source) == (1.0, "our agreement, 2026-11")
    assert ask("amazon.nova-pro-v1:0:300k").price.training is None
