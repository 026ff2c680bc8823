"""What a plan for OpenAI, Nebius and unknown compatible services says, without a network or the SDK."""

from __future__ import annotations

import subprocess
import sys
from datetime import date
from pathlib import Path
from typing import Any

import pytest

from llmtune.errors import InvalidSettings, UnknownName
from llmtune.job.spec import TuningJob
from llmtune.planning.plan import judge_lifecycle, plan
from llmtune.provider.receipt import Receipt
from llmtune.provider.registry import check_options, get_provider
from llmtune.provider.translate import translate
from llmtune.provider.types import Target, UploadRef
from llmtune_nebius.provider import NebiusProvider
from llmtune_openai import OpenAIProvider
from llmtune_openai.settings import OpenAISettings

FILES = {"train": UploadRef(id="file-train"), "validation": UploadRef(id="file-valid", role="validation")}


def receipt(provider: Any, model: str, *, rows: int | None = None, **job: Any) -> Receipt:
    whole = TuningJob.model_validate({"name": "router", "dataset": "rows.jsonl", "model": model, **job})
    options = check_options(provider, whole.provider_options.get(provider.name, {}))
    target = Target(
        provider=provider.name,
        kind=provider.kind,
        model=model,
        method=whole.method,
        adapter=whole.adapter,
        options=options,
    )
    return translate(whole, target, provider.capabilities(target), rows=rows)


def test_supervised_body() -> None:
    openai = OpenAIProvider()
    made = receipt(
        openai,
        "gpt-4.1-mini-2025-04-14",
        hyperparameters={"epochs": 3, "batch_size": 8, "learning_rate_multiplier": 0.5},
        seed=7,
        tags={"team": "search"},
    )
    assert openai.build(made, FILES).body == {
        "model": "gpt-4.1-mini-2025-04-14",
        "training_file": "file-train",
        "validation_file": "file-valid",
        "method": {
            "type": "supervised",
            "supervised": {"hyperparameters": {"n_epochs": 3, "batch_size": 8, "learning_rate_multiplier": 0.5}},
        },
        "suffix": "router",
        "seed": 7,
        "metadata": {"team": "search"},
    }


def test_preference_body_and_wandb() -> None:
    openai = OpenAIProvider()
    made = receipt(
        openai,
        "gpt-4.1-2025-04-14",
        method="dpo",
        hyperparameters={"dpo_beta": 0.3, "epochs": 1},
        provider_options={"openai": {"wandb": {"project": "p", "tags": ["a"]}}},
    )
    body = openai.build(made, {"train": FILES["train"]}).body
    assert body["method"] == {"type": "dpo", "dpo": {"hyperparameters": {"beta": 0.3, "n_epochs": 1}}}
    assert body["integrations"] == [{"type": "wandb", "wandb": {"project": "p", "tags": ["a"]}}]
    assert "validation_file" not in body
    assert made["prompt_loss_weight"].support == "not_applicable"


def test_unknown_options_and_hyperparameters_are_refused_although_the_api_lets_them_pass() -> None:
    with pytest.raises(UnknownName, match="wandb"):
        check_options(OpenAIProvider(), {"wandbb": {"project": "p"}})
    with pytest.raises(UnknownName, match="lora_rank"):
        TuningJob.model_validate({"name": "x", "dataset": "d", "model": "m", "hyperparameters": {"lora_rnk": 4}})


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("epochs", 51, "from 1 to 50"),
        ("batch_size", 257, "from 1 to 256"),
    ],
)
def test_ranges_refuse(field: str, value: Any, said: str) -> None:
    made = receipt(OpenAIProvider(), "gpt-4.1-2025-04-14", hyperparameters={field: value})
    assert made[field].support == "invalid"
    assert said in str(made[field].reason)


def test_beta_is_at_most_two() -> None:
    made = receipt(OpenAIProvider(), "gpt-4.1-2025-04-14", method="dpo", hyperparameters={"dpo_beta": 2.5})
    assert made["dpo_beta"].support == "invalid"


def test_a_fractional_prompt_loss_weight_is_not_taken_and_zero_is_what_happens_anyway() -> None:
    openai = OpenAIProvider()
    assert (
        receipt(openai, "gpt-4.1-2025-04-14", hyperparameters={"prompt_loss_weight": 0})["prompt_loss_weight"].support
        == "inherent"
    )
    fraction = receipt(openai, "gpt-4.1-2025-04-14", hyperparameters={"prompt_loss_weight": 0.01})
    assert fraction["prompt_loss_weight"].support == "unsupported"
    assert fraction["prompt_loss_weight"].effective == 0.0


def test_an_absolute_rate_is_never_made_into_a_multiplier() -> None:
    made = receipt(OpenAIProvider(), "gpt-4.1-2025-04-14", hyperparameters={"learning_rate": 1e-5})
    assert made["learning_rate"].support == "unsupported"
    assert "not published" in str(made["learning_rate"].reason)
    assert "learning_rate" not in str(OpenAIProvider().build(made, FILES).body)


def test_steps_become_whole_epochs_and_say_so() -> None:
    made = receipt(
        OpenAIProvider(), "gpt-4.1-2025-04-14", rows=100, hyperparameters={"max_steps": 30, "batch_size": 10}
    )
    assert made["max_steps"].support == "converted"
    assert made["max_steps"].effective == 3
    assert "rounded up" in str(made["max_steps"].rule)


def test_tags_are_held_to_the_vendors_limits() -> None:
    many = receipt(OpenAIProvider(), "gpt-4.1-2025-04-14", tags={str(at): "x" for at in range(16)})
    assert many["tags"].support == "invalid"
    long = receipt(OpenAIProvider(), "gpt-4.1-2025-04-14", tags={"k": "x" * 513})
    assert long["tags"].support == "invalid"
    stolen = receipt(OpenAIProvider(), "gpt-4.1-2025-04-14", tags={"llmtune_run": "x"})
    assert "own key" in str(stolen["tags"].reason)


def test_a_name_becomes_a_legal_suffix() -> None:
    made = receipt(OpenAIProvider(), "gpt-4.1-2025-04-14", name="Tickets: v2.1 (final)")
    assert made["name"].effective == "Tickets-v2-1-final"
    assert made["name"].support == "converted"


@pytest.mark.parametrize("adapter", ["full", "qlora", "dora"])
def test_another_adapter_is_refused_not_changed(adapter: str) -> None:
    assert receipt(OpenAIProvider(), "gpt-4.1-2025-04-14", adapter=adapter).refusals


def test_lifecycle_closes_on_the_day_and_names_the_date() -> None:
    capabilities = OpenAIProvider().capabilities(Target(provider="openai", kind="openai", model="gpt-4.1-2025-04-14"))
    before = judge_lifecycle(capabilities.lifecycle, date(2026, 11, 21))
    assert before.open
    assert "46 days left" in before.sentence
    assert "2027-01-14" in before.sentence
    after = judge_lifecycle(capabilities.lifecycle, date(2027, 1, 7))
    assert not after.open
    assert "closed to new jobs since 2027-01-06" in after.sentence


def test_a_dead_model_says_since_when() -> None:
    capabilities = OpenAIProvider().capabilities(Target(provider="openai", kind="openai", model="gpt-3.5-turbo"))
    verdict = judge_lifecycle(capabilities.lifecycle, date(2026, 11, 21))
    assert not verdict.open
    assert "retired 2026-10-23" in verdict.sentence
    assert capabilities.known_model


@pytest.mark.parametrize(
    "model", ["gpt-4.1-mini", "ft:gpt-4.1-mini-2025-04-14:org:name:abc", "gpt-4.1-mini-2025-04-14"]
)
def test_aliases_and_tuned_models_have_their_bases_facts(model: str) -> None:
    capabilities = OpenAIProvider().capabilities(Target(provider="openai", kind="openai", model=model))
    assert capabilities.known_model
    assert capabilities.price.training == 5.0
    assert capabilities.price.checked == date(2026, 11, 21)


def test_an_unknown_model_is_a_warning_with_the_nearest() -> None:
    capabilities = OpenAIProvider().capabilities(Target(provider="openai", kind="openai", model="gpt-4.1-minni"))
    assert not capabilities.known_model
    assert "gpt-4.1-mini" in capabilities.warnings[0]
    assert capabilities.price.training is None


def test_nebius_body_says_lora_and_its_shape() -> None:
    nebius = NebiusProvider()
    made = receipt(
        nebius,
        "meta-llama/Llama-3.3-70B-Instruct",
        hyperparameters={"lora_rank": 16, "lora_alpha": 32, "learning_rate": 2e-5, "packing": False},
        tags={"b": "2", "a": "1"},
    )
    body = nebius.build(made, FILES).body
    assert body["hyperparameters"] == {
        "lora": True,
        "lora_r": 16,
        "lora_alpha": 32,
        "learning_rate": 2e-5,
        "packing": False,
    }
    assert "method" not in body
    assert body["tags"] == "a=1,b=2"
    full = receipt(nebius, "meta-llama/Llama-3.3-70B-Instruct", adapter="full", hyperparameters={"lora_rank": 4})
    assert nebius.build(full, FILES).body["hyperparameters"] == {"lora": False}
    assert full["lora_rank"].support == "not_applicable"


@pytest.mark.parametrize(
    ("url", "profile"),
    [
        (None, "openai"),
        ("https://eu.api.openai.com/v1", "openai"),
        ("http://127.0.0.1:9/v1", "openai"),
        ("https://api.tokenfactory.nebius.com/v1/", "nebius"),
        ("https://llm.example.com/v1", "compatible"),
        ("https://notopenai.com/v1", "compatible"),
    ],
)
def test_a_base_url_decides_whose_facts_hold(url: str | None, profile: str) -> None:
    provider = OpenAIProvider("x", OpenAISettings(base_url=url))
    titles = {"openai": "OpenAI", "nebius": "Nebius Token Factory", "compatible": "the OpenAI-compatible service"}
    assert provider.service.title == titles[profile]


def test_an_unknown_service_has_no_prices_and_no_dates_and_is_never_paid_twice() -> None:
    provider = OpenAIProvider("mine", OpenAISettings(base_url="https://llm.example.com/v1"))
    capabilities = provider.capabilities(Target(provider="mine", kind="openai", model="their-model"))
    assert capabilities.price.training is None
    assert capabilities.lifecycle.status == "active"
    assert "not OpenAI" in capabilities.warnings[0]
    assert provider.submit_safety.kind == "none"


def test_ready_tells_the_key_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    assert OpenAIProvider().ready().credentials == "not found"
    assert "OPENAI_API_KEY" in str(OpenAIProvider().ready().hint)
    monkeypatch.setenv("MY_KEY", "sk-x")
    assert OpenAIProvider("o", OpenAISettings(api_key_env="MY_KEY")).ready().credentials == "found"
    monkeypatch.setenv("OPENAI_API_KEY", "sk-x")
    assert NebiusProvider().ready().credentials == "not found"
    assert "NEBIUS_API_KEY" in str(NebiusProvider().ready().hint)


def test_the_sdk_is_not_imported_for_a_plan() -> None:
    code = (
        "import sys; from llmtune_openai import OpenAIProvider as P; from llmtune.provider import Target;"
        "P().capabilities(Target(provider='openai', kind='openai', model='gpt-4.1')); P().ready();"
        "assert 'openai' not in sys.modules and 'httpx2' not in sys.modules"
    )
    path = str(Path(__file__).resolve().parents[3] / "providers")
    subprocess.run([sys.executable, "-c", f"import sys; sys.path.insert(0, {path!r}); {code}"], check=True)


def small_job(folder: Path) -> TuningJob:
    row = '{"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]}\n'
    (folder / "rows.jsonl").write_text("".join(row.replace("Hi", f"Hi {at}") for at in range(40)))
    return TuningJob(name="x", dataset=str(folder / "rows.jsonl"), model="gpt-4.1-mini-2025-04-14")


def test_after_the_end_a_plan_says_since_when_and_where_to_go(tmp_path: Path) -> None:
    made = plan(small_job(tmp_path), "openai", today=date(2027, 1, 7))
    assert not made.lifecycle.open
    assert "since 2027-01-06" in made.lifecycle.sentence
    assert {"azure", "local", "nebius"} <= set(made.lifecycle.alternatives)
    assert "openai" not in made.lifecycle.alternatives


def test_the_plan_has_price_source_and_day(tmp_path: Path) -> None:
    cost = plan(small_job(tmp_path), "openai", today=date(2026, 11, 21)).cost
    assert cost.checked == date(2026, 11, 21)
    assert "pricing page" in cost.source
    assert "the vendor chooses the number of epochs" in str(cost.unknown)


def test_an_instance_of_ones_own_is_a_section_of_the_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = tmp_path / "config.toml"
    config.write_text(
        '[providers.mine]\nkind = "openai"\nbase_url = "https://llm.example.com/v1"\napi_key_env = "MINE"\n'
        '[providers.eu]\nkind = "openai"\nbase_url = "https://api.tokenfactory.nebius.com/v1/"\n'
    )
    monkeypatch.setenv("LLMTUNE_CONFIG", str(config))
    mine, nebius = get_provider("mine"), get_provider("eu")
    assert (mine.name, mine.kind) == ("mine", "openai")
    assert mine.submit_safety.kind == "none"
    assert nebius.capabilities(Target(provider="eu", kind="openai", model="m")).adapter("full") is True
    config.write_text('[providers.mine]\nkind = "openai"\nbase_urll = "x"\n')
    with pytest.raises(InvalidSettings, match="base_urll"):
        get_provider("mine")


def test_a_catalogue_of_ones_own_mends_a_price(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    overlay = tmp_path / "catalog.toml"
    overlay.write_text('[openai.models."gpt-4.1-mini-2025-04-14".price]\ntraining = 9.5\n')
    monkeypatch.setenv("LLMTUNE_CATALOG", str(overlay))
    target = Target(provider="openai", kind="openai", model="gpt-4.1-mini")
    assert OpenAIProvider().capabilities(target).price.training == 9.5
