"""Whole runs at services that take less of OpenAI's API than OpenAI: what they refuse is not sent, and is reported."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest

from llmtune.errors import MissingCredentials, UnsupportedHyperparameterWarning
from llmtune.job.spec import TuningJob
from llmtune.provider.types import RunState
from llmtune.report.schema import Report
from llmtune.runs.api import start
from llmtune.runs.poller import PollInterval
from llmtune.testing.request_schema import Required
from llmtune_bedrock.mantle import MANTLE, TOKEN_PACKAGE
from llmtune_openai import OpenAIProvider, services
from llmtune_openai.fake.service import FakeOpenAI
from llmtune_openai.settings import OpenAISettings

PACE = PollInterval(first=0.01, most=0.03)
pytestmark = pytest.mark.usefixtures("no_long_pauses")


class FakeMantle(FakeOpenAI):
    """An endpoint that takes a model and files, and refuses every other field."""

    job_shape: ClassVar[dict[str, Any]] = {
        "model": Required(str),
        "training_file": Required(str),
        "validation_file": str,
    }
    file_fields = ()
    tokens_word = "max_tokens"
    base_models = ("openai.gpt-oss-20b", "qwen.qwen3-32b")


@pytest.fixture
def vendor() -> Iterator[FakeMantle]:
    with FakeMantle(api_key="key") as fake:
        yield fake
        assert not fake.complaints, "\n".join(fake.complaints)


def job(folder: Path, model: str, **more: Any) -> TuningJob:
    path = folder / "rows.jsonl"
    turns = [{"role": "user", "content": "Where is parcel {at}?"}, {"role": "assistant", "content": "On its way."}]
    path.write_text("".join(json.dumps({"messages": turns}).replace("{at}", str(at)) + "\n" for at in range(60)))
    fields = {"name": "parcels", "dataset": str(path), "model": model, "evaluation": {"max_rows": 3}}
    return TuningJob.model_validate({**fields, **more})


def reasons(report: Report) -> dict[str, str]:
    return {row.field: str(row.reason) for row in report.receipt if row.support == "unsupported"}


def test_a_service_that_takes_a_model_and_files_alone(
    vendor: FakeMantle, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "key")
    left_out = ("suffix", "seed", "metadata", "method")
    settings = OpenAISettings(base_url=f"{vendor.url}/v1", profile="compatible", leave_out=left_out)
    tuning_job = job(tmp_path, "openai.gpt-oss-20b", seed=7, hyperparameters={"epochs": 2})
    with pytest.warns(UnsupportedHyperparameterWarning, match="not sent: the service gateway does not take it"):
        run = start(tuning_job, OpenAIProvider("gateway", settings), allow_unknown_cost=True)
    report = run.wait(timeout=60, pace=PACE)
    assert run.state is RunState.SUCCEEDED
    reason = "not sent: the service gateway does not take it (leave_out)"
    assert {name: reasons(report)[name] for name in ("name", "seed", "epochs")} == dict.fromkeys(
        ("name", "seed", "epochs"), reason
    )


@pytest.mark.slow
@pytest.mark.parametrize("model", ["openai.gpt-oss-20b", "qwen.qwen3-32b"])
def test_bedrocks_endpoint_for_openais_api(
    vendor: FakeMantle, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, model: str
) -> None:
    monkeypatch.setattr(services, "_other_services", lambda: (MANTLE,))
    monkeypatch.setenv("AWS_BEARER_TOKEN_BEDROCK", "key")
    settings = OpenAISettings(base_url=f"{vendor.url}/v1", profile="bedrock-mantle")
    with pytest.warns(UnsupportedHyperparameterWarning, match="not sent: the service Bedrock"):
        run = start(
            job(tmp_path, model, hyperparameters={"epochs": 2}),
            OpenAIProvider("mantle", settings),
            allow_unknown_cost=True,
        )
    report = run.wait(timeout=60, pace=PACE)
    assert run.state is RunState.SUCCEEDED
    assert set(reasons(report)) >= {"epochs", "name"}
    assert any("unverified" in warning for warning in report.warnings)
    (sent,) = [call.data for call in vendor.requests if call.route == "create_job"]
    assert set(sent) == {"model", "training_file", "validation_file"}


def test_the_endpoint_is_known_by_its_host_and_wants_awss_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(services, "_other_services", lambda: (MANTLE,))
    monkeypatch.delenv("AWS_BEARER_TOKEN_BEDROCK", raising=False)
    mantle = OpenAIProvider("mantle", OpenAISettings(base_url="https://bedrock-mantle.us-west-2.api.aws/v1"))
    assert mantle.service is MANTLE
    assert mantle.find_credentials() == ("not found", "export AWS_BEARER_TOKEN_BEDROCK=...")
    with pytest.raises(MissingCredentials, match="AWS_BEARER_TOKEN_BEDROCK"):
        list(mantle.inventory())


def test_a_key_is_made_for_the_region_where_awss_package_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys
    import types

    package = types.ModuleType(TOKEN_PACKAGE)
    package.provide_token = lambda region: f"key-for-{region}"  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, TOKEN_PACKAGE, package)
    monkeypatch.setattr(services, "_other_services", lambda: (MANTLE,))
    monkeypatch.delenv("AWS_BEARER_TOKEN_BEDROCK", raising=False)
    mantle = OpenAIProvider("mantle", OpenAISettings(base_url="https://bedrock-mantle.us-east-2.api.aws/v1"))
    assert mantle.find_credentials() == ("not checked", None)
    assert mantle._client_arguments()["api_key"]() == "key-for-us-east-2"
