"""Azure through the real SDKs, against a resource and a control plane on a loopback port."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from llmtune.data.example import Message
from llmtune.errors import InvalidSettings, LlmtuneError, MissingCredentials, QuotaExceeded, TransientError, VendorError
from llmtune.provider.generation import GenerationRequest, Unavailable
from llmtune.provider.receipt import Receipt
from llmtune.provider.registry import check_options
from llmtune.provider.translate import translate
from llmtune.provider.types import (
    DeploymentRef,
    EncodedFile,
    JobRef,
    ModelRef,
    RunKey,
    RunState,
    Snapshot,
    Target,
    UploadRef,
)
from llmtune.testing import accept_then_drop, rate_limit, refusal, server_error
from llmtune.testing.wire_check import job_with
from llmtune_azure import AzureProvider
from llmtune_azure import provider as adapter
from llmtune_azure.fake.service import FakeAzure
from llmtune_azure.settings import AzureSettings

KEY = RunKey("lt0123456789")
MODEL = "gpt-4.1-mini-2025-04-14"


@pytest.fixture
def vendor(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeAzure]:
    monkeypatch.setenv("AZURE_OPENAI_API_KEY", "az-test")
    monkeypatch.setenv("ARM_TOKEN", "az-test")
    monkeypatch.delenv("AZURE_SUBSCRIPTION_ID", raising=False)
    with FakeAzure(api_key="az-test") as fake:
        yield fake
        assert not fake.complaints, "\n".join(fake.complaints)


def provider_at(vendor: FakeAzure, **more: Any) -> AzureProvider:
    values: dict[str, Any] = {
        "endpoint": vendor.url,
        "management_url": vendor.url,
        "management_token_env": "ARM_TOKEN",
        "subscription_id": "sub",
        "resource_group": "tuning",
        "account_name": "mine",
        "timeout": 2,
    }
    return AzureProvider("azure", AzureSettings.model_validate({**values, **more}))


@pytest.fixture
def azure(vendor: FakeAzure) -> AzureProvider:
    return provider_at(vendor)


def encoded(folder: Path) -> EncodedFile:
    row = {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]}
    content = (json.dumps(row) + "\n").encode() * 12
    path = folder / "train.jsonl"
    path.write_bytes(content)
    digest = hashlib.sha256(content).hexdigest()
    return EncodedFile(role="train", path=path, sha256=digest, rows=12, bytes=len(content), format="chat")


def receipt(azure: AzureProvider, options: dict[str, Any] | None = None, **fields: Any) -> Receipt:
    checked = check_options(azure, options or {})
    target = Target(provider="azure", kind="azure", model=MODEL, options=checked)
    return translate(job_with(target, fields), target, azure.capabilities(target), rows=1000)


def started(azure: AzureProvider, folder: Path, **more: Any) -> JobRef:
    files = {"train": azure.upload(encoded(folder))}
    files["validation"] = files["train"].model_copy(update={"role": "validation"})
    return azure.submit(azure.build(receipt(azure, **more), files), KEY)


def finished(azure: AzureProvider, job: JobRef) -> list[Snapshot]:
    snapshots: list[Snapshot] = []
    for _ in range(20):
        snapshots.append(azure.poll(job, snapshots[-1].cursor if snapshots else None))
        if snapshots[-1].state.final:
            return snapshots
    raise AssertionError("no end")


def test_a_whole_run_with_its_deployment(azure: AzureProvider, vendor: FakeAzure, tmp_path: Path) -> None:
    job = started(azure, tmp_path, options={"training_type": "developerTier"}, epochs=2)
    (sent,) = [call.data for call in vendor.requests if call.route == "create_job"]
    assert sent["trainingType"] == "developerTier"
    assert sent["suffix"] == f"wire-truth-{KEY}"
    assert "metadata" not in sent
    snapshots = finished(azure, job)
    assert [snapshot.raw_state for snapshot in snapshots][-1] == "succeeded"
    assert snapshots[0].resolved == {"epochs": 2, "seed": 42}, "-1 is not a value"
    last = snapshots[-1]
    assert last.resolved["batch_size"] == 1
    spellings = {point.raw_name for point in last.points if point.series == "validation/token_accuracy"}
    assert "validation_mean_token_accuracy" in spellings
    assert last.model is not None
    assert isinstance(azure.generator(last.model), Unavailable)

    deployment = azure.deploy(last.model, KEY)
    assert deployment is not None
    (put,) = [call.data for call in vendor.requests if call.route == "put_deployment"]
    assert put == {
        "sku": {"name": "Standard", "capacity": 50},
        "properties": {"model": {"format": "OpenAI", "name": last.model.id, "version": "1"}},
    }
    with azure.generator(deployment) as generator:  # type: ignore[union-attr]
        (answer,) = generator.generate([GenerationRequest(messages=(Message("user", "Hi"),), max_tokens=9)])
    assert answer.text == "Hello"
    assert last.model.id in azure.snippet(deployment)
    same_deployment = azure.find_deployment(KEY)
    assert same_deployment is not None
    assert (same_deployment.id, same_deployment.data["model"], same_deployment.data["sku"]) == (
        deployment.id,
        last.model.id,
        "Standard",
    )
    azure.undeploy(deployment)
    assert vendor.standing == []
    assert azure.find_deployment(KEY) is None


def test_deploying_twice_costs_once(azure: AzureProvider, vendor: FakeAzure, tmp_path: Path) -> None:
    model = finished(azure, started(azure, tmp_path))[-1].model
    assert model is not None
    vendor.faults.add(accept_then_drop(), role="deploy")
    with pytest.raises(TransientError) as caught:
        azure.deploy(model, KEY)
    assert caught.value.sent
    assert len(vendor.standing) == 1, "it stands although the answer was lost"
    assert azure.deploy(model, KEY) is not None
    assert len(vendor.standing) == 1


def test_the_job_is_found_by_its_suffix(azure: AzureProvider, vendor: FakeAzure, tmp_path: Path) -> None:
    job = started(azure, tmp_path)
    assert azure.find(KEY) == job
    assert azure.find(RunKey("lt9999999999")) is None


def test_a_job_is_refused_before_its_file_is_ready_and_upload_waits_for_that(
    azure: AzureProvider, vendor: FakeAzure, tmp_path: Path
) -> None:
    raw = vendor.new_file(encoded(tmp_path).path.read_bytes(), looks=0, fault=None)
    with pytest.raises(VendorError, match="completed file import") as caught:
        azure.submit(azure.build(receipt(azure), {"train": UploadRef(id=raw.id)}), KEY)
    assert caught.value.code == "invalidPayload"
    assert started(azure, tmp_path).id in vendor.jobs


@pytest.mark.parametrize(
    ("fault", "kind"),
    [
        (refusal(403, "You may not deploy.", "AuthorizationFailed"), VendorError),
        (refusal(400, "This operation requires more capacity.", "InsufficientQuota"), QuotaExceeded),
        (refusal(401, "The token has expired.", "ExpiredAuthenticationToken"), MissingCredentials),
        (server_error(503), TransientError),
        (rate_limit(3), TransientError),
    ],
)
def test_refusals_of_the_control_plane(
    azure: AzureProvider, vendor: FakeAzure, tmp_path: Path, fault: Any, kind: type[Exception]
) -> None:
    model = finished(azure, started(azure, tmp_path))[-1].model
    vendor.faults.add(fault, role="deploy")
    with pytest.raises(kind) as caught:
        azure.deploy(model, KEY)  # type: ignore[arg-type]
    assert type(caught.value) is kind
    assert vendor.standing == []
    if fault.message in ("You may not deploy.", "The token has expired."):
        assert fault.message in str(caught.value)


def test_a_deployment_that_fails_says_so(
    azure: AzureProvider, vendor: FakeAzure, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = finished(azure, started(azure, tmp_path))[-1].model
    monkeypatch.setattr(FakeAzure, "state_of", lambda self, deployment: "Failed")
    with pytest.raises(VendorError, match="ended as Failed"):
        azure.deploy(model, KEY)  # type: ignore[arg-type]


def test_a_deployment_that_never_answers_is_told(
    azure: AzureProvider, vendor: FakeAzure, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = finished(azure, started(azure, tmp_path))[-1].model
    monkeypatch.setattr(adapter, "LONGEST_SILENCE", 0.2)
    vendor.looks_until_answering = 99
    with pytest.raises(TransientError, match="does not answer"):
        azure.deploy(model, KEY)  # type: ignore[arg-type]
    assert azure.find_deployment(KEY) is not None, "it is found again, and can be removed"


def test_what_deploying_needs_is_named(vendor: FakeAzure, tmp_path: Path) -> None:
    azure = provider_at(vendor, subscription_id=None, resource_group=None)
    with pytest.raises(InvalidSettings, match="subscription_id, resource_group") as caught:
        azure.deploy(ModelRef(id="m.ft-1"), KEY)
    assert "[providers.azure]" in str(caught.value.hint)


def test_an_endpoint_is_needed() -> None:
    with pytest.raises(InvalidSettings, match="endpoint") as caught:
        AzureProvider().find(KEY)
    assert "AZURE_OPENAI_ENDPOINT" in str(caught.value.hint)


def test_the_account_is_told_from_the_endpoint() -> None:
    from llmtune_azure.deployments import deploy_settings

    assert deploy_settings(AzureSettings(endpoint="https://mine.openai.azure.com/"))["account_name"] == "mine"


def test_an_entra_token_goes_out_as_a_bearer(vendor: FakeAzure, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AZURE_OPENAI_AD_TOKEN", "entra-token")
    vendor.api_key = "entra-token"
    provider_at(vendor, auth="entra").find(KEY)
    assert vendor.requests[-1].headers["authorization"] == "Bearer entra-token"


def test_tokens_of_the_sign_in_chain_go_out(vendor: FakeAzure, monkeypatch: pytest.MonkeyPatch) -> None:
    import azure.identity
    from azure.core.credentials import AccessToken

    class Chain:
        def get_token(self, *scopes: str, **_: Any) -> AccessToken:
            assert scopes == ("https://cognitiveservices.azure.com/.default",)
            return AccessToken("from-the-chain", 2**31)

    monkeypatch.setattr(azure.identity, "DefaultAzureCredential", Chain)
    vendor.api_key = "from-the-chain"
    provider_at(vendor, auth="entra").find(KEY)
    assert vendor.counts["find"] == 1


def test_no_sign_in_is_a_sentence(vendor: FakeAzure, monkeypatch: pytest.MonkeyPatch) -> None:
    import azure.identity

    class Nothing:
        def get_token(self, *scopes: str, **_: Any) -> Any:
            raise azure.identity.CredentialUnavailableError("no way to sign in was found\nTried: ...")

    monkeypatch.setattr(azure.identity, "DefaultAzureCredential", Nothing)
    for provider, call in (
        (provider_at(vendor, auth="entra"), lambda it: it.find(KEY)),
        (provider_at(vendor, management_token_env=None), lambda it: it.find_deployment(KEY)),
    ):
        with pytest.raises(MissingCredentials, match="no way to sign in") as caught:
            call(provider)
        assert caught.value.hint == "az login"
        assert "\n" not in caught.value.message


def test_a_key_that_is_asked_for_and_not_there(vendor: FakeAzure, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AZURE_OPENAI_API_KEY")
    with pytest.raises(MissingCredentials, match="AZURE_OPENAI_API_KEY is not set"):
        provider_at(vendor, auth="key").find(KEY)


def test_a_base_deployment_answers_for_comparison(vendor: FakeAzure) -> None:
    assert isinstance(provider_at(vendor).base_model(receipt(provider_at(vendor))), Unavailable)
    azure = provider_at(vendor, base_deployment="base-4-1-mini")
    vendor.deploy_by_hand("base-4-1-mini", MODEL)
    base = azure.base_model(receipt(azure))
    generator = azure.generator(base)  # type: ignore[arg-type]
    (answer,) = generator.generate([GenerationRequest(messages=(Message("user", "Hi"),))])  # type: ignore[union-attr]
    assert answer.text


def test_models_and_jobs_stay_and_files_go(azure: AzureProvider, vendor: FakeAzure, tmp_path: Path) -> None:
    upload = azure.upload(encoded(tmp_path))
    azure.delete(upload)
    azure.delete(upload)
    assert not vendor.files
    with pytest.raises(LlmtuneError, match="deletes neither models nor jobs"):
        azure.delete(ModelRef(id="m.ft-1"))
    azure.delete(DeploymentRef(id="llmtune-gone"))


def test_states_and_cancel(azure: AzureProvider, tmp_path: Path) -> None:
    job = started(azure, tmp_path)
    azure.cancel(job)
    assert azure.poll(job, None).state is RunState.CANCELLED


def test_inventory_knows_azures_names(azure: AzureProvider, vendor: FakeAzure, tmp_path: Path) -> None:
    job = started(azure, tmp_path)
    model = finished(azure, job)[-1].model
    assert model is not None
    listed = {remote.id: remote for remote in azure.inventory()}
    assert listed[model.id].job == job.id
    assert azure.fetch(listed[model.id]).base == MODEL


def test_a_base_model_that_is_refused_without_a_training_type_names_that_option(
    azure: AzureProvider, vendor: FakeAzure, tmp_path: Path
) -> None:
    message = "The specified base model does not support fine-tuning."
    vendor.faults.add(refusal(400, message), role="submit", times=2)
    with pytest.raises(VendorError, match="does not support") as caught:
        started(azure, tmp_path)
    assert "provider_options.azure.training_type" in str(caught.value.hint)
    with pytest.raises(VendorError) as refused:
        started(azure, tmp_path, options={"training_type": "Standard"})
    assert refused.value.hint is None


@pytest.mark.parametrize(("settings", "days"), [({}, 30), ({"upload_expires_days": 20}, 20)])
def test_an_upload_expires(vendor: FakeAzure, tmp_path: Path, settings: dict[str, Any], days: int) -> None:
    provider_at(vendor, **settings).upload(encoded(tmp_path))
    (file,) = vendor.files.values()
    assert file.data["expires_at"] == int(file.created) + days * 86400


def test_an_upload_never_expires_where_the_settings_say_so(vendor: FakeAzure, tmp_path: Path) -> None:
    provider_at(vendor, upload_expires_days="never").upload(encoded(tmp_path))
    (file,) = vendor.files.values()
    assert "expires_at" not in file.data


# --- whether deploying is allowed, before training is paid ------------------------------------------------------------
@pytest.mark.parametrize(
    ("permissions", "allowed"),
    [
        ([{"actions": ["*"], "notActions": []}], True),
        ([{"actions": ["Microsoft.CognitiveServices/accounts/deployments/*"], "notActions": []}], True),
        ([{"actions": ["Microsoft.CognitiveServices/*/read"], "notActions": []}], False),
        ([{"actions": ["*"], "notActions": ["microsoft.cognitiveservices/accounts/deployments/write"]}], False),
        ([], False),
    ],
)
def test_a_sign_in_that_may_not_deploy_is_found_before_training(
    azure: AzureProvider, vendor: FakeAzure, permissions: list[dict[str, list[str]]], allowed: bool
) -> None:
    vendor.permissions = permissions
    findings = azure.check_deployment()
    assert bool(findings) is not allowed
    if findings:
        assert findings[0].is_error
        assert "Microsoft.CognitiveServices/accounts/deployments/write" in findings[0].message
        assert "evaluation.deploy: false" in findings[0].remedy


def test_permissions_that_may_not_be_read_are_a_warning(azure: AzureProvider, vendor: FakeAzure) -> None:
    vendor.faults.add(refusal(403, "You may not read permissions.", "AuthorizationFailed"), route="list_permissions")
    (finding,) = azure.check_deployment()
    assert not finding.is_error
    assert "You may not read permissions" in finding.message


def test_settings_that_deploying_needs_are_missed_before_training(vendor: FakeAzure) -> None:
    with pytest.raises(InvalidSettings, match="resource_group"):
        provider_at(vendor, resource_group=None).check_deployment()
