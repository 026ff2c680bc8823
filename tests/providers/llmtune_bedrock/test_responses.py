"""Recorded payloads and files in every shape they come in."""

from __future__ import annotations

import json
from typing import Any

import pytest

from llmtune.provider.types import RunState
from llmtune_bedrock import responses
from tests.conftest import SHARED

PAYLOADS = SHARED / "data" / "payloads" / "bedrock"
material = pytest.mark.skipif(not PAYLOADS.is_dir(), reason="the material folder beside the checkout is absent")


@material
def test_the_recorded_answer_to_a_new_job() -> None:
    answer = json.loads((PAYLOADS / "nb_create_job_haiku.derived.json").read_text())
    job = responses.job_ref(answer["jobArn"], "name")
    assert responses.job_id(job.id) == "1npdg9tmj2m9"
    assert job.url is not None
    assert job.url.startswith("https://us-west-2.console.aws.amazon.com/")


@material
def test_the_recorded_state_change_event() -> None:
    event = json.loads((PAYLOADS / "eventbridge_state_change_event.json").read_text())
    snapshot = responses.snapshot(responses.from_event(event))
    assert snapshot.state is RunState.FAILED
    assert snapshot.error == "Failure Message here."
    assert snapshot.resolved == {"batch_size": 1, "epochs": 5, "learning_rate": 0.05, "warmup_steps": 10}
    assert snapshot.model is None
    (failure,) = snapshot.events
    assert failure.time == 1691757296.0
    assert "validation/loss" not in snapshot.not_reported
    with pytest.raises(ValueError, match="not a state change"):
        responses.from_event({"detail-type": "Something else"})


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("step_number,epoch_number,training_loss,perplexity\n0,0,2.5,12.18\n1,0,1.5,4.48\n", [(0, 2.5), (1, 1.5)]),
        ("step_number,epoch_number,training_loss\r\n0,0,2.5\r\n1,0,1.5\r\n", [(0, 2.5), (1, 1.5)]),
        ("\ufeffstep_number,epoch_number,training_loss\n0,0,2.5", [(0, 2.5)]),
        ("epoch_number, step_number , training_loss\n0, 7, 2.5\n", [(7, 2.5)]),
        ("step_number,epoch_number,training_loss\n0,0,\n,,\nnot,a,number\n1,0,1.5\n", [(1, 1.5)]),
        ("step_number,epoch_number,training_loss\n", []),
        ("", []),
    ],
)
def test_a_curve_in_every_shape(text: str, expected: list[tuple[int, float]]) -> None:
    points = [point for point in responses.curve(text, "train") if point.series == "train/loss"]
    assert [(point.step, point.value) for point in points] == expected
    assert all(point.source == "vendor_file" for point in points)


def test_a_diverged_loss_is_kept() -> None:
    (point,) = responses.curve("step_number,epoch_number,validation_loss\n3,1,NaN\n", "validation")
    assert point.series == "validation/loss"
    assert point.value != point.value
    assert point.epoch == 1.0


@pytest.mark.parametrize(("status", "state"), responses.STATES.items())
def test_every_state_is_mapped(status: str, state: RunState) -> None:
    assert responses.snapshot({"status": status, "jobArn": "a"}).state is state


def test_a_finished_job_without_curves_keeps_its_losses_and_says_so() -> None:
    job: dict[str, Any] = {
        "status": "Completed",
        "jobArn": "arn:x/y",
        "outputModelArn": "arn:m",
        "baseModelArn": "arn:aws:bedrock:us-east-1::foundation-model/amazon.nova-lite-v1:0:300k",
        "trainingMetrics": {"trainingLoss": 0.5},
        "validationMetrics": [{"validationLoss": 0.7}, {"validationLoss": 0.8}],
        "validationDataConfig": {"validators": [{"s3Uri": "a"}, {"s3Uri": "b"}]},
    }
    snapshot = responses.snapshot(job)
    assert [(point.series, point.value) for point in snapshot.points] == [
        ("train/loss", 0.5),
        ("validation/loss", 0.7),
        ("validation/loss_2", 0.8),
    ]
    assert all(point.source == "vendor_api" for point in snapshot.points)
    assert "could not be found" in snapshot.warnings[0]
    assert snapshot.model is not None
    assert snapshot.model.base == "amazon.nova-lite-v1:0:300k"


def test_hyperparameters_without_a_name_of_ours_are_kept() -> None:
    values, unmapped = responses.hyperparameters({"epochCount": "3", "learningRate": "1e-05", "evalPercentage": "20"})
    assert values == {"epochs": 3, "learning_rate": 1e-5}
    assert unmapped == {"evalPercentage": "20"}


# --- why a job failed ------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("reason", "advice"),
    [
        ("Could not assume provided IAM role.", "trust policy of role_arn must let bedrock.amazonaws.com"),
        ("User is not authorized, with an explicit deny in a service control policy", "no permission of yours helps"),
        ("User is not authorized, with an explicit deny in an identity-based policy", "that statement has to go"),
        ("Access to the KMS key was denied", "kms:Decrypt"),
        ("Unable to read the S3 object", "s3:ListBucket"),
    ],
)
def test_a_failure_names_what_can_be_done(reason: str, advice: str) -> None:
    error = responses.snapshot({"jobArn": "a", "status": "Failed", "failureMessage": reason}).error or ""
    assert error.startswith(reason.rstrip("."))
    assert advice in error


def test_a_failure_without_a_word_names_the_part_that_failed() -> None:
    details = {"validationDetails": {"status": "Completed"}, "trainingDetails": {"status": "Failed"}}
    error = responses.snapshot({"jobArn": "a", "status": "Failed", "statusDetails": details}).error
    assert error == "AWS does not say why; what failed is the training"


def test_a_failure_of_another_kind_is_told_in_the_vendors_words_alone() -> None:
    assert (
        responses.snapshot({"jobArn": "a", "status": "Failed", "failureMessage": "Too few rows."}).error
        == "Too few rows."
    )
