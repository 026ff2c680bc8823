"""Waiting: patient with a vendor that is unwell, honest about a stall, and never endless."""

from __future__ import annotations

import asyncio
import json
import queue
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import llmtune
from llmtune import TuningJob
from llmtune.errors import RunFailed, StillRunning, StoreUnavailable, VendorError
from llmtune.provider.types import RunState
from llmtune.runs import poller, worker_threads
from llmtune.runs import poller as waiting
from llmtune.runs.api import attach, start, tune_async
from llmtune.runs.poller import PollInterval, Update
from llmtune.runs.run import Run
from llmtune.runs.store.leases import Lease, is_gone, new_owner
from llmtune.runs.store.store import open_store
from llmtune.runs.worker_threads import Workers
from llmtune.testing import (
    Phase,
    garbled,
    rate_limit,
    refusal,
    reset,
    server_error,
    store_away,
    trickle,
    truncated,
    unknown_state,
)
from llmtune.testing.fake_provider import FakeProvider
from llmtune.testing.generic_vendor import Fake
from tests.llmtune.runs.helpers import QUICK, a_record

pytestmark = pytest.mark.usefixtures("no_long_pauses")

At = Callable[..., FakeProvider]


def test_transient_errors_are_waited_out_and_told_once(vendor: Fake, at: At, job: TuningJob) -> None:
    run = start(job, at())
    vendor.faults.add(server_error(), role="poll", times=2)
    vendor.faults.add(reset(), role="poll", times=2, after=1)
    vendor.faults.add(truncated(), role="poll")
    vendor.faults.add(garbled(), role="poll", after=2)
    said: list[str] = []
    run.wait(pace=QUICK, on_update=lambda update: said.append(update.message) if update.message else None)
    assert run.state is RunState.SUCCEEDED
    assert any("does not answer" in each for each in said)
    assert any("answers again" in each for each in said)
    assert vendor.faults.total() == 6


def test_retry_after_is_honoured(vendor: Fake, at: At, job: TuningJob) -> None:
    run = start(job, at())
    vendor.faults.add(rate_limit(0.6), role="poll")
    run.wait(pace=QUICK)
    polls = [call.time for call in vendor.requests if call.role == "poll"]
    assert polls[1] - polls[0] >= 0.45  # jitter takes a fifth at most


def test_an_unknown_state_is_running_with_a_warning(vendor: Fake, at: At, job: TuningJob) -> None:
    run = start(job, at())
    vendor.faults.add(unknown_state("recalibrating"), role="poll", times=2, after=1)
    states: list[tuple[str, RunState]] = []
    run.wait(pace=QUICK, on_update=lambda u: states.append((u.record.raw_state, u.record.state)))
    assert ("recalibrating", RunState.RUNNING) in states
    assert any("recalibrating" in warning for warning in run.record.warnings)
    assert run.state is RunState.SUCCEEDED


def test_a_permanent_refusal_ends_the_wait_in_the_vendors_words_and_leaves_the_run(
    vendor: Fake, at: At, job: TuningJob
) -> None:
    run = start(job, at())
    vendor.faults.add(refusal(400, "This job was hidden by an administrator.", "hidden"), role="poll")
    with pytest.raises(VendorError, match="hidden by an administrator"):
        run.wait(pace=QUICK)
    assert run.state is RunState.QUEUED
    run.wait(pace=QUICK)
    assert run.state is RunState.SUCCEEDED


def test_a_failed_job_raises_with_its_report(vendor: Fake, at: At, job: TuningJob) -> None:
    vendor.outcome = "failure"
    run = start(job, at())
    with pytest.raises(RunFailed, match="could not be processed") as caught:
        run.wait(pace=QUICK)
    assert caught.value.report is not None
    assert run.state is RunState.FAILED


def test_a_timeout_ends_the_wait_and_not_the_run(vendor: Fake, at: At, job: TuningJob) -> None:
    vendor.walks = {**vendor.walks, "success": vendor.walks["success"][:1] * 2}  # type: ignore[misc]
    run = start(job, at())
    began = time.monotonic()
    with pytest.raises(StillRunning, match=r"within 0\.2 s; it goes on"):
        run.wait(timeout=0.2, pace=QUICK)
    assert time.monotonic() - began < 30  # the run itself never ends
    with pytest.raises(TimeoutError):
        run.wait(timeout=0, pace=QUICK)
    assert not run.state.final


def test_a_stall_is_reported_once_and_not_failed(vendor: Fake, at: At, job: TuningJob) -> None:
    from llmtune.testing import Phase

    vendor.walks = {**vendor.walks, "success": (Phase("training", looks=60), Phase("succeeded"))}  # type: ignore[misc]
    vendor.steps = 0
    run = start(job, at())
    stalls: list[Update] = []
    run.wait(stall_timeout=0.25, pace=QUICK, on_update=lambda u: stalls.append(u) if u.stalled else None)
    assert len(stalls) in (1, 2), "once for each silence: before the first look of a slow machine, and while it trains"
    assert "no new step or state for 0.25 s" in (stalls[0].message or "")
    assert any("no new step or state" in event.message for _, event in run.events())
    assert run.state is RunState.SUCCEEDED


def test_an_adapter_that_keeps_breaking_stops_the_wait(
    vendor: Fake, at: At, job: TuningJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = start(job, at())
    calls = []

    def poll(*_: Any) -> Any:
        calls.append(1)
        raise KeyError("status")

    with monkeypatch.context() as patch:
        patch.setattr(FakeProvider, "poll", poll)
        with pytest.raises(VendorError, match=r"fake: .* cannot be read \(KeyError: 'status'\)"):
            run.wait(pace=QUICK)
    assert len(calls) == waiting.UNREADABLE_LIMIT
    run.wait(pace=QUICK)


def test_many_wait_for_one_run_and_each_hears_of_everything(vendor: Fake, at: At, job: TuningJob) -> None:
    run = start(job, at())
    heard: list[int] = []

    def wait() -> None:
        points = []
        Run(run.id, provider=at()).wait(pace=QUICK, on_update=lambda update: points.extend(update.points))
        heard.append(len(points))

    threads = [threading.Thread(target=wait) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert len(heard) == 5
    assert vendor.counts["get_job"] < 15


@pytest.mark.parametrize("fault", [None, refusal(403, "You may not do that.", "forbidden")], ids=["ended", "refused"])
def test_who_follows_a_run_at_its_last_update_hears_of_its_end_too(
    vendor: Fake, at: At, job: TuningJob, fault: Any
) -> None:
    """A wait that returns may be followed by another at once, while the poller still deals with the first one."""
    run = start(job, at())
    if fault is not None:
        vendor.faults.add(fault, role="poll", times=2)
    again: queue.SimpleQueue[Update] = queue.SimpleQueue()

    def follow_again(update: Update) -> None:
        if update.last:
            poller.poller().follow(run._store, run.id, run.provider, again.put, pace=QUICK)

    leave = poller.poller().follow(run._store, run.id, run.provider, follow_again, pace=QUICK)
    update = again.get(timeout=30)
    while not update.last:
        update = again.get(timeout=30)
    leave()


@pytest.mark.slow
def test_async_waits_share_the_pollers_threads(vendor: Fake, at: At, job: TuningJob) -> None:
    async def everything() -> list[Any]:
        jobs = [job.model_copy(update={"seed": number}) for number in range(30)]
        return await asyncio.gather(*(tune_async(each, at(), pace=QUICK) for each in jobs))

    most = 0
    done = threading.Event()
    others = set(threading.enumerate())  # earlier tests' pollers, whose idle threads end by and by

    def count() -> None:
        nonlocal most
        while not done.wait(0.005):
            ours = [each for each in threading.enumerate() if each not in others and each.name.startswith("llmtune-")]
            most = max(most, len(ours))

    counter = threading.Thread(target=count)
    counter.start()
    try:
        reports = asyncio.run(everything())
    finally:
        done.set()
        counter.join()
    assert len(reports) == 30
    assert all(report is not None for report in reports)
    assert most <= 32, "an evaluation's own threads included"
    assert len(vendor.jobs) == 30


def test_async_timeout_and_failure(vendor: Fake, at: At, job: TuningJob) -> None:
    vendor.outcome = "failure"
    run = start(job, at())
    with pytest.raises(RunFailed):
        asyncio.run(run.wait_async(pace=QUICK))
    other = start(job.model_copy(update={"seed": 1}), at())
    vendor.faults.add(server_error(), role="poll", times=1000)
    with pytest.raises(StillRunning):
        asyncio.run(other.wait_async(timeout=0.1, pace=QUICK))


def test_a_clock_that_jumps_changes_nothing(
    vendor: Fake, at: At, job: TuningJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = time.time
    shift = [0.0]
    monkeypatch.setattr(time, "time", lambda: real() + shift[0])
    run = start(job, at("searchable"))

    def jump(_: Update) -> None:
        shift[0] = 86_400.0 if shift[0] <= 0 else -86_400.0

    run.wait(timeout=20, stall_timeout=10, pace=QUICK, on_update=jump)
    assert run.state is RunState.SUCCEEDED
    steps = [point.step for point in run.metrics() if point.series == "train/loss"]
    assert steps == list(range(1, 11))


def test_attach_from_nowhere_reaches_the_same_account(vendor: Fake, at: At, job: TuningJob) -> None:
    run = start(job, at("searchable"))
    other = attach(run.id[:4])  # knows nothing but the store
    assert other.provider.submit_safety.kind == "searchable"
    other.wait(pace=QUICK)
    assert other.state is RunState.SUCCEEDED


# --- leases ----------------------------------------------------------------------------------------------------------
def test_a_lease_has_one_holder(store: Any) -> None:
    first, second = Lease(store, "x"), Lease(store, "x")
    assert first.acquire()
    assert not second.acquire(wait=0)
    assert second.holder == first.owner
    first.release()
    assert second.acquire(wait=0)
    second.release()


def test_a_lease_whose_heart_has_stopped_is_taken_over_and_its_old_holder_told(store: Any) -> None:
    from llmtune.runs.store.leases import LeaseLost, _heart

    first, second = Lease(store, "x", ttl=0.3), Lease(store, "x", ttl=0.3)
    assert first.acquire()
    time.sleep(0.5)
    assert not second.acquire(wait=0), "a heart that beats is respected, however long"
    first.check()
    _heart.remove(first)  # a suspended process
    assert second.acquire(wait=5)
    with pytest.raises(LeaseLost):
        first.check()
    second.check()
    second.release()


def test_a_holder_that_is_a_dead_process_of_this_machine_is_gone_at_once(store: Any) -> None:
    import subprocess
    import sys

    code = "from llmtune.runs.store.leases import new_owner; print(new_owner())"
    dead = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()
    assert is_gone(dead)
    assert not is_gone(new_owner())
    assert not is_gone("another-host|abc|pid:[1]/1/1/x")
    store.take_lease("x", dead)
    lease = Lease(store, "x")
    assert lease.acquire(wait=0)
    lease.release()


def test_two_that_finish_one_run_evaluate_it_once(
    vendor: Fake, at: At, job: TuningJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    from llmtune.runs import evaluation
    from llmtune.runs.poller import Poller

    evaluated = []
    real = evaluation.evaluate

    def slow(*args: Any, **kwargs: Any) -> Any:
        evaluated.append(1)
        time.sleep(0.3)
        return real(*args, **kwargs)

    monkeypatch.setattr(evaluation, "evaluate", slow)
    run = start(job, at())
    ended = [threading.Event(), threading.Event()]
    for each in ended:  # two pollers: as two processes would have
        Poller().follow(
            open_store(), run.id, at(), lambda update, each=each: each.set() if update.last else None, pace=QUICK
        )
    assert all(each.wait(20) for each in ended)
    assert len(evaluated) == 1
    assert run.state is RunState.SUCCEEDED


def test_a_run_that_is_being_submitted_elsewhere_is_waited_for_not_submitted(
    vendor: Fake, at: At, job: TuningJob
) -> None:
    from llmtune.runs import submission

    run = start(job, at("searchable"))
    store = open_store()
    store.drop_ref(run.id, "job")
    store.transition(run.id, RunState.SUBMITTING, back=True)
    lease = submission.submission_lease(store, run.id)
    assert lease.acquire()
    with pytest.raises(StillRunning):
        run.wait(timeout=0.5, pace=QUICK)
    assert vendor.counts["submit"] == 1
    lease.release()
    run.wait(pace=QUICK)
    assert vendor.counts["submit"] == 1
    assert len(vendor.jobs) == 1


def test_the_rate_of_polls_is_bounded(vendor: Fake, at: At, job: TuningJob) -> None:
    from llmtune.runs.poller import Poller

    poller = Poller(polls_per_second=50)
    runs = [start(job.model_copy(update={"seed": number}), at()) for number in range(10)]
    vendor.requests.clear()
    ended = threading.Semaphore(0)
    began = time.monotonic()
    for run in runs:
        poller.follow(open_store(), run.id, at(), lambda u: ended.release() if u.last else None, pace=QUICK)
    for _ in runs:
        assert ended.acquire(timeout=30)
    seconds = time.monotonic() - began
    polls = sum(call.role == "poll" for call in vendor.requests) - len(runs)  # one more each at the end, on its own
    assert polls <= 50 * seconds * 1.1 + 2


def test_a_record_of_an_unknown_run_is_not_found() -> None:
    from llmtune.errors import RunNotFound

    with pytest.raises(RunNotFound):
        attach("nothing")
    store = open_store()
    store.create_or_join(a_record(id="abcdefghij"))
    assert attach("abc").id == "abcdefghij"


def test_following_is_news_enough(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(poller, "TOUCH_INTERVAL", 0.05)
    turns = [{"role": "user", "content": "hello {n}"}, {"role": "assistant", "content": "good day {n}"}]
    lines = (json.dumps({"messages": turns}).replace("{n}", str(n)) + "\n" for n in range(40))
    (tmp_path / "rows.jsonl").write_text("".join(lines))
    with Fake() as vendor:
        monkeypatch.setenv("LLMTUNE_FAKE_BASE_URL", vendor.url)
        # Waiting in a queue: no step, no event, no other state.
        vendor.walks = {**vendor.walks, "success": (Phase("queued", looks=0, seconds=3600),)}
        run = llmtune.start(TuningJob(name="t", dataset=str(tmp_path / "rows.jsonl"), model="m-1"), "fake")
        store: Any = open_store()
        deadline = time.monotonic() + 60
        first = None
        while time.monotonic() < deadline:
            with pytest.raises(llmtune.errors.StillRunning):
                run.wait(timeout=0.5, pace=PollInterval(first=0.01, most=0.05))
            record = store.get(run.id)
            if first is not None and record.updated > first.updated:
                break
            first = first or record
        assert first is not None
        assert record.updated > first.updated
        assert record.state == first.state


# --- what is away, slow or broken -------------------------------------------------------------------------------------
def follow_to_the_end(run: Run, **options: Any) -> list[str]:
    """Wait for a run; every message on the way."""
    messages: list[str] = []
    run.wait(pace=QUICK, on_update=lambda u: messages.append(u.message) if u.message else None, **options)
    return messages


@pytest.mark.parametrize("after", [4, 9, 15, 30])
def test_a_store_that_is_away_for_a_while_is_waited_for(vendor: Fake, at: At, job: TuningJob, after: int) -> None:
    run = start(job, at())
    with store_away(open_store(), times=6, after=after) as failed:
        follow_to_the_end(run)
        assert failed() == 6
    assert run.state is RunState.SUCCEEDED
    assert run.report().identity.state is RunState.SUCCEEDED
    assert len(vendor.jobs) == 1


def test_a_store_that_is_away_is_reported_once_and_so_is_its_return(vendor: Fake, at: At, job: TuningJob) -> None:
    run = start(job, at())
    polled = threading.Event()
    vendor.before_route = lambda call: polled.set() if call.role == "poll" else None
    with store_away(open_store(), times=5, when=lambda: polled.is_set()):
        messages = follow_to_the_end(run)
    assert [each for each in messages if "trying again" in each and "run store" in each] == [
        each for each in messages if "injected" in each
    ]
    assert len([each for each in messages if "injected" in each]) == 1
    assert any("the run store answers again after" in each for each in messages)


def test_a_store_that_was_moved_away_is_waited_for(
    vendor: Fake, at: At, job: TuningJob, own_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = start(job, at())
    aside = own_home.with_name("aside")
    messages: list[str] = []

    def listen(update: Update) -> None:
        if update.message:
            messages.append(update.message)
        if update.moved and not messages and not update.record.state.final:
            own_home.rename(aside)
        if "is gone" in (update.message or ""):
            aside.rename(own_home)

    run.wait(pace=QUICK, on_update=listen)
    assert any("deleted, or its folder was moved" in each for each in messages)
    assert run.state is RunState.SUCCEEDED


def test_a_store_that_was_deleted_ends_the_wait_in_a_sentence(
    vendor: Fake, at: At, job: TuningJob, own_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(poller, "DELETED_SECONDS", 0.0)
    vendor.walks = {**vendor.walks, "success": (Phase("training", looks=10**6), Phase("succeeded"))}  # type: ignore[misc]
    run = start(job, at())

    def delete(_: Update) -> None:
        for path in own_home.glob("store.db*"):
            path.unlink()

    with pytest.raises(StoreUnavailable, match=r"is gone"):
        run.wait(pace=QUICK, on_update=delete)


@pytest.mark.slow
def test_a_store_that_is_away_at_the_first_read_is_waited_for(vendor: Fake, at: At, job: TuningJob) -> None:
    run = start(job, at())
    with store_away(open_store(), times=2) as failed:
        handle = attach(run.id[:8], provider=at())
        assert (handle.id, failed()) == (run.id, 2)
    with store_away(open_store(), times=2) as failed:
        assert handle.wait(pace=QUICK).identity.state is RunState.SUCCEEDED
        assert failed() == 2
    with store_away(open_store(), times=2) as failed:
        assert asyncio.run(handle.wait_async(pace=QUICK)).identity.state is RunState.SUCCEEDED
        assert failed() == 2
    with store_away(open_store(), times=10**6), pytest.raises(StoreUnavailable, match="connection was refused"):
        handle.wait(timeout=0.3)
    with store_away(open_store(), times=10**6), pytest.raises(StoreUnavailable, match="connection was refused"):
        attach(run.id, store_timeout=0.3)


def test_a_store_that_is_deleted_at_the_first_read_is_reported_at_once(
    vendor: Fake, at: At, job: TuningJob, own_home: Path
) -> None:
    run = start(job, at())
    for path in own_home.glob("store.db*"):
        path.unlink()
    for wait in (lambda: run.wait(), lambda: asyncio.run(run.wait_async()), lambda: attach(run.id)):
        with pytest.raises(StoreUnavailable, match=r"is gone .*: it was deleted, or its folder was moved"):
            wait()


def test_the_last_handler_of_a_thread_cannot_fail(
    vendor: Fake, at: At, job: TuningJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = start(job, at())

    def break_(*_: Any) -> Any:
        raise MemoryError("no more")

    with monkeypatch.context() as patch:
        patch.setattr(poller.Poller, "_advance", break_)
        patch.setattr(poller, "scrub_error", break_)
        with pytest.raises(MemoryError):
            run.wait(pace=QUICK)
    assert Run(run.id, provider=at()).wait(pace=QUICK).identity.state is RunState.SUCCEEDED


def test_a_listener_that_breaks_keeps_nobody_from_hearing(vendor: Fake, at: At, job: TuningJob) -> None:
    run = start(job, at())

    def break_(_: Update) -> None:
        raise ValueError("not mine")

    leave = poller.poller().follow(open_store(), run.id, at(), break_, pace=QUICK)
    follow_to_the_end(run)
    leave()
    assert run.state is RunState.SUCCEEDED


def test_an_action_that_breaks_ends_no_thread() -> None:
    workers = Workers("test", 1)
    done = threading.Event()

    def break_() -> None:
        raise SystemExit

    for _ in range(3):
        workers.submit(break_)
    workers.submit(done.set)
    assert done.wait(60)


def test_slow_threads_do_not_keep_the_others_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker_threads, "SLOW_SECONDS", 0.0)
    workers = Workers("test", 4, with_slow=20)
    release, done = threading.Event(), threading.Event()

    def hang() -> None:
        release.wait(600)

    for _ in range(12):
        workers.submit(hang)
    workers.submit(done.set)
    while not done.wait(0.01):
        workers.grow()
    release.set()


def test_slow_polls_starve_no_other_run(vendor: Fake, at: At, job: TuningJob, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker_threads, "SLOW_SECONDS", 0.05)
    monkeypatch.setattr(poller, "SILENCE_SECONDS", 0.1)
    release = threading.Event()
    stuck: set[str] = set()
    poll = FakeProvider.poll

    def perhaps(self: FakeProvider, ref: Any, since: Any) -> Any:
        if ref.id in stuck:
            release.wait(600)
        return poll(self, ref, since)

    monkeypatch.setattr(FakeProvider, "poll", perhaps)
    messages: list[str] = []
    leaving = []
    for number in range(poller.POLL_THREADS + 2):
        run = start(job.model_copy(update={"seed": number}), at())
        stuck.add(str(run.job_ref and run.job_ref.id))
        leaving.append(
            poller.poller().follow(
                open_store(), run.id, at(), lambda u: messages.append(u.message) if u.message else None, pace=QUICK
            )
        )
    healthy = start(job.model_copy(update={"seed": 99}), at())
    try:
        healthy.wait(pace=QUICK)
        assert healthy.state is RunState.SUCCEEDED
        while not any("has not answered for" in each for each in messages):
            time.sleep(0.01)
    finally:
        release.set()
        for leave in leaving:
            leave()


def test_an_answer_that_trickles_is_given_up_and_asked_for_again(
    vendor: Fake, at: At, job: TuningJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = start(job, at())
    vendor.faults.add(trickle(0.02), role="poll")
    monkeypatch.setattr(poller, "POLL_SECONDS", 0.2)
    messages: list[str] = []

    def listen(update: Update) -> None:
        if update.message:
            messages.append(update.message)
            monkeypatch.setattr(poller, "POLL_SECONDS", 300.0)

    run.wait(pace=QUICK, on_update=listen)
    assert any("no complete answer came within 0.2 s" in each for each in messages)
    assert run.state is RunState.SUCCEEDED


def test_a_long_pause_that_a_vendor_asks_for_is_reported(vendor: Fake, at: At, job: TuningJob) -> None:
    run = start(job, at())
    vendor.faults.add(rate_limit(7200), role="poll")
    heard = threading.Event()
    messages: list[str] = []

    def listen(update: Update) -> None:
        if update.message:
            messages.append(update.message)
            heard.set()

    leave = poller.poller().follow(open_store(), run.id, at(), listen, pace=QUICK)
    assert heard.wait(120)
    leave()
    assert "trying again in 3600 s" in messages[0]
