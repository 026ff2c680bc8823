"""Recorded traffic of OpenAI and Azure parses into the common model, all of it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from llmtune.errors import ProviderClosed, VendorError
from llmtune.provider.types import RunState
from llmtune_openai import errors, metrics, responses

SHARED = Path(__file__).resolve().parents[3].parent / "shared"
PAYLOADS = SHARED / "data" / "payloads"
RESULTS = SHARED / "data" / "results" / "openai"

pytestmark = pytest.mark.skipif(not PAYLOADS.is_dir(), reason="the third-party material beside the checkout is absent")


def files(*patterns: str) -> list[Path]:
    return [path for pattern in patterns for path in sorted(PAYLOADS.glob(pattern))]


def jobs_in(payload: Any) -> Iterator[dict[str, Any]]:
    """Yield every fine-tuning job in a payload, however deep."""
    if isinstance(payload, dict):
        if payload.get("object") == "fine_tuning.job":
            yield payload
        else:
            for value in payload.values():
                yield from jobs_in(value)
    elif isinstance(payload, list):
        for value in payload:
            yield from jobs_in(value)


def loaded(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def refusal(entry: dict[str, Any]) -> Exception:
    return errors.refusal(
        entry["StatusCode"],
        entry["ResponseBody"],
        entry["ResponseHeaders"],
        title="OpenAI",
        name="openai",
        key_env="OPENAI_API_KEY",
        alternatives=lambda: ("bedrock", "openai", "local"),
    )


JOB_FILES = files("openai/*.derived.json", "openai/recorded_*.json", "azure/*.derived.json")


def test_the_material_is_there() -> None:
    assert len(JOB_FILES) >= 17


@pytest.mark.parametrize("path", JOB_FILES, ids=lambda path: path.name)
def test_every_job_parses(path: Path) -> None:
    payload = loaded(path)
    for job in jobs_in(payload):
        snapshot = responses.snapshot(job)
        assert snapshot.raw_state == job["status"]
        assert not [warning for warning in snapshot.warnings if "unknown state" in warning]
        assert (snapshot.error is None) == (job["status"] != "failed")
        assert (snapshot.model is not None) == bool(job.get("fine_tuned_model"))
        for name in ("epochs", "batch_size", "learning_rate_multiplier"):
            value = snapshot.resolved.get(name)
            assert value is None or value > 0, f"{name}={value!r} is no value: auto and -1 are not told"
        again = responses.remote_job(job)
        assert again.files["train"] == job["training_file"]
        echoed = responses.hyperparameters_of(job)[1]
        assert len(again.hyperparameters) + len(again.unmapped) + len(again.chosen) == len(echoed), (
            "no hyperparameter may vanish"
        )


def test_the_succeeded_jobs_tell_model_tokens_and_hyperparameters() -> None:
    drone = responses.snapshot(loaded(PAYLOADS / "openai/nb_cookbook_drone_job_succeeded.derived.json"))
    assert drone.state is RunState.SUCCEEDED
    assert drone.model is not None
    assert drone.model.id == "ft:gpt-3.5-turbo-0125:openai-gtm:drone:9atiPjeC"
    assert drone.billed is not None
    assert drone.billed.tokens == 145983
    assert drone.resolved == {"epochs": 3, "batch_size": 1, "learning_rate_multiplier": 2, "seed": 1513865891}
    chart = responses.snapshot(loaded(PAYLOADS / "azure/nb_job_succeeded_chart_vision.derived.json"))
    assert chart.billed is not None
    assert chart.billed.tokens == 129488088
    assert chart.model is not None
    assert ".ft-" in chart.model.id


def test_azures_minus_one_is_not_a_value() -> None:
    nano = responses.snapshot(loaded(PAYLOADS / "azure/nb_job_pending_nano_developerTier.derived.json"), now=1765377628)
    assert nano.state is RunState.QUEUED
    assert nano.resolved == {"learning_rate_multiplier": 0.1, "seed": 1003399446}
    assert nano.progress.seconds_left == 1765471227 - 1765377628


def test_a_reinforcement_job_keeps_its_method_and_loses_nothing() -> None:
    job = loaded(PAYLOADS / "azure/nb_rft_job_with_multi_grader.derived.json")
    remote = responses.remote_job(job)
    assert remote.method == "reinforcement"
    assert responses.snapshot(job).state is RunState.QUEUED


def test_the_failed_job_says_why_in_the_vendors_words() -> None:
    failed = [job for job in jobs_in(loaded(PAYLOADS / "openai/recorded_GetJobs.json")) if job["status"] == "failed"]
    assert [responses.snapshot(job).error for job in failed] == [
        "The job failed because the training file was deleted (deleted_training_file)"
    ]


def test_event_pages_parse() -> None:
    entries = loaded(PAYLOADS / "openai/recorded_GetJobEvents.json")["Entries"]
    page = next(entry["ResponseBody"] for entry in entries if "/events" in entry["RequestUri"])
    assert [event.message for event in responses.message_events(page["data"])] == [
        "Validating training file: file-MNu4SQN4hf2nJmWVXyv8qW"
    ]
    warned = responses.message_events(loaded(PAYLOADS / "openai/nb_events_warn_context_2023.derived.json")["data"])
    assert [event.level for event in warned].count("warning") == 1


def test_old_event_sentences_become_points() -> None:
    lines = (PAYLOADS / "openai/nb_cookbook_event_lines_v0.txt").read_text().splitlines()
    events = [{"id": str(at), "message": line, "created_at": at, "type": "message"} for at, line in enumerate(lines)]
    points = metrics.from_events(events)
    assert [point.step for point in points] == list(range(10, 301, 10))
    assert points[0].series == "train/loss"
    assert (points[0].value, points[-1].value) == (0.16, 0.53)
    assert all(point.source == "vendor_api" for point in points)


@pytest.mark.parametrize("path", files("openai/spec_*.txt"), ids=lambda path: path.name)
def test_samples_of_the_api_reference_parse(path: Path) -> None:
    payload = YAML(typ="safe").load(path.read_text().replace("None", "null"))  # YAML forgives their trailing commas
    for job in jobs_in(payload):
        assert not responses.read_state(job)[1]
        responses.snapshot(job)
    if "events" in path.name:
        assert len(responses.message_events(payload["data"])) == 2


@pytest.mark.parametrize("path", files("openai/recorded_*.json"), ids=lambda path: path.name)
def test_recorded_refusals_become_our_errors(path: Path) -> None:
    for entry in loaded(path)["Entries"]:
        if entry["StatusCode"] < 400:
            continue
        error = refusal(entry)
        if "InvalidModelName" in path.name:
            assert isinstance(error, ProviderClosed)
            assert error.alternatives == ("bedrock", "local")
            assert "gpt-nonexistent" in error.message
        else:
            assert isinstance(error, VendorError)
            assert "invalid training_file: Invalid File Name (field training_file)" in error.message


@pytest.mark.parametrize("path", files("openai/vcr_*.yml"), ids=lambda path: path.name)
def test_cassettes_of_the_living_api_parse(path: Path) -> None:
    """Their names say "finetunes", their addresses /v1/fine_tuning and /v1/files: this is the API that lives."""
    for exchange in YAML(typ="safe").load(path.read_text())["http_interactions"]:
        assert "/fine-tunes" not in exchange["request"]["uri"]
        payload = json.loads(exchange["response"]["body"]["string"])
        for job in jobs_in(payload):
            assert not responses.snapshot(job).warnings
            responses.remote_job(job)


@pytest.mark.parametrize("name", ["nb_results_csv_drone.txt", "step_metrics_issueclass_2023.csv"])
@pytest.mark.parametrize("spelling", ["plain", "base64", "base64 in lines", "with a byte order mark"])
def test_result_files_parse_in_every_spelling(name: str, spelling: str) -> None:
    import base64

    content = (RESULTS / name).read_bytes()
    rows = [line.split(b",") for line in content.strip().splitlines()[1:]]
    if spelling == "base64":
        content = base64.b64encode(content)
    elif spelling == "base64 in lines":
        content = base64.encodebytes(content)
    elif spelling == "with a byte order mark":
        content = b"\xef\xbb\xbf" + content
    points, complaint = metrics.from_result_file(content)
    assert complaint is None
    losses = {point.step: point.value for point in points if point.series == "train/loss"}
    accuracies = {point.step: point.value for point in points if point.series == "train/token_accuracy"}
    assert losses == {int(row[0]): float(row[1]) for row in rows}
    assert accuracies == {int(row[0]): float(row[2]) for row in rows}
    assert len(points) == 2 * len(rows), "an empty cell is not a zero"
    assert {point.source for point in points} == {"vendor_file"}
    assert {point.raw_name for point in points} == {"train_loss", "train_accuracy"}


def test_a_result_row_of_the_removed_api_is_not_taken_for_a_result_file() -> None:
    points, complaint = metrics.from_result_file((RESULTS / "nb_legacy_classification_metrics_row.txt").read_bytes())
    assert not points
    assert complaint is not None
