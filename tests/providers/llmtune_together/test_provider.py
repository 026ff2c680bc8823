"""Together through its real SDK, against a stateful fake of the service."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from llmtune.data.example import Message, chat
from llmtune.errors import (
    InvalidData,
    LlmtuneError,
    MissingCredentials,
    NotTranslatable,
    QuotaExceeded,
    TransientError,
    VendorError,
)
from llmtune.provider.generation import GenerationRequest, Unavailable
from llmtune.provider.receipt import Receipt
from llmtune.provider.types import EncodedFile, JobRef, ModelRef, Request, RunKey, RunState, Snapshot, UploadRef
from llmtune.testing import accept_then_drop, garbled, rate_limit, refusal, reset, server_error, unknown_state
from llmtune.testing.token_counts import count_file_tokens
from llmtune_together import TogetherProvider
from llmtune_together.fake.service import FakeTogether
from llmtune_together.settings import TogetherSettings

KEY = RunKey("ltabcde12345")


def walk(provider: TogetherProvider, job: JobRef, max_polls: int = 40) -> list[Snapshot]:
    """Poll until the end."""
    snapshots: list[Snapshot] = []
    cursor = None
    for _ in range(max_polls):
        snapshot = provider.poll(job, cursor)
        snapshots.append(snapshot)
        cursor = snapshot.cursor
        if snapshot.state.final:
            return snapshots
    raise AssertionError(f"not final after {max_polls} looks: {snapshots[-1].raw_state}")


# --- files -----------------------------------------------------------------------------------------------------------
def test_upload_waits_for_the_services_own_check(
    vendor: FakeTogether, provider: TogetherProvider, rows: Callable[..., EncodedFile]
) -> None:
    vendor.checks = 3
    file = rows()
    ref = provider.upload(file)
    assert ref.digest == file.sha256
    assert ref.role == "train"
    assert vendor.files[ref.id].content == file.path.read_bytes()
    assert vendor.counts["get_file"] == 3
    assert provider.find_upload(file.sha256) == UploadRef(
        id=ref.id, digest=file.sha256, data={"filename": file.path.name}
    )
    assert provider.find_upload("f" * 64) is None


def test_a_file_the_service_refuses_is_told_in_its_words(
    vendor: FakeTogether, provider: TogetherProvider, rows: Callable[..., EncodedFile]
) -> None:
    vendor.refuse_files = "Invalid role turns on line 3"
    with pytest.raises(InvalidData, match="Invalid role turns on line 3"):
        provider.upload(rows())


def test_a_check_that_never_ends_is_not_waited_for_for_ever(
    vendor: FakeTogether, rows: Callable[..., EncodedFile]
) -> None:
    vendor.checks = 10_000
    slow = TogetherProvider(settings=TogetherSettings(base_url=vendor.url, poll_interval=0.01, file_wait=0.1))
    with pytest.raises(TransientError, match="still being checked"):
        slow.upload(rows())


# --- the job ---------------------------------------------------------------------------------------------------------
def test_a_job_from_start_to_end(
    vendor: FakeTogether, provider: TogetherProvider, request_for: Callable[..., Request]
) -> None:
    request = request_for({"epochs": 2, "batch_size": 8, "eval_every": 50, "checkpoint_every": 125})
    assert provider.preflight(request) == []
    job = provider.submit(request, KEY)
    assert job.url == f"https://api.together.ai/fine-tuning/{job.id}"
    assert provider.find(KEY) == job
    assert vendor.counts["submit"] == 1
    snapshots = walk(provider, job)
    states = [snapshot.raw_state for snapshot in snapshots]
    assert list(dict.fromkeys(states)) == ["pending", "queued", "running", "compressing", "uploading", "completed"]
    points = [point for snapshot in snapshots for point in snapshot.points]
    assert {point.series for point in points} == {"train/loss", "train/learning_rate", "validation/loss"}
    assert {point.step for point in points if point.series == "train/loss"} == set(range(1, 11))
    assert all(point.source == "vendor_api" for point in points)
    assert {point.raw_name for point in points if point.series == "validation/loss"} == {"eval/loss"}
    events = [event for snapshot in snapshots for event in snapshot.events]
    assert [event.message for event in events] == ["Fine tune request created", "Training started", "Job finished"]
    assert len({event.id for event in events}) == 3
    last = snapshots[-1]
    assert last.model is not None
    assert KEY in last.model.id
    assert last.model.data["job"] == job.id
    assert [checkpoint.id for checkpoint in last.checkpoints] == [f"{job.id}:5", f"{job.id}:10"]
    assert last.billed is not None
    assert last.billed.tokens
    assert last.billed.amount is None
    assert "unit is not published" in last.billed.source
    assert last.resolved["batch_size"] == 8
    assert last.resolved["lora_rank"] == 8
    assert last.resolved["seed"] == 42
    assert last.progress.step == last.progress.total_steps == 10
    assert not last.warnings


def test_metrics_are_asked_for_from_where_the_last_look_ended(
    vendor: FakeTogether, provider: TogetherProvider, request_for: Callable[..., Request]
) -> None:
    job = provider.submit(request_for(), KEY)
    walk(provider, job)
    queries = [call.query for call in vendor.requests if call.route == "get_metrics"]
    assert queries[0] == {}
    assert queries[-1] == {"global_step_from": "10"}


def test_what_is_not_reported_says_why(provider: TogetherProvider, request_for: Callable[..., Request]) -> None:
    job = provider.submit(request_for(), KEY)
    assert "set eval_every" in provider.poll(job, None).not_reported["validation/loss"]
    second_job = provider.submit(request_for(validation=False), RunKey("lt0000000000"))
    assert provider.poll(second_job, None).not_reported == {"validation/loss": "no validation rows were sent"}


def test_a_failed_job_gives_the_services_reason(
    vendor: FakeTogether, provider: TogetherProvider, request_for: Callable[..., Request]
) -> None:
    vendor.outcome = "failure"
    last = walk(provider, provider.submit(request_for(), KEY))[-1]
    assert last.state is RunState.FAILED
    assert last.raw_state == "error"
    assert last.error == vendor.failure_message
    assert last.model is None


def test_cancel_and_cancel_again(
    vendor: FakeTogether, provider: TogetherProvider, request_for: Callable[..., Request]
) -> None:
    job = provider.submit(request_for(), KEY)
    provider.cancel(job)
    states = [snapshot.state for snapshot in walk(provider, job)]
    assert states[0] is RunState.CANCELLING
    assert states[-1] is RunState.CANCELLED
    provider.cancel(job)
    with pytest.raises(VendorError):
        provider.cancel(JobRef(id="ft-nobody"))


def test_an_unknown_state_is_running_with_a_warning(
    vendor: FakeTogether, provider: TogetherProvider, request_for: Callable[..., Request]
) -> None:
    job = provider.submit(request_for(), KEY)
    vendor.faults.add(unknown_state("recalibrating"), route="get_job")
    snapshot = provider.poll(job, None)
    assert snapshot.state is RunState.RUNNING
    assert snapshot.raw_state == "recalibrating"
    assert "recalibrating" in snapshot.warnings[0]


# --- nothing twice ---------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("fault", "route", "sent", "jobs"),
    [
        (rate_limit(retry_after=2), "create_job", False, 0),
        (server_error(), "create_job", True, 0),
        (server_error(handled=True), "create_job", True, 1),
        (accept_then_drop(), "create_job", True, 1),
        (garbled(), "create_job", True, 1),
        (reset(), "create_job", True, 0),
        (server_error(), "estimate_price", False, 0),
        (reset(), "estimate_price", False, 0),
        (server_error(), "model_limits", False, 0),
        (garbled(), "estimate_price", False, 0),
        (garbled(), "model_limits", False, 0),
    ],
)
def test_an_unclear_submit_is_one_call_and_says_whether_it_may_have_arrived(
    vendor: FakeTogether,
    provider: TogetherProvider,
    request_for: Callable[..., Request],
    fault: Any,
    route: str,
    sent: bool,
    jobs: int,
) -> None:
    request = request_for()
    vendor.faults.add(fault, route=route)
    with pytest.raises(TransientError) as caught:
        provider.submit(request, KEY)
    assert caught.value.sent is sent
    assert vendor.counts[route] == 1
    assert len(vendor.jobs_with(KEY)) == jobs
    assert (provider.find(KEY) is not None) is bool(jobs)
    if fault.status == 429:
        assert caught.value.retry_after == 2


def test_new_jobs_show_up_in_the_list_late(
    monkeypatch: pytest.MonkeyPatch, rows: Callable[..., EncodedFile], receipt_for: Callable[..., Receipt]
) -> None:
    monkeypatch.setenv("TOGETHER_API_KEY", "k")
    with FakeTogether(lag=30) as vendor:
        provider = TogetherProvider(settings=TogetherSettings(base_url=vendor.url, poll_interval=0.01))
        request = provider.build(receipt_for(provider), {"train": provider.upload(rows())})
        job = provider.submit(request, KEY)
        assert provider.find(KEY) is None
        vendor.advance(31)
        assert provider.find(KEY) == job
        assert provider.submit_safety.window > 30


def test_the_sdks_own_checks_refuse_before_anything_is_sent(
    vendor: FakeTogether, provider: TogetherProvider, request_for: Callable[..., Request]
) -> None:
    vendor.limits["lora_training"]["max_batch_size"] = 4
    with pytest.raises(NotTranslatable, match="batch size of 8"):
        provider.submit(request_for({"batch_size": 8}), KEY)
    assert not vendor.jobs


@pytest.mark.parametrize(
    ("fault", "expected"),
    [
        (refusal(401, "bad key"), MissingCredentials),
        (refusal(402, "out of credit"), QuotaExceeded),
        (refusal(400, "no such model", "model_not_found"), VendorError),
        (refusal(403, "not yours"), VendorError),
    ],
)
def test_refusals_keep_the_services_words(
    vendor: FakeTogether,
    provider: TogetherProvider,
    request_for: Callable[..., Request],
    fault: Any,
    expected: type[LlmtuneError],
) -> None:
    request = request_for()
    vendor.faults.add(fault, route="create_job")
    with pytest.raises(expected, match=fault.message):
        provider.submit(request, KEY)


def test_no_connection_was_surely_not_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOGETHER_API_KEY", "k")
    provider = TogetherProvider(settings=TogetherSettings(base_url="http://127.0.0.1:9"))
    with pytest.raises(TransientError) as caught:
        provider.find(KEY)
    assert caught.value.sent is False


def test_a_missing_key_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    provider = TogetherProvider(settings=TogetherSettings(api_key_env="MY_TOGETHER_KEY"))
    with pytest.raises(MissingCredentials, match="MY_TOGETHER_KEY is not set"):
        provider.find(KEY)
    assert provider.ready().credentials == "not found"
    monkeypatch.setenv("MY_TOGETHER_KEY", "k")
    assert provider.ready().credentials == "found"


# --- preflight -------------------------------------------------------------------------------------------------------
def test_live_limits_override_the_catalogue(
    vendor: FakeTogether, provider: TogetherProvider, request_for: Callable[..., Request]
) -> None:
    vendor.limits |= {"max_num_epochs": 2, "max_learning_rate": 1e-3, "max_seq_length_sft": 1024}
    vendor.limits["lora_training"] |= {"max_rank": 16, "max_batch_size": 4, "target_modules": ["q_proj", "v_proj"]}
    fields = {
        "epochs": 5,
        "learning_rate": 0.01,
        "lora_rank": 32,
        "batch_size": 8,
        "max_sequence_length": 4096,
        "lora_target_modules": "attention",
    }
    findings = {
        finding.message.split(":")[0]: finding
        for finding in provider.preflight(request_for(fields))
        if finding.is_error
    }
    assert set(findings) == {
        "epochs",
        "learning_rate",
        "lora_rank",
        "batch_size",
        "max_sequence_length",
        "lora_target_modules",
    }
    assert "takes from 1 to 2 today" in findings["epochs"].message
    assert "k_proj, o_proj" in findings["lora_target_modules"].message


def test_a_model_without_full_training(
    vendor: FakeTogether, provider: TogetherProvider, request_for: Callable[..., Request]
) -> None:
    vendor.limits["supports_full_training"] = False
    assert [finding.code for finding in provider.preflight(request_for(adapter="full")) if finding.is_error] == [
        "no-full-training"
    ]


def test_rows_that_are_never_evaluated_are_told(
    provider: TogetherProvider, request_for: Callable[..., Request]
) -> None:
    assert [(finding.code, finding.severity) for finding in provider.preflight(request_for())] == [
        ("never-evaluated", "warning")
    ]
    without = request_for({"batch_size": 8, "eval_every": 50}, validation=False)
    assert "no-validation-rows" in [finding.code for finding in provider.preflight(without)]


def test_an_account_that_cannot_pay_is_told_before_the_job(
    vendor: FakeTogether, provider: TogetherProvider, request_for: Callable[..., Request]
) -> None:
    vendor.allowed = False
    errors = [finding for finding in provider.preflight(request_for(validation=False)) if finding.is_error]
    assert [finding.code for finding in errors] == ["over-account-limit"]
    before = len(vendor.requests)
    with pytest.raises(QuotaExceeded, match="lack of funds"):
        provider.submit(request_for(validation=False), KEY)
    assert [call.route for call in list(vendor.requests)[before:]] == ["model_limits", "estimate_price"]
    assert not vendor.jobs


def test_the_services_estimate(
    vendor: FakeTogether, provider: TogetherProvider, request_for: Callable[..., Request]
) -> None:
    request = request_for({"epochs": 3})
    quote = provider.quote(request)
    tokens = 3 * count_file_tokens(vendor.files[request.body["training_file"]].content)
    assert quote.total == pytest.approx(tokens * vendor.price_per_token)
    assert f"{tokens:,}" in quote.formula
    vendor.estimable = False
    assert provider.quote(request).total is None
    assert "train file not validated" in (provider.quote(request).unknown or "")


def test_the_preview_marks_the_trained_tokens(provider: TogetherProvider, uploaded: dict[str, UploadRef]) -> None:
    previews = provider.preview("Qwen/Qwen3-8B", uploaded["train"].id, rows=2)
    assert len(previews) == 2
    assert [piece.text for piece in previews[0].tokens if piece.trained] == ["yes", "it", "is", "</s>"]
    assert previews[0].trained == 4
    assert previews[0].total == len(previews[0].tokens)
    with_prompts = provider.preview("Qwen/Qwen3-8B", uploaded["train"].id, rows=1, prompts_too=True)[0]
    assert with_prompts.trained > previews[0].trained


def test_the_services_view_stands_beside_ours(
    vendor: FakeTogether, provider: TogetherProvider, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    example = chat(("user", "which team?"), ("assistant", "network"))._replace(line=7)
    (preview,) = provider.preview_tokens("Qwen/Qwen3-8B", [example])
    assert preview.name == "together"
    assert preview.line == 7
    assert [piece.text for piece in preview.tokens if piece.trained] == ["network", "</s>"]
    assert not vendor.files  # what was uploaded for the look is gone again


# --- the model -------------------------------------------------------------------------------------------------------
def finished(provider: TogetherProvider, request: Request, key: RunKey = KEY) -> Snapshot:
    return walk(provider, provider.submit(request, key))[-1]


def ask(text: str) -> GenerationRequest:
    return GenerationRequest(messages=(Message("user", text),), temperature=0.0, max_tokens=20, top_k=5)


def test_a_tuned_model_answers_from_its_endpoint_and_the_endpoint_goes_away(
    vendor: FakeTogether, provider: TogetherProvider, request_for: Callable[..., Request]
) -> None:
    vendor.teach([("ping", "pong")])
    vendor.deployment_looks = 3
    model = finished(provider, request_for()).model
    assert model is not None
    assert isinstance(provider.generator(model), Unavailable)
    ref = provider.deploy(model, KEY)
    assert ref is not None
    assert provider.find_deployment(KEY) == ref
    assert provider.deploy(model, KEY) == ref
    assert len(vendor.standing) == 1
    generator = provider.generator(ref)
    assert not isinstance(generator, Unavailable)
    with generator:
        answer = generator.generate([ask("ping"), ask("ping")])
    assert [generation.text for generation in answer] == ["pong", "pong"]
    assert answer[0].finish_reason == "stop"
    assert answer[0].prompt_tokens == 9
    provider.undeploy(ref)
    provider.undeploy(ref)
    assert not vendor.standing
    assert provider.find_deployment(KEY) is None


def test_an_endpoint_that_is_never_ready_is_removed(
    vendor: FakeTogether, request_for: Callable[..., Request], provider: TogetherProvider
) -> None:
    model = finished(provider, request_for()).model
    assert model is not None
    vendor.deployment_looks = 10_000
    hasty = TogetherProvider(
        settings=provider.settings.model_copy(update={"endpoint_wait": 0.1})  # type: ignore[attr-defined]
    )
    with pytest.raises(VendorError, match="was removed"):
        hasty.deploy(model, KEY)
    assert not vendor.standing


def test_the_base_model_answers_without_an_endpoint(
    vendor: FakeTogether, provider: TogetherProvider, receipt_for: Callable[..., Receipt]
) -> None:
    base = provider.base_model(receipt_for(provider))
    assert isinstance(base, ModelRef)
    generator = provider.generator(base)
    assert not isinstance(generator, Unavailable)
    assert generator.generate([ask("ping")])[0].text == "I am not sure."
    assert provider.deploy(base, KEY) is None


def test_the_adapter_comes_home_in_pefts_layout(
    vendor: FakeTogether, provider: TogetherProvider, request_for: Callable[..., Request], tmp_path: Path
) -> None:
    last = finished(provider, request_for({"lora_rank": 4}))
    assert last.model is not None
    folder = provider.download_adapter(last.model, tmp_path / "adapter")
    assert sorted(file.name for file in folder.iterdir()) == ["adapter_config.json", "adapter_model.safetensors"]
    assert json.loads((folder / "adapter_config.json").read_text())["r"] == 4
    provider.download_adapter(last.checkpoints[0], tmp_path / "checkpoint")
    assert vendor.requests[-1].query["checkpoint_step"] == "10"
    full = finished(provider, request_for(adapter="full"), RunKey("lt0000000001"))
    assert full.model is not None
    with pytest.raises(VendorError, match="no LoRA adapter"):
        provider.download_adapter(full.model, tmp_path / "nothing")


def test_what_an_account_owns_can_be_run_again_elsewhere(
    vendor: FakeTogether, provider: TogetherProvider, request_for: Callable[..., Request], tmp_path: Path
) -> None:
    fields = {"epochs": 3, "batch_size": 8, "gradient_accumulation_steps": 2, "lora_rank": 16, "seed": 7}
    finished(provider, request_for(fields | {"prompt_loss_weight": 1.0, "learning_rate": 2e-5}))
    (owned,) = provider.inventory()
    fetched = provider.fetch(owned)
    assert fetched.base == "Qwen/Qwen3-8B"
    assert fetched.seed == 7
    expected = {
        "epochs": 3,
        "batch_size": 8,
        "gradient_accumulation_steps": 2,
        "lora_rank": 16,
        "lora_alpha": 32,
        "learning_rate": 2e-5,
        "prompt_loss_weight": 1.0,
        "lr_schedule": "cosine",
    }
    assert {name: fetched.hyperparameters[name] for name in expected} == expected
    assert fetched.unmapped["n_checkpoints"] == 1
    content = provider.download(fetched.files["train"], tmp_path).read_bytes()
    assert content == vendor.files[fetched.files["train"]].content


def test_deleting_is_quiet_when_it_is_gone(
    vendor: FakeTogether,
    provider: TogetherProvider,
    request_for: Callable[..., Request],
    uploaded: dict[str, UploadRef],
) -> None:
    last = finished(provider, request_for())
    assert last.model is not None
    for _ in range(2):
        provider.delete(last.model)
        provider.delete(uploaded["train"])
    assert not vendor.jobs
    assert uploaded["train"].id not in vendor.files


def test_the_snippet_is_python_that_calls_the_model(provider: TogetherProvider) -> None:
    text = provider.snippet(ModelRef(id="acme/model:tag:ft-1"))
    compile(text, "snippet", "exec")
    assert "acme/model:tag:ft-1" in text
    assert "dedicated endpoint" in text


def test_secrets_are_named_by_variable_and_never_stand_in_the_request(
    vendor: FakeTogether,
    provider: TogetherProvider,
    request_for: Callable[..., Request],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    options = {"wandb_project_name": "tuning", "wandb_api_key_env": "MY_WANDB", "hf_token_env": "MY_HF"}
    request = request_for(options=options)
    assert request.body["wandb_key"] == "${MY_WANDB}"
    with pytest.raises(MissingCredentials, match="MY_WANDB"):
        provider.submit(request, KEY)
    monkeypatch.setenv("MY_WANDB", "w-secret")
    monkeypatch.setenv("MY_HF", "h-secret")
    job = provider.submit(request, KEY)
    assert vendor.jobs[job.id].data["secrets"] == {"wandb_key": "w-secret", "hf_api_token": "h-secret"}
    assert "secret" not in request.model_dump_json()
    assert "secret" not in job.model_dump_json()
