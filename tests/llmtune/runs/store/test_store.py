"""The store's contract, on SQLite and on PostgreSQL."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from llmtune.errors import RunNotFound
from llmtune.metrics.points import MetricPoint
from llmtune.provider.types import Event, JobRef, ModelRef, Progress, RunState, Snapshot, UploadRef
from llmtune.runs.store.store import Store
from tests.llmtune.runs.helpers import a_record

pytestmark = pytest.mark.usefixtures("no_long_pauses")


def test_a_run_comes_back_as_it_was_written(store: Store) -> None:
    written = a_record(name="Tickets «é»", budget=12.5, job={"name": "n", "deep": {"a": [1, 2.5, None, "é"]}})
    assert store.create_or_join(written) == (written, "new")
    assert store.get(written.id) == written
    assert [each.state for each in store.transitions(written.id)] == [RunState.PLANNED]


def test_an_unfinished_run_of_the_same_fingerprint_is_joined_and_a_finished_one_reused(store: Store) -> None:
    first, _ = store.create_or_join(a_record(fingerprint="same"))
    joined, how = store.create_or_join(a_record(fingerprint="same"))
    assert (joined.id, how) == (first.id, "joined")
    other, how = store.create_or_join(a_record(fingerprint="same"), join=False)
    assert (other.id != first.id, how) == (True, "new")
    for each in (first, other):
        store.transition(each.id, RunState.SUCCEEDED)
    fresh, how = store.create_or_join(a_record(fingerprint="same"))
    assert how == "new"
    store.transition(fresh.id, RunState.FAILED)
    reused, how = store.create_or_join(a_record(fingerprint="same"), reuse=True)
    assert (reused.id in (first.id, other.id), how) == (True, "reused")
    assert store.create_or_join(a_record(fingerprint="other"), reuse=True)[1] == "new"


def test_of_many_that_begin_the_same_at_once_one_makes_the_run(store: Store) -> None:
    ready = threading.Barrier(8)

    def begin(_: int) -> str:
        record = a_record(fingerprint="race")
        ready.wait()
        return store.create_or_join(record)[1]

    with ThreadPoolExecutor(8) as pool:
        outcomes = list(pool.map(begin, range(8)))
    assert sorted(outcomes) == ["joined"] * 7 + ["new"]
    assert len(store.runs()) == 1


def test_a_run_is_found_by_prefix_key_and_name_and_near_ids_are_named(store: Store) -> None:
    one, _ = store.create_or_join(a_record(id="abcdefghij", name="tickets"))
    store.create_or_join(a_record(id="abzzzzzzzz", name="mails"))
    assert store.resolve("abc") == one.id
    assert store.resolve(one.key) == one.id
    assert store.resolve("ltabc") == one.id
    assert store.resolve("tickets") == one.id
    with pytest.raises(RunNotFound, match="could be any of 2 runs: abcdefghij, abzzzzzzzz"):
        store.resolve("ab")
    with pytest.raises(RunNotFound, match="did you mean abcdefghij"):
        store.resolve("abcdefghxx")
    with pytest.raises(RunNotFound, match="there is no run"):
        store.get("nothing")
    store.create_or_join(a_record(name="tickets"))
    with pytest.raises(RunNotFound, match="2 runs are named 'tickets'"):
        store.resolve("tickets")


def test_runs_are_listed_newest_first_and_by_state(store: Store) -> None:
    old, _ = store.create_or_join(a_record(created=1.0, group="g"))
    new, _ = store.create_or_join(a_record(created=2.0, provider="other"))
    assert [each.id for each in store.runs()] == [new.id, old.id]
    assert [each.id for each in store.runs(limit=1)] == [new.id]
    assert [each.id for each in store.runs(provider="other")] == [new.id]
    assert [each.id for each in store.runs(group="g")] == [old.id]
    store.transition(old.id, RunState.FAILED)
    assert [each.id for each in store.runs(states=[RunState.FAILED])] == [old.id]


def test_a_run_only_moves_onward(store: Store) -> None:
    run, _ = store.create_or_join(a_record())
    assert store.transition(run.id, RunState.QUEUED).state is RunState.QUEUED
    assert store.transition(run.id, RunState.UPLOADING).state is RunState.QUEUED
    assert store.transition(run.id, RunState.RUNNING).state is RunState.RUNNING
    assert store.transition(run.id, RunState.QUEUED).state is RunState.QUEUED
    assert store.transition(run.id, RunState.SUCCEEDED, only_from=[RunState.PLANNED]).state is RunState.QUEUED
    assert store.transition(run.id, RunState.LOST, "no answer", error="unclear").error == "unclear"
    assert store.transition(run.id, RunState.SUBMITTING).state is RunState.LOST
    assert store.transition(run.id, RunState.SUBMITTING, back=True).state is RunState.SUBMITTING
    assert [each.state for each in store.transitions(run.id)] == [
        RunState.PLANNED,
        RunState.QUEUED,
        RunState.RUNNING,
        RunState.QUEUED,
        RunState.LOST,
        RunState.SUBMITTING,
    ]


def a_point(step: int, value: float = 1.0, series: str = "train/loss") -> MetricPoint:
    return MetricPoint(series=series, step=step, value=value, source="vendor_api")


def an_event(name: str) -> Event:
    return Event(id=name, time=1.5, message=f"said {name}", level="warning")


def test_a_snapshot_is_kept_whole_and_told_twice_is_told_once(store: Store) -> None:
    run, _ = store.create_or_join(a_record())
    snapshot = Snapshot(
        state=RunState.RUNNING,
        raw_state="in_progress",
        progress=Progress(step=2, total_steps=10),
        points=(a_point(1), a_point(2), a_point(2)),
        events=(an_event("e1"),),
        checkpoints=(ModelRef(id="ck-1"),),
        warnings=("slow",),
        resolved={"epochs": 3},
        not_reported={"validation/loss": "no file"},
        cursor={"after": "e1"},
    )
    seen = store.record(run.id, snapshot)
    assert (len(seen.points), len(seen.events), seen.moved) == (2, 1, True)
    again = store.record(run.id, snapshot.model_copy(update={"points": (a_point(2), a_point(3))}))
    assert ([point.step for point in again.points], again.events, again.moved) == ([3], (), False)
    record = store.get(run.id)
    assert record.state is RunState.RUNNING
    assert record.cursor == {"after": "e1"}
    assert record.progress.total_steps == 10
    assert record.warnings == ("slow",)
    assert (record.resolved, record.not_reported) == ({"epochs": 3}, {"validation/loss": "no file"})
    assert [point.step for point in store.points(run.id)] == [1, 2, 3]
    assert store.points(run.id)[0] == a_point(1)
    assert [event for _, event in store.events(run.id)] == [an_event("e1")]
    assert "checkpoint:ck-1" in store.refs(run.id)


def test_a_final_snapshot_leaves_the_run_finalizing_with_its_outcome(store: Store) -> None:
    run, _ = store.create_or_join(a_record())
    end = Snapshot(state=RunState.SUCCEEDED, raw_state="done", model=ModelRef(id="ft:1", base="m-1"))
    assert store.record(run.id, end).record.state is RunState.FINALIZING
    late = Snapshot(state=RunState.RUNNING, raw_state="running")
    assert store.record(run.id, late).record.state is RunState.FINALIZING
    record = store.get(run.id)
    assert record.outcome is RunState.SUCCEEDED
    assert store.ref(run.id, "model", ModelRef) == ModelRef(id="ft:1", base="m-1")
    assert [each.type for each in store.resources(run.id)] == ["model"]


def test_many_points_in_one_snapshot(store: Store) -> None:
    run, _ = store.create_or_join(a_record())
    store.record(
        run.id, Snapshot(state=RunState.RUNNING, raw_state="r", points=tuple(a_point(step) for step in range(1300)))
    )
    more = tuple(a_point(step) for step in range(1, 1400))
    seen = store.record(run.id, Snapshot(state=RunState.RUNNING, raw_state="r", points=more))
    assert [point.step for point in seen.points] == list(range(1300, 1400))
    assert len(store.points(run.id)) == 1400


def test_events_after_a_number(store: Store) -> None:
    run, _ = store.create_or_join(a_record())
    other, _ = store.create_or_join(a_record())
    store.add_events(run.id, [an_event("a"), an_event("b")])
    store.add_events(other.id, [an_event("a")])
    numbers = [number for number, _ in store.events(run.id)]
    assert [event.id for _, event in store.events(run.id, after=numbers[0])] == ["b"]
    store.note(run.id, "hello")
    assert store.events(run.id)[-1][1].message == "hello"


def test_changed_fields_and_warnings_stay(store: Store) -> None:
    run, _ = store.create_or_join(a_record())
    store.change(run.id, submits=1, cancel_requested=True)
    store.warn(run.id, "a", "b", "a")
    store.warn(run.id, "b", "c")
    record = store.get(run.id)
    assert (record.submits, record.cancel_requested, record.warnings) == (1, True, ("a", "b", "c"))


def test_references_and_what_we_made(store: Store) -> None:
    run, _ = store.create_or_join(a_record())
    job = JobRef(id="j-1", data={"region": "eu"}, url="https://example.com/j-1")
    store.keep_ref(run, "job", "job", job)
    assert store.ref(run.id, "job", JobRef) == job
    assert store.ref(run.id, "model", ModelRef) is None
    store.set_ref(run.id, "job", job.model_copy(update={"id": "j-2"}))
    assert store.ref(run.id, "job", JobRef) == job.model_copy(update={"id": "j-2"})
    store.drop_ref(run.id, "job")
    assert store.refs(run.id) == {}
    (made,) = store.resources(run.id)
    assert (made.type, made.ref, made.run_id, made.removed) == ("job", job, run.id, None)
    store.mark_removed(made)
    assert store.resources(run.id) == []
    (gone,) = store.resources(run.id, standing=False)
    assert gone.removed is not None


def test_uploads_by_content(store: Store) -> None:
    run, _ = store.create_or_join(a_record())
    assert store.find_upload("acme", "d1") is None
    assert store.begin_upload("acme", "d1") is False
    assert store.find_upload("acme", "d1") is None
    assert store.begin_upload("acme", "d1") is True
    ref = UploadRef(id="f-1", digest="d1")
    store.keep_upload(run, "upload:train", ref, created=True)
    assert store.find_upload("acme", "d1") == ref
    assert store.find_upload("other", "d1") is None
    assert store.ref(run.id, "upload:train", UploadRef) == ref
    (made,) = store.resources()
    store.mark_removed(made)
    assert store.find_upload("acme", "d1") is None
    other, _ = store.create_or_join(a_record())
    store.keep_upload(other, "upload:train", ref, created=False)
    assert store.resources() == []
    store.forget_upload("acme", "d1")
    assert store.find_upload("acme", "d1") is None


def test_reports(store: Store) -> None:
    run, _ = store.create_or_join(a_record())
    assert store.report(run.id) is None
    store.keep_report(run.id, json.dumps({"a": 1}))
    store.keep_report(run.id, json.dumps({"a": 2}))
    assert json.loads(store.report(run.id) or "") == {"a": 2}


def test_a_failed_transaction_leaves_nothing(store: Store) -> None:
    run, _ = store.create_or_join(a_record())
    with pytest.raises(RuntimeError), store.write() as connection:
        store._add_events(connection, run.id, [an_event("x")])
        raise RuntimeError
    assert store.events(run.id) == []


WRITER = """
import sys
from llmtune.provider import Event
from llmtune.runs.store.store import open_store
store = open_store()
run, worker, count = sys.argv[1], sys.argv[2], int(sys.argv[3])
for number in range(count):
    store.add_events(run, [Event(id=f"{worker}-{number}", time=1.0, message="x")])
    if number % 100 == 0:
        record = store.get(run)
        store.change(run, submits=record.submits)
"""


@pytest.mark.slow
@pytest.mark.timeout(1800)  # a busy machine starts eight interpreters slowly
def test_eight_processes_write_two_thousand_events_each(store: Store) -> None:
    run, _ = store.create_or_join(a_record())
    store.close()
    writers = [
        subprocess.Popen([sys.executable, "-c", WRITER, run.id, str(number), "2000"], stderr=subprocess.PIPE, text=True)
        for number in range(8)
    ]
    complaints = [writer.communicate(timeout=1500)[1] for writer in writers]
    assert complaints == [""] * 8
    assert len(store.events(run.id)) == 16_000


OPENER = """
import sys, time
from llmtune.runs.store.store import open_store
time.sleep(max(0.0, float(sys.argv[1]) - time.time()))
open_store().runs()
"""


@pytest.mark.slow
def test_many_processes_make_the_store_at_once(store: Store) -> None:
    import time

    store.close()
    if store.sqlite:
        from llmtune.config import home

        for file in home().glob("store.db*"):
            file.unlink()
    else:
        with store.write() as connection:
            connection.exec_driver_sql("DROP SCHEMA public CASCADE")
            connection.exec_driver_sql("CREATE SCHEMA public")
    when = str(time.time() + 3)
    openers = [
        subprocess.Popen([sys.executable, "-c", OPENER, when], stderr=subprocess.PIPE, text=True) for _ in range(10)
    ]
    assert [opener.communicate(timeout=120)[1] for opener in openers] == [""] * 10
    assert store.runs() == []


def test_each_change_of_state_is_logged_with_the_run(store: Store, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "llmtune")
    record, _ = store.create_or_join(a_record(name="tickets"))
    store.transition(record.id, RunState.UPLOADING, "two files")
    store.transition(record.id, RunState.PLANNED)  # not onward: nothing changes, nothing is logged
    messages = [(entry.getMessage(), entry.levelname, getattr(entry, "run", None)) for entry in caplog.records]
    assert messages == [
        (f"run {record.id}: planned", "INFO", record.id),
        (f"run {record.id}: uploading (two files)", "INFO", record.id),
    ]
