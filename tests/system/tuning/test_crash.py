"""SIGKILL of the server at every step of a job, of a follower, and of a worker: nothing is lost, nothing is doubled."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Iterator
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytest

from llmtune.runs.api import attach
from llmtune.runs.store.store import open_store
from llmtune.testing.fake_vendor import Phase
from llmtune.testing.generic_vendor import Fake
from tests.llmtune.server.tuning import scenario
from tests.llmtune.server.tuning.conftest import BASE, ENDED, KEY, rows, until

openai = pytest.importorskip("openai")
pytest.importorskip("uvicorn")

#: Where the server dies. Before "job-recorded" the client has heard nothing and tries again; after it, it may have.
ARROWS = [
    "content-kept",
    "job-checked",
    "job-recorded",
    "planned",
    "after-upload",
    "submitting",
    "after-submit",
    "snapshot-kept",
    "finalizing",
    "reported",
    "settling",
    "results-written",
]


class Endpoint:
    """A server in a process of its own, started again whenever it has died, and a client that tries again."""

    def __init__(
        self, environment: dict[str, str], arrow: str = "", models: dict[str, str] | None = None, **options: Any
    ):
        self.environment, self._models, self._options = environment, models or {BASE: "fake:m-1"}, options
        self.context = multiprocessing.get_context("forkserver")
        self.context.set_forkserver_preload(["tests.llmtune.server.tuning.crash_server", "llmtune.testing.crash_child"])
        self.kills = 0
        self._start(arrow)

    def _start(self, arrow: str = "") -> None:
        from tests.llmtune.server.tuning import crash_server

        receiver, sender = self.context.Pipe(duplex=False)
        self.process: BaseProcess = self.context.Process(
            target=crash_server.serve, args=(self.environment, arrow, self._models, sender), kwargs=self._options
        )
        self.process.start()
        sender.close()
        self.url = receiver.recv()

    def kill(self) -> None:
        assert self.process.pid is not None
        os.kill(self.process.pid, signal.SIGKILL)
        self.process.join(10)

    def ask(self, call: Callable[[Any, dict[str, str]], Any]) -> Any:
        """The answer to a call, which is given the client and the headers of this try."""
        for retry in range(5):
            try:
                with openai.OpenAI(base_url=self.url, api_key=KEY, max_retries=0, timeout=30) as api:
                    return call(api, {"x-stainless-retry-count": str(retry)})
            except openai.APIConnectionError:
                self.process.join(10)
                assert self.process.exitcode == -signal.SIGKILL
                self.kills += 1
                self._start()
        raise AssertionError("it died five times")

    def close(self) -> None:
        if self.process.is_alive():
            self.kill()


@pytest.fixture
def environment(vendor: Fake, own_home: Path) -> dict[str, str]:
    vendor.lag = 0.1
    names = ("LLMTUNE_HOME", "LLMTUNE_CONFIG", "LLMTUNE_CATALOG", "LLMTUNE_SERVE_KEY", "LLMTUNE_FAKE_BASE_URL")
    window = {"LLMTUNE_FAKE_SUBMIT_SAFETY": "searchable", "LLMTUNE_FAKE_WINDOW": "0.3"}
    return {name: os.environ[name] for name in names} | window


@pytest.fixture
def endpoint(environment: dict[str, str], request: pytest.FixtureRequest) -> Iterator[Endpoint]:
    running = Endpoint(environment, getattr(request, "param", ""))
    yield running
    running.close()


def upload(endpoint: Endpoint) -> str:
    content = ("train.jsonl", rows())
    return str(
        endpoint.ask(lambda api, headers: api.files.create(file=content, purpose="fine-tune", extra_headers=headers)).id
    )


def create(endpoint: Endpoint, file: str) -> str:
    return str(
        endpoint.ask(
            lambda api, headers: api.fine_tuning.jobs.create(model=BASE, training_file=file, extra_headers=headers)
        ).id
    )


def ended(endpoint: Endpoint, job_id: str, seconds: float = 60) -> Any:
    def look() -> Any:
        job = endpoint.ask(lambda api, _: api.fine_tuning.jobs.retrieve(job_id))
        return job if job.status in ENDED else None

    return until(look, seconds)


def everything(endpoint: Endpoint) -> tuple[list[str], list[str], list[str]]:
    """Ids of the files that were uploaded, of the result files and of the jobs."""
    files = endpoint.ask(lambda api, _: list(api.files.list()))
    by_purpose = {
        purpose: [file.id for file in files if file.purpose == purpose]
        for purpose in ("fine-tune", "fine-tune-results")
    }
    jobs = endpoint.ask(lambda api, _: [job.id for job in api.fine_tuning.jobs.list()])
    return by_purpose["fine-tune"], by_purpose["fine-tune-results"], jobs


@pytest.mark.timeout(120)
@pytest.mark.parametrize("endpoint", ARROWS, indirect=True)
def test_a_server_killed_at_any_step_loses_and_doubles_nothing(endpoint: Endpoint, vendor: Fake) -> None:
    file = upload(endpoint)
    job_id = create(endpoint, file)
    job = ended(endpoint, job_id)
    assert endpoint.kills == 1
    assert job.status == "succeeded"
    assert everything(endpoint) == ([file], job.result_files, [job_id])
    assert len(job.result_files) == 1
    assert endpoint.ask(lambda api, _: api.files.content(job.result_files[0]).read())
    assert len(vendor.jobs) == 1
    assert [record.id for record in open_store().runs()] == [job_id.removeprefix("ftjob-")]


@pytest.mark.timeout(120)
def test_another_follower_of_the_run_that_dies_leaves_it_to_the_server(endpoint: Endpoint, vendor: Fake) -> None:
    from tests.llmtune.server.tuning import crash_server

    vendor.walks = Fake.walks | {
        "success": (Phase("queued"), Phase("training", looks=40, training=True), Phase("succeeded"))
    }
    job_id = create(endpoint, upload(endpoint))
    run_id = job_id.removeprefix("ftjob-")
    until(lambda: vendor.jobs)
    endpoint.kill()  # so that the follower is the one who finishes
    process = endpoint.context.Process(target=crash_server.follow, args=(endpoint.environment, "last-metrics", run_id))
    process.start()
    process.join(60)
    assert process.exitcode == -signal.SIGKILL
    assert attach(run_id).state.value == "finalizing"
    assert ended(endpoint, job_id).status == "succeeded"
    assert len(vendor.jobs) == 1


@pytest.mark.timeout(120)
def test_a_cancellation_outlives_the_server(endpoint: Endpoint, vendor: Fake) -> None:
    with scenario.held(vendor):
        job_id = create(endpoint, upload(endpoint))
        until(lambda: vendor.jobs)
        endpoint.ask(lambda api, _: api.fine_tuning.jobs.cancel(job_id))
        endpoint.kill()
        assert ended(endpoint, job_id).status == "cancelled"


@pytest.mark.timeout(120)
def test_a_deployment_is_removed_whose_server_died_while_it_was_asked(
    environment: dict[str, str], vendor: Fake
) -> None:
    environment["LLMTUNE_FAKE_DEPLOYMENT"] = "required"
    endpoint = Endpoint(environment, "deployment-kept", deploy=True)
    try:
        job = ended(endpoint, create(endpoint, upload(endpoint)))
        hello = [{"role": "user", "content": "case 1"}]
        with openai.OpenAI(base_url=endpoint.url, api_key=KEY, max_retries=0, timeout=30) as api:
            with pytest.raises(openai.APIConnectionError):
                api.chat.completions.create(model=job.fine_tuned_model, messages=hello)
        assert len(vendor.standing) == 1
        endpoint.ask(lambda api, _: api.models.list())  # starts the next server, and nobody asks the model
        until(lambda: not vendor.standing)
    finally:
        endpoint.close()


@pytest.mark.slow
@pytest.mark.xdist_group("heavy")
@pytest.mark.timeout(400)
def test_a_local_worker_that_is_killed_goes_on_and_so_does_its_job(environment: dict[str, str]) -> None:
    pytest.importorskip("peft")
    from llmtune_local.run_state import process
    from llmtune_local.run_state.run_dir import RunDir

    endpoint = Endpoint(environment, models={BASE: "local:tiny"})
    try:
        job_id = create(endpoint, upload(endpoint))
        folder = Path(environment["LLMTUNE_HOME"]) / "local" / f"lt{job_id.removeprefix('ftjob-')}"
        until(lambda: (status := RunDir(folder).read_status()) and status.state == "running", 200)
        launched = process.count_launches(folder)[-1]
        os.kill(launched.pid, signal.SIGKILL)
        endpoint.kill()
        time.sleep(0.1)
        job = ended(endpoint, job_id, 200)
        assert job.status == "succeeded"
        assert len(process.count_launches(folder)) == 2
    finally:
        endpoint.close()
