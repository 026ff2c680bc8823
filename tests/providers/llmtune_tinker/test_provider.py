"""The provider, beyond the suite: one session a run, what is asked before money is spent, bills, export, odd words."""

from __future__ import annotations

import json
import logging
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import llmtune.provider as core
from llmtune.errors import (
    InvalidData,
    InvalidJob,
    MissingCredentials,
    MissingExtra,
    QuotaExceeded,
    TransientError,
    VendorError,
)
from llmtune.job.spec import DatasetSpec, Hyperparameters, TuningJob
from llmtune.planning.plan import read_dataset
from llmtune.runs.ids import new_run_id, run_key
from llmtune.runs.plans import plan
from llmtune.testing import faults
from llmtune.testing.wire_check import check_request_fields
from llmtune_tinker import capabilities
from llmtune_tinker import provider as provider_module
from llmtune_tinker.fake.service import FakeTinker
from llmtune_tinker.provider import TinkerProvider
from llmtune_tinker.run_folder import LoopFolder
from llmtune_tinker.settings import TinkerSettings
from llmtune_tinker.tinker_loop import TinkerLoop, translate_errors
from llmtune_tinker.worker.main import LOG_FORMAT, _Scrubbing
from tests.providers.llmtune_tinker.conftest import KEY, QWEN, Threads


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LLMTUNE_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("LLMTUNE_CONFIG", str(tmp_path / "no-config.toml"))
    return tmp_path / "home"


Make = Callable[..., core.Request]


def make_job(
    folder: Path, model: str = QWEN, *, long_row: bool = False, method: str = "sft", **recipe: Any
) -> TuningJob:
    rows: list[Any] = [
        {"messages": [{"role": "user", "content": f"ticket {n}"}, {"role": "assistant", "content": "ab"[n % 2] * 3}]}
        for n in range(20)
    ]
    if long_row:
        rows[3]["messages"][0]["content"] = "word " * 900
    if method == "dpo":
        rows = [
            {
                "prompt": row["messages"][:1],
                "chosen": row["messages"][1:],
                "rejected": [{"role": "assistant", "content": "c"}],
            }
            for row in rows
        ]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    values = {"epochs": 1, "batch_size": 8, "learning_rate": 0.1}
    return TuningJob(
        name="one",
        dataset=DatasetSpec(path=str(folder / "rows.jsonl")),
        model={"tinker": model},
        method=method,  # type: ignore[arg-type]
        hyperparameters=Hyperparameters.model_validate(values | recipe),
        provider_options={"tinker": {"tokenizer": "tiny"}},
    )


@pytest.fixture
def make(tinker: TinkerProvider, tmp_path: Path) -> Make:
    def make(**changes: Any) -> core.Request:
        job = make_job(tmp_path, **changes)
        dataset: Any = read_dataset(job)
        receipt = plan(job, tinker, dataset=dataset)
        assert receipt.refusals == ()
        encoded = tinker.encode(dataset, receipt, tmp_path / "encoded")
        return tinker.build(receipt, {str(file.role): tinker.upload(file) for file in encoded.files})

    return make


def run_to_its_end(tinker: TinkerProvider, ref: core.JobRef) -> core.Snapshot:
    for _ in range(600):
        snapshot = tinker.poll(ref, None)
        if snapshot.state.final:
            return snapshot
        time.sleep(0.05)
    raise AssertionError(snapshot.raw_state)


# --- the plan --------------------------------------------------------------------------------------------------------
def test_every_hyperparameter_of_the_loop_is_in_the_plan_as_it_is_sent(tinker: TinkerProvider, make: Make) -> None:
    request = make(weight_decay=0.05, adam_beta2=0.99, prompt_loss_weight=0.25, lr_schedule="cosine", warmup_steps=3)
    sent = request.body["hyperparameters"]
    assert sent["learning_rate"] == 0.1
    assert (sent["weight_decay"], sent["adam_beta2"], sent["adam_beta1"], sent["adam_epsilon"]) == (
        0.05,
        0.99,
        0.9,
        1e-12,
    )
    assert (sent["prompt_loss_weight"], sent["lr_schedule"], sent["warmup_steps"]) == (0.25, "cosine", 3)
    assert (sent["lora_rank"], sent["max_grad_norm"], sent["keep_checkpoints"]) == (32, 0.0, 2)


@pytest.mark.parametrize(
    ("recipe", "reason"),
    [
        ({"lora_alpha": 16}, "no alpha"),
        ({"lora_dropout": 0.1}, "no dropout"),
        ({"lora_target_modules": "attention"}, "train_mlp"),
        ({"label_smoothing": 0.1}, "no smoothing"),
    ],
)
def test_what_the_service_decides_is_said_with_the_reason(
    tinker: TinkerProvider, tmp_path: Path, recipe: dict[str, Any], reason: str
) -> None:
    receipt = plan(make_job(tmp_path, **recipe), tinker)
    row = receipt[next(iter(recipe))]
    assert row.support == "unsupported"
    assert reason in row.reason


def test_an_optimizer_that_the_service_does_not_have_is_refused(tinker: TinkerProvider, tmp_path: Path) -> None:
    refusals = plan(make_job(tmp_path, optimizer="sgd"), tinker).refusals
    assert any("adamw_torch" in str(refusal) for refusal in refusals)


# --- preferences -----------------------------------------------------------------------------------------------------
def test_what_is_declared_of_preferences_is_what_moves_in_the_request(tinker: TinkerProvider, make: Make) -> None:
    assert check_request_fields(tinker, QWEN, method="dpo", adapter="lora") == []
    request = make(method="dpo", dpo_beta=0.3, label_smoothing=0.1)
    assert request.body["method"] == "dpo"
    sent = request.body["hyperparameters"]
    assert (sent["dpo_beta"], sent["label_smoothing"]) == (0.3, 0.1)
    assert "prompt_loss_weight" not in sent
    unset = make(method="dpo", learning_rate=None).body["hyperparameters"]
    assert (unset["dpo_beta"], unset["learning_rate"]) == (0.1, 1e-5)


def test_what_does_not_fit_preferences_is_said(tinker: TinkerProvider, tmp_path: Path) -> None:
    receipt = plan(make_job(tmp_path, method="dpo", prompt_loss_weight=0.5), tinker)
    assert receipt["prompt_loss_weight"].support == "not_applicable"
    assert receipt.data.tokens == plan(make_job(tmp_path, method="dpo"), tinker).data.tokens
    too_much = plan(make_job(tmp_path, method="dpo", label_smoothing=0.7), tinker)
    assert any("label_smoothing" in str(refusal) and "< 0.5" in str(refusal) for refusal in too_much.refusals)
    answers = make_job(tmp_path).model_copy(update={"method": "dpo"})
    assert plan(answers, tinker).data.errors > 0


@pytest.mark.slow
def test_preferences_are_trained_through_the_sdk_and_every_token_was_planned(
    tinker: TinkerProvider, tinker_vendor: FakeTinker, make: Make, tmp_path: Path
) -> None:
    job = make_job(tmp_path, method="dpo", epochs=2)
    dataset: Any = read_dataset(job)
    receipt = plan(job, tinker, dataset=dataset)
    tokens, validation = receipt.data.tokens or 0, receipt.data.validation_tokens or 0
    assert validation > 0
    tinker_vendor.bills_forward = True
    request = make(method="dpo", epochs=2)
    ref = tinker.submit(request, run_key(new_run_id()))
    end = run_to_its_end(tinker, ref)
    assert end.state is core.RunState.SUCCEEDED, end.error
    # two epochs with a gradient, two without, one pass for the reference, and the validations after steps
    points = {(point.series, point.step): point.value for point in end.points}
    validations = sum(1 for series, step in points if series == "validation/loss" and step)
    assert tinker_vendor.trained_tokens[ref.id] == 2 * tokens
    assert tinker_vendor.forward_tokens[ref.id] == 3 * tokens + (1 + validations) * validation
    last = max(step for _, step in points)
    assert points["train/loss", last] < points["train/loss", 1] == pytest.approx(0.6931, abs=1e-4)
    assert points["validation/reward_accuracy", last] == 1
    assert tinker_vendor.complaints == []
    # what was billed lies within the estimate, but for the validations, of which the plan says so
    formula = receipt.cost.lines[0].formula
    assert f"passes without a gradient {3 * tokens + validation:,} tokens x 0.195 to 0.44" in formula
    planned = (5 * tokens + validation) / 1e6 * 0.44
    assert receipt.cost.lines[0].high == pytest.approx(planned)
    assert receipt.cost.lines[0].low == pytest.approx(2 * tokens / 1e6 * 0.44 + (3 * tokens + validation) / 1e6 * 0.195)
    assert end.billed is not None
    assert end.billed.amount == pytest.approx(planned + validations * validation / 1e6 * 0.44)


def test_a_missing_torch_is_a_sentence_before_anything_is_sent(
    tinker: TinkerProvider, tinker_vendor: FakeTinker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = make_job(tmp_path, method="dpo")
    dataset: Any = read_dataset(job)
    monkeypatch.setattr(
        provider_module, "TORCH", core.Requirement(extra="tinker-dpo", module="torch_none", distribution="torch")
    )
    receipt = plan(job, tinker, dataset=dataset)
    assert any("pip install 'llmtune-sdk[tinker-dpo]'" in warning for warning in receipt.warnings)
    with pytest.raises(MissingExtra, match="'torch' is not installed, which is needed for method dpo") as caught:
        tinker.encode(dataset, receipt, tmp_path / "encoded")
    assert caught.value.hint == "pip install 'llmtune-sdk[tinker-dpo]'"
    assert tinker_vendor.counts["submit"] == 0
    assert not any("torch" in warning for warning in plan(make_job(tmp_path), tinker).warnings)


@pytest.mark.slow
def test_likelihoods_that_are_left_out_end_a_run_on_preferences_in_a_sentence(
    tinker: TinkerProvider, tinker_vendor: FakeTinker, make: Make
) -> None:
    tinker_vendor.drops_likelihoods = True
    ref = tinker.submit(make(method="dpo"), run_key(new_run_id()))
    end = run_to_its_end(tinker, ref)
    assert end.state is core.RunState.FAILED
    assert "without the likelihood of each token, which DPO needs" in (end.error or "")
    assert ref.id not in tinker_vendor.trained_tokens


def test_the_plans_tokens_are_those_that_the_run_sends_and_bills(
    tinker: TinkerProvider, tinker_vendor: FakeTinker, make: Make, tmp_path: Path
) -> None:
    job = make_job(tmp_path)
    dataset: Any = read_dataset(job)
    receipt = plan(job, tinker, dataset=dataset)
    assert receipt.data.tokens_estimated is False
    ref = tinker.submit(make(), run_key(new_run_id()))
    end = run_to_its_end(tinker, ref)
    assert end.billed is not None
    assert end.billed.tokens == tinker_vendor.trained_tokens[ref.id] == receipt.data.tokens
    assert end.billed.amount == pytest.approx((receipt.data.tokens or 0) * 0.44 / 1e6)


# --- before money is spent -------------------------------------------------------------------------------------------
def test_the_models_are_asked_and_kept_with_the_day(tinker: TinkerProvider, make: Make, home: Path) -> None:
    assert capabilities.read_kept() is None
    assert not [finding for finding in tinker.preflight(make()) if finding.is_error]
    seen = capabilities.read_kept()
    assert seen is not None
    model = seen.find(QWEN)
    assert model is not None
    assert model.context == 32768
    target = core.Target(provider="tinker", kind="tinker", model=QWEN)
    assert tinker.capabilities(target).limits.max_tokens_per_row == 32768
    warnings = tinker.capabilities(target.model_copy(update={"model": "Qwen/Qwen3-8b"})).warnings
    assert any(str(seen.day) in warning and QWEN in warning for warning in warnings)
    (home / "tinker" / "capabilities.json").write_text("{}", encoding="utf-8")
    assert capabilities.read_kept() is None


def test_a_model_that_is_not_trained_today_is_an_error_with_the_nearest(tinker: TinkerProvider, make: Make) -> None:
    findings = tinker.preflight(make(model="Qwen/Qwen3-80B"))
    assert [finding.is_error for finding in findings] == [True]
    assert QWEN in str(findings[0])


def test_a_row_that_is_too_long_is_found_before_anything_is_sent(
    tinker: TinkerProvider, tinker_vendor: FakeTinker, tmp_path: Path
) -> None:
    job = make_job(tmp_path, long_row=True, max_sequence_length=64)
    dataset: Any = read_dataset(job)
    receipt = plan(job, tinker, dataset=dataset)
    with pytest.raises(InvalidData, match="64"):
        tinker.encode(dataset, receipt, tmp_path / "encoded")
    assert tinker_vendor.counts["submit"] == 0


def test_a_key_that_is_not_set_is_named(tinker: TinkerProvider, make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    request = make()
    monkeypatch.delenv("TINKER_API_KEY")
    with pytest.raises(MissingCredentials, match="TINKER_API_KEY is not set"):
        tinker.submit(request, run_key(new_run_id()))


def test_a_bill_that_is_not_paid_is_a_quota(tinker: TinkerProvider, tinker_vendor: FakeTinker, make: Make) -> None:
    request = make()
    tinker_vendor.faults.add(faults.refusal(402, "Your balance is used up.", "billing"), role="submit")
    with pytest.raises(QuotaExceeded, match="Your balance is used up"):
        tinker.submit(request, run_key(new_run_id()))


def test_a_key_is_exchanged_where_the_service_says_so(
    tinker: TinkerProvider, tinker_vendor: FakeTinker, make: Make
) -> None:
    tinker_vendor.exchanges_keys = True
    request = make()
    assert run_to_its_end(tinker, tinker.submit(request, run_key(new_run_id()))).state is core.RunState.SUCCEEDED
    assert tinker_vendor.counts["exchange_key"] >= 1


# --- one session a run -----------------------------------------------------------------------------------------------
def test_a_session_whose_answer_was_lost_is_found_and_used(
    tinker: TinkerProvider, tinker_vendor: FakeTinker, make: Make
) -> None:
    request, key = make(), run_key(new_run_id())
    tinker_vendor.faults.add(faults.accept_then_drop(), role="submit")
    with pytest.raises(TransientError) as caught:
        tinker.submit(request, key)
    assert caught.value.sent is True
    ref = tinker.find(key)
    assert ref is not None
    assert run_to_its_end(tinker, ref).state is core.RunState.SUCCEEDED
    assert [job.id for job in tinker_vendor.jobs_with(key)] == [ref.id]
    assert tinker_vendor.complaints == []


def test_the_same_submit_twice_is_one_session(tinker: TinkerProvider, tinker_vendor: FakeTinker, make: Make) -> None:
    request, key = make(), run_key(new_run_id())
    assert tinker.submit(request, key) == tinker.submit(request, key)
    assert len(tinker_vendor.jobs_with(key)) == 1


def test_a_failed_run_continues_in_a_new_session_and_the_old_one_is_over(
    tinker: TinkerProvider, tinker_vendor: FakeTinker, threads: Threads, make: Make
) -> None:
    tinker_vendor.outcome = "failure"
    request, key = make(checkpoint_every=1), run_key(new_run_id())
    ref = tinker.submit(request, key)
    failed = run_to_its_end(tinker, ref)
    assert failed.state is core.RunState.FAILED
    assert tinker_vendor.failure_message in (failed.error or "")
    assert "request_id" not in (failed.error or "")
    threads.join()
    tinker_vendor.outcome = "success"
    assert tinker.resume_point(ref) is not None
    tinker.restart(ref, request)
    end = run_to_its_end(tinker, ref)
    assert end.state is core.RunState.SUCCEEDED, end.error
    assert len(tinker_vendor.jobs_with(key)) == 2
    assert tinker_vendor.complaints == []


def test_a_session_that_was_cancelled_in_the_console_ends_the_run(
    tinker: TinkerProvider, tinker_vendor: FakeTinker, threads: Threads, make: Make
) -> None:
    threads.stopped.set()  # the loop ends before its first step, and its state says nothing final yet
    request, key = make(), run_key(new_run_id())
    ref = tinker.submit(request, key)
    threads.join()
    tinker_vendor.jobs[ref.id].data.pop("ended", None)
    tinker_vendor.cancel_in_console(ref.id)
    end = run_to_its_end(tinker, ref)
    assert end.state is core.RunState.CANCELLED
    assert len(tinker_vendor.jobs_with(key)) == 1


def test_a_run_whose_folder_is_elsewhere_says_so(tinker: TinkerProvider, tinker_vendor: FakeTinker, make: Make) -> None:
    ref = tinker.submit(make(), run_key(new_run_id()))
    run_to_its_end(tinker, ref)
    other = TinkerProvider("tinker", TinkerSettings(base_url=tinker_vendor.url, runs="/nowhere/at/all"))
    with pytest.raises(VendorError, match="not on this machine"):
        other.poll(core.JobRef(id=ref.id), None)
    assert tinker.poll(core.JobRef(id=ref.id), None).state is core.RunState.SUCCEEDED, "found by its session's id"


def test_a_run_whose_sessions_are_lost_is_polled_all_the_same(
    tinker: TinkerProvider, tinker_vendor: FakeTinker, threads: Threads, make: Make
) -> None:
    threads.stopped.set()
    ref = tinker.submit(make(), run_key(new_run_id()))
    threads.join()
    tinker_vendor.jobs[ref.id].data.pop("ended", None)
    folder = LoopFolder(ref.data["folder"])
    folder.cancel()
    (folder.path / "sessions.json").write_text("{")
    assert run_to_its_end(tinker, ref).state is core.RunState.CANCELLED
    assert "ended" in tinker_vendor.jobs[ref.id].data


def test_a_session_that_the_service_has_forgotten_is_followed_by_another(
    tinker: TinkerProvider, tinker_vendor: FakeTinker, threads: Threads, make: Make
) -> None:
    ref = tinker.submit(make(), run_key(new_run_id()))
    threads.join()
    folder = LoopFolder(ref.data["folder"], {"TINKER_API_KEY": KEY})
    del tinker_vendor.jobs[ref.id]
    loop = TinkerLoop(tinker._service, folder, folder.read_loop_request(), folder.path.name)
    loop.open(None, 0)
    loop.close("interrupted", "")
    assert len(folder.read_sessions()) == 2


def test_a_state_that_the_service_has_deleted_ends_the_run_in_a_sentence(
    tinker: TinkerProvider, tinker_vendor: FakeTinker, threads: Threads, make: Make
) -> None:
    request = make(checkpoint_every=1)
    ref = tinker.submit(request, run_key(new_run_id()))
    run_to_its_end(tinker, ref)
    threads.join()
    folder = LoopFolder(ref.data["folder"])
    status = folder.read_status()
    assert status is not None
    folder.write_status(status.model_copy(update={"state": "failed", "error": "killed", "error_code": "internal"}))
    tinker_vendor.saved.clear()
    tinker.restart(ref, request)
    end = run_to_its_end(tinker, ref)
    assert end.state is core.RunState.FAILED
    assert "start anew: llmtune tune JOB --new" in (end.error or "")


def test_odd_answers_to_a_search_are_no_sessions(
    tinker: TinkerProvider, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    odd: list[Any] = [{}, {"session_id": None}, {"session_id": "../x"}, "session-1"]
    monkeypatch.setattr(tinker._service._http, "send", lambda *_, **__: {"sessions": odd})
    assert tinker.find(run_key(new_run_id())) is None


def test_a_key_that_the_service_repeats_is_in_no_message() -> None:
    import httpx
    import tinker as sdk

    answer = httpx.Response(401, request=httpx.Request("POST", "http://127.0.0.1"))
    with pytest.raises(MissingCredentials) as caught, translate_errors("the gradient of step 1"):
        raise sdk.AuthenticationError(f"bad key {KEY}-{'x' * 20}", response=answer, body=None)
    assert KEY in str(caught.value), "an unknown one is left"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TINKER_API_KEY", f"{KEY}-{'x' * 20}")
        with pytest.raises(MissingCredentials) as caught, translate_errors("the gradient of step 1"):
            raise sdk.AuthenticationError(f"bad key {KEY}-{'x' * 20}", response=answer, body=None)
    assert KEY not in str(caught.value)


@pytest.mark.slow
def test_a_run_waits_for_a_bill_says_so_and_goes_on(
    tinker: TinkerProvider, tinker_vendor: FakeTinker, make: Make
) -> None:
    request = make()
    tinker_vendor.unpaid = 1
    end = run_to_its_end(tinker, tinker.submit(request, run_key(new_run_id())))
    assert end.state is core.RunState.SUCCEEDED, end.error
    assert any("has paused the run for billing" in event.message for event in end.events)
    assert end.model is not None
    assert len(tinker_vendor.updates_of(end.model.id)) == 2


@pytest.mark.slow
@pytest.mark.parametrize("method", ["sft", "dpo"])
def test_a_cancel_during_a_pause_for_billing_does_not_wait_for_the_bill(
    tinker: TinkerProvider, tinker_vendor: FakeTinker, threads: Threads, make: Make, method: str
) -> None:
    request, key = make(method=method, checkpoint_every=1), run_key(new_run_id())

    def never_paid() -> None:
        tinker_vendor.unpaid = 10**6

    # the state after the first step is saved, and no pass is paid for any more
    tinker_vendor.faults.add(faults.Fault(kind="call", handled=True, action=never_paid), route="save")
    ref = tinker.submit(request, key)
    for _ in range(1200):
        if any("paused the run for billing" in event.message for event in tinker.poll(ref, None).events):
            break
        time.sleep(0.05)
    tinker.cancel(ref)
    end = run_to_its_end(tinker, ref)
    assert end.state is core.RunState.CANCELLED
    assert tinker_vendor.unpaid > 10**5, "the bill is still open"
    threads.join()
    tinker_vendor.unpaid = 0
    tinker.restart(ref, request)
    resumed = run_to_its_end(tinker, ref)
    assert resumed.state is core.RunState.SUCCEEDED, resumed.error
    assert resumed.model is not None
    updates = tinker_vendor.updates_of(resumed.model.id)
    assert len(updates) == 2
    assert len({update.rows for update in updates}) == len(updates), "no step twice"


def test_a_pause_for_billing_is_told(tinker: TinkerProvider, tinker_vendor: FakeTinker) -> None:
    import logging

    from llmtune_tinker.tinker_loop import BILLING_SENTENCE, _LogWatcher

    sentences: list[tuple[str, str]] = []
    watcher = _LogWatcher(lambda sentence, level: sentences.append((sentence, level)))
    watcher.start()
    logger = logging.getLogger("tinker.lib.internal_client_holder")
    logger.warning("The job is paused due to billing status. Error: add credit")
    logger.warning("Training for m1 is paused. Reason: Tinker backend is running short on capacity, please wait.")
    logger.warning("Session heartbeat failed")
    watcher.stop()
    assert sentences == [
        (f"{BILLING_SENTENCE}: add credit", "warning"),
        (
            "Tinker: Training for m1 is paused. Reason: Tinker backend is running short on capacity, please wait.",
            "warning",
        ),
    ]


# --- the model -------------------------------------------------------------------------------------------------------
def test_the_adapter_comes_home_and_pickled_files_do_not(tinker: TinkerProvider, make: Make, tmp_path: Path) -> None:
    model = run_to_its_end(tinker, tinker.submit(make(), run_key(new_run_id()))).model
    assert model is not None
    notes = tinker.export(model, "adapter", tmp_path / "home-coming")
    assert sorted(path.name for path in (tmp_path / "home-coming").iterdir()) == [
        "adapter_config.json",
        "adapter_model.safetensors",
    ]
    assert QWEN in notes[0]
    assert "optimizer.bin" in notes[1]
    with pytest.raises(InvalidJob, match="not empty"):
        tinker.export(model, "adapter", tmp_path / "home-coming")
    with pytest.raises(InvalidJob, match="not a merged model"):
        tinker.export(model, "merged", tmp_path / "merged")
    without = model.model_copy(update={"data": {**model.data, "files": None}})
    with pytest.raises(VendorError, match="has written no files"):
        tinker.export(without, "adapter", tmp_path / "without")


def test_a_loss_without_likelihoods_is_the_services_own_sum(
    tinker: TinkerProvider, tinker_vendor: FakeTinker, make: Make
) -> None:
    request = make()
    first = run_to_its_end(tinker, tinker.submit(request, run_key(new_run_id())))
    tinker_vendor.drops_likelihoods = True
    second = run_to_its_end(tinker, tinker.submit(request, run_key(new_run_id())))
    losses = [{p.step: p.value for p in end.points if p.series == "train/loss"} for end in (first, second)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)


def test_the_request_in_the_folder_names_the_key_and_does_not_hold_it(
    tinker: TinkerProvider, make: Make, home: Path
) -> None:
    key = run_key(new_run_id())
    tinker.submit(make(), key)
    folder = LoopFolder(home / "tinker" / "runs" / key)
    text = (folder.path / "request.json").read_text("utf-8")
    assert "TINKER_API_KEY" in text
    assert "tml-test" not in text


def test_a_base_model_says_why_it_does_not_answer(tinker: TinkerProvider) -> None:
    answer = tinker.generator(core.ModelRef(id=QWEN, tuned=False))
    assert isinstance(answer, core.Unavailable)
    with pytest.raises(InvalidJob, match="starts from a base model"):
        tinker.continue_from(core.ModelRef(id="tinker://a/sampler_weights/b", base=QWEN))


def test_a_key_is_not_in_the_workers_log(monkeypatch: pytest.MonkeyPatch) -> None:
    key = f"{KEY}-{'x' * 20}"
    monkeypatch.setenv("TINKER_API_KEY", key)
    try:
        raise ValueError(f"refused: {key}")
    except ValueError:
        record = logging.LogRecord("llmtune", logging.ERROR, __file__, 1, "the run failed", (), sys.exc_info())
    assert key not in _Scrubbing(LOG_FORMAT).format(record)
