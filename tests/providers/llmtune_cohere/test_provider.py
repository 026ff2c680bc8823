"""Cohere's API through the real SDK, and its open trainer over httpx, against stateful fakes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from llmtune.data.example import Message
from llmtune.errors import InvalidData, MissingCredentials, QuotaExceeded, TransientError, VendorError
from llmtune.provider.declarations import DECLARED_FIELDS, Converted, Sent
from llmtune.provider.generation import GenerationRequest, Unavailable
from llmtune.provider.receipt import Receipt
from llmtune.provider.types import EncodedFile, JobRef, ModelRef, RunKey, RunState, Snapshot
from llmtune.testing import FakeVendor, refusal
from llmtune.testing.wire_check import CANDIDATES, COMPANIONS, moved_paths
from llmtune_cohere import CohereProvider, responses
from llmtune_cohere.fake.service import FakeCohere, FakeCohereFinetune
from llmtune_cohere.managed import INSIDE
from llmtune_cohere.settings import CohereSettings

KEY = RunKey("ltabcde12345")
ReceiptFor = Callable[..., Receipt]
Rows = Callable[..., EncodedFile]


def walk(provider: CohereProvider, job: JobRef) -> list[Snapshot]:
    snapshots: list[Snapshot] = []
    cursor = None
    for _ in range(30):
        snapshots.append(provider.poll(job, cursor))
        cursor = snapshots[-1].cursor
        if snapshots[-1].state.final:
            return snapshots
    raise AssertionError(snapshots[-1].raw_state)


def sent(vendor: FakeVendor, provider: CohereProvider, receipt: Receipt, files: Any, route: str) -> dict[str, Any]:
    """Return the body that reached the service."""
    provider.submit(provider.build(receipt, files), KEY)
    body: dict[str, Any] = json.loads(next(call for call in reversed(vendor.requests) if call.route == route).body)
    return body


# --- wire truth at the transport -------------------------------------------------------------------------------------
@pytest.mark.parametrize("method", ["sft", "classification"])
def test_every_declared_field_moves_through_the_sdk_and_nothing_else_does(
    vendor: FakeCohere, provider: CohereProvider, receipt_for: ReceiptFor, rows: Rows, method: str
) -> None:
    files = {"train": provider.upload(rows(labels=method == "classification"))}
    check(provider, receipt_for, method, lambda receipt: sent(vendor, provider, receipt, files, "create_model"))
    body = sent(vendor, provider, receipt_for(provider, {"epochs": 3}, method=method), files, "create_model")
    built_body = provider.build(receipt_for(provider, {"epochs": 3}, method=method), files).body
    assert moved_paths(built_body, body) == {"name"}
    assert body["name"] == f"{built_body['name']}-{KEY}"


def test_every_declared_field_moves_to_the_open_trainer_and_nothing_else_does(
    trainer: FakeCohereFinetune, trainer_provider: CohereProvider, receipt_for: ReceiptFor, rows: Rows
) -> None:
    files = {"train": trainer_provider.upload(rows())}

    def post(receipt: Receipt) -> dict[str, Any]:
        trainer.jobs.clear()
        return sent(trainer, trainer_provider, receipt, files, "finetune")

    check(trainer_provider, receipt_for, "sft", post)
    body = trainer_provider.build(receipt_for(trainer_provider), files).body
    assert moved_paths(body, post(receipt_for(trainer_provider))) == {"finetune_name", "files.train"}


def check(
    provider: CohereProvider, receipt_for: ReceiptFor, method: str, post: Callable[[Receipt], dict[str, Any]]
) -> None:
    for name in DECLARED_FIELDS:
        companions = COMPANIONS.get(name, {})
        without = post(receipt_for(provider, companions, method=method))
        went_out = False
        for value in CANDIDATES[name]:
            receipt = receipt_for(provider, {**companions, name: value}, method=method)
            row = receipt[name]
            if row.support == "invalid":
                continue
            moved = moved_paths(without, post(receipt))
            expected = {row.wire, *row.also} if row.is_sent and row.where == "training" else set()
            assert moved <= expected, f"{name}={value!r} moved {moved - expected}"
            went_out = went_out or row.wire in moved
        declared = provider.capabilities(receipt.target).parameters[name]
        is_parameter = isinstance(declared, (Sent, Converted)) and declared.where == "training"
        assert went_out == (is_parameter and receipt[name].support != "not_applicable"), name


# --- the API ---------------------------------------------------------------------------------------------------------
def test_training_and_validation_rows_go_into_one_dataset(
    vendor: FakeCohere, provider: CohereProvider, rows: Rows
) -> None:
    vendor.checks = 3
    train = provider.upload(rows(paired=True))
    file = vendor.files[train.id]
    assert b"train 0" in file.content
    assert b"validation 0" in file.data["evaluation"]
    assert train.data["trainable_tokens"] == len(file.content) // 4
    assert vendor.counts["get_dataset"] == 3
    inside = provider.upload(rows("validation"))
    assert inside.id == INSIDE
    assert len(vendor.files) == 1
    provider.delete(inside)
    provider.delete(train)
    provider.delete(train)
    assert not vendor.files


def test_a_validation_file_that_is_gone_is_not_left_out_silently(provider: CohereProvider, rows: Rows) -> None:
    train = rows(paired=True)
    next(train.path.parent.glob("validation-*")).unlink()
    with pytest.raises(InvalidData, match="are gone"):
        provider.upload(train)


@pytest.mark.parametrize(
    ("first", "kind"),
    [
        ({"text": "a", "label": "b"}, "single-label-classification-finetune-input"),
        ({"text": "a", "label": ["b", "c"]}, "multi-label-classification-finetune-input"),
        ({"messages": []}, "chat-finetune-input"),
    ],
)
def test_the_dataset_type_is_read_from_the_rows(tmp_path: Path, first: dict[str, Any], kind: str) -> None:
    from llmtune_cohere.managed import dataset_type

    path = tmp_path / "train.jsonl"
    path.write_text(json.dumps(first) + "\n")
    assert dataset_type(path) == kind


def test_a_dataset_that_cohere_refuses_or_never_validates(
    vendor: FakeCohere, provider: CohereProvider, rows: Rows, capsys: pytest.CaptureFixture[str]
) -> None:
    vendor.refuse_data = "row 3 has no Chatbot turn"
    with pytest.raises(InvalidData, match="row 3 has no Chatbot turn"):
        provider.upload(rows())
    vendor.refuse_data, vendor.checks = "", 10_000
    with pytest.raises(TransientError, match="still processing"):
        provider.upload(rows())
    assert capsys.readouterr().out == ""


def test_evaluations_come_sorted_and_step_zero_is_not_lost(
    vendor: FakeCohere, provider: CohereProvider, receipt_for: ReceiptFor, rows: Rows
) -> None:
    job = provider.submit(provider.build(receipt_for(provider), {"train": provider.upload(rows())}), KEY)
    assert provider.find(KEY) == job
    snapshots = walk(provider, job)
    points = list(snapshots[-1].points) or [point for snapshot in snapshots for point in snapshot.points]
    snapshot = provider.poll(job, None)
    steps = [point.step for point in snapshot.points if point.series == "validation/loss"]
    assert steps == [0, 2, 4, 6, 8, 10]
    assert {point.series for point in snapshot.points} == {"validation/loss", "validation/token_accuracy"}
    assert {point.raw_name for point in snapshot.points} == {"cross_entropy", "accuracy"}
    assert points
    assert "no training loss" in snapshot.not_reported["train/loss"]
    assert [event.message for event in snapshot.events] == [
        "STATUS_QUEUED",
        "STATUS_FINETUNING",
        "STATUS_DEPLOYING_API",
        "STATUS_READY",
    ]
    assert snapshot.model is not None
    assert snapshot.model.id == f"{job.id}-ft"


def test_find_looks_through_every_page_and_takes_the_oldest(
    vendor: FakeCohere, provider: CohereProvider, receipt_for: ReceiptFor, rows: Rows
) -> None:
    request = provider.build(receipt_for(provider), {"train": provider.upload(rows())})
    jobs = [provider.submit(request, RunKey(f"lt000000000{at}")) for at in range(5)]
    again = provider.submit(request, RunKey("lt0000000004"))
    assert provider.find(RunKey("lt0000000004")) == jobs[4] != again
    assert provider.find(RunKey("lt9999999999")) is None


def test_deleting_is_the_only_stop_and_a_forgotten_model_counts_as_stopped(
    vendor: FakeCohere, provider: CohereProvider, receipt_for: ReceiptFor, rows: Rows
) -> None:
    vendor.forgets = True
    job = provider.submit(provider.build(receipt_for(provider), {"train": provider.upload(rows())}), KEY)
    cursor = provider.poll(job, None).cursor
    provider.cancel(job)
    provider.cancel(job)
    assert provider.poll(job, cursor).state is RunState.CANCELLED
    with pytest.raises(VendorError, match="not found"):
        provider.poll(job, None)


@pytest.mark.parametrize("status", sorted(responses.PAUSED_STATES))
def test_a_resting_model_is_trained_all_the_same(status: str) -> None:
    done = responses.snapshot({"id": "m", "status": status, "completed_at": "2025-01-01T00:00:00Z"})
    assert done.state is RunState.SUCCEEDED
    assert done.warnings
    assert done.model is not None
    assert responses.snapshot({"id": "m", "status": status}).state is RunState.PAUSED


def test_an_unset_status_is_not_taken_for_a_known_one() -> None:
    snapshot = responses.snapshot({"id": "m"})
    assert snapshot.state is RunState.RUNNING
    assert "STATUS_UNSPECIFIED" in snapshot.warnings[0]


def test_wandbs_key_is_named_by_variable_and_never_stands_in_the_request(
    vendor: FakeCohere,
    provider: CohereProvider,
    receipt_for: ReceiptFor,
    rows: Rows,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    options = {"wandb_project": "tuning", "wandb_entity": "acme", "wandb_api_key_env": "MY_WANDB"}
    request = provider.build(receipt_for(provider, options=options), {"train": provider.upload(rows())})
    with pytest.raises(MissingCredentials, match="MY_WANDB"):
        provider.submit(request, KEY)
    monkeypatch.setenv("MY_WANDB", "w-secret")
    job = provider.submit(request, KEY)
    assert vendor.jobs[job.id].data["secret"] == "w-secret"
    assert "w-secret" not in request.model_dump_json() + job.model_dump_json()


def test_a_missing_key_is_one_sentence() -> None:
    provider = CohereProvider(settings=CohereSettings(base_url="http://127.0.0.1:9"))
    with pytest.raises(MissingCredentials, match="CO_API_KEY is not set"):
        provider.find(KEY)


def test_a_job_comes_back_with_its_rows(
    vendor: FakeCohere, provider: CohereProvider, receipt_for: ReceiptFor, rows: Rows, tmp_path: Path
) -> None:
    file = rows()
    fields = {"epochs": 3, "batch_size": 8, "learning_rate": 0.001, "lora_target_modules": "attention"}
    request = provider.build(receipt_for(provider, fields), {"train": provider.upload(file)})
    walk(provider, provider.submit(request, KEY))
    (remote,) = provider.inventory()
    job = provider.fetch(remote)
    assert job.base == "command-r-08-2024"
    assert job.hyperparameters == fields
    assert job.unmapped == {}
    assert provider.download(job.files["train"], tmp_path / "back.jsonl").read_bytes() == file.path.read_bytes()


@pytest.mark.parametrize("url", ["http://169.254.169.254/latest", "http://127.0.0.1:1/x", "https://evil.example/rows"])
def test_a_dataset_is_fetched_from_the_vendors_hosts_alone(
    vendor: FakeCohere, provider: CohereProvider, rows: Rows, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, url: str
) -> None:
    upload = provider.upload(rows())
    answer = {"dataset_parts": [{"id": "part-0", "name": "train.jsonl", "url": url, "index": 0}]}
    monkeypatch.setattr(type(provider), "_dataset", lambda self, id, action: answer)
    with pytest.raises(VendorError, match=r"names an address at .* that is not fetched"):
        provider.download(upload.id, tmp_path / "back.jsonl")
    assert not (tmp_path / "back.jsonl").exists()


def test_a_classifier_answers_with_its_label(
    vendor: FakeCohere, provider: CohereProvider, receipt_for: ReceiptFor, rows: Rows
) -> None:
    request = provider.build(
        receipt_for(provider, method="classification"), {"train": provider.upload(rows(labels=True))}
    )
    model = walk(provider, provider.submit(request, KEY))[-1].model
    assert model is not None
    generator = provider.generator(model)
    assert not isinstance(generator, Unavailable)
    with generator:
        answers = generator.generate([GenerationRequest(messages=(Message("user", "train 1"),))] * 3)
    assert [answer.text for answer in answers] == ["yes"] * 3
    compile(provider.snippet(model), "snippet", "exec")
    assert "classify" in provider.snippet(model)
    compile(provider.snippet(ModelRef(id="m-ft")), "snippet", "exec")


def test_refusals_keep_coheres_words(
    vendor: FakeCohere, provider: CohereProvider, receipt_for: ReceiptFor, rows: Rows
) -> None:
    request = provider.build(receipt_for(provider), {"train": provider.upload(rows())})
    for fault, expected in (
        (refusal(401, "invalid api token"), MissingCredentials),
        (refusal(498, "token expired"), MissingCredentials),
        (refusal(402, "no funds"), QuotaExceeded),
        (refusal(403, "not allowed"), VendorError),
    ):
        vendor.faults.add(fault, role="submit")
        with pytest.raises(expected, match=fault.message):
            provider.submit(request, KEY)


# --- the open trainer ------------------------------------------------------------------------------------------------
def test_the_open_trainer_from_start_to_answer(
    trainer: FakeCohereFinetune, trainer_provider: CohereProvider, receipt_for: ReceiptFor, rows: Rows
) -> None:
    files = {"train": trainer_provider.upload(rows()), "validation": trainer_provider.upload(rows("validation"))}
    assert trainer_provider.find_upload(files["train"].digest) == files["train"]
    receipt = receipt_for(trainer_provider, {"epochs": 2, "lora_rank": 16, "lora_alpha": 8.0}, adapter="qlora")
    request = trainer_provider.build(receipt, files)
    assert trainer_provider.preflight(request) == []
    job = trainer_provider.submit(request, KEY)
    body = next(iter(trainer.jobs.values())).body
    assert body["use_4bit_quantization"] == "true"
    assert body["lora_config"] == {"rank": 16, "alpha": 8, "rslora": "false"}
    folder = trainer.root / job.id / "input" / "data"
    assert (folder / "training" / "train.jsonl").is_file()
    assert (folder / "evaluation" / "validation.jsonl").is_file()
    assert trainer_provider.poll(job, None).state is RunState.QUEUED
    assert [finding.code for finding in trainer_provider.preflight(request)] == ["busy"]
    with pytest.raises(QuotaExceeded, match="one at a time"):
        trainer_provider.submit(request, RunKey("lt0000000001"))
    last = walk(trainer_provider, job)[-1]
    assert last.state is RunState.SUCCEEDED
    assert last.model is not None
    assert last.model.id == f"/opt/finetuning/{job.id}/output/merged_weights"
    assert "wandb_project" in last.not_reported["train/loss"]
    generator = trainer_provider.generator(last.model)
    assert not isinstance(generator, Unavailable)
    generation_request = GenerationRequest(
        messages=(
            Message("system", "Be brief."),
            Message("user", "a"),
            Message("assistant", "b"),
            Message("user", "train 1"),
        ),
        max_tokens=5,
    )
    assert generator.generate([generation_request])[0].text == "yes"
    sent_body = json.loads(trainer.requests[-1].body)
    assert sent_body["preamble"] == "Be brief."
    assert sent_body["chat_history"] == [{"role": "User", "content": "a"}, {"role": "Chatbot", "content": "b"}]
    assert sent_body["max_new_tokens"] >= 1024
    compile(trainer_provider.snippet(last.model), "snippet", "exec")
    (remote,) = trainer_provider.inventory()
    assert trainer_provider.fetch(remote).hyperparameters == {"epochs": 2, "lora_rank": 16, "lora_alpha": 8}
    trainer_provider.delete(last.model)
    assert not (trainer.root / job.id).exists()


def test_stopping_the_open_trainer_ends_its_service(
    trainer: FakeCohereFinetune, trainer_provider: CohereProvider, receipt_for: ReceiptFor, rows: Rows
) -> None:
    job = trainer_provider.submit(
        trainer_provider.build(receipt_for(trainer_provider), {"train": trainer_provider.upload(rows())}), KEY
    )
    trainer_provider.cancel(job)
    assert trainer.terminated
    trainer.close()
    assert trainer_provider.poll(job, None).state is RunState.CANCELLED
    trainer_provider.cancel(job)


def test_an_idle_trainer_has_forgotten_the_job(
    trainer: FakeCohereFinetune, trainer_provider: CohereProvider, receipt_for: ReceiptFor, rows: Rows
) -> None:
    job = trainer_provider.submit(
        trainer_provider.build(receipt_for(trainer_provider), {"train": trainer_provider.upload(rows())}), KEY
    )
    trainer.jobs.clear()
    assert trainer_provider.poll(job, None).state is RunState.QUEUED
    later = job.model_copy(update={"data": job.data | {"submitted": 0}})
    snapshot = trainer_provider.poll(later, None)
    assert snapshot.state is RunState.FAILED
    assert "started again" in (snapshot.error or "")


def test_another_job_since_means_this_one_ended(
    trainer: FakeCohereFinetune, trainer_provider: CohereProvider, receipt_for: ReceiptFor, rows: Rows
) -> None:
    request = trainer_provider.build(receipt_for(trainer_provider), {"train": trainer_provider.upload(rows())})
    first = trainer_provider.submit(request, KEY)
    walk(trainer_provider, first)
    second = trainer_provider.submit(request, RunKey("lt0000000001"))
    assert trainer_provider.poll(first, None).state is RunState.SUCCEEDED
    trainer_provider.delete(ModelRef(id="x", data={"finetune_name": first.id}))
    snapshot = trainer_provider.poll(first, None)
    assert snapshot.state is RunState.FAILED
    assert "another job" in (snapshot.error or "")
    assert trainer_provider.poll(second, None).state is not RunState.FAILED


def test_without_an_inference_container_the_model_is_not_asked(trainer: FakeCohereFinetune) -> None:
    provider = CohereProvider(settings=CohereSettings(service_url=trainer.url, data_root=trainer.root))
    answer = provider.generator(ModelRef(id="/opt/finetuning/x/output/merged_weights"))
    assert isinstance(answer, Unavailable)
    assert "inference_url" in answer.reason
