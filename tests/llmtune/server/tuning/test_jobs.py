"""Jobs as OpenAI's client asks for them: taken on, listed, followed, cancelled, and never doubled."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from llmtune.errors import InvalidSettings, OverBudget, StoreError
from llmtune.provider.types import RunState
from llmtune.runs.api import attach
from llmtune.runs.planned import StartOptions
from llmtune.runs.store.store import open_store
from llmtune.server.tuning import follower, jobs
from llmtune.server.tuning.server import TuningServer
from llmtune.testing.faults import accept_then_drop
from llmtune.testing.generic_vendor import Fake
from tests.llmtune.server.tuning import scenario
from tests.llmtune.server.tuning.conftest import BASE, KEY, client, rows, until, upload, wait

openai = pytest.importorskip("openai")


def test_a_job_is_a_run_and_its_model_answers(api: Any, vendor: Fake) -> None:
    train, held_out = upload(api), upload(api, rows(6, "other"), "valid.jsonl")
    job = api.fine_tuning.jobs.create(
        model=BASE,
        training_file=train.id,
        validation_file=held_out.id,
        suffix="Order Desk",
        seed=7,
        metadata={"team": "orders"},
        method={"type": "supervised", "supervised": {"hyperparameters": {"n_epochs": 2, "batch_size": 4}}},
    )
    assert job.status in ("validating_files", "queued", "running")
    assert (job.model, job.training_file, job.validation_file, job.seed) == (BASE, train.id, held_out.id, 7)
    done = wait(api, job.id)
    assert done.status == "succeeded"
    run = attach(job.id.removeprefix("ftjob-"))
    assert done.fine_tuned_model == f"ft:{BASE}:llmtune:order-desk:{run.record.key}"
    assert len(done.fine_tuned_model.split(":")) == 5
    assert done.error is None
    assert done.trained_tokens == run.record.billed.tokens
    assert done.hyperparameters.to_dict() == {
        "n_epochs": 2,
        "batch_size": 4,
        "learning_rate_multiplier": "auto",
    }
    assert run.record.tuning_job.tags == {"team": "orders"}
    sent = next(iter(vendor.jobs.values())).body
    assert sent["hyperparameters"] == {"epochs": 2, "batch_size": 4}
    assert sent["seed"] == 7
    assert len(vendor.file(sent["files"]["train"]).content.splitlines()) == 24  # every row, none held out
    answer = api.chat.completions.create(
        model=done.fine_tuned_model, messages=[{"role": "user", "content": "case 1"}], temperature=0
    )
    assert answer.choices[0].message.content == "n"
    assert answer.model == done.fine_tuned_model


def test_the_same_with_the_async_client(server: TuningServer) -> None:
    asyncio.run(scenario.run_async(server.url, KEY, BASE))


def test_jobs_are_listed_newest_first_in_pages_and_by_metadata(api: Any) -> None:
    file = upload(api)
    ids = [
        api.fine_tuning.jobs.create(model=BASE, training_file=file.id, metadata=metadata).id
        for metadata in ({"team": "a"}, {"team": "b", "x": "1"}, None, {"team": "a", "x": "1"})
    ]
    page = api.fine_tuning.jobs.list(limit=3)
    assert [job.id for job in page.data] == ids[:0:-1]
    assert page.has_more
    assert [job.id for job in api.fine_tuning.jobs.list(limit=1)] == ids[::-1]
    assert [job.id for job in api.fine_tuning.jobs.list(metadata={"team": "a"})] == [ids[3], ids[0]]
    assert [job.id for job in api.fine_tuning.jobs.list(metadata={"team": "a", "x": "1"})] == [ids[3]]
    assert [job.id for job in api.fine_tuning.jobs.list(extra_query={"metadata": "null"})] == [ids[2]]
    with pytest.raises(openai.NotFoundError, match="there is no ftjob-none in this list"):
        api.fine_tuning.jobs.list(after="ftjob-none")
    for job_id in ids:
        wait(api, job_id)


def test_two_requests_are_two_jobs_and_a_second_try_is_none(api: Any, vendor: Fake) -> None:
    file = upload(api)
    create = api.fine_tuning.jobs.create
    first, second = create(model=BASE, training_file=file.id), create(model=BASE, training_file=file.id)
    assert first.id != second.id

    def again(count: int, **changes: Any) -> str:
        headers = {"x-stainless-retry-count": str(count)}
        return str(create(model=BASE, training_file=file.id, extra_headers=headers, **changes).id)

    assert again(1) == second.id
    assert again(1) == first.id  # the other request's second try
    assert again(2) == second.id
    assert again(1, seed=3) not in (first.id, second.id)
    key = {"Idempotency-Key": "mine"}
    named = create(model=BASE, training_file=file.id, extra_headers=key)
    assert create(model=BASE, training_file=file.id, extra_headers=key).id == named.id
    with pytest.raises(openai.ConflictError, match="was used for another job"):
        create(model=BASE, training_file=file.id, seed=1, extra_headers=key)
    ids = [job.id for job in api.fine_tuning.jobs.list()]
    assert len(ids) == 4
    for job_id in ids:
        assert wait(api, job_id).status == "succeeded"
    assert len(vendor.jobs) == 4


def test_a_job_is_cancelled_wherever_it_stands(api: Any, vendor: Fake) -> None:
    file = upload(api)
    with scenario.held(vendor):
        job = api.fine_tuning.jobs.create(model=BASE, training_file=file.id)
        api.fine_tuning.jobs.cancel(job.id)
        assert wait(api, job.id).status == "cancelled"
        job = api.fine_tuning.jobs.create(model=BASE, training_file=file.id)
        until(lambda: api.fine_tuning.jobs.retrieve(job.id).status == "running")
        api.fine_tuning.jobs.cancel(job.id)
        assert wait(api, job.id).status == "cancelled"
    with pytest.raises(openai.BadRequestError, match="it is cancelled") as caught:
        api.fine_tuning.jobs.cancel(job.id)
    assert caught.value.param == "fine_tuning_job_id"
    cancelled = api.fine_tuning.jobs.retrieve(job.id)
    assert cancelled.fine_tuned_model is None
    assert cancelled.finished_at is not None
    with pytest.raises(openai.NotFoundError, match="Could not find fine tune: ftjob-nobody"):
        api.fine_tuning.jobs.cancel("ftjob-nobody")


def test_what_the_rows_say_fails_the_job_and_what_the_request_says_refuses_it(api: Any) -> None:
    broken = upload(api, b'{"messages": [{"role": "user", "content": "no answer"}]}\n')
    job = wait(api, api.fine_tuning.jobs.create(model=BASE, training_file=broken.id).id)
    assert job.status == "failed"
    assert (job.error.code, job.error.param) == ("invalid_training_file", "training_file")
    events = list(api.fine_tuning.jobs.list_events(job.id))
    assert (events[0].level, events[0].message) == ("error", job.error.message)
    file = upload(api)
    for changes, param in (
        ({"training_file": "file-none"}, "training_file"),
        ({"validation_file": "file-none"}, "validation_file"),
        ({"model": "gpt-nobody"}, "model"),
        ({"suffix": ""}, "suffix"),
        ({"seed": -1}, "seed"),
        ({"method": {"type": "reinforcement", "reinforcement": {"grader": {}}}}, "method.type"),
        ({"integrations": [{"type": "wandb", "wandb": {"project": "x"}}]}, "integrations"),
        ({"extra_body": {"prompt_loss_weight": 0.1}}, "prompt_loss_weight"),
        ({"hyperparameters": {"n_epochs": 51}}, "hyperparameters.n_epochs"),
        ({"metadata": {"k": "x" * 513}}, "metadata"),
    ):
        with pytest.raises(openai.BadRequestError) as caught:
            api.fine_tuning.jobs.create(**({"model": BASE, "training_file": file.id} | changes))
        assert caught.value.param == param
        assert caught.value.type == "invalid_request_error"
    assert [listed.id for listed in api.fine_tuning.jobs.list()] == [job.id]


def test_strict_refuses_what_the_backend_would_leave_out(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("together")
    monkeypatch.setenv("TOGETHER_API_KEY", "key-for-tests")
    target = "together:Qwen/Qwen3-8B"
    spending = StartOptions(budget=1, strict=True)
    with TuningServer({BASE: target}, port=0, spending=spending) as server, client(server) as api:
        with pytest.raises(openai.BadRequestError, match="strict was asked for") as caught:
            api.fine_tuning.jobs.create(model=BASE, training_file=upload(api).id, metadata={"team": "a"})
        assert (caught.value.param, caught.value.code) == ("metadata", "not_translatable")
        assert not list(api.fine_tuning.jobs.list())


def test_a_job_over_the_budget_fails_before_anything_is_sent(vendor: Fake, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLMTUNE_FAKE_PRICE", "1000000")
    with pytest.raises(OverBudget, match="jobs for fake:m-1 are billed"):
        TuningServer({BASE: "fake:m-1"}, port=0)
    with TuningServer({BASE: "fake:m-1"}, port=0, spending=StartOptions(budget=0.01)) as server, client(server) as api:
        job = wait(api, api.fine_tuning.jobs.create(model=BASE, training_file=upload(api).id).id)
        assert (job.status, job.error.code) == ("failed", "over_budget")
        assert "over the budget of 0.01 USD" in job.error.message
    assert not vendor.jobs
    assert not open_store().runs()


def test_an_answer_that_is_lost_on_the_way_to_the_vendor_makes_no_second_job(api: Any, vendor: Fake) -> None:
    vendor.faults.add(accept_then_drop(), role="submit")
    job = wait(api, api.fine_tuning.jobs.create(model=BASE, training_file=upload(api).id).id)
    assert job.status == "succeeded"
    assert len(vendor.jobs) == 1


def test_a_job_of_which_nobody_knows_is_failed_until_a_person_says_what_became_of_it(
    vendor: Fake, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LLMTUNE_FAKE_SUBMIT_SAFETY", "none")
    monkeypatch.setattr(follower, "PAUSE", 0.05)
    with TuningServer({BASE: "fake:m-1"}, port=0, spending=StartOptions(yes=True)) as server, client(server) as api:
        vendor.faults.add(accept_then_drop(), role="submit")
        job = wait(api, api.fine_tuning.jobs.create(model=BASE, training_file=upload(api).id).id)
        assert (job.status, job.error.code) == ("failed", "outcome_unknown")
        assert "nothing was sent a second time" in job.error.message
        attach(job.id.removeprefix("ftjob-")).adopt(next(iter(vendor.jobs)))
        adopted = until(lambda: (again := api.fine_tuning.jobs.retrieve(job.id)).status == "succeeded" and again)
        assert adopted.error is None
        assert len(adopted.result_files) == 1
    assert len(vendor.jobs) == 1


def test_a_server_needs_a_key_and_a_home_of_its_own(vendor: Fake, monkeypatch: pytest.MonkeyPatch) -> None:
    with TuningServer({BASE: "fake:m-1"}, port=0, spending=StartOptions(yes=True)):
        with pytest.raises(StoreError, match="another llmtune serve --tuning uses"):
            TuningServer({BASE: "fake:m-1"}, port=0, spending=StartOptions(yes=True))
    monkeypatch.delenv("LLMTUNE_SERVE_KEY")
    with pytest.raises(InvalidSettings, match="it needs a key, and LLMTUNE_SERVE_KEY is not set"):
        TuningServer({BASE: "fake:m-1"}, port=0, spending=StartOptions(yes=True))


def test_a_model_is_tuned_further(api: Any, vendor: Fake) -> None:
    first = wait(api, api.fine_tuning.jobs.create(model=BASE, training_file=upload(api).id, suffix="one").id)
    more = upload(api, rows(8, "more"))
    second = wait(
        api, api.fine_tuning.jobs.create(model=first.fine_tuned_model, training_file=more.id, suffix="two").id
    )
    assert second.status == "succeeded"
    assert second.model == first.fine_tuned_model
    assert second.fine_tuned_model.startswith(f"ft:{BASE}:llmtune:two:lt")
    bodies = [job.body["model"] for job in vendor.jobs.values()]
    assert bodies[0] == "m-1"
    assert bodies[1] == attach(first.id.removeprefix("ftjob-")).model_ref.id


def test_a_job_whose_run_is_damaged_is_failed_and_the_others_are_listed(
    api: Any,
) -> None:
    first, second = (api.fine_tuning.jobs.create(model=BASE, training_file=upload(api).id, seed=at) for at in (1, 2))
    for job in (first, second):
        assert wait(api, job.id).status == "succeeded"
    run_id = first.id.removeprefix("ftjob-")
    with open_store().write() as connection:
        changed = connection.exec_driver_sql(f"UPDATE runs SET document = '{{' WHERE id = '{run_id}'")
        assert changed.rowcount == 1
    jobs = {job.id: job for job in api.fine_tuning.jobs.list()}
    assert jobs[second.id].status == "succeeded"
    assert (jobs[first.id].status, jobs[first.id].error.code) == ("failed", "record_damaged")
    assert run_id in jobs[first.id].error.message
    assert api.fine_tuning.jobs.retrieve(first.id).error.code == "record_damaged"


@pytest.mark.parametrize(
    ("state", "status"),
    [
        (None, "cancelled"),
        (RunState.PLANNED, "cancelled"),
        (RunState.UPLOADING, "cancelled"),
        (RunState.SUBMITTING, "queued"),
        (RunState.CANCELLING, "running"),
        (RunState.CANCELLED, "cancelled"),
    ],
)
def test_a_cancelled_job_that_was_never_started_stays_cancelled(state: RunState | None, status: str) -> None:
    """Its run may be planned and its files be sent for a moment, between the client's word and its effect."""
    from types import SimpleNamespace

    job: Any = SimpleNamespace(error=None, cancelled=True, settled=False)
    record: Any = None if state is None else SimpleNamespace(state=state)
    assert jobs._status(job, record) == status
