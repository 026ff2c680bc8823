"""One job from its file to its answers, through the real boto3, against a fake that checks AWS's service model."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest

from llmtune.data.example import Message
from llmtune.provider.generation import GenerationRequest, Unavailable
from llmtune.provider.types import DeploymentRef, ModelRef, RunKey, RunState, Snapshot
from llmtune_bedrock import BedrockProvider
from llmtune_bedrock.fake.service import FakeBedrock
from tests.providers.llmtune_bedrock.conftest import NOVA, encoded, provider_at, receipt_for

KEY = RunKey("lt0123456789")


def run_to_end(
    provider: BedrockProvider, tmp_path: Path, model: str = NOVA, key: RunKey = KEY, **fields: object
) -> Snapshot:
    files = {
        "train": provider.upload(encoded(tmp_path)),
        "validation": provider.upload(encoded(tmp_path, "validation", b'{"prompt": "c", "completion": "d"}\n')),
    }
    request = provider.build(receipt_for(provider, model, **fields), files)
    assert provider.preflight(request) == []
    job = provider.submit(request, key)
    snapshot = provider.poll(job, None)
    for _ in range(20):
        if snapshot.state.final:
            break
        snapshot = provider.poll(job, snapshot.cursor)
    return snapshot


def test_a_job_ends_with_its_model_and_its_curves(
    vendor: FakeBedrock, provider: BedrockProvider, tmp_path: Path
) -> None:
    snapshot = run_to_end(provider, tmp_path, epochs=3, learning_rate=2e-5)
    assert snapshot.state is RunState.SUCCEEDED
    assert snapshot.model is not None
    assert snapshot.model.base == NOVA
    check_curves(snapshot, perplexity=True)
    assert snapshot.resolved == {"epochs": 3, "learning_rate": 2e-5}
    assert snapshot.warnings == ()
    assert "train/token_accuracy" in snapshot.not_reported
    assert "validation/loss" not in snapshot.not_reported
    assert [event.message for event in snapshot.events] == ["training: Completed"]  # the others were told before
    assert vendor.complaints == []


def check_curves(snapshot: Snapshot, *, perplexity: bool) -> None:
    train = [point for point in snapshot.points if point.series == "train/loss" and point.source == "vendor_file"]
    assert [point.step for point in train] == list(range(10))
    assert (train[0].epoch, train[-1].epoch) == (0.0, 2.0)
    (final,) = [p for p in snapshot.points if p.series == "validation/loss" and p.source == "vendor_api"]
    curve = [p for p in snapshot.points if p.series == "validation/loss" and p.source == "vendor_file"]
    assert final.step == curve[-1].step == 9
    assert final.value == pytest.approx(curve[-1].value, abs=1e-3)
    assert any(p.series == "train/perplexity" for p in snapshot.points) is perplexity


def test_curves_are_read_in_every_shape_they_come_in(
    vendor: FakeBedrock, provider: BedrockProvider, tmp_path: Path
) -> None:
    shapes = itertools.product(("\n", "\r\n"), (True, False), (True, False))
    for number, (newline, perplexity, nested) in enumerate(shapes):
        vendor.csv_newline, vendor.csv_perplexity, vendor.csv_nested = newline, perplexity, nested
        snapshot = run_to_end(provider, tmp_path, key=RunKey(f"lt00000000{number:02}"), epochs=3)
        check_curves(snapshot, perplexity=perplexity)
        assert any(path.endswith("/validation/validation_metrics.csv") for _, path in vendor.objects) is nested
        vendor.objects = {name: value for name, value in vendor.objects.items() if not name[1].endswith(".csv")}


def test_the_run_key_is_token_name_and_tag(vendor: FakeBedrock, provider: BedrockProvider, tmp_path: Path) -> None:
    run_to_end(provider, tmp_path, name="ticket router", tags={"team": "search"})
    (job,) = vendor.jobs_with(KEY)
    assert job.body["jobName"] == job.body["customModelName"] == f"ticket-router-{KEY}"
    assert job.body["clientRequestToken"] == KEY
    assert job.body["jobTags"] == [{"key": "team", "value": "search"}, {"key": "llmtune-run", "value": KEY}]
    same_job = provider.find(KEY)
    assert same_job is not None
    assert same_job.id == job.data["arn"]
    assert provider.find(RunKey("lt9999999999")) is None


def test_a_repeated_submit_is_the_same_job(vendor: FakeBedrock, provider: BedrockProvider, tmp_path: Path) -> None:
    request = provider.build(receipt_for(provider), {"train": provider.upload(encoded(tmp_path))})
    first = provider.submit(request, KEY)
    assert provider.submit(request, KEY) == first
    assert len(vendor.jobs) == 1


@pytest.mark.slow
def test_a_failed_job_says_why(vendor: FakeBedrock, provider: BedrockProvider, tmp_path: Path) -> None:
    vendor.outcome = "failure"
    snapshot = run_to_end(provider, tmp_path)
    assert snapshot.state is RunState.FAILED
    assert snapshot.error == vendor.failure_message
    assert any(event.level == "error" and event.message == vendor.failure_message for event in snapshot.events)


def test_stopping_takes_a_while(vendor: FakeBedrock, provider: BedrockProvider, tmp_path: Path) -> None:
    request = provider.build(receipt_for(provider), {"train": provider.upload(encoded(tmp_path))})
    job = provider.submit(request, KEY)
    provider.cancel(job)
    assert [provider.poll(job, None).state for _ in range(2)] == [RunState.CANCELLING, RunState.CANCELLED]
    provider.cancel(job)  # already stopped: nothing to say


def test_without_validation_rows_nothing_is_made_up(
    vendor: FakeBedrock, provider: BedrockProvider, tmp_path: Path
) -> None:
    request = provider.build(receipt_for(provider), {"train": provider.upload(encoded(tmp_path))})
    job = provider.submit(request, KEY)
    while not (snapshot := provider.poll(job, None)).state.final:
        pass
    assert snapshot.not_reported["validation/loss"] == "no validation rows were sent"
    assert not any(point.series.startswith("validation/") for point in snapshot.points)


def test_nova_2_is_sent_no_validation_set(vendor: FakeBedrock, provider: BedrockProvider, tmp_path: Path) -> None:
    snapshot = run_to_end(provider, tmp_path, "amazon.nova-2-lite-v1:0:256k", epochs=2)
    (job,) = vendor.jobs.values()
    assert "validationDataConfig" not in job.body
    assert snapshot.not_reported["validation/loss"] == "this family does not use validation rows"


def test_an_unknown_state_is_running_with_a_warning(
    provider: BedrockProvider, vendor: FakeBedrock, tmp_path: Path
) -> None:
    from llmtune.testing import unknown_state

    request = provider.build(receipt_for(provider), {"train": provider.upload(encoded(tmp_path))})
    job = provider.submit(request, KEY)
    vendor.faults.add(unknown_state("Recalibrating"), role="poll")
    snapshot = provider.poll(job, None)
    assert (snapshot.state, snapshot.raw_state) == (RunState.RUNNING, "Recalibrating")
    assert "Recalibrating" in snapshot.warnings[0]


def test_serving_on_demand_is_deployed_found_asked_and_removed(
    vendor: FakeBedrock, provider: BedrockProvider, tmp_path: Path
) -> None:
    model = run_to_end(provider, tmp_path).model
    assert model is not None
    assert isinstance(provider.generator(model), Unavailable)
    ref = provider.deploy(model, KEY)
    assert ref is not None
    assert provider.deploy(model, KEY) == ref
    assert provider.find_deployment(KEY) == ref
    vendor.teach([("hi", "hello there")])
    generator = provider.generator(ref)
    assert not isinstance(generator, Unavailable)
    with generator as open_generator:
        (answer,) = open_generator.generate(
            [
                GenerationRequest(
                    messages=(Message("system", "Be brief."), Message("user", "hi")), max_tokens=9, top_p=0.9
                )
            ]
        )
    assert (answer.text, answer.finish_reason, answer.prompt_tokens) == ("hello there", "stop", 7)
    sent = [call.data for call in vendor.requests if call.role == "generate"][-1]
    assert sent == {
        "messages": [{"role": "user", "content": [{"text": "hi"}]}],
        "system": [{"text": "Be brief."}],
        "inferenceConfig": {"temperature": 0.0, "topP": 0.9, "maxTokens": 9},
    }
    provider.undeploy(ref)
    provider.undeploy(ref)
    assert vendor.standing == []
    assert provider.find_deployment(KEY) is None
    assert vendor.complaints == []


def test_provisioned_throughput_is_bought_only_when_allowed(vendor: FakeBedrock, tmp_path: Path) -> None:
    haiku = "anthropic.claude-3-haiku-20240307-v1:0:200k"
    provider = provider_at(vendor)
    snapshot = run_to_end_in(provider, tmp_path, haiku)
    assert provider.deploy(snapshot, KEY) is None
    refused = provider.generator(snapshot)
    assert isinstance(refused, Unavailable)
    assert "provisioned_units under [providers.bedrock]" in refused.reason
    assert vendor.standing == []
    buyer = provider_at(vendor, provisioned_units=1)
    ref = buyer.deploy(snapshot, KEY)
    assert ref is not None
    assert ":provisioned-model/" in ref.id
    assert buyer.find_deployment(KEY) == ref
    buyer.undeploy(DeploymentRef(id=ref.id))
    assert vendor.standing == []


def run_to_end_in(provider: BedrockProvider, tmp_path: Path, model: str) -> ModelRef:
    files = {"train": provider.upload(encoded(tmp_path))}
    job = provider.submit(provider.build(receipt_for(provider, model), files), KEY)
    while not (snapshot := provider.poll(job, None)).state.final:
        pass
    assert snapshot.model is not None
    return snapshot.model


def test_the_base_answers_under_its_inference_id(provider: BedrockProvider, vendor: FakeBedrock) -> None:
    base = provider.base_model(receipt_for(provider))
    assert isinstance(base, ModelRef)
    assert base.id == "amazon.nova-micro-v1:0"
    generator = provider.generator(base)
    assert not isinstance(generator, Unavailable)
    with generator as open_generator:
        (answer,) = open_generator.generate([GenerationRequest(messages=(Message("user", "hi"),))])
    assert answer.text == "I am not sure."
    profile = receipt_for(provider, options={"base_inference_id": "us.amazon.nova-micro-v1:0"})
    assert provider.base_model(profile) == ModelRef(id="us.amazon.nova-micro-v1:0", base=NOVA, tuned=False)
    assert vendor.complaints == []


def test_what_the_account_owns_is_listed_fetched_and_deleted(
    vendor: FakeBedrock, provider: BedrockProvider, tmp_path: Path
) -> None:
    run_to_end(provider, tmp_path, epochs=3, learning_rate=2e-5, warmup_steps=4)
    (model,) = provider.inventory()
    assert model.base == NOVA
    job = provider.fetch(model)
    assert job.hyperparameters == {"epochs": 3, "learning_rate": 2e-5, "warmup_steps": 4}
    assert job.base == NOVA
    here = provider.download(job.files["train"], tmp_path / "back")
    assert here.read_bytes() == encoded(tmp_path).path.read_bytes()
    provider.delete(ModelRef(id=model.id))
    provider.delete(ModelRef(id=model.id))
    assert list(provider.inventory()) == []
    assert vendor.complaints == []


def test_files_are_named_by_content_and_only_ours_are_removed(
    vendor: FakeBedrock, provider: BedrockProvider, tmp_path: Path
) -> None:
    file = encoded(tmp_path)
    ref = provider.upload(file)
    assert ref.id == f"s3://my-bucket/llmtune/data/{file.sha256}.jsonl"
    assert provider.upload(file).id == ref.id
    assert vendor.counts["put_object"] == 1
    assert provider.find_upload("0" * 64) is None
    upload = provider.find_upload(file.sha256)
    assert upload is not None
    assert upload.id == ref.id
    with pytest.raises(Exception, match="left alone"):
        provider.delete(ref.model_copy(update={"id": "s3://my-bucket/other/file.jsonl"}))
    provider.delete(ref)
    provider.delete(ref)
    assert provider.find_upload(file.sha256) is None


def test_a_large_file_goes_up_in_parts(vendor: FakeBedrock, provider: BedrockProvider, tmp_path: Path) -> None:
    file = encoded(tmp_path, content=b"x" * (9 * 1024 * 1024) + b"\n")
    ref = provider.upload(file)
    assert vendor.objects["my-bucket", ref.id.removeprefix("s3://my-bucket/")]["content"] == file.path.read_bytes()
    assert vendor.counts["multipart"] == 2


def test_the_snippet_is_python_that_names_the_model(provider: BedrockProvider) -> None:
    text = provider.snippet(DeploymentRef(id="arn:aws:bedrock:us-east-1:1:custom-model-deployment/abc"))
    compile(text, "snippet", "exec")
    assert "custom-model-deployment/abc" in text
