"""Whether a model may be deployed is found out before its training is paid for."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from llmtune.errors import LlmtuneError, LlmtuneWarning
from llmtune.job.spec import TuningJob
from llmtune.planning.plan import UNCHECKED_DEPLOYMENT
from llmtune.runs.api import start
from llmtune.runs.plans import plan
from llmtune.testing import refusal
from llmtune_azure import AzureProvider
from llmtune_azure.fake.service import FakeAzure
from llmtune_together import TogetherProvider
from tests.system.azure.test_conformance import settings_for

MODEL = "gpt-4.1-mini-2025-04-14"
pytestmark = pytest.mark.usefixtures("no_long_pauses")


@pytest.fixture
def vendor(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeAzure]:
    monkeypatch.setenv("AZURE_OPENAI_API_KEY", "az-test")
    monkeypatch.setenv("ARM_TOKEN", "az-test")
    with FakeAzure(api_key="az-test") as fake:
        yield fake
        assert not fake.complaints, "\n".join(fake.complaints)


def job(folder: Path, *, deploy: bool, model: str = MODEL) -> TuningJob:
    path = folder / "rows.jsonl"
    turns = [{"role": "user", "content": "Where is parcel {at}?"}, {"role": "assistant", "content": "On its way."}]
    path.write_text("".join(json.dumps({"messages": turns}).replace("{at}", str(at)) + "\n" for at in range(60)))
    fields: dict[str, Any] = {"name": "parcels", "dataset": str(path), "model": model}
    return TuningJob.model_validate({**fields, "evaluation": {"max_rows": 3, "deploy": deploy}})


def test_a_sign_in_that_may_not_deploy_pays_for_nothing(vendor: FakeAzure, tmp_path: Path) -> None:
    vendor.permissions = [{"actions": ["Microsoft.CognitiveServices/*/read"], "notActions": []}]
    azure = AzureProvider("azure", settings_for(vendor))
    with pytest.raises(LlmtuneError, match="may not deploy on mine") as refused:
        start(job(tmp_path, deploy=True), azure, allow_unknown_cost=True)
    assert "evaluation.deploy: false" in refused.value.message
    assert not vendor.files
    assert not vendor.jobs
    start(job(tmp_path, deploy=False), azure, allow_unknown_cost=True)
    assert len(vendor.jobs) == 1


def test_a_permission_that_cannot_be_asked_for_is_said_and_stops_nothing(vendor: FakeAzure, tmp_path: Path) -> None:
    vendor.faults.add(refusal(403, "You may not read permissions.", "AuthorizationFailed"), route="list_permissions")
    azure = AzureProvider("azure", settings_for(vendor))
    with pytest.warns(LlmtuneWarning, match="whether this sign-in may deploy could not be asked"):
        start(job(tmp_path, deploy=True), azure, allow_unknown_cost=True)
    assert len(vendor.jobs) == 1


def test_a_plan_says_where_it_cannot_be_asked_beforehand(vendor: FakeAzure, tmp_path: Path) -> None:
    model = "meta-llama/Meta-Llama-3.1-8B-Instruct-Reference"
    assert UNCHECKED_DEPLOYMENT in plan(job(tmp_path, deploy=True, model=model), TogetherProvider("together")).warnings
    assert UNCHECKED_DEPLOYMENT not in plan(job(tmp_path, deploy=False, model=model), TogetherProvider()).warnings
    azure = AzureProvider("azure", settings_for(vendor))
    assert UNCHECKED_DEPLOYMENT not in plan(job(tmp_path, deploy=True), azure).warnings
