"""One job from its file to its answers, through Google's real clients, against a fake that asserts its fields."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any

import pytest

from llmtune.data.example import Message
from llmtune.provider.generation import GenerationRequest, Unavailable
from llmtune.provider.types import DeploymentRef, ModelRef, RunKey, RunState, Snapshot
from llmtune.testing import unknown_state
from llmtune_vertex import VertexProvider
from llmtune_vertex.fake.service import FakeVertex
from tests.providers.llmtune_vertex.conftest import FLASH, LLAMA, encoded, provider_at, receipt_for

KEY = RunKey("lt0123456789")


def run_to_end(
    provider: VertexProvider, tmp_path: Path, model: str = FLASH, key: RunKey = KEY, **fields: Any
) -> Snapshot:
    files = {"train": provider.upload(encoded(tmp_path))}
    if fields.pop("validation", True):
        files["validation"] = provider.upload(encoded(tmp_path, "validation", b'{"contents": [1]}\n'))
    request = provider.build(receipt_for(provider, model, **fields), files)
    job = provider.submit(request, key)
    snapshot = provider.poll(job, None)
    for _ in range(20):
        if snapshot.state.final:
            break
        snapshot = provider.poll(job, snapshot.cursor)
    return snapshot


def test_a_gemini_job_ends_with_its_endpoint_and_its_curves(
    vendor: FakeVertex, provider: VertexProvider, tmp_path: Path
) -> None:
    snapshot = run_to_end(provider, tmp_path, epochs=2, lora_rank=8)
    assert (snapshot.state, snapshot.raw_state) == (RunState.SUCCEEDED, "JOB_STATE_SUCCEEDED")
    assert snapshot.model is not None
    assert snapshot.model.id.startswith("projects/my-project/locations/us-central1/endpoints/")
    assert snapshot.model.base == FLASH
    assert [checkpoint.data["epoch"] for checkpoint in snapshot.checkpoints] == [1, 2]
    train = [point for point in snapshot.points if point.series == "train/loss"]
    assert [point.step for point in train] == list(range(1, 11))
    assert train[-1].value == pytest.approx(2 / 11 + 0.1)
    assert {point.source for point in snapshot.points} == {"vendor_api"}
    assert {point.raw_name for point in train} == {"/train_total_loss"}
    assert {"validation/loss", "validation/token_accuracy", "train/tokens"} <= {
        point.series for point in snapshot.points
    }
    assert snapshot.billed is not None
    assert snapshot.billed.tokens == 2 * 96894
    assert snapshot.billed.amount == pytest.approx(2 * 96894 / 1e6 * 5)
    assert "not from Google's own page" in snapshot.billed.source
    assert snapshot.resolved == {"epochs": 2, "lora_rank": 8}
    assert snapshot.not_reported == {}
    assert snapshot.events == ()  # told at an earlier look, once
    assert snapshot.cursor is not None
    assert [id.rsplit(":", 1)[-1] for id in snapshot.cursor["events"]] == ["TUNING_JOB_STATE_TUNING"]
    assert snapshot.progress.total_steps == 10
    assert vendor.complaints == []


def test_a_preference_job(vendor: FakeVertex, provider: VertexProvider, tmp_path: Path) -> None:
    snapshot = run_to_end(provider, tmp_path, method="dpo", dpo_beta=0.2, validation=False)
    assert snapshot.state is RunState.SUCCEEDED
    assert {point.series for point in snapshot.points} == {"train/loss"}
    assert snapshot.points[0].raw_name == "/preference_optimization_train_loss"
    assert snapshot.not_reported["validation/loss"] == "no validation rows were sent"
    assert snapshot.resolved == {"dpo_beta": 0.2, "epochs": 3}  # what was left to the service, and it told
    assert vendor.complaints == []


def test_an_open_model_leaves_weights_in_the_bucket(
    vendor: FakeVertex, provider: VertexProvider, tmp_path: Path
) -> None:
    snapshot = run_to_end(provider, tmp_path, LLAMA, batch_size=8, learning_rate=1e-4, epochs=1)
    assert snapshot.model is not None
    assert snapshot.model.id == f"gs://my-bucket/llmtune/output/{KEY}/postprocess/node-0/checkpoints/final"
    unavailable = provider.generator(snapshot.model)
    assert isinstance(unavailable, Unavailable)
    assert "only from a deployment" in unavailable.reason
    assert isinstance(provider.base_model(receipt_for(provider, LLAMA)), Unavailable)
    assert vendor.complaints == []


def test_the_run_key_is_a_label_that_finds_the_job(
    vendor: FakeVertex, provider: VertexProvider, tmp_path: Path
) -> None:
    run_to_end(provider, tmp_path, tags={"team": "search"})
    run_to_end(provider, tmp_path, key=RunKey("lt1111111111"))
    (job,) = vendor.jobs_with(KEY)
    assert job.body["labels"] == {"team": "search", "llmtune_run": KEY}
    same_job = provider.find(KEY)
    assert same_job is not None
    assert same_job.id == job.data["name"]
    assert "console.cloud.google.com" in (same_job.url or "")
    assert provider.find(RunKey("lt9999999999")) is None


def test_account_facts_travel_with_the_request(vendor: FakeVertex, tmp_path: Path) -> None:
    who = "tuner@my-project.iam.gserviceaccount.com"
    provider = provider_at(vendor, service_account=who, kms_key_name="projects/p/locations/l/keyRings/r/cryptoKeys/k")
    run_to_end(provider, tmp_path, options={"description": "a trial"})
    (job,) = vendor.jobs.values()
    assert job.body["serviceAccount"] == who
    assert job.body["encryptionSpec"] == {"kms_key_name": "projects/p/locations/l/keyRings/r/cryptoKeys/k"}
    assert job.body["description"] == "a trial"
    assert vendor.complaints == []


def test_going_on_from_a_tuned_model(vendor: FakeVertex, provider: VertexProvider, tmp_path: Path) -> None:
    model = run_to_end(provider, tmp_path).model
    assert model is not None
    again = run_to_end(
        provider,
        tmp_path,
        model.data["model"],
        RunKey("lt2222222222"),
        options={"pre_tuned_model_checkpoint_id": "1"},
    )
    assert again.state is RunState.SUCCEEDED
    (job,) = vendor.jobs_with("lt2222222222")
    assert job.body["preTunedModel"] == {"tuned_model_name": model.data["model"], "checkpoint_id": "1"}
    assert "baseModel" not in job.body
    assert vendor.complaints == []


@pytest.mark.parametrize(
    ("outcome", "state", "reason"),
    [
        ("failure", RunState.FAILED, "invalid example at line 3"),
        ("expired", RunState.FAILED, "it expired"),
        ("partial", RunState.SUCCEEDED, None),
    ],
)
def test_every_end_is_an_end(
    vendor: FakeVertex, provider: VertexProvider, tmp_path: Path, outcome: str, state: RunState, reason: str | None
) -> None:
    vendor.outcome = outcome
    snapshot = run_to_end(provider, tmp_path)
    assert snapshot.state is state
    assert (reason or "") in (snapshot.error or "")
    assert (snapshot.error is None) is (reason is None)
    if outcome == "partial":
        assert "in part only" in snapshot.warnings[0]


def test_cancelling_takes_a_while(vendor: FakeVertex, provider: VertexProvider, tmp_path: Path) -> None:
    request = provider.build(receipt_for(provider), {"train": provider.upload(encoded(tmp_path))})
    job = provider.submit(request, KEY)
    provider.cancel(job)
    assert [provider.poll(job, None).state for _ in range(2)] == [RunState.CANCELLING, RunState.CANCELLED]
    provider.cancel(job)


def test_an_unknown_state_is_running_with_a_warning(
    vendor: FakeVertex, provider: VertexProvider, tmp_path: Path
) -> None:
    job = provider.submit(provider.build(receipt_for(provider), {"train": provider.upload(encoded(tmp_path))}), KEY)
    vendor.faults.add(unknown_state("JOB_STATE_RECALIBRATING"), role="poll")
    snapshot = provider.poll(job, None)
    assert (snapshot.state, snapshot.raw_state) == (RunState.RUNNING, "JOB_STATE_RECALIBRATING")
    assert "JOB_STATE_RECALIBRATING" in snapshot.warnings[0]


def test_curves_are_not_read_at_every_look(vendor: FakeVertex, provider: VertexProvider, tmp_path: Path) -> None:
    run_to_end(provider, tmp_path)
    assert vendor.counts["read_series"] == 2  # once while it ran, once when it had ended


def test_the_tuned_model_and_the_base_answer(vendor: FakeVertex, provider: VertexProvider, tmp_path: Path) -> None:
    vendor.teach([("hi", "hello there")])
    tuned = run_to_end(provider, tmp_path).model
    base = provider.base_model(receipt_for(provider))
    assert tuned is not None
    assert isinstance(base, ModelRef)
    request = GenerationRequest(
        messages=(Message("system", "Be brief."), Message("user", "hi")), max_tokens=9, top_p=0.9, top_k=40, seed=3
    )
    answers = []
    for ref in (tuned, base):
        generator = provider.generator(ref)
        assert not isinstance(generator, Unavailable)
        with generator as model:
            answers += model.generate([request])
    assert [answer.text for answer in answers] == ["hello there", "I am not sure."]
    assert (answers[0].finish_reason, answers[0].prompt_tokens, answers[0].completion_tokens) == ("stop", 7, 3)
    sent = next(call.data for call in vendor.requests if call.role == "generate")
    assert sent["generationConfig"] == {
        "temperature": 0.0,
        "topP": 0.9,
        "topK": 40,
        "maxOutputTokens": 9,
        "seed": 3,
        "thinkingConfig": {"thinking_budget": 0},  # as google-genai spells it
    }
    assert sent["systemInstruction"]["parts"] == [{"text": "Be brief."}]
    assert vendor.complaints == []


def test_checkpoints_answer_too(vendor: FakeVertex, provider: VertexProvider, tmp_path: Path) -> None:
    snapshot = run_to_end(provider, tmp_path)
    generator = provider.generator(snapshot.checkpoints[0])
    assert not isinstance(generator, Unavailable)
    with generator as model:
        assert model.generate([GenerationRequest(messages=(Message("user", "hi"),))])[0].text == "I am not sure."


def test_nothing_is_deployed_and_everything_is_removed(
    vendor: FakeVertex, provider: VertexProvider, tmp_path: Path
) -> None:
    snapshot = run_to_end(provider, tmp_path, keep_checkpoints=1)
    assert snapshot.model is not None
    assert provider.deploy(snapshot.model, KEY) is None
    assert provider.find_deployment(KEY) is None
    provider.delete(snapshot.model)
    provider.delete(snapshot.model)
    assert vendor.endpoints == {}
    assert vendor.models == {}
    assert vendor.complaints == []


def test_what_the_account_owns_is_listed_and_fetched(
    vendor: FakeVertex, provider: VertexProvider, tmp_path: Path
) -> None:
    snapshot = run_to_end(provider, tmp_path, epochs=2, learning_rate_multiplier=0.5, lora_rank=8)
    (model,) = provider.inventory()
    assert snapshot.model is not None
    assert (model.id, model.base) == (snapshot.model.id, FLASH)
    job = provider.fetch(model)
    assert job.hyperparameters == {"epochs": 2, "learning_rate_multiplier": 0.5, "lora_rank": 8}
    assert (job.base, job.method) == (FLASH, "sft")
    here = provider.download(job.files["train"], tmp_path / "back")
    assert here.read_bytes() == encoded(tmp_path).path.read_bytes()
    assert provider.fetch(model.model_copy(update={"job": None})).id == job.id


def test_files_are_named_by_content_and_never_overwritten(
    vendor: FakeVertex, provider: VertexProvider, tmp_path: Path
) -> None:
    file = encoded(tmp_path)
    ref = provider.upload(file)
    assert ref.id == f"gs://my-bucket/llmtune/data/{file.sha256}.jsonl"
    assert provider.upload(file).id == ref.id
    assert vendor.counts["upload"] == 1
    assert [call.query["ifGenerationMatch"] for call in vendor.requests if call.role == "upload"] == ["0"]
    assert vendor.objects["my-bucket", f"llmtune/data/{file.sha256}.jsonl"]["meta"]["rows"] == "1"
    upload = provider.find_upload(file.sha256)
    assert upload is not None
    assert upload.id == ref.id
    assert provider.find_upload("0" * 64) is None
    with pytest.raises(Exception, match="left alone"):
        provider.delete(ref.model_copy(update={"id": "gs://my-bucket/other.jsonl"}))
    provider.delete(ref)
    provider.delete(ref)
    assert provider.find_upload(file.sha256) is None


def test_a_large_file_goes_up_in_resumable_pieces(vendor: FakeVertex, provider: VertexProvider, tmp_path: Path) -> None:
    file = encoded(tmp_path, content=b"x" * (17 * 1024 * 1024) + b"\n")
    ref = provider.upload(file)
    assert vendor.objects["my-bucket", ref.id.removeprefix("gs://my-bucket/")]["content"] == file.path.read_bytes()
    assert vendor.counts["upload_piece"] == 3
    assert vendor.complaints == []


def test_gemini_3_answers_from_a_multi_region(vendor: FakeVertex) -> None:
    base = ModelRef(id="gemini-3.1-flash-lite", base="gemini-3.1-flash-lite", tuned=False)
    assert provider_at(vendor)._serving_location(base) == "us"
    assert provider_at(vendor, location="europe-west4")._serving_location(base) == "eu"
    assert provider_at(vendor, serving_location="us-east1")._serving_location(base) == "us-east1"
    flash = ModelRef(id=FLASH, base=FLASH, tuned=False)
    assert provider_at(vendor)._serving_location(flash) == "us-central1"


def test_the_snippet_is_python_that_names_the_model(provider: VertexProvider) -> None:
    text = provider.snippet(DeploymentRef(id="projects/p/locations/europe-west4/endpoints/5"))
    ast.parse(text)
    assert 'location="europe-west4"' in text
    assert "endpoints/5" in text
