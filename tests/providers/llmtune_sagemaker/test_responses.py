"""What SageMaker answers, in our words."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from llmtune.provider.types import RunState
from llmtune_sagemaker import responses

PACKAGE = "arn:aws:sagemaker:us-east-1:123456789012:model-package/llmtune/1"
MODEL = "arn:aws:sagemaker:us-east-1:aws:hub-content/SageMakerPublicHub/Model/huggingface-reasoning-qwen3-8b/2.0.1"


def job(**fields: Any) -> dict[str, Any]:
    return {
        "TrainingJobName": "tickets-lt0123456789",
        "TrainingJobStatus": "Completed",
        "SecondaryStatus": "Completed",
        "ModelArtifacts": {"S3ModelArtifacts": "s3://b/out"},
        "ServerlessJobConfig": {"BaseModelArn": MODEL, "Peft": "LORA", "CustomizationTechnique": "SFT"},
        "InputDataConfig": [{"ChannelName": "train"}, {"ChannelName": "validation"}],
        **fields,
    }


@pytest.mark.parametrize(
    ("status", "detail", "state"),
    [
        ("InProgress", "Starting", RunState.QUEUED),
        ("InProgress", "Pending", RunState.QUEUED),
        ("InProgress", "Training", RunState.RUNNING),
        ("InProgress", "Uploading", RunState.FINALIZING),
        ("InProgress", "SomethingNew", RunState.RUNNING),
        ("Completed", "Completed", RunState.SUCCEEDED),
        ("Failed", "Failed", RunState.FAILED),
        ("Stopping", "Stopping", RunState.CANCELLING),
        ("Stopped", "Stopped", RunState.CANCELLED),
        ("Stopped", "MaxRuntimeExceeded", RunState.FAILED),
    ],
)
def test_states(status: str, detail: str, state: RunState) -> None:
    assert responses.read_state(status, detail) == (state, ())
    assert responses.snapshot(job(TrainingJobStatus=status, SecondaryStatus=detail)).state is state


def test_a_new_state_is_running_with_a_warning() -> None:
    snapshot = responses.snapshot(job(TrainingJobStatus="Dreaming"))
    assert snapshot.state is RunState.RUNNING
    assert any("Dreaming" in warning for warning in snapshot.warnings)


def test_a_time_limit_says_so() -> None:
    snapshot = responses.snapshot(job(TrainingJobStatus="Stopped", SecondaryStatus="MaxRuntimeExceeded"))
    assert "time limit" in str(snapshot.error)
    assert "max_runtime_seconds" in str(snapshot.error)


def test_a_reason_comes_with_what_to_do() -> None:
    reason = "ClientError: Train dataloader is empty"
    failed = responses.snapshot(job(TrainingJobStatus="Failed", FailureReason=reason))
    assert str(failed.error).startswith(reason)
    assert "batch_size" in str(failed.error)
    assert failed.events[-1].level == "error"


@pytest.mark.parametrize(
    ("info", "step", "total", "epoch"),
    [
        ({"TotalStepCountPerEpoch": 10, "CurrentStep": 3, "CurrentEpoch": 2, "MaxEpoch": 4}, 13, 40, 1.3),
        ({"TotalStepCountPerEpoch": 10, "CurrentStep": 13, "CurrentEpoch": 2, "MaxEpoch": 4}, 13, 40, 1.3),
        ({"TotalStepCountPerEpoch": 10, "CurrentStep": 10, "CurrentEpoch": 4, "MaxEpoch": 4}, 40, 40, 4.0),
        ({"TotalStepCountPerEpoch": 10, "CurrentStep": 99, "CurrentEpoch": 4, "MaxEpoch": 4}, 40, 40, 4.0),
        ({"CurrentStep": 5}, 5, None, None),
        ({"CurrentStep": -1}, None, None, None),
        ({}, None, None, None),
    ],
)
def test_progress_by_either_way_of_counting(info: Any, step: Any, total: Any, epoch: Any) -> None:
    progress = responses.progress({"ProgressInfo": info})
    assert (progress.step, progress.total_steps, progress.epoch) == (step, total, epoch)


def test_final_metrics_get_the_last_step_and_our_names() -> None:
    metrics = [
        {"MetricName": name, "Value": value, "Timestamp": datetime(2026, 12, 1, tzinfo=UTC)}
        for name, value in (("train_loss", 0.5), ("eval_loss", 0.6), ("rewards/margins", 1.0))
    ]
    info = {"TotalStepCountPerEpoch": 10, "CurrentStep": 10, "CurrentEpoch": 2, "MaxEpoch": 2}
    snapshot = responses.snapshot(job(FinalMetricDataList=metrics, ProgressInfo=info))
    assert {(point.series, point.step, point.value) for point in snapshot.points} == {
        ("train/loss", 20, 0.5),
        ("validation/loss", 20, 0.6),
        ("train/rewards/margins", 20, 1.0),
    }
    running = responses.snapshot(job(TrainingJobStatus="InProgress", FinalMetricDataList=metrics))
    assert running.points == ()


def test_tokens_that_are_billed() -> None:
    assert responses.snapshot(job()).billed is None
    billed = responses.snapshot(job(BillableTokenCount=12_345)).billed
    assert billed is not None
    assert (billed.tokens, billed.amount) == (12_345, None)
    assert "BillableTokenCount" in billed.source


def test_the_model_is_its_package_or_its_artefact() -> None:
    packaged = responses.tuned_model(job(OutputModelPackageArn=PACKAGE))
    assert packaged is not None
    assert (packaged.id, packaged.base) == (PACKAGE, "huggingface-reasoning-qwen3-8b")
    assert packaged.data == {"job": "tickets-lt0123456789", "artefacts": "s3://b/out", "adapter": "lora"}
    plain = responses.tuned_model(job())
    assert plain is not None
    assert plain.id == "s3://b/out"
    assert responses.tuned_model(job(ModelArtifacts={})) is None


def test_transitions_are_events_of_their_own() -> None:
    steps = [
        {"Status": "Starting", "StartTime": 1.0, "StatusMessage": "Starting the training job"},
        {"Status": "Training", "StartTime": 2.0},
        {"Status": "MaxRuntimeExceeded", "StartTime": 3.0, "StatusMessage": "over"},
    ]
    events = list(responses.events(job(SecondaryStatusTransitions=steps)))
    assert [event.message for event in events] == [
        "Starting: Starting the training job",
        "Training",
        "MaxRuntimeExceeded: over",
    ]
    assert [event.level for event in events] == ["info", "info", "warning"]
    assert len({event.id for event in events}) == 3


def test_without_validation_rows_there_is_no_validation_loss() -> None:
    assert "validation/loss" not in responses.snapshot(job()).not_reported
    alone = responses.snapshot(job(InputDataConfig=[{"ChannelName": "train"}]))
    assert "validation rows" in alone.not_reported["validation/loss"]


def test_a_remote_job_has_our_names() -> None:
    source = {"S3DataSource": {"S3Uri": "s3://b/train.jsonl"}}
    sent = {"max_epochs": "3", "lora_alpha": "32", "adam_beta": "0.1", "seed": "7", "merge_weights": "true"}
    fetched = responses.remote_job(
        job(
            HyperParameters=sent,
            InputDataConfig=[{"ChannelName": "train", "DataSource": source}, {"ChannelName": "x"}],
            ServerlessJobConfig={
                "BaseModelArn": MODEL,
                "CustomizationTechnique": "DPO",
                "SequenceLength": "8K",
                "AcceptEula": True,
            },
            Tags=[{"Key": "team", "Value": "a"}, {"Key": "llmtune-run", "Value": "lt"}],
        ),
        PACKAGE,
    )
    assert fetched.method == "dpo"
    assert fetched.base == "huggingface-reasoning-qwen3-8b"
    assert fetched.hyperparameters == {"epochs": 3, "lora_alpha": 32.0, "dpo_beta": 0.1}
    assert fetched.unmapped == {"merge_weights": "true"}
    assert (fetched.seed, fetched.tags, fetched.files) == (7, {"team": "a"}, {"train": "s3://b/train.jsonl"})
    assert fetched.data == {"adapter": "full"}
    assert fetched.options == {"sequence_length": "8K"}
    assert fetched.record["AcceptEula"] is True  # told, and never accepted again by itself
    unknown = responses.remote_job(job(ServerlessJobConfig={"CustomizationTechnique": "RLAIF"}), PACKAGE)
    assert unknown.method == "RLAIF"


def test_where_a_packages_weights_lie() -> None:
    source = {"ModelDataSource": {"S3DataSource": {"S3Uri": "s3://b/w/"}}}
    assert responses.package_artefacts({"InferenceSpecification": {"Containers": [{}, source]}}) == "s3://b/w/"
    assert responses.package_artefacts({"InferenceSpecification": {"Containers": [{"ModelDataUrl": "s3://b/x"}]}})
    assert responses.package_artefacts({}) is None


def test_names_in_arns() -> None:
    assert responses.job_name("arn:aws:sagemaker:us-east-1:1:training-job/a-b") == "a-b"
    assert responses.job_name("a-b") == "a-b"
    assert responses.base_id("something") == "something"
    assert "region=us-east-1#/jobs/a-b" in str(responses.job_ref("a-b", "us-east-1").url)
