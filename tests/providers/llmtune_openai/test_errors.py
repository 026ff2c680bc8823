"""States, metrics and refusals, without any recorded material."""

from __future__ import annotations

from typing import Any

import pytest

from llmtune.errors import MissingCredentials, ProviderClosed, QuotaExceeded, TransientError, VendorError
from llmtune.provider.http import retry_after
from llmtune.provider.types import RunState
from llmtune_nebius.provider import NEBIUS
from llmtune_openai import errors, metrics, responses
from llmtune_openai import requests as bodies
from llmtune_openai.declarations import KEY_TAG
from llmtune_openai.services import COMPATIBLE, OPENAI


def job(**changed: Any) -> dict[str, Any]:
    return {"id": "ftjob-1", "object": "fine_tuning.job", "status": "running", "model": "m", **changed}


@pytest.mark.parametrize(
    ("status", "state"),
    [
        ("validating_files", RunState.QUEUED),
        ("queued", RunState.QUEUED),
        ("created", RunState.QUEUED),
        ("pending", RunState.QUEUED),
        ("running", RunState.RUNNING),
        ("pausing", RunState.RUNNING),
        ("resuming", RunState.RUNNING),
        ("paused", RunState.PAUSED),
        ("cancelling", RunState.CANCELLING),
        ("succeeded", RunState.SUCCEEDED),
        ("failed", RunState.FAILED),
        ("cancelled", RunState.CANCELLED),
        ("canceled", RunState.CANCELLED),
    ],
)
def test_every_state_word_seen(status: str, state: RunState) -> None:
    snapshot = responses.snapshot(job(status=status, fine_tuned_model="ft:m"))
    assert (snapshot.state, snapshot.raw_state, snapshot.warnings) == (state, status, ())


def test_the_table_holds_nothing_untested() -> None:
    assert len(responses.STATES) == 13


def test_a_new_word_is_kept_and_taken_for_running() -> None:
    snapshot = responses.snapshot(job(status="recalibrating"))
    assert snapshot.state is RunState.RUNNING
    assert snapshot.raw_state == "recalibrating"
    assert "recalibrating" in snapshot.warnings[0]


@pytest.mark.parametrize("error", [None, {}, {"code": None, "message": None, "param": None}])
def test_a_job_that_is_well_has_no_error(error: Any) -> None:
    assert responses.snapshot(job(error=error)).error is None


@pytest.mark.parametrize(
    "payload",
    [{"object": "fine-tune", "id": "ft-AF1WoRqd3aJAHsqc9NY7iL8F", "status": "pending"}, {"id": "ft-x", "status": "y"}],
)
def test_jobs_of_the_removed_api_are_refused_by_name(payload: dict[str, Any]) -> None:
    with pytest.raises(VendorError, match="removed /v1/fine-tunes API") as caught:
        responses.snapshot(payload)
    assert caught.value.code == "removed_api"


@pytest.mark.parametrize("payload", [{}, {"object": "list", "data": []}, [], "html", None])
def test_what_is_no_job_is_refused(payload: Any) -> None:
    with pytest.raises(VendorError, match="not a fine-tuning job"):
        responses.check_is_job(payload)


def test_metrics_of_events_checkpoints_and_file_are_one_series() -> None:
    events = [
        {
            "id": "e1",
            "type": "metrics",
            "created_at": 10,
            "message": "Step 1/2",
            "data": {"step": 1, "total_steps": 2, "train_loss": 0.15, "valid_loss": 0.3},
        },
        {
            "id": "e2",
            "type": "metrics",
            "created_at": 20,
            "message": "Step 2/2",
            "data": {"step": 2, "total_steps": 2, "train_loss": 0.1, "full_valid_loss": 0.4},
        },
    ]
    checkpoint = {
        "id": "ftckpt_1",
        "step_number": 2,
        "created_at": 20,
        "fine_tuned_model_checkpoint": "ft:m::ckpt-step-2",
        "metrics": {"type": "supervised", "step": 2, "train_mean_token_accuracy": 0.9, "full_valid_loss": 0.41},
    }
    csv = b"step,train_loss,train_accuracy,valid_loss,valid_mean_token_accuracy\n1,0.15213,0.5,,\n2,0.10498,1.0,0.2,\n"
    snapshot = responses.snapshot(
        job(validation_file="file-v"), events=events, checkpoints=[checkpoint], results={"file-r": csv}
    )
    values = {(point.series, point.step): (point.value, point.source) for point in snapshot.points}
    assert values == {
        ("train/loss", 1): (0.15213, "vendor_file"),
        ("train/loss", 2): (0.10498, "vendor_file"),
        ("train/token_accuracy", 1): (0.5, "vendor_file"),
        ("train/token_accuracy", 2): (1.0, "vendor_file"),
        ("validation/loss", 1): (0.3, "vendor_api"),
        ("validation/loss", 2): (0.2, "vendor_file"),
        ("validation/full_loss", 2): (0.41, "vendor_api"),
    }
    assert (snapshot.progress.step, snapshot.progress.total_steps) == (2, 2)
    assert snapshot.events == ()
    assert [ref.id for ref in snapshot.checkpoints] == ["ft:m::ckpt-step-2"]
    assert snapshot.not_reported == {}


def test_without_a_validation_file_its_series_say_why_they_are_missing() -> None:
    assert responses.snapshot(job()).not_reported["validation/full_loss"] == "no validation file was sent"


def test_a_metric_without_a_name_of_ours_keeps_the_vendors() -> None:
    points = metrics.from_events(
        [{"id": "e", "type": "metrics", "data": {"step": 3, "train_reasoning_tokens": 15, "valid_parse_errors": 2}}]
    )
    assert {point.series for point in points} == {"train/train_reasoning_tokens", "validation/valid_parse_errors"}


def test_the_rewards_of_a_reinforcement_job_have_names_of_ours() -> None:
    rewards = {"step": 3, "train_reward_mean": 0.5, "valid_reward_mean": 0.4, "full_valid_reward_mean": 0.3}
    points = metrics.from_events([{"id": "e", "type": "metrics", "data": rewards}])
    assert {point.series: point.value for point in points} == {
        "train/reward": 0.5,
        "validation/reward": 0.4,
        "validation/full_reward": 0.3,
    }


def test_a_diverged_loss_is_kept() -> None:
    points, _ = metrics.from_result_file(b"step,train_loss\n1,nan\n")
    assert str(points[0].value) == "nan"


@pytest.mark.parametrize("content", [b"", b"<html>", b"bm90IGNzdg==", b"\xff\xfe"])
def test_a_result_file_that_is_none_warns(content: bytes) -> None:
    snapshot = responses.snapshot(job(status="succeeded", fine_tuned_model="ft:m"), results={"file-1": content})
    assert not snapshot.points
    assert "file-1" in snapshot.warnings[0]


def test_nebius_tells_steps_in_the_job_and_shape_in_its_hyperparameters() -> None:
    snapshot = responses.snapshot(
        job(
            trained_steps=5,
            total_steps=9,
            hyperparameters={"lora": True, "lora_r": 16, "learning_rate": 2e-5, "packing": True, "n_epochs": 3},
        )
    )
    assert (snapshot.progress.step, snapshot.progress.total_steps) == (5, 9)
    assert snapshot.resolved == {"lora_rank": 16, "learning_rate": 2e-5, "packing": True, "epochs": 3}


def refused(status: int, body: Any, headers: dict[str, str] | None = None) -> Any:
    return errors.refusal(
        status,
        body,
        headers or {},
        title="OpenAI",
        name="openai",
        key_env="OPENAI_API_KEY",
        alternatives=lambda: ("local",),
    )


@pytest.mark.parametrize(
    ("status", "code", "kind"),
    [
        (403, "training_not_available", ProviderClosed),
        (400, "model_not_available", ProviderClosed),
        (429, "insufficient_quota", QuotaExceeded),
        (400, "quotaExceeded", QuotaExceeded),
        (401, "invalid_api_key", MissingCredentials),
        (403, "forbidden", VendorError),
        (400, None, VendorError),
        (404, None, VendorError),
        (408, None, TransientError),
        (409, None, TransientError),
        (500, "server_error", TransientError),
        (503, None, TransientError),
    ],
)
def test_refusals(status: int, code: str | None, kind: type[Exception]) -> None:
    error = refused(status, {"error": {"message": "words", "code": code}})
    assert type(error) is kind
    assert "words" in error.message


def test_a_full_house_is_a_quota_and_a_hurry_is_not() -> None:
    full = refused(429, {"message": "Your organization has reached the maximum of 3 active requests"})
    assert isinstance(full, QuotaExceeded)
    hurry = refused(429, {"error": {"message": "slow down"}}, {"Retry-After": "7"})
    assert isinstance(hurry, TransientError)
    assert (hurry.retry_after, hurry.sent) == (7.0, False)


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [({"retry-after-ms": "250"}, 0.25), ({"Retry-After": "2"}, 2.0), ({}, None), ({"retry-after": "soon"}, None)],
)
def test_how_long_to_wait(headers: dict[str, str], seconds: float | None) -> None:
    assert retry_after(headers) == seconds


def test_a_date_to_wait_for_lies_ahead() -> None:
    assert retry_after({"retry-after": "Fri, 01 Jan 2038 00:00:00 GMT"}) > 1e6  # type: ignore[operator]
    assert retry_after({"retry-after": "Fri, 01 Jan 1999 00:00:00 GMT"}) == 0.0


@pytest.mark.parametrize("payload", ["<html>gone</html>", None, {"title": "problem", "validation": []}, {"error": "x"}])
def test_odd_bodies_are_read_without_falling_over(payload: Any) -> None:
    assert "OpenAI refused (418)" in refused(418, payload).message


def test_the_key_travels_where_each_service_shows_it() -> None:
    key: Any = "lt0123456789"
    body = {"model": "m", "suffix": "x" * 64, "metadata": {"team": "a"}}
    at_openai = bodies.keyed(OPENAI, body, key)
    assert at_openai["metadata"] == {"team": "a", KEY_TAG: key}
    assert at_openai["suffix"] == "x" * 64
    at_nebius = bodies.keyed(NEBIUS, body, key)
    assert at_nebius["suffix"] == "x" * 51 + "-" + key
    assert bodies.keyed(COMPATIBLE, {"model": "m"}, key)["metadata"] == {KEY_TAG: key}
    assert body == {"model": "m", "suffix": "x" * 64, "metadata": {"team": "a"}}, "the request itself stays clean"
    assert bodies.carries({"metadata": {KEY_TAG: key}}, key)
    assert bodies.carries({"suffix": f"router-{key}"}, key)
    assert bodies.carries({"user_provided_suffix": f"router-{key}"}, key)
    assert not bodies.carries({"metadata": {KEY_TAG: "lt9999999999"}, "suffix": None}, key)


def test_what_the_sdk_has_no_name_for_goes_through_extra_body() -> None:
    assert bodies.for_sdk({"model": "m", "trainingType": "Standard", "tags": "a"}) == {
        "model": "m",
        "extra_body": {"trainingType": "Standard", "tags": "a"},
    }


# --- headers of result files, limits, and what the safety checks say --------------------------------------------------
@pytest.mark.parametrize(
    "header",
    [
        "step,train_loss,valid_loss",
        "step, train_loss, valid_loss",
        '"step","train_loss","valid_loss"',
        " step ,train_loss,valid_loss ",
    ],
)
def test_a_header_with_blanks_or_quotes_keeps_each_curve_where_it_belongs(header: str) -> None:
    points, complaint = metrics.from_result_file(f"{header}\n1, 0.5, 0.75\n2,0.25,\n".encode())
    assert complaint is None
    assert [(point.series, point.step, point.value) for point in points] == [
        ("train/loss", 1, 0.5),
        ("validation/loss", 1, 0.75),
        ("train/loss", 2, 0.25),
    ]


def test_an_index_column_is_no_metric() -> None:
    points, complaint = metrics.from_result_file(b",step,train_loss\n0,1,0.5\n1,2,0.25\n")
    assert complaint is None
    assert [(point.series, point.step) for point in points] == [("train/loss", 1), ("train/loss", 2)]


def test_text_that_only_speaks_of_steps_is_no_result_file() -> None:
    assert metrics.from_result_file(b"the step that failed, sadly\n")[1] is not None


@pytest.mark.parametrize(
    ("status", "code", "message", "limit", "hint"),
    [
        (429, "exceeded_quota", "This job would exceed your hard limit.", "spending", "spending limit"),
        (429, "insufficient_quota", "You exceeded your current quota.", "spending", "spending limit"),
        (429, "billing_hard_limit_reached", "Billing hard limit has been reached", "spending", "add credit"),
        (429, None, "This request would exceed your hard limit of $120.00.", "spending", "spending limit"),
        (402, None, "Payment Required", "spending", "spending limit"),
        (429, "daily_rate_limit_exceeded", "You have reached the daily limit of jobs.", "daily", "tomorrow"),
        (
            400,
            "quotaExceeded",
            "The quota for files without expiry is reached. The maximum is 500.",
            "files",
            "runs cleanup",
        ),
        (429, "max_active_jobs_exceeded", "You have 3 active jobs.", "active_jobs", "a running job has ended"),
        (429, None, "Your organization has reached the maximum of 3 active requests", "active_jobs", "has ended"),
        (400, "quotaExceeded", "The limit of concurrent jobs is reached.", "active_jobs", "has ended"),
        (400, "InsufficientQuota", "This operation requires 50 new capacity.", "deployments", "less capacity"),
        (400, "quotaExceeded", "Quota exceeded.", "other", "account's page"),
    ],
)
def test_each_limit_says_what_lifts_it(status: int, code: str | None, message: str, limit: str, hint: str) -> None:
    error = refused(status, {"error": {"message": message, "code": code}})
    assert isinstance(error, QuotaExceeded)
    assert error.limit == limit
    assert hint in str(error.hint)


def test_a_limit_named_by_its_type_alone_is_one() -> None:
    error = refused(429, {"error": {"message": "No.", "type": "insufficient_quota", "code": None}})
    assert isinstance(error, QuotaExceeded)
    assert error.limit == "spending"


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("rate_limit_exceeded", "Rate limit reached on requests per day (RPD): Limit 200. Please try again in 7.2s."),
        ("rate_limit_exceeded", "Rate limit reached for file uploads: maximum 1000 files per minute."),
        (None, "slow down"),
        (None, "Too many requests"),
    ],
)
def test_a_rate_limit_is_waited_for_and_says_so_when_that_did_not_help(code: str | None, message: str) -> None:
    error = refused(429, {"error": {"message": message, "code": code}}, {"Retry-After": "1"})
    assert isinstance(error, TransientError)
    assert (error.limit, error.sent) == ("rate", False)
    assert "wait some minutes" in str(error.hint)


@pytest.mark.parametrize("message", ["The file is too large: the limit is 512 MB.", "This model has no active version"])
def test_a_refusal_that_speaks_of_limits_is_none_of_the_account(message: str) -> None:
    assert type(refused(400, {"error": {"message": message, "code": "invalid_request"}})) is VendorError


def test_a_refusal_without_a_word_names_what_to_look_at() -> None:
    error = errors.refusal(403, {"error": {"message": ""}}, {}, title="T", name="n", key_env="MY_KEY")
    assert isinstance(error, VendorError)
    assert "balance" in str(error.hint)
    assert "MY_KEY" in str(error.hint)


def test_checks_that_a_model_has_passed_hold_nothing_against_it() -> None:
    event = {
        "id": "e",
        "type": "moderation_checks",
        "level": "info",
        "message": "Moderation checks passed.",
        "data": {"blocked": False, "results": [{"category": "hate", "flagged": False}]},
    }
    assert responses.blocked_by([event]) is None
    assert responses.snapshot(job(status="failed"), events=[event]).error is None


def test_a_refusal_of_the_safety_checks_names_the_category_and_the_bill() -> None:
    event = {
        "id": "e",
        "type": "moderation_checks",
        "level": "error",
        "message": "Failed refusals_v3.",
        "data": {
            "results": [{"category": "hate/threatening", "passed": False}, {"category": "sexual", "passed": True}]
        },
    }
    error = responses.snapshot(job(status="failed", trained_tokens=1200), events=[event]).error or ""
    assert "(hate/threatening): Failed refusals_v3" in error
    assert "1,200 tokens were trained, and are billed" in error
