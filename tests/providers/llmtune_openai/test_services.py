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
from llmtune.planning.plan import build_target, get_lifecycle_status, plan
from llmtune.provider.receipt import Receipt
from llmtune.provider.registry import check_options, get_provider
from llmtune.provider.translate import translate
from llmtune.provider.types import Target, UploadRef
from llmtune_nebius.provider import NebiusProvider
from llmtune_openai import OpenAIProvider
from llmtune_openai.settings import OpenAISettings

FILES = {"train": UploadRef(id="file-train"), "validation": UploadRef(id="file-valid", role="validation")}


def receipt(provider: Any, model: str, *, rows: int | None = None, **job: Any) -> Receipt:
    tuning_job = TuningJob.model_validate({"name": "router", "dataset": "rows.jsonl", "model": model, **job})
    target = build_target(tuning_job, provider)
    return translate(tuning_job, target, provider.capabilities(target), rows=rows)


def test_supervised_body() -> None:
    openai = OpenAIProvider()
    job_receipt = receipt(
        openai,
        "gpt-4.1-mini-2025-04-14",
        hyperparameters={"epochs": 3, "batch_size": 8, "learning_rate_multiplier": 0.5},
        seed=7,
        tags={"team": "search"},
    )
    assert openai.build(job_receipt, FILES).body == {
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
    job_receipt = receipt(
        openai,
        "gpt-4.1-2025-04-14",
        method="dpo",
        hyperparameters={"dpo_beta": 0.3, "epochs": 1},
        provider_options={"openai": {"wandb": {"project": "p", "tags": ["a"]}}},
    )
    body = openai.build(job_receipt, {"train": FILES["train"]}).body
    assert body["method"] == {"type": "dpo", "dpo": {"hyperparameters": {"beta": 0.3, "n_epochs": 1}}}
    assert body["integrations"] == [{"type": "wandb", "wandb": {"project": "p", "tags": ["a"]}}]
    assert "validation_file" not in body
    assert job_receipt["prompt_loss_weight"].support == "not_applicable"


def test_unknown_options_and_hyperparameters_are_refused_although_the_api_lets_them_pass() -> None:
    with pytest.raises(UnknownName, match="wandb"):
        check_options(OpenAIProvider(), {"wandbb": {"project": "p"}})
    with pytest.raises(UnknownName, match="lora_rank"):
        TuningJob.model_validate({"name": "x", "dataset": "d", "model": "m", "hyperparameters": {"lora_rnk": 4}})


@pytest.mark.parametrize(
    ("field", "value", "sentence"),
    [
        ("epochs", 51, "from 1 to 50"),
        ("batch_size", 257, "from 1 to 256"),
    ],
)
def test_ranges_refuse(field: str, value: Any, sentence: str) -> None:
    job_receipt = receipt(OpenAIProvider(), "gpt-4.1-2025-04-14", hyperparameters={field: value})
    assert job_receipt[field].support == "invalid"
    assert sentence in str(job_receipt[field].reason)


def test_beta_is_at_most_two() -> None:
    job_receipt = receipt(OpenAIProvider(), "gpt-4.1-2025-04-14", method="dpo", hyperparameters={"dpo_beta": 2.5})
    assert job_receipt["dpo_beta"].support == "invalid"


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
    job_receipt = receipt(OpenAIProvider(), "gpt-4.1-2025-04-14", hyperparameters={"learning_rate": 1e-5})
    assert job_receipt["learning_rate"].support == "unsupported"
    assert "not published" in str(job_receipt["learning_rate"].reason)
    assert "learning_rate" not in str(OpenAIProvider().build(job_receipt, FILES).body)


def test_steps_become_whole_epochs_and_say_so() -> None:
    job_receipt = receipt(
        OpenAIProvider(), "gpt-4.1-2025-04-14", rows=100, hyperparameters={"max_steps": 30, "batch_size": 10}
    )
    assert job_receipt["max_steps"].support == "converted"
    assert job_receipt["max_steps"].effective == 3
    assert "rounded up" in str(job_receipt["max_steps"].rule)


def test_tags_are_held_to_the_vendors_limits() -> None:
    many = receipt(OpenAIProvider(), "gpt-4.1-2025-04-14", tags={str(at): "x" for at in range(16)})
    assert many["tags"].support == "invalid"
    long = receipt(OpenAIProvider(), "gpt-4.1-2025-04-14", tags={"k": "x" * 513})
    assert long["tags"].support == "invalid"
    stolen = receipt(OpenAIProvider(), "gpt-4.1-2025-04-14", tags={"llmtune_run": "x"})
    assert "own key" in str(stolen["tags"].reason)


def test_a_name_becomes_a_legal_suffix() -> None:
    job_receipt = receipt(OpenAIProvider(), "gpt-4.1-2025-04-14", name="Tickets: v2.1 (final)")
    assert job_receipt["name"].effective == "Tickets-v2-1-final"
    assert job_receipt["name"].support == "converted"


@pytest.mark.parametrize("adapter", ["full", "qlora", "dora"])
def test_another_adapter_is_refused_not_changed(adapter: str) -> None:
    assert receipt(OpenAIProvider(), "gpt-4.1-2025-04-14", adapter=adapter).refusals


def test_lifecycle_closes_on_the_day_and_names_the_date() -> None:
    capabilities = OpenAIProvider().capabilities(Target(provider="openai", kind="openai", model="gpt-4.1-2025-04-14"))
    before = get_lifecycle_status(capabilities.lifecycle, date(2026, 11, 21))
    assert before.open
    assert "46 days left" in before.sentence
    assert "2027-01-14" in before.sentence
    after = get_lifecycle_status(capabilities.lifecycle, date(2027, 1, 7))
    assert not after.open
    assert "closed to new jobs since 2027-01-06" in after.sentence


def test_a_dead_model_says_since_when() -> None:
    capabilities = OpenAIProvider().capabilities(Target(provider="openai", kind="openai", model="gpt-3.5-turbo"))
    verdict = get_lifecycle_status(capabilities.lifecycle, date(2026, 11, 21))
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
    assert capabilities.price.checked == date(2026, 12, 1)


def test_an_unknown_model_is_a_warning_with_the_nearest() -> None:
    capabilities = OpenAIProvider().capabilities(Target(provider="openai", kind="openai", model="gpt-4.1-minni"))
    assert not capabilities.known_model
    assert "gpt-4.1-mini" in capabilities.warnings[0]
    assert capabilities.price.training is None


def test_nebius_body_says_lora_and_its_shape() -> None:
    nebius = NebiusProvider()
    job_receipt = receipt(
        nebius,
        "meta-llama/Llama-3.3-70B-Instruct",
        hyperparameters={"lora_rank": 16, "lora_alpha": 32, "learning_rate": 2e-5, "packing": False},
        tags={"b": "2", "a": "1"},
    )
    body = nebius.build(job_receipt, FILES).body
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
    job_plan = plan(small_job(tmp_path), "openai", today=date(2027, 1, 7))
    assert not job_plan.lifecycle.open
    assert "since 2027-01-06" in job_plan.lifecycle.sentence
    assert {"azure", "local", "nebius"} <= set(job_plan.lifecycle.alternatives)
    assert "openai" not in job_plan.lifecycle.alternatives


def test_the_plan_has_price_source_and_day(tmp_path: Path) -> None:
    cost = plan(small_job(tmp_path), "openai", today=date(2026, 11, 21)).cost
    assert cost.checked == date(2026, 12, 1)
    assert "pricing page" in cost.source
    assert "the vendor chooses the number of epochs" in cost.range_reason
    assert cost.low is not None
    assert cost.total is not None
    assert cost.low < cost.total


def test_an_instance_of_ones_own_is_a_section_of_the_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = tmp_path / "config.toml"
    config.write_text(
        '[providers.mine]\nkind = "openai"\nbase_url = "https://llm.example.com/v1"\napi_key_env = "MINE"\n'
        '[providers.eu]\nkind = "openai"\nbase_url = "https://api.tokenfactory.nebius.com/v1/"\n'
    )
    monkeypatch.setenv("LLMTUNE_CONFIG", str(config))
    configured, nebius = get_provider("mine"), get_provider("eu")
    assert (configured.name, configured.kind) == ("mine", "openai")
    assert configured.submit_safety.kind == "none"
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


# --- services that take less ------------------------------------------------------------------------------------------
def leaving_out(*fields: str, name: str = "gateway") -> OpenAIProvider:
    return OpenAIProvider(name, OpenAISettings(profile="compatible", leave_out=fields))


def test_a_field_that_is_left_out_is_not_sent_and_the_receipt_says_so() -> None:
    gateway = leaving_out("suffix", "seed", "batch_size")
    job_receipt = receipt(gateway, "m", hyperparameters={"epochs": 3, "batch_size": 8}, seed=7, tags={"team": "search"})
    assert gateway.build(job_receipt, FILES).body == {
        "model": "m",
        "training_file": "file-train",
        "validation_file": "file-valid",
        "method": {"type": "supervised", "supervised": {"hyperparameters": {"n_epochs": 3}}},
        "metadata": {"team": "search"},
    }
    reason = "not sent: the service gateway does not take it (leave_out)"
    left_out = {row.field: row.reason for row in job_receipt.unsupported()}
    assert left_out == {"name": reason, "seed": reason, "batch_size": reason}
    assert gateway.submit_safety.kind == "none", "as for every service of which nothing is known"


def test_without_metadata_a_lost_answer_is_never_repeated() -> None:
    openai = OpenAIProvider("openai", OpenAISettings(leave_out=("metadata",)))
    assert OpenAIProvider().submit_safety.kind == "searchable"
    assert openai.submit_safety.kind == "none"
    warnings = receipt(openai, "gpt-4.1-mini-2025-04-14").warnings
    assert any("no field carries the run's key" in warning for warning in warnings)


def test_without_method_no_hyperparameter_goes_out_and_dpo_is_not_offered() -> None:
    gateway = leaving_out("method", "validation_file", "integrations")
    job_receipt = receipt(gateway, "m", hyperparameters={"epochs": 3}, provider_options={"gateway": {}})
    assert gateway.build(job_receipt, {"train": FILES["train"]}).body == {
        "model": "m",
        "training_file": "file-train",
        "suffix": "router",
    }
    assert {row.field for row in job_receipt.unsupported()} == {"epochs"}
    capabilities = gateway.capabilities(Target(provider="gateway", kind="openai", model="m", rows={"validation": 3}))
    assert capabilities.limits.validation == "unused"
    assert any("the validation rows are not sent" in warning for warning in capabilities.warnings)
    assert not capabilities.method("dpo")


def test_an_integration_that_is_left_out_is_said() -> None:
    gateway = leaving_out("integrations")
    target = Target(provider="gateway", kind="openai", model="m", options={"wandb": {"project": "p"}})
    assert any("wandb is not sent" in warning for warning in gateway.capabilities(target).warnings)


def test_settings_of_the_model_that_answers_are_left_out_too() -> None:
    gateway = leaving_out("top_p", "max_completion_tokens")
    job_receipt = receipt(gateway, "m", evaluation={"top_p": 0.5, "max_tokens": 9, "temperature": 0.5})
    assert {row.field for row in job_receipt.unsupported()} == {"top_p", "max_tokens"}


@pytest.mark.parametrize(("name", "near"), [("sufix", "suffix"), ("training_file", "validation_file")])
def test_a_field_that_there_is_not_or_that_every_job_needs_is_refused(name: str, near: str) -> None:
    with pytest.raises(UnknownName, match=near):
        leaving_out(name)


def test_fields_to_leave_out_are_read_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLMTUNE_OPENAI_LEAVE_OUT", "suffix, seed")
    provider = get_provider("openai")
    assert isinstance(provider.settings, OpenAISettings)  # type: ignore[attr-defined]
    assert provider.settings.leave_out == ("suffix", "seed")  # type: ignore[attr-defined]
