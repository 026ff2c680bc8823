"""Jobs are paused and resumed where the backend can do that, and refused with its reason where it cannot."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from llmtune.runs.planned import StartOptions
from llmtune.server.tuning.server import TuningServer
from llmtune.testing.generic_vendor import Fake
from tests.llmtune.server.tuning import scenario
from tests.llmtune.server.tuning.conftest import BASE, client, until, upload, wait

openai = pytest.importorskip("openai")


@pytest.fixture
def pausing(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A service that can pause a job."""
    from llmtune_openai.fake.service import FakeOpenAI

    monkeypatch.setenv("OPENAI_API_KEY", "sk-test-0123456789")
    with FakeOpenAI(api_key="sk-test-0123456789") as fake:
        monkeypatch.setenv("LLMTUNE_OPENAI_BASE_URL", f"{fake.url}/v1")
        monkeypatch.setenv("LLMTUNE_OPENAI_PROFILE", "compatible")  # whose models do not close on some day
        yield fake
        assert not fake.complaints, "\n".join(fake.complaints)


def test_a_job_is_paused_and_resumed(pausing: Any) -> None:
    with (
        TuningServer({BASE: "openai:gpt-4.1-mini-2025-04-14"}, port=0, spending=StartOptions(yes=True)) as server,
        client(server) as api,
    ):
        jobs = api.fine_tuning.jobs

        def status(job_id: str) -> str:
            return str(jobs.retrieve(job_id).status)

        with scenario.held(pausing):
            job = jobs.create(model=BASE, training_file=upload(api).id)
            until(lambda: status(job.id) == "running")
            with pytest.raises(openai.BadRequestError, match="only a job that is paused can be resumed") as caught:
                jobs.resume(job.id)
            assert (caught.value.code, caught.value.param) == ("invalid_job_state", "fine_tuning_job_id")
            assert jobs.pause(job.id).id == job.id
            until(lambda: status(job.id) == "paused")
            with pytest.raises(openai.BadRequestError, match="this one is paused"):
                jobs.pause(job.id)
            assert any(event.message.startswith("Fine-tuning job is paused") for event in jobs.list_events(job.id))
            assert jobs.resume(job.id).id == job.id
            until(lambda: status(job.id) == "running")
            jobs.pause(job.id)
            until(lambda: status(job.id) == "paused")
            jobs.cancel(job.id)
            assert wait(api, job.id).status == "cancelled"
        with pytest.raises(openai.BadRequestError, match="this one is cancelled"):
            jobs.resume(job.id)


def test_what_cannot_be_paused_is_refused_with_the_backends_reason(api: Any, vendor: Fake) -> None:
    with scenario.held(vendor):
        job = api.fine_tuning.jobs.create(model=BASE, training_file=upload(api).id)
        until(lambda: api.fine_tuning.jobs.retrieve(job.id).status == "running")
        for verb in ("pause", "resume"):
            with pytest.raises(openai.BadRequestError, match=f"{verb}: a job at fake cannot be paused: ") as caught:
                getattr(api.fine_tuning.jobs, verb)(job.id)
            assert caught.value.code == "unsupported_endpoint"
        api.fine_tuning.jobs.cancel(job.id)
        wait(api, job.id)
    with pytest.raises(openai.NotFoundError):
        api.fine_tuning.jobs.pause("ftjob-none")
