"""The provider through the real boto3, against the fake."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from llmtune.errors import InvalidJob, InvalidSettings, MissingExtra, QuotaExceeded, TransientError, VendorError
from llmtune.provider.generation import Unavailable
from llmtune.provider.types import JobRef, ModelRef, Request, RunKey, RunState, UploadRef
from llmtune.testing import accept_then_drop, garbled, rate_limit, refusal, reset, server_error
from llmtune_sagemaker import SageMakerProvider, client
from llmtune_sagemaker.fake.service import FakeSageMaker
from llmtune_sagemaker.settings import SageMakerSettings
from tests.providers.llmtune_sagemaker.conftest import MLFLOW, QWEN, encoded, provider_at, receipt_for

KEY = RunKey("lt0123456789")


def request_for(provider: SageMakerProvider, tmp_path: Path, **fields: Any) -> Request:
    files = {"train": provider.upload(encoded(tmp_path))}
    return provider.build(receipt_for(provider, fields.pop("model", QWEN), **fields), files)


def finished(provider: SageMakerProvider, ref: JobRef) -> Any:
    snapshot = provider.poll(ref, None)
    for _ in range(20):
        if snapshot.state.final:
            return snapshot
        snapshot = provider.poll(ref, snapshot.cursor)
    raise AssertionError(snapshot)


# --- submit ----------------------------------------------------------------------------------------------------------
def test_the_same_submit_twice_is_one_job(vendor: FakeSageMaker, provider: SageMakerProvider, tmp_path: Path) -> None:
    request = request_for(provider, tmp_path)
    first = provider.submit(request, KEY)
    assert provider.submit(request, KEY) == first
    assert provider.find(KEY) == first
    assert len(vendor.jobs) == 1
    assert first.id.endswith(f"-{KEY}")
    assert provider.find(RunKey("lt9999999999")) is None


@pytest.mark.parametrize("fault", [accept_then_drop(), garbled(), reset(), server_error(503, handled=True)])
def test_an_answer_that_is_lost_leaves_one_job(
    vendor: FakeSageMaker, provider: SageMakerProvider, tmp_path: Path, fault: Any
) -> None:
    request = request_for(provider, tmp_path)
    vendor.faults.add(fault, role="submit", times=1)
    with pytest.raises(TransientError) as caught:
        provider.submit(request, KEY)
    assert caught.value.sent
    assert provider.submit(request, KEY).id.endswith(KEY)
    assert len(vendor.jobs) == 1


def test_a_refusal_before_the_job_took_nothing(
    vendor: FakeSageMaker, provider: SageMakerProvider, tmp_path: Path
) -> None:
    request = request_for(provider, tmp_path)
    vendor.faults.add(rate_limit(3), role="submit")
    with pytest.raises(TransientError) as caught:
        provider.submit(request, KEY)
    assert (caught.value.sent, caught.value.retry_after) == (False, 3)
    vendor.faults.add(refusal(400, "2 serverless training jobs run already", "ResourceLimitExceeded"), role="submit")
    with pytest.raises(QuotaExceeded):
        provider.submit(request, KEY)
    assert vendor.jobs == {}


def test_a_group_is_created_only_where_that_is_allowed(
    vendor: FakeSageMaker, provider: SageMakerProvider, tmp_path: Path
) -> None:
    vendor.groups.clear()
    request = request_for(provider, tmp_path)
    with pytest.raises(VendorError, match="does not exist"):
        provider.submit(request, KEY)
    assert vendor.groups == set()
    allowed = provider_at(vendor, create_model_package_group=True)
    assert allowed.submit(request, KEY)
    assert vendor.groups == {"llmtune"}
    assert allowed.submit(request, RunKey("lt1111111111"))
    assert vendor.counts["create_model_package_group"] == 1


def test_a_group_that_cannot_be_created_for_now_sends_no_job(
    vendor: FakeSageMaker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    provider = provider_at(vendor, create_model_package_group=True)
    request = request_for(provider, tmp_path)
    vendor.faults.add(server_error(503), route="describe_model_package_group")
    with pytest.raises(TransientError) as caught:
        provider.submit(request, KEY)
    assert caught.value.sent is False
    assert vendor.jobs == {}


# --- poll ------------------------------------------------------------------------------------------------------------
def test_a_run_from_start_to_end(vendor: FakeSageMaker, provider: SageMakerProvider, tmp_path: Path) -> None:
    ref = provider.submit(request_for(provider, tmp_path, epochs=2), KEY)
    first = provider.poll(ref, None)
    assert first.state is RunState.RUNNING
    assert first.progress.total_steps == 10
    last = finished(provider, ref)
    assert last.state is RunState.SUCCEEDED
    assert last.billed.tokens == 10_000
    assert last.progress.step == 10
    assert last.resolved == {"epochs": 2}
    assert last.model.base == QWEN
    assert [(point.series, point.step) for point in last.points] == [("train/loss", 10)]


@pytest.mark.parametrize("counts_in_epoch", [True, False])
def test_steps_never_go_back(
    vendor: FakeSageMaker, provider: SageMakerProvider, tmp_path: Path, counts_in_epoch: bool
) -> None:
    vendor.counts_in_epoch = counts_in_epoch
    ref = provider.submit(request_for(provider, tmp_path, epochs=2), KEY)
    steps = [provider.poll(ref, None).progress.step or 0 for _ in range(6)]
    assert steps == sorted(steps)
    assert steps[-1] == 10


def test_curves_come_from_mlflow_in_place_of_the_final_metric(vendor: FakeSageMaker, tmp_path: Path) -> None:
    provider = provider_at(vendor, mlflow_arn=MLFLOW)
    ref = provider.submit(request_for(provider, tmp_path), KEY)
    provider.poll(ref, None)
    early = provider.poll(ref, None)
    assert {point.series for point in early.points} == {"train/loss"}  # while it trains, the losses alone
    last = finished(provider, ref)
    losses = [point for point in last.points if point.series == "train/loss"]
    assert [point.step for point in losses] == list(range(10))
    assert "train/learning_rate" in {point.series for point in last.points}


def test_curves_that_cannot_be_read_stop_nothing(vendor: FakeSageMaker, tmp_path: Path) -> None:
    provider = provider_at(vendor, mlflow_arn=MLFLOW)
    ref = provider.submit(request_for(provider, tmp_path), KEY)
    vendor.faults.add(refusal(403, "not you", "AccessDeniedException"), route="get_run", times=50)
    last = finished(provider, ref)
    assert last.state is RunState.SUCCEEDED
    assert any("the curves could not be read" in warning for warning in last.warnings)
    vendor.faults.clear()
    vendor.faults.add(server_error(503), route="get_run", times=1)
    assert provider.poll(ref, None).pending == ("the curves",)


def test_a_time_limit_fails_the_run(vendor: FakeSageMaker, provider: SageMakerProvider, tmp_path: Path) -> None:
    vendor.outcome = "timeout"
    request = request_for(provider, tmp_path, options={"max_runtime_seconds": 60})
    last = finished(provider, provider.submit(request, KEY))
    assert last.state is RunState.FAILED
    assert "max_runtime_seconds" in last.error


def test_cancel_is_quiet_for_a_job_that_has_ended(
    vendor: FakeSageMaker, provider: SageMakerProvider, tmp_path: Path
) -> None:
    ref = provider.submit(request_for(provider, tmp_path), KEY)
    provider.cancel(ref)
    assert finished(provider, ref).state is RunState.CANCELLED
    provider.cancel(ref)
    with pytest.raises(VendorError):
        provider.cancel(JobRef(id="nobody"))


def test_a_job_is_adopted_by_name_or_arn(vendor: FakeSageMaker, provider: SageMakerProvider, tmp_path: Path) -> None:
    ref = provider.submit(request_for(provider, tmp_path), KEY)
    arn = f"arn:aws:sagemaker:us-east-1:123456789012:training-job/{ref.id}"
    assert provider.poll(JobRef(id=arn), None).state is RunState.RUNNING
    assert provider.poll(JobRef(id=ref.id), None).state is RunState.RUNNING


# --- the model -------------------------------------------------------------------------------------------------------
@pytest.fixture
def model(vendor: FakeSageMaker, provider: SageMakerProvider, tmp_path: Path) -> ModelRef:
    found = finished(provider, provider.submit(request_for(provider, tmp_path), KEY)).model
    assert isinstance(found, ModelRef)
    return found


@pytest.mark.parametrize("packages_say_where", [True, False])
def test_weights_are_exported_as_the_recipe_wrote_them(
    vendor: FakeSageMaker, provider: SageMakerProvider, model: ModelRef, tmp_path: Path, packages_say_where: bool
) -> None:
    vendor.packages_say_where = packages_say_where
    (line,) = provider.export(model, "adapter", tmp_path / "adapter")
    assert "Qwen/Qwen3-8B" in line
    assert {path.name for path in (tmp_path / "adapter").iterdir()} == {
        "adapter_config.json",
        "adapter_model.safetensors",
    }
    (line,) = provider.export(model, "merged", tmp_path / "merged")
    assert line == f"vllm serve {tmp_path / 'merged'}"
    assert (tmp_path / "merged" / "config.json").is_file()
    assert not (tmp_path / "merged" / "training_args.bin").exists()
    with pytest.raises(InvalidJob, match="not empty"):
        provider.export(model, "merged", tmp_path / "merged")


def test_a_model_that_is_not_asked_says_why(provider: SageMakerProvider, model: ModelRef) -> None:
    answer = provider.generator(model)
    assert isinstance(answer, Unavailable)
    assert "evaluate_locally" in answer.reason
    base = provider.base_model(receipt_for(provider))
    assert isinstance(base, Unavailable)
    assert "base model" in base.reason
    assert model.id in provider.snippet(model)
    assert "endpoint" in provider.snippet(ModelRef(id="q", tuned=False))
    assert provider.serving_command(model, "m") is None


def test_training_goes_on_from_a_package(provider: SageMakerProvider, model: ModelRef, tmp_path: Path) -> None:
    base, options = provider.continue_from(model)
    assert base == QWEN
    body = request_for(provider, tmp_path, model=base, options=options).body
    assert body["ModelPackageConfig"]["SourceModelPackageArn"] == model.id


def test_the_inventory_and_the_job_behind_a_model(
    vendor: FakeSageMaker, provider: SageMakerProvider, model: ModelRef
) -> None:
    (remote,) = provider.inventory()
    assert remote.id == model.id
    job = provider.fetch(remote)
    assert (job.base, job.method, job.id) == (QWEN, "sft", model.data["job"])
    assert set(job.files) == {"train"}
    vendor.jobs.clear()
    with pytest.raises(VendorError, match="no job of this account"):
        provider.fetch(remote)


def test_what_is_removed_and_what_stays(vendor: FakeSageMaker, provider: SageMakerProvider, model: ModelRef) -> None:
    provider.delete(model)
    provider.delete(model)
    assert vendor.models == {}
    provider.delete(JobRef(id=str(model.data["job"])))
    assert len(vendor.jobs) == 1  # its name is what keeps the run at one job
    assert any("hf_merged" in key for _, key in vendor.objects)
    with pytest.raises(VendorError, match="left alone"):
        provider.delete(UploadRef(id="s3://my-bucket/yours.jsonl"))


# --- set-up ----------------------------------------------------------------------------------------------------------
def test_missing_settings_are_named(vendor: FakeSageMaker) -> None:
    bare = SageMakerProvider(settings=SageMakerSettings())
    assert bare.ready().missing_settings == ("region", "bucket", "role_arn", "model_package_group")
    with pytest.raises(InvalidSettings, match="model_package_group"):
        provider_at(vendor, model_package_group=None).submit(Request(operation="x", body={}), KEY)
    with pytest.raises(InvalidSettings, match="model_package_group"):
        list(provider_at(vendor, model_package_group=None).inventory())


def test_a_missing_package_names_the_extra(vendor: FakeSageMaker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "BOTO3", client.Requirement(extra="sagemaker", module="no_such", distribution="boto3"))
    with pytest.raises(MissingExtra) as caught:
        provider_at(vendor).find(KEY)
    assert "llmtune-sdk[sagemaker]" in str(caught.value.hint)


def test_importing_it_loads_no_sdk() -> None:
    code = "import sys, llmtune_sagemaker; print([name for name in ('boto3', 'botocore') if name in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
