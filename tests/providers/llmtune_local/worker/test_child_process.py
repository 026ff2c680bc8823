"""The environment of the processes that train."""

from __future__ import annotations

import pytest

from llmtune._safety.telemetry import OFF
from llmtune.config import read_secret
from llmtune_local.worker.child_process import child_environment

VENDORS = (
    *("OPENAI_API_KEY", "AZURE_OPENAI_API_KEY", "AZURE_CLIENT_SECRET", "NEBIUS_API_KEY", "CO_API_KEY"),
    *("TOGETHER_API_KEY", "WANDB_API_KEY", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"),
    *("AWS_BEARER_TOKEN_BEDROCK", "GITHUB_TOKEN", "PGPASSWORD", "DB_PASS", "ACME_PAT", "MISTRAL_API_KEY"),
)
NEEDED = (
    *("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_HOME", "RAY_AUTH_TOKEN", "CUDA_VISIBLE_DEVICES", "TOKENIZER_MODEL"),
    *("LD_LIBRARY_PATH", "LLMTUNE_HOME", "OMP_NUM_THREADS", "NCCL_DEBUG", "SSL_CERT_FILE", "MONKEY"),
)


def test_keys_of_vendors_stay_here_and_what_training_needs_goes_along(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*VENDORS, *NEEDED):
        monkeypatch.setenv(name, "canary-93712")
    monkeypatch.setenv("LLMTUNE_STORE", "postgresql://ann:canary-93712@db.example/llmtune")
    monkeypatch.setenv("HTTPS_PROXY", "http://ann:canary-93712@proxy.example:3128")
    monkeypatch.setenv("HF_ENDPOINT", "https://mirror.example")
    environment = child_environment()
    assert not [name for name in VENDORS if name in environment]
    assert "LLMTUNE_STORE" not in environment
    assert [name for name in (*NEEDED, "HTTPS_PROXY", "HF_ENDPOINT", "PATH") if name not in environment] == []


def test_a_key_under_a_name_of_the_users_own_stays_here_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_COMPANY_ACCESS", "canary-93712")
    assert "MY_COMPANY_ACCESS" in child_environment()
    read_secret("MY_COMPANY_ACCESS")  # as a provider does whose api_key_env names it
    assert "MY_COMPANY_ACCESS" not in child_environment()


def test_libraries_report_nothing_and_import_nothing_from_here(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in OFF:
        monkeypatch.delenv(name, raising=False)
    environment = child_environment()
    assert environment["PYTHONSAFEPATH"] == "1"
    assert {name: environment[name] for name in OFF} == OFF
