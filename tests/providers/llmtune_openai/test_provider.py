"""OpenAI through the real SDK, against a stateful fake that refuses fields it does not know."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from llmtune.data.example import Message
from llmtune.errors import (
    InvalidData,
    LlmtuneError,
    MissingCredentials,
    ProviderClosed,
    QuotaExceeded,
    TransientError,
    VendorError,
)
from llmtune.provider.abilities import Pausable
from llmtune.provider.generation import GenerationRequest
from llmtune.provider.types import JobRef, ModelRef, RunKey, RunState, Snapshot, UploadRef
from llmtune.testing import (
    accept_then_drop,
    accept_then_hold,
    empty_answer,
    garbled,
    rate_limit,
    refusal,
    reset,
    server_error,
    truncated,
    unknown_state,
)
from llmtune_openai import OpenAIProvider
from llmtune_openai import files as transfer
from llmtune_openai.fake.service import FakeOpenAI
from llmtune_openai.settings import OpenAISettings
from tests.providers.llmtune_openai.conftest import MODEL, ROWS, encoded, receipt

KEY = RunKey("lt0123456789")


def started(provider: Any, folder: Path, model: str = MODEL, *, validation: bool = True, **job: Any) -> JobRef:
    files = {"train": provider.upload(encoded(folder))}
    if validation:
        files["validation"] = provider.upload(encoded(folder, "validation", 10))
    ref: JobRef = provider.submit(provider.build(receipt(provider, model, **job), files), KEY)
    return ref


def followed(provider: Any, job: JobRef, limit: int = 30) -> list[Snapshot]:
    """Poll until the job has ended and return every snapshot."""
    snapshots: list[Snapshot] = []
    cursor = None
    for _ in range(limit):
        snapshots.append(provider.poll(job, cursor))
        cursor = json.loads(json.dumps(snapshots[-1].cursor))  # a cursor is plain JSON
        if snapshots[-1].state.final:
            return snapshots
    raise AssertionError("the job did not end")


def test_a_whole_run(openai: OpenAIProvider, vendor: FakeOpenAI, tmp_path: Path) -> None:
    job = started(openai, tmp_path, hyperparameters={"epochs": 2, "batch_size": 8}, tags={"team": "search"}, seed=3)
    snapshots = followed(openai, job)
    states = list(dict.fromkeys(snapshot.state for snapshot in snapshots))
    assert states == [RunState.QUEUED, RunState.RUNNING, RunState.SUCCEEDED]
    last = snapshots[-1]
    assert last.model is not None
    assert last.model.id.startswith(f"ft:{MODEL}:")
    assert last.billed is not None
    assert last.resolved["epochs"] == 2
    assert last.resolved["seed"] == 3
    events = [event.id for snapshot in snapshots for event in snapshot.events]
    assert len(events) == len(set(events)), "nothing is reported twice"
    assert any("successfully completed" in event.message for snapshot in snapshots for event in snapshot.events)
    steps = {point.step for snapshot in snapshots for point in snapshot.points if point.series == "train/loss"}
    assert steps == set(range(1, 11))
    exact = {point.step: point.value for point in last.points if point.source == "vendor_file"}
    assert len(exact) == 10
    assert {point.series for point in last.points} >= {"train/loss", "train/token_accuracy", "validation/loss"}
    assert {
        point.step for snapshot in snapshots for point in snapshot.points if point.series == "validation/full_loss"
    } == {5, 10}
    assert [ref.data["step"] for ref in last.checkpoints] == [5, 10]
    assert last.checkpoints[-1].id == last.model.id
    assert len(vendor.jobs_with(KEY)) == 1


def test_the_result_file_is_read_once(openai: OpenAIProvider, vendor: FakeOpenAI, tmp_path: Path) -> None:
    job = started(openai, tmp_path)
    last = followed(openai, job)[-1]
    again = openai.poll(job, last.cursor)
    assert vendor.counts["get_content"] == 1
    assert not [point for point in again.points if point.source == "vendor_file"]
    assert again.events == ()


def test_the_body_on_the_wire_is_the_body_of_the_plan_and_the_key(
    openai: OpenAIProvider, vendor: FakeOpenAI, tmp_path: Path
) -> None:
    options = {"openai": {"wandb": {"project": "p", "name": "n"}}}
    files = {"train": openai.upload(encoded(tmp_path))}
    request = openai.build(
        receipt(openai, MODEL, provider_options=options, tags={"a": "b"}, hyperparameters={"epochs": 1}), files
    )
    openai.submit(request, KEY)
    (sent,) = [call.data for call in vendor.requests if call.route == "create_job"]
    assert sent == {**request.body, "metadata": {"a": "b", "llmtune_run": KEY}}


def test_preference_tuning_goes_through(openai: OpenAIProvider, tmp_path: Path) -> None:
    job = started(openai, tmp_path, method="dpo", hyperparameters={"dpo_beta": 0.2})
    last = followed(openai, job)[-1]
    assert last.state is RunState.SUCCEEDED
    assert last.resolved["dpo_beta"] == 0.2


def test_a_failed_job_says_why(openai: OpenAIProvider, vendor: FakeOpenAI, tmp_path: Path) -> None:
    vendor.outcome = "failure"
    last = followed(openai, started(openai, tmp_path))[-1]
    assert last.state is RunState.FAILED
    assert vendor.failure_message in str(last.error)
    assert last.model is None


def test_cancel_pause_resume(openai: OpenAIProvider, tmp_path: Path) -> None:
    assert isinstance(openai, Pausable)
    job = started(openai, tmp_path)
    openai.poll(job, None)
    openai.poll(job, None)
    openai.pause(job)
    assert openai.poll(job, None).state is RunState.PAUSED
    openai.resume(job)
    assert openai.poll(job, None).state is RunState.RUNNING
    openai.cancel(job)
    assert openai.poll(job, None).state is RunState.CANCELLED
    openai.cancel(job)  # it has ended: quietly done


def test_an_unknown_state_is_running_with_a_warning(openai: OpenAIProvider, vendor: FakeOpenAI, tmp_path: Path) -> None:
    job = started(openai, tmp_path)
    vendor.faults.add(unknown_state("recalibrating"), route="get_job")
    snapshot = openai.poll(job, None)
    assert snapshot.state is RunState.RUNNING
    assert snapshot.raw_state == "recalibrating"
    assert snapshot.warnings


def test_a_result_file_that_is_gone_is_a_warning(openai: OpenAIProvider, vendor: FakeOpenAI, tmp_path: Path) -> None:
    job = started(openai, tmp_path)
    vendor.faults.add(refusal(404, "No such File object"), route="get_content")
    last = followed(openai, job)[-1]
    assert last.state is RunState.SUCCEEDED
    assert "is gone" in last.warnings[0]


# --- files -----------------------------------------------------------------------------------------------------------
def test_an_upload_is_found_again_by_its_content(openai: OpenAIProvider, tmp_path: Path) -> None:
    file = encoded(tmp_path)
    assert openai.find_upload(file.sha256) is None
    sent = openai.upload(file)
    upload = openai.find_upload(file.sha256)
    assert upload is not None
    assert upload.id == sent.id
    assert upload.digest == file.sha256
    openai.delete(sent)
    openai.delete(sent)  # gone already
    assert openai.find_upload(file.sha256) is None


@pytest.mark.parametrize(
    ("settings", "days"), [({}, 30), ({"upload_expires_days": "7"}, 7), ({"upload_expires_days": "never"}, None)]
)
def test_an_upload_expires_as_the_settings_say(
    vendor: FakeOpenAI, tmp_path: Path, settings: dict[str, Any], days: int | None
) -> None:
    OpenAIProvider("openai", OpenAISettings(base_url=f"{vendor.url}/v1", **settings)).upload(encoded(tmp_path))
    (file,) = vendor.files.values()
    assert file.data.get("expires_at") == (int(file.created) + days * 86400 if days else None)


def test_a_service_without_the_field_gets_no_expiry(vendor: FakeOpenAI, tmp_path: Path) -> None:
    settings = OpenAISettings(base_url=f"{vendor.url}/v1", profile="compatible")
    OpenAIProvider("openai", settings).upload(encoded(tmp_path))
    (file,) = vendor.files.values()
    assert "expires_at" not in file.data


@pytest.mark.parametrize(("days_left", "reused"), [(-1, False), (3, False), (20, True), ("soon", False)])
def test_an_upload_is_reused_only_while_it_outlives_a_queue(
    openai: OpenAIProvider, vendor: FakeOpenAI, tmp_path: Path, days_left: Any, reused: bool
) -> None:
    encoded_file = encoded(tmp_path)
    openai.upload(encoded_file)
    (file,) = vendor.files.values()
    expires = days_left if isinstance(days_left, str) else int(vendor.now()) + days_left * 86400
    file.data["expires_at"] = expires
    assert (openai.find_upload(encoded_file.sha256) is not None) is reused


def test_a_file_that_the_service_cannot_use_is_invalid_data(openai: OpenAIProvider, tmp_path: Path) -> None:
    path = tmp_path / "bad.jsonl"
    path.write_text("not json\n")
    file = encoded(tmp_path).model_copy(update={"path": path, "bytes": 9})
    with pytest.raises(InvalidData, match="line 1 is not JSON"):
        openai.upload(file)


def test_a_large_file_goes_up_in_parts(
    openai: OpenAIProvider, vendor: FakeOpenAI, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dataclasses import replace

    monkeypatch.setattr(transfer, "PART", 500)
    openai.service = replace(openai.service, upload_in_parts_above=1000)
    file = encoded(tmp_path)
    assert file.bytes > 1000
    sent = openai.upload(file)
    assert vendor.files[sent.id].content == file.path.read_bytes()
    assert vendor.counts["create_part"] == -(-file.bytes // 500)
    assert vendor.counts["create_file"] == 0


def test_an_upload_in_parts_that_breaks_is_cancelled(
    openai: OpenAIProvider, vendor: FakeOpenAI, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dataclasses import replace

    monkeypatch.setattr(transfer, "PART", 500)
    openai.service = replace(openai.service, upload_in_parts_above=1000)
    vendor.faults.add(server_error(), route="create_part", after=1)
    with pytest.raises(TransientError):
        openai.upload(encoded(tmp_path))
    assert [upload["status"] for upload in vendor.uploads.values()] == ["cancelled"]


def test_download_brings_a_file_and_decodes_a_result_file(openai: OpenAIProvider, tmp_path: Path) -> None:
    job = started(openai, tmp_path)
    followed(openai, job)
    remote = next(iter(openai.inventory()))
    fetched = openai.fetch(remote)
    brought = openai.download(fetched.files["train"], tmp_path / "back")
    assert brought.read_bytes() == (tmp_path / "train.jsonl").read_bytes()
    results = openai.download(fetched.record["result_files"][0], tmp_path / "back")
    assert results.read_text().startswith("step,train_loss")


# --- submit and find -------------------------------------------------------------------------------------------------
@pytest.mark.slow
@pytest.mark.parametrize("fault", [accept_then_drop(), accept_then_hold(4.0), truncated(), garbled()])
def test_an_unclear_submit_is_one_job_and_is_found_again(
    openai: OpenAIProvider, vendor: FakeOpenAI, tmp_path: Path, fault: Any
) -> None:
    files = {"train": openai.upload(encoded(tmp_path))}
    request = openai.build(receipt(openai, MODEL), files)
    vendor.faults.add(fault, role="submit")
    with pytest.raises(TransientError) as caught:
        openai.submit(request, KEY)
    assert caught.value.sent, "the vendor may have taken it"
    assert len(vendor.jobs_with(KEY)) == 1, "one POST, never repeated"
    job = openai.find(KEY)
    assert job is not None
    assert job.id == vendor.jobs_with(KEY)[0].id
    assert openai.find(RunKey("lt9999999999")) is None


def test_a_server_error_after_accepting_is_one_job(openai: OpenAIProvider, vendor: FakeOpenAI, tmp_path: Path) -> None:
    files = {"train": openai.upload(encoded(tmp_path))}
    vendor.faults.add(server_error(handled=True), role="submit")
    with pytest.raises(TransientError) as caught:
        openai.submit(openai.build(receipt(openai, MODEL), files), KEY)
    assert caught.value.sent
    assert vendor.counts["create_job"] == 1
    assert openai.find(KEY) is not None


def test_a_lagging_list_shows_the_job_later(openai: OpenAIProvider, vendor: FakeOpenAI, tmp_path: Path) -> None:
    vendor.lag = 30.0
    files = {"train": UploadRef(id=vendor.new_file((encoded(tmp_path)).path.read_bytes()).id)}
    openai.submit(openai.build(receipt(openai, MODEL), files), KEY)
    assert openai.find(KEY) is None
    vendor.advance(31)
    assert openai.find(KEY) is not None
    assert openai.submit_safety.kind == "searchable"
    assert openai.submit_safety.window >= 30


def test_a_service_that_ignores_the_filter_does_not_fool_find(
    openai: OpenAIProvider, vendor: FakeOpenAI, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started(openai, tmp_path)
    monkeypatch.setattr(FakeOpenAI, "list_jobs", _unfiltered)
    assert openai.find(RunKey("lt9999999999")) is None
    assert openai.find(KEY) is not None


def _unfiltered(self: FakeOpenAI, call: Any) -> Any:
    return self.page({"limit": "100"}, [self.describe_job(job) for job in self.jobs.values()])


def test_a_hurry_is_surely_not_sent(openai: OpenAIProvider, vendor: FakeOpenAI, tmp_path: Path) -> None:
    files = {"train": openai.upload(encoded(tmp_path))}
    vendor.faults.add(rate_limit(7), role="submit")
    with pytest.raises(TransientError) as caught:
        openai.submit(openai.build(receipt(openai, MODEL), files), KEY)
    assert (caught.value.sent, caught.value.retry_after) == (False, 7.0)
    assert not vendor.jobs


def test_nobody_there_is_surely_not_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    import socket

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    monkeypatch.setenv("OPENAI_API_KEY", "sk-test")
    provider = OpenAIProvider("openai", OpenAISettings(base_url=f"http://127.0.0.1:{port}/v1", timeout=2))
    with pytest.raises(TransientError) as caught:
        provider.submit(provider.build(receipt(provider, MODEL), {"train": UploadRef(id="f")}), KEY)
    assert caught.value.sent is False


@pytest.mark.parametrize("fault", [reset(), server_error(502), truncated(), garbled()])
def test_a_poll_that_breaks_is_worth_another(
    openai: OpenAIProvider, vendor: FakeOpenAI, tmp_path: Path, fault: Any
) -> None:
    job = started(openai, tmp_path)
    vendor.faults.add(fault, route="get_job")
    with pytest.raises(TransientError):
        openai.poll(job, None)
    assert openai.poll(job, None).state in (RunState.QUEUED, RunState.RUNNING)


# --- refusals --------------------------------------------------------------------------------------------------------
def test_a_closed_organisation_is_told_where_else_to_go(
    openai: OpenAIProvider, vendor: FakeOpenAI, tmp_path: Path
) -> None:
    vendor.closed = True
    with pytest.raises(ProviderClosed) as caught:
        started(openai, tmp_path)
    assert "local" in caught.value.alternatives
    assert "openai" not in caught.value.alternatives
    assert "llmtune plan" in str(caught.value.hint)
    assert caught.value.exit_code == 3


def test_an_unavailable_model_is_the_same(openai: OpenAIProvider, tmp_path: Path) -> None:
    with pytest.raises(ProviderClosed, match="gpt-9 is not available"):
        started(openai, tmp_path, "gpt-9")


def test_no_key_and_a_wrong_key_are_sentences(vendor: FakeOpenAI, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = OpenAISettings(base_url=f"{vendor.url}/v1")
    monkeypatch.setenv("OPENAI_API_KEY", "wrong")
    with pytest.raises(MissingCredentials, match="OPENAI_API_KEY"):
        OpenAIProvider("openai", settings).find(KEY)
    monkeypatch.delenv("OPENAI_API_KEY")
    with pytest.raises(MissingCredentials, match="OPENAI_API_KEY is not set") as caught:
        OpenAIProvider("openai", settings).find(KEY)
    assert "export OPENAI_API_KEY" in str(caught.value.hint)


def test_a_spent_quota_is_a_quota(openai: OpenAIProvider, vendor: FakeOpenAI, tmp_path: Path) -> None:
    files = {"train": openai.upload(encoded(tmp_path))}
    vendor.faults.add(refusal(429, "You exceeded your current quota.", "insufficient_quota"), role="submit")
    with pytest.raises(QuotaExceeded, match="exceeded your current quota"):
        openai.submit(openai.build(receipt(openai, MODEL), files), KEY)


def test_an_unknown_training_file_is_refused_in_the_vendors_words(openai: OpenAIProvider) -> None:
    with pytest.raises(VendorError, match="invalid training_file: file-no"):
        openai.submit(openai.build(receipt(openai, MODEL), {"train": UploadRef(id="file-no")}), KEY)


def test_preflight_tells_of_shutdowns_and_unknown_models(
    openai: OpenAIProvider, vendor: FakeOpenAI, monkeypatch: pytest.MonkeyPatch
) -> None:
    request = openai.build(receipt(openai, MODEL), {"train": UploadRef(id="f")})
    assert openai.preflight(request) == []
    vendor.shutdowns[MODEL] = "2999-01-14"
    assert [finding.severity for finding in openai.preflight(request)] == ["warning"]
    vendor.shutdowns[MODEL] = "2020-01-14"
    assert [finding.severity for finding in openai.preflight(request)] == ["error"]
    unseen = openai.build(receipt(openai, "gpt-9"), {"train": UploadRef(id="f")})
    assert "gpt-9" in openai.preflight(unseen)[0].message


# --- models ----------------------------------------------------------------------------------------------------------
def ask(question: str, **more: Any) -> GenerationRequest:
    return GenerationRequest(messages=(Message("user", question),), **more)


def test_base_and_tuned_model_answer(openai: OpenAIProvider, vendor: FakeOpenAI, tmp_path: Path) -> None:
    last = followed(openai, started(openai, tmp_path))[-1]
    assert last.model is not None
    question, answer = ROWS[0]
    with openai.generator(last.model) as tuned:  # type: ignore[union-attr]
        (generation,) = tuned.generate([ask(question, max_tokens=50, top_p=0.9, seed=1)])
    assert (generation.text, generation.finish_reason) == (answer, "stop")
    assert generation.completion_tokens == len(answer.split())
    (sent,) = [call.data for call in vendor.requests if call.route == "chat"]
    assert (sent["temperature"], sent["top_p"], sent["max_completion_tokens"], sent["seed"]) == (0.0, 0.9, 50, 1)
    base = openai.base_model(receipt(openai, MODEL))
    (generation,) = openai.generator(base).generate([ask(question)])  # type: ignore[union-attr, arg-type]
    assert generation.text != answer


def test_a_continued_job_starts_from_the_tuned_model(
    openai: OpenAIProvider, vendor: FakeOpenAI, tmp_path: Path
) -> None:
    first = followed(openai, started(openai, tmp_path))[-1]
    assert first.model is not None
    again = started(openai, tmp_path, first.model.id)
    assert vendor.jobs[again.id].body["model"] == first.model.id
    assert followed(openai, again)[-1].state is RunState.SUCCEEDED


def test_inventory_and_fetch(openai: OpenAIProvider, vendor: FakeOpenAI, tmp_path: Path) -> None:
    job = started(openai, tmp_path, hyperparameters={"epochs": 4, "batch_size": 2}, seed=9)
    model = followed(openai, job)[-1].model
    assert model is not None
    vendor.shutdowns[MODEL] = "2027-01-14"
    listed = {remote.id: remote for remote in openai.inventory()}
    assert listed[model.id].job == job.id
    assert listed[model.id].base == MODEL
    assert listed[model.id].shutdown == "2027-01-14"
    for remote in (listed[model.id], listed[model.id].model_copy(update={"job": None})):
        fetched = openai.fetch(remote)
        assert fetched.hyperparameters["epochs"] == 4
        assert fetched.hyperparameters["batch_size"] == 2
        assert fetched.seed == 9
        assert set(fetched.files) == {"train", "validation"}
    openai.delete(model)
    openai.delete(model)
    with pytest.raises(LlmtuneError, match="base model"):
        openai.delete(ModelRef(id=MODEL, tuned=False))


def test_long_lists_are_read_page_by_page(openai: OpenAIProvider, vendor: FakeOpenAI, tmp_path: Path) -> None:
    vendor.steps = 900
    snapshots = followed(openai, started(openai, tmp_path))
    assert {point.step for snapshot in snapshots for point in snapshot.points} == set(range(1, 901))
    assert vendor.counts["list_events"] > len(snapshots), "more than a page of events"


def test_the_snippet_runs(openai: OpenAIProvider, vendor: FakeOpenAI, capsys: pytest.CaptureFixture[str]) -> None:
    exec(compile(openai.snippet(ModelRef(id=MODEL)), "snippet", "exec"), {})
    assert capsys.readouterr().out.strip()


# --- other services
def test_a_compatible_service_without_lists_of_events_and_checkpoints(
    vendor: FakeOpenAI, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MINE", "sk-test")
    provider = OpenAIProvider(
        "mine", OpenAISettings(base_url=f"{vendor.url}/v1", profile="compatible", api_key_env="MINE", timeout=2)
    )
    job = started(provider, tmp_path)
    for route in ("list_events", "list_checkpoints"):
        vendor.faults.add(refusal(404, "no such page"), route=route, times=99)
    last = followed(provider, job)[-1]
    assert last.state is RunState.SUCCEEDED
    assert "no list of events" in last.not_reported["events"]
    assert "no list of checkpoints" in last.not_reported["checkpoints"]
    assert provider.find(KEY) is not None


def test_at_openai_a_missing_list_is_a_warning(openai: OpenAIProvider, vendor: FakeOpenAI, tmp_path: Path) -> None:
    job = started(openai, tmp_path)
    vendor.faults.add(refusal(404, "no such page"), route="list_events")
    snapshot = openai.poll(job, None)
    assert any("its events could not be read" in warning for warning in snapshot.warnings)
    assert snapshot.not_reported.get("events") is None


def test_a_result_file_that_never_comes_is_pending_and_not_in_the_way(
    openai: OpenAIProvider, vendor: FakeOpenAI, tmp_path: Path
) -> None:
    job = started(openai, tmp_path)
    vendor.faults.add(server_error(), route="get_content", times=10_000)
    last = followed(openai, job)[-1]
    assert last.state is RunState.SUCCEEDED
    assert last.model is not None
    assert [name.partition(" file")[0] for name in last.pending] == ["its result"]
    vendor.faults.clear()
    again = openai.poll(job, last.cursor)
    assert again.pending == ()
    assert any(point.source == "vendor_file" for point in again.points)


def test_an_empty_answer_to_the_submit_is_unclear_and_not_a_refusal(
    openai: OpenAIProvider, vendor: FakeOpenAI, tmp_path: Path
) -> None:
    vendor.faults.add(empty_answer(), role="submit")
    with pytest.raises(TransientError, match="is not a fine-tuning job") as caught:
        started(openai, tmp_path)
    assert caught.value.sent
    assert len(vendor.jobs) == 1


# --- refusals of the model --------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("status", "code", "kind"), [(400, "model_not_available", ProviderClosed), (404, "model_not_found", VendorError)]
)
def test_a_misspelt_model_is_suggested_from_the_catalogue(
    openai: OpenAIProvider, vendor: FakeOpenAI, tmp_path: Path, status: int, code: str, kind: type[Exception]
) -> None:
    files = {"train": openai.upload(encoded(tmp_path))}
    message = "Model gpt-4.1-mini-2025-04-41 is not available or does not exist."
    vendor.faults.add(refusal(status, message, code), role="submit")
    with pytest.raises(kind) as caught:
        openai.submit(openai.build(receipt(openai, "gpt-4.1-mini-2025-04-41"), files), KEY)
    assert "did you mean gpt-4.1-mini-2025-04-14" in str(caught.value.hint)  # type: ignore[attr-defined]


def test_a_model_of_the_catalogue_is_not_called_misspelt(
    openai: OpenAIProvider, vendor: FakeOpenAI, tmp_path: Path
) -> None:
    files = {"train": openai.upload(encoded(tmp_path))}
    vendor.faults.add(refusal(400, "This model is not available.", "model_not_available"), role="submit")
    with pytest.raises(ProviderClosed) as caught:
        openai.submit(openai.build(receipt(openai, MODEL), files), KEY)
    assert "misspelt" not in str(caught.value.hint)
