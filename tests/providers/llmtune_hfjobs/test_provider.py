"""What is sent, what is refused, and what is removed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from llmtune.errors import DeviceUnavailable, InvalidJob, InvalidSettings, LlmtuneError, OverBudget, VendorError
from llmtune.job.spec import TuningJob
from llmtune.planning.plan import read_dataset
from llmtune.provider.types import Request
from llmtune.runs.api import start
from llmtune.runs.ids import new_run_id, run_key
from llmtune.runs.plans import plan
from llmtune_hfjobs import HfJobsProvider
from llmtune_hfjobs.fake.service import FakeHfJobs
from tests.providers.llmtune_hfjobs.conftest import TOKEN, provider_at


@pytest.fixture
def job(tmp_path: Path) -> TuningJob:
    row = {"messages": [{"role": "user", "content": "ticket"}, {"role": "assistant", "content": "team"}]}
    path = tmp_path / "rows.jsonl"
    path.write_text((json.dumps(row) + "\n") * 20, encoding="utf-8")
    return TuningJob(name="rented", dataset=str(path), model="tiny")


def build(provider: HfJobsProvider, job: TuningJob, folder: Path, **options: Any) -> Request:
    job = job.model_copy(update={"provider_options": {"hfjobs": options}})
    dataset: Any = read_dataset(job)
    receipt = plan(job, provider, dataset=dataset)
    files = {str(file.role): provider.upload(file) for file in provider.encode(dataset, receipt, folder).files}
    return provider.build(receipt, files)


def test_a_job_has_its_labels_its_limit_and_no_secret(
    vendor: FakeHfJobs, provider: HfJobsProvider, job: TuningJob, tmp_path: Path
) -> None:
    vendor.outcome = "failure"  # nothing is trained
    request = build(provider, job, tmp_path / "e", max_cost=1.0)
    (finding,) = provider.preflight(request)
    assert "t4-small at 0.42 USD an hour" in finding.message
    assert "stops with a checkpoint at 0.99 USD at the latest" in finding.message, "whole minutes that 1 USD pays"
    key = run_key(new_run_id())
    ref = provider.submit(request, key)
    body = vendor.jobs[ref.id].body
    assert body["labels"]["llmtune-run"] == key
    assert body["labels"]["llmtune-rate"] == "7000"
    assert body["timeoutSeconds"] == 142 * 60 + 60
    assert "secrets" not in body
    assert TOKEN not in json.dumps(body)
    assert [(volume["path"], volume["readOnly"]) for volume in body["volumes"]] == [
        ("inputs", True),
        (f"runs/{key}", False),
    ]
    assert set(vendor.buckets.values()) == {"private"}
    assert provider.list_strays() == [
        f"job {ref.id} of run key {key} is SCHEDULING on t4-small and has cost 0.00 USD so far"
    ]
    provider.cancel(ref)
    assert provider.list_strays() == []
    assert vendor.complaints == []


def test_a_margin_that_could_choose_nothing_is_refused_before_anything_is_paid(
    vendor: FakeHfJobs, provider: HfJobsProvider, job: TuningJob, tmp_path: Path
) -> None:
    request = build(provider, job, tmp_path / "e", panel_margin=0.1)
    with pytest.raises(InvalidJob, match="there are no validation rows"):  # all rows are one, and train
        provider.preflight(request)
    assert not vendor.jobs


def test_jobs_and_files_are_listed_to_the_last_page(
    vendor: FakeHfJobs, provider: HfJobsProvider, job: TuningJob, tmp_path: Path
) -> None:
    vendor.outcome = "failure"
    request = build(provider, job, tmp_path / "e")
    keys = [run_key(new_run_id()) for _ in range(3)]
    for key in keys:
        provider.submit(request, key)
    vendor.page_size = 2
    assert len(provider.list_strays()) == 3
    assert [provider.find(key) is not None for key in keys] == [True, True, True]
    whole = {file.path for file in provider.vendor.list_files("inputs")}
    vendor.page_size = 1
    assert {file.path for file in provider.vendor.list_files("inputs")} == whole
    assert len(whole) >= 2


def test_a_gated_model_gets_the_token_that_was_made_for_it_and_no_other(
    vendor: FakeHfJobs, job: TuningJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    vendor.outcome = "failure"
    bare = provider_at(vendor)
    request = build(bare, job, tmp_path / "e", gated=True)
    with pytest.raises(InvalidSettings, match=r"no token for gated models.*model_token_env"):
        bare.preflight(request)
    monkeypatch.setenv("MODEL_TOKEN", "hf_only-reads-models-0123")
    provider = provider_at(vendor, model_token_env="MODEL_TOKEN")
    ref = provider.submit(request, run_key(new_run_id()))
    assert vendor.jobs[ref.id].body["secrets"] == {"HF_TOKEN": "hf_only-reads-models-0123"}


def test_rows_do_not_go_to_a_bucket_that_others_can_read(
    vendor: FakeHfJobs, provider: HfJobsProvider, job: TuningJob, tmp_path: Path
) -> None:
    vendor.buckets["acme/llmtune"] = "public"
    with pytest.raises(VendorError, match="acme/llmtune is not private"):
        build(provider, job, tmp_path / "e")
    assert vendor.counts["upload"] == 0


def test_what_cannot_be_rented_is_refused_in_a_sentence(
    vendor: FakeHfJobs, provider: HfJobsProvider, job: TuningJob, tmp_path: Path
) -> None:
    for options in ({"processes": 2}, {"sharding": "shard"}, {"offload": True}):
        with pytest.raises(LlmtuneError, match="trains in one process on one of its devices"):
            plan(job.model_copy(update={"provider_options": {"hfjobs": options}}), provider)
    request = build(provider, job, tmp_path / "e")
    folder = tmp_path / "model"
    folder.mkdir()
    local = request.model_copy(update={"body": request.body | {"model": str(folder)}})
    with pytest.raises(InvalidJob, match="is a folder of this machine, and a rented machine reads its model from the"):
        provider.preflight(local)
    poor = request.model_copy(update={"body": request.body | {"machine": {"max_cost": 0.01, "machine": "h200"}}})
    with pytest.raises(InvalidJob, match=r"pays for 0 min at 5\.04 USD an hour"):
        provider.preflight(poor)
    odd = request.model_copy(update={"body": request.body | {"machine": {"machine": "abacus"}}})
    with pytest.raises(DeviceUnavailable, match="no machine 'abacus' for rent"):
        provider.preflight(odd)
    assert vendor.counts["submit"] == 0


def test_a_plan_names_the_price_only_once_it_was_read(
    vendor: FakeHfJobs, provider: HfJobsProvider, job: TuningJob
) -> None:
    before = plan(job, provider)
    assert before.cost.total is None
    assert "prices have not been read yet" in before.cost.sentence()
    assert vendor.counts == {}
    assert list(provider.inventory()) == []
    after = plan(job, provider)
    assert after.cost.total is not None
    assert "t4-small at 0.42 USD an hour" in after.cost.formula
    assert after.cost.checked is not None
    assert after.duration is not None
    assert "a guess, on t4-small" in after.duration.sentence()


def test_a_run_that_does_not_fit_here_is_told_which_machine_would_hold_it(
    vendor: FakeHfJobs, provider: HfJobsProvider, job: TuningJob
) -> None:
    receipt = plan(job, "local")
    dataset: Any = read_dataset(job)
    before = provider.suggest_machine(receipt, dataset)
    assert before is not None
    assert "llmtune doctor --provider hfjobs --online reads which" in before
    list(provider.inventory())
    after = provider.suggest_machine(receipt, dataset)
    assert after is not None
    assert after.startswith("--provider hfjobs would run it on t4-small at 0.42 USD an hour, about ")


def test_a_budget_is_held_against_what_the_limit_lets_it_cost(
    vendor: FakeHfJobs, provider: HfJobsProvider, job: TuningJob
) -> None:
    vendor.outcome = "failure"
    assert list(provider.inventory()) == []
    open_end = plan(job, provider).cost
    assert open_end.total == pytest.approx(12 * 0.42, abs=0.01)  # max_hours, for the guess of the time is no promise
    assert "max_cost or max_hours stops it at 5.04" in open_end.range_reason
    with pytest.raises(OverBudget):
        start(job, provider, budget=1.0)
    assert vendor.jobs == {}
    limited = job.model_copy(update={"provider_options": {"hfjobs": {"max_cost": 1.0}}})
    assert start(limited, provider, budget=1.0).record.cost.total == pytest.approx(0.99, abs=0.01)
    assert len(vendor.jobs) == 1
