"""Limits of a key, as a member's client hears of them: 429, a code, and when to try again."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from llmtune.runs.api import attach
from llmtune.runs.costs import cost_run
from llmtune.runs.planned import StartOptions
from llmtune.server.protocol import RequestError
from llmtune.server.tuning import quotas
from llmtune.server.tuning.keys import Key, add_key
from llmtune.server.tuning.quotas import RateLimiter
from llmtune.server.tuning.server import TuningServer
from llmtune.testing.generic_vendor import Fake
from tests.llmtune.server.tuning import scenario
from tests.llmtune.server.tuning.conftest import BASE, client, rows, upload, wait

openai = pytest.importorskip("openai")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "keys.yaml"


@pytest.fixture
def priced(vendor: Fake, monkeypatch: pytest.MonkeyPatch) -> Fake:
    """The service with a price: 24 rows of 3 epochs cost some USD."""
    monkeypatch.setenv("LLMTUNE_FAKE_PRICE", "1000")
    return vendor


def serve(path: Path, **options: Any) -> TuningServer:
    return TuningServer({BASE: "fake:m-1"}, port=0, keys=path, **options)


def test_requests_come_back_evenly_over_a_minute(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(quotas.time, "monotonic", lambda: now)
    limiter, key, other = RateLimiter(), Key(name="a", requests_per_minute=3), Key(name="b", requests_per_minute=1)
    for _ in range(3):
        limiter.count(key)
    with pytest.raises(RequestError) as caught:
        limiter.count(key)
    assert (caught.value.status, caught.value.wait) == (429, pytest.approx(20))
    assert caught.value.body["error"]["code"] == "rate_limit_exceeded"
    limiter.count(other)
    now += 20.5
    limiter.count(key)
    with pytest.raises(RequestError):
        limiter.count(key)
    now += 6000
    for _ in range(3):
        limiter.count(key)
    with pytest.raises(RequestError):
        limiter.count(key)
    for _ in range(100):
        limiter.count(Key())


def test_a_client_hears_when_to_try_again(vendor: Fake, path: Path) -> None:
    key, other = add_key(path, "ana", requests_per_minute=2), add_key(path, "ben")
    with serve(path, spending=StartOptions(yes=True)) as server, client(server, key) as api:
        api.models.list()
        api.models.list()
        with pytest.raises(openai.RateLimitError, match="2 requests per minute with the key 'ana'") as caught:
            api.models.list()
        assert caught.value.code == "rate_limit_exceeded"
        assert caught.value.type == "rate_limit_error"
        assert 1 <= int(caught.value.response.headers["retry-after"]) <= 30
        with client(server, other) as api:
            api.models.list()


def test_unfinished_jobs_are_limited(vendor: Fake, path: Path) -> None:
    key = add_key(path, "ana", max_unfinished_jobs=1)
    with serve(path, spending=StartOptions(yes=True)) as server, client(server, key) as api:
        file = upload(api).id
        with scenario.held(vendor):
            job = api.fine_tuning.jobs.create(model=BASE, training_file=file)
            with pytest.raises(openai.RateLimitError, match="1 jobs of 'ana' are unfinished") as caught:
                api.fine_tuning.jobs.create(model=BASE, training_file=file)
            assert caught.value.code == "job_limit_exceeded"
            assert caught.value.response.headers["retry-after"] == "30"
            again = api.fine_tuning.jobs.create(
                model=BASE, training_file=file, extra_headers={"x-stainless-retry-count": "1"}
            )
            assert again.id == job.id  # a retry is answered with its job, whatever the limit
            api.fine_tuning.jobs.cancel(job.id)
            wait(api, job.id)
        assert api.fine_tuning.jobs.create(model=BASE, training_file=file).id != job.id


def create(api: Any, file: str) -> Any:
    return api.fine_tuning.jobs.create(model=BASE, training_file=file, hyperparameters={"n_epochs": 3})


def test_a_budget_is_for_all_jobs_of_a_key(priced: Fake, path: Path) -> None:
    key = add_key(path, "ana", budget=1e-9)
    with serve(path) as server, client(server, key) as api:  # a budget with every key is consent
        file = upload(api).id
        failed = wait(api, create(api, file).id)
        assert (failed.status, failed.error.code) == ("failed", "over_budget")
        assert "over the budget" in failed.error.message
        assert not priced.jobs
        cost = cost_of_one_job(failed.error.message)
        text = path.read_text()
        path.write_text(text.replace("budget: 1e-09", f"budget: {1.5 * cost:.2f}"))
        assert path.read_text() != text
        assert wait(api, create(api, file).id).status == "succeeded"
        with pytest.raises(openai.RateLimitError, match="You exceeded your current quota") as caught:
            create(api, file)  # the bill, which was not known before, is above the estimate
        assert (caught.value.code, caught.value.type) == ("insufficient_quota", "insufficient_quota")
        assert caught.value.response.headers["x-should-retry"] == "false"
        assert "retry-after" not in caught.value.response.headers
        (sent,) = priced.jobs.values()
        spent = cost_run(attach(str(sent.token).removeprefix("lt")).record).spent
        assert spent is not None
        path.write_text(text.replace("budget: 1e-09", f"budget: {spent + 0.5 * cost:.2f}"))
        assert wait(api, create(api, file).id).error.code == "over_budget"
        assert len(priced.jobs) == 1


def cost_of_one_job(message: str) -> float:
    """The estimate in "fake would bill about 1,234.50 USD, over the budget"."""
    return float(message.partition("about ")[2].partition(" USD")[0].replace(",", ""))


def create_or_refuse(api: Any, file: str) -> Any:
    """Create a job; None where the budget is found to be used up at once, as it is on a slow machine."""
    try:
        return create(api, file)
    except openai.RateLimitError:
        return None


def test_jobs_asked_for_at_once_share_what_is_left(priced: Fake, path: Path) -> None:
    key = add_key(path, "ana", budget=1e-9)
    with serve(path) as server, client(server, key) as api:
        file = upload(api).id
        cost = cost_of_one_job(wait(api, create(api, file).id).error.message)
        path.write_text(path.read_text().replace("budget: 1e-09", f"budget: {2.5 * cost:.2f}"))
        created = [create_or_refuse(api, file) for _ in range(6)]
        ended = [wait(api, job.id).status for job in created if job is not None]
        ended += ["failed" for job in created if job is None]
        assert sorted(ended) == ["failed"] * 4 + ["succeeded"] * 2
        assert len(priced.jobs) == 2


def test_a_removed_key_starts_nothing_more(vendor: Fake, path: Path) -> None:
    from llmtune.server.tuning.keys import remove_key

    key, other = add_key(path, "ana"), add_key(path, "ben")
    with serve(path, spending=StartOptions(yes=True)) as server:
        with client(server, key) as api:
            assert wait(api, api.fine_tuning.jobs.create(model=BASE, training_file=upload(api).id).id)
        remove_key(path, "ana")
        with client(server, key) as api, pytest.raises(openai.AuthenticationError):
            api.models.list()
        with client(server, other) as api:
            api.models.list()


@pytest.fixture
def small(vendor: Fake, path: Path) -> Iterator[tuple[Any, Any]]:
    """The clients of two keys; the first may store 10,000 bytes."""
    key, other = add_key(path, "ana", max_stored_gb=10_000 / (1 << 30)), add_key(path, "ben")
    with (
        serve(path, spending=StartOptions(yes=True)) as server,
        client(server, key) as api,
        client(server, other) as unlimited,
    ):
        yield api, unlimited


def test_stored_bytes_are_limited_files_and_uploads_together(small: tuple[Any, Any]) -> None:
    api, unlimited = small
    content = rows(60)
    assert 5_000 < len(content) < 10_000
    file = upload(api, content)
    with pytest.raises(openai.RateLimitError, match=r"the files of 'ana' may have .* GB in all") as caught:
        upload(api, content)
    assert caught.value.code == "storage_limit_exceeded"
    assert caught.value.response.headers["x-should-retry"] == "false"
    announce = {"filename": "a.jsonl", "purpose": "fine-tune", "mime_type": "text/jsonl"}
    with pytest.raises(openai.RateLimitError) as caught:
        api.uploads.create(bytes=len(content), **announce)
    assert caught.value.code == "storage_limit_exceeded"
    upload(unlimited, content)
    api.files.delete(file.id)
    pending = api.uploads.create(bytes=len(content), **announce)
    with pytest.raises(openai.RateLimitError):
        upload(api, content)
    api.uploads.cancel(pending.id)
    upload(api, content)


def test_two_keys_of_an_owner_that_ask_at_once_do_not_both_take_the_rest(priced: Fake, path: Path) -> None:
    keys = [add_key(path, "ana", budget=1e-9), add_key(path, "ana-2", owner="ana")]
    with serve(path) as server, client(server, keys[0]) as first, client(server, keys[1]) as second:
        file = upload(first).id
        cost = cost_of_one_job(wait(first, create(first, file).id).error.message)
        path.write_text(path.read_text().replace("budget: 1e-09", f"budget: {1.5 * cost:.2f}"))
        barrier = threading.Barrier(2)

        def start(api: Any) -> Any:
            barrier.wait(30)
            return wait(api, create(api, file).id)

        with ThreadPoolExecutor(2) as pool:
            ended = list(pool.map(start, (first, second)))
    assert sorted(job.status for job in ended) == ["failed", "succeeded"]
    assert next(job.error.code for job in ended if job.status == "failed") == "over_budget"
    assert len(priced.jobs) == 1
