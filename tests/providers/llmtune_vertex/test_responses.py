"""Recorded payloads, the failed job, and Google's own misleading sample."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from llmtune.provider.types import RunState
from llmtune_vertex import responses
from tests.conftest import SHARED

PAYLOADS = SHARED / "data" / "payloads" / "vertex"
material = pytest.mark.skipif(not PAYLOADS.is_dir(), reason="the material folder beside the checkout is absent")

NAME = "projects/713601331534/locations/us-central1/tuningJobs/8356726629560483840"


def failed(**more: Any) -> dict[str, Any]:
    """Return a failed job as the REST API has it: int64 as text, error as google.rpc.Status."""
    return {
        "name": NAME,
        "baseModel": "gemini-2.5-flash",
        "supervisedTuningSpec": {
            "trainingDatasetUri": "gs://b/train.jsonl",
            "hyperParameters": {"epochCount": "4", "adapterSize": "ADAPTER_SIZE_SIXTEEN"},
        },
        "state": "JOB_STATE_FAILED",
        "createTime": "2026-11-20T06:20:11.698883Z",
        "updateTime": "2026-11-20T06:32:38.867719Z",
        "error": {"code": 9, "message": "Row 17 does not end with a model turn."},
        "tuningDataStats": {
            "supervisedTuningDataStats": {
                "tuningDatasetExampleCount": "500",
                "totalBillableTokenCount": "1000",
                "tuningStepCount": "40",
                "totalTruncatedExampleCount": "12",
                "truncatedExampleIndices": [str(index) for index in range(12)],
                "droppedExampleReasons": ["empty contents", "empty contents", "no model turn"],
            }
        },
    } | more


@material
def test_the_recorded_job() -> None:
    snapshot = responses.snapshot(json.loads((PAYLOADS / "nb_tuning_job_succeeded_to_dict.derived.json").read_text()))
    assert snapshot.state is RunState.SUCCEEDED
    assert snapshot.model is not None
    assert snapshot.model.id == "projects/713601331534/locations/us-central1/endpoints/5693131570647400448"
    assert snapshot.model.base == "gemini-1.5-flash-002"
    assert snapshot.resolved == {"epochs": 10, "learning_rate_multiplier": 1.0, "lora_rank": 8}
    assert snapshot.billed is not None
    assert snapshot.billed.tokens == 968_940  # 96,894 billable tokens a pass (94,474 in and 2,420 out), ten passes
    assert "96,894" in snapshot.billed.source
    assert snapshot.not_reported == {}
    assert snapshot.warnings == ()
    assert snapshot.error is None


@material
def test_the_recorded_job_survives_the_sdks_own_types() -> None:
    from google.genai import tunings, types

    raw = json.loads((PAYLOADS / "nb_tuning_job_succeeded_to_dict.derived.json").read_text())
    job = types.TuningJob._from_response(response=tunings._TuningJob_from_vertex(raw), kwargs={})
    assert responses.snapshot(job.model_dump(mode="json", by_alias=True, exclude_none=True)) == responses.snapshot(raw)


@material
def test_googles_own_sample_does_not_fool_the_parser() -> None:
    """The page shows `status`, `tuning_data_statistics` and misspelt keys, beside a tuned model."""
    text = (PAYLOADS / "doc_sample_get_response_template.txt").read_text()
    sample = json.loads(re.sub(r": ([A-Z_]+)(,?)\n", r': "1"\2\n', text))
    sample["status"] = "JOB_STATE_SUCCEEDED"
    snapshot = responses.snapshot(sample)
    assert snapshot.state is RunState.RUNNING
    assert "names no state" in snapshot.warnings[0]
    assert snapshot.model is None
    assert snapshot.billed is None
    assert snapshot.progress.total_steps is None
    assert "validation/loss" in snapshot.not_reported  # validationDataset_uri is no key of the API


def test_a_failed_job_says_why() -> None:
    snapshot = responses.snapshot(failed())
    assert snapshot.state is RunState.FAILED
    assert snapshot.error == "Row 17 does not end with a model turn."
    assert snapshot.model is None
    assert snapshot.progress.total_steps == 40
    assert snapshot.billed is not None
    assert snapshot.billed.tokens == 4000
    assert snapshot.warnings == (
        "12 rows were longer than the limit and were truncated (indices 0, 1, 2, 3, 4, 5, 6, 7, 8, 9 and 2 more)",
        "3 rows were dropped: empty contents; no model turn",
    )
    (event,) = snapshot.events
    assert (event.level, event.time) == ("error", pytest.approx(1795156358.87, abs=0.1))


def test_a_failed_job_may_leave_a_usable_model() -> None:
    endpoint = "projects/1/locations/us-central1/endpoints/2"
    snapshot = responses.snapshot(
        failed(tunedModel={"model": "projects/1/locations/us-central1/models/3@1", "endpoint": endpoint})
    )
    assert snapshot.state is RunState.FAILED
    assert snapshot.model is not None
    assert snapshot.model.id == endpoint
    assert "left a usable model" in snapshot.warnings[0]


@pytest.mark.parametrize(("raw_state", "expected"), responses.STATES.items())
def test_all_twelve_states(raw_state: str, expected: RunState) -> None:
    from google.genai.types import JobState

    assert responses.snapshot(failed(state=raw_state)).state is expected
    assert {state.value for state in JobState} == set(responses.STATES)


def test_sub_states_are_events_once_each() -> None:
    from google.genai.types import TuningJobState

    sub_states = {state.value for state in TuningJobState if not state.value.endswith("UNSPECIFIED")}
    assert sub_states == set(responses.SUB_STATES)
    running = failed(state="JOB_STATE_RUNNING", tuningJobState="TUNING_JOB_STATE_WAITING_FOR_QUOTA", error=None)
    assert [event.message for event in responses.snapshot(running).events] == ["waiting for quota"]
    assert responses.snapshot(running).events == responses.snapshot(running).events


@pytest.mark.parametrize(
    ("raw", "series"),
    [
        ("/train_total_loss", "train/loss"),
        ("/eval_fraction_of_correct_next_step_preds", "validation/token_accuracy"),
        ("/preference_optimization_train_loss", "train/loss"),
        ("/eval_something_new", "validation/something_new"),
        ("/train_reward", "train/train_reward"),
    ],
)
def test_names_of_curves(raw: str, series: str) -> None:
    assert responses.series(raw) == series


def test_billed_tokens_need_the_epochs() -> None:
    job = failed()
    del job["supervisedTuningSpec"]["hyperParameters"]["epochCount"]
    assert responses.snapshot(job).billed is None


def test_preference_statistics_are_read_too() -> None:
    stats = {"totalBillableTokenCount": "10", "droppedExampleIndices": ["4", "9"], "droppedExampleReasons": ["same"]}
    job = failed(
        supervisedTuningSpec=None,
        preferenceOptimizationSpec={"hyperParameters": {"epochCount": "2", "beta": 0.1}},
        tuningDataStats={"preferenceOptimizationDataStats": stats},
    )
    snapshot = responses.snapshot(job)
    assert snapshot.billed is not None
    assert snapshot.billed.tokens == 20
    assert snapshot.warnings == ("2 rows were dropped (indices 4, 9): same",)
    assert responses.remote_job(job).method == "dpo"


def test_a_tuned_gemini_without_its_endpoint_has_not_told_everything() -> None:
    job = {"name": "n", "state": "JOB_STATE_SUCCEEDED", "tunedModel": {"model": "projects/p/models/m"}}
    assert responses.snapshot(job).pending == ("the model's endpoint",)
    job["tunedModel"] = {"model": "projects/p/models/m", "endpoint": "projects/p/endpoints/e"}
    assert responses.snapshot(job).pending == ()


def test_a_job_that_failed_without_a_word_says_what_it_was_doing() -> None:
    job = {"name": "n", "state": "JOB_STATE_FAILED", "tuningJobState": "TUNING_JOB_STATE_PROCESSING_DATASET"}
    assert "processing the dataset" in (responses.snapshot(job).error or "")
