"""A tuned open model is deployed from its weights, asked, and removed; and nothing needs aiplatform for it."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from llmtune.data.example import Message
from llmtune.errors import InvalidSettings, TransientError, VendorError
from llmtune.provider.generation import GenerationRequest
from llmtune.provider.types import ModelRef, RunKey
from llmtune_vertex import VertexProvider, open_models
from llmtune_vertex.fake.service import FakeVertex
from tests.providers.llmtune_vertex.conftest import LLAMA, provider_at, receipt_for

KEY = RunKey("lt0123456789")
WEIGHTS = ModelRef(id="gs://my-bucket/llmtune/output/postprocess/node-0/checkpoints/final", base=LLAMA).model_copy(
    update={"data": {"weights": True}}
)
QUESTION = GenerationRequest(messages=(Message("user", "Hello?"),), max_tokens=9, temperature=0.0)


@pytest.fixture(autouse=True)
def lean(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make google-cloud-aiplatform impossible to import."""
    for name in (
        "google.cloud.aiplatform",
        "google.cloud.aiplatform_v1",
        "google.cloud.aiplatform_v1beta1",
        "vertexai",
    ):
        monkeypatch.setitem(sys.modules, name, None)


def test_it_is_deployed_asked_and_removed(provider: VertexProvider, vendor: FakeVertex) -> None:
    deployment = provider.deploy(WEIGHTS, KEY)
    assert deployment is not None
    assert deployment.id == f"projects/my-project/locations/us-central1/endpoints/llmtune-{KEY}"
    (sent,) = [call.data for call in vendor.requests if call.route == "deploy"]
    assert sent["customModel"] == {"gcsUri": WEIGHTS.id}
    assert "deployConfig" not in sent, "the machine is Model Garden's choice"
    vendor.teach([("Hello?", "Hi!")])
    with provider.generator(deployment) as opened:  # type: ignore[union-attr]
        (answer,) = opened.generate([QUESTION])
    assert answer.text == "Hi!"
    (asked,) = [call.data for call in vendor.requests if call.route == "chat"]
    assert asked["max_tokens"] == 9
    provider.undeploy(deployment)
    assert vendor.standing == []
    assert not any("open-" in name for name in vendor.models), "the registered model goes with its endpoint"
    provider.undeploy(deployment)


def test_the_machine_of_the_settings_is_asked_for(vendor: FakeVertex) -> None:
    machine = {"machine_type": "g2-standard-12", "accelerator_type": "NVIDIA_L4"}
    provider_at(vendor, **machine).deploy(WEIGHTS, KEY)
    (sent,) = [call.data for call in vendor.requests if call.route == "deploy"]
    spec = sent["deployConfig"]["dedicatedResources"]["machineSpec"]
    assert spec == {"machineType": "g2-standard-12", "acceleratorType": "NVIDIA_L4", "acceleratorCount": 1}


def test_what_is_still_being_made_is_removed_a_little_later(provider: VertexProvider, vendor: FakeVertex) -> None:
    deployment = provider.deploy(WEIGHTS, KEY)
    assert deployment is not None
    with pytest.raises(TransientError, match="still being deployed"):
        provider.undeploy(deployment)
    assert len(vendor.standing) == 1
    provider.undeploy(deployment)
    assert vendor.standing == []


def test_a_deployment_that_fails_says_why(provider: VertexProvider, vendor: FakeVertex) -> None:
    vendor.deploy_fault = "There is no quota for NVIDIA_L4."
    deployment = provider.deploy(WEIGHTS, KEY)
    assert deployment is not None
    with pytest.raises(VendorError, match="no quota for NVIDIA_L4"), provider.generator(deployment):  # type: ignore[union-attr]
        pass


def test_a_region_is_needed(vendor: FakeVertex) -> None:
    provider = provider_at(vendor, location="global")
    assert provider.find_deployment(KEY) is None
    with pytest.raises(InvalidSettings, match="in a region") as caught:
        provider.deploy(WEIGHTS, KEY)
    assert "serving_location" in str(caught.value.hint)


def test_a_plan_says_that_it_costs_a_deployment(provider: VertexProvider) -> None:
    abilities = provider.capabilities(receipt_for(provider, LLAMA).target).abilities
    assert abilities.serving is True
    assert abilities.deployment == "required"
    assert open_models.DEPLOY_SECONDS > 0


def test_no_module_of_the_room_imports_aiplatform() -> None:
    import llmtune_vertex

    for path in Path(llmtune_vertex.__file__).parent.rglob("*.py"):
        assert "import aiplatform" not in path.read_text(encoding="utf-8"), path
