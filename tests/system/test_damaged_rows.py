"""A row that cannot be read costs nothing but itself: every list shows the others, and names it."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import orjson
import pytest
from typer.testing import CliRunner

from llmtune.cli.app import app
from llmtune.errors import StoreError
from llmtune.evaluation.results import EvaluationResult
from llmtune.job.spec import TuningJob
from llmtune.provider.types import RunState
from llmtune.report.schema import Report
from llmtune.runs.actions import cleanup
from llmtune.runs.api import attach, list_runs, start
from llmtune.runs.backend import provider_of
from llmtune.runs.store import schema
from llmtune.runs.store.store import Store, open_store
from llmtune.testing.fake_provider import FakeProvider
from llmtune.testing.generic_vendor import Fake
from llmtune.web.pages import Pages
from tests.llmtune.runs.helpers import QUICK, a_record

At = Callable[..., FakeProvider]

pytestmark = [pytest.mark.usefixtures("no_long_pauses"), pytest.mark.filterwarnings("ignore:damaged in the store")]


def damage(store: Store, run_id: str) -> None:
    """Break a row as version 0.1 did: it cut what looked like a password out of the JSON text."""
    with store.write() as connection:
        row = connection.exec_driver_sql(f"SELECT document FROM runs WHERE id = '{run_id}'").one()
        broken = re.sub(r"(://[^/\s:@]*:)[^/\s@]+@", r"\1***@", row[0])
        with pytest.raises(orjson.JSONDecodeError):
            orjson.loads(broken)
        connection.execute(schema.runs.update().where(schema.runs.c.id == run_id).values(document=broken))


def broken_run(**changed: Any) -> Any:
    """A run whose row the old text surgery breaks."""
    job = {"name": "tagged", "model": "m@1", "dataset": "x.jsonl", "tags": {"mlflow": "http://mlflow:5000"}}
    host = {"at": "ann@acme.example"}
    return a_record(**{"name": "tagged", "provider": "fake", "kind": "fake", "job": job, "host": host, **changed})


def metrics_of(report: Report) -> Any:
    return report.model_dump()["evaluation"]["systems"]["tuned"]["metrics"]


def llmtune(*arguments: str) -> Any:
    return CliRunner().invoke(app, list(arguments), catch_exceptions=False)


@pytest.mark.slow
def test_every_list_shows_the_others(store: Store, at: At, job: TuningJob) -> None:
    good = start(job, at())
    good.wait(pace=QUICK)
    broken, _ = store.create_or_join(broken_run(state=RunState.RUNNING))
    damage(store, broken.id)

    with pytest.warns(UserWarning, match=f"left out: run {broken.id}$"):
        assert [run.id for run in list_runs()] == [good.id]
    for command in (["runs", "list"], ["runs", "list", "--json"], ["doctor", "-p", "fake", "--lifecycle"]):
        done = llmtune(*command)
        assert (done.exit_code, good.id in done.stdout) == (0, True), done.output
    for command in (["runs", "watch"], ["runs", "cleanup", "--dry-run"], ["doctor", "-p", "fake"]):
        assert llmtune(*command).exit_code == 0
    assert "1 runs" in llmtune("doctor", "-p", "fake").stdout
    page = Pages(store).answer("/", {})
    assert page.status == 200
    assert all(run_id.encode() in page.body for run_id in (good.id, broken.id))
    with pytest.raises(StoreError, match=f"run {broken.id} .*damaged"):
        store.get(broken.id)


def test_a_store_with_nothing_else_does_not_look_empty() -> None:
    store = open_store()
    damage(store, store.create_or_join(broken_run())[0].id)
    assert llmtune("runs", "list").stdout.strip() == "no run can be read"


def test_a_reference_that_cannot_be_read_takes_no_list_with_it(at: At, job: TuningJob) -> None:
    store = open_store()
    good, bad = start(job, at()), start(job, at(), new=True)
    for run in (good, bad):
        run.wait(pace=QUICK)
    with store.write() as connection:
        for table in ("run_references", "resources"):
            connection.exec_driver_sql(f"UPDATE {table} SET ref = '{{\"id\":' WHERE run_id = '{bad.id}'")
    with pytest.warns(UserWarning, match=bad.id):
        assert {resource.run_id for resource in store.resources()} == {good.id}
    with pytest.warns(UserWarning, match=bad.id):
        assert [record.id for record, _ in store.tuned_models()] == [good.id]
    assert store.refs(bad.id) == {}


def test_what_an_unreadable_unfinished_run_may_use_is_kept(vendor: Fake, at: At, job: TuningJob) -> None:
    store = open_store()
    start(job, at()).wait(pace=QUICK)
    never_sent, _ = store.create_or_join(broken_run())
    damage(store, never_sent.id)
    assert cleanup(store, provider_of, dry_run=True).removed
    broken, _ = store.create_or_join(broken_run(state=RunState.RUNNING))
    damage(store, broken.id)
    done = cleanup(store, provider_of)
    assert done.removed == []
    assert f"run {broken.id} is unfinished and cannot be read" in done.kept[0][1]
    assert vendor.files


@pytest.mark.parametrize("state", [RunState.UPLOADING, RunState.RUNNING])
def test_the_same_job_again(state: RunState) -> None:
    store = open_store()
    broken, _ = store.create_or_join(broken_run(fingerprint="same", state=state))
    damage(store, broken.id)
    again = a_record(fingerprint="same")
    if state is RunState.UPLOADING:  # nothing was submitted
        assert store.create_or_join(again)[1] == "new"
        return
    with pytest.raises(StoreError, match=broken.id) as caught:
        store.create_or_join(again)
    assert "--new" in (caught.value.hint or "")
    assert store.create_or_join(again, join=False)[1] == "new"


def test_an_evaluation_and_a_report_that_cannot_be_read_are_made_again(vendor: Fake, at: At, job: TuningJob) -> None:
    store = open_store()
    run = start(job, at())
    before = run.wait(pace=QUICK)
    asked = vendor.counts["generate"]
    with store.write() as connection:
        connection.exec_driver_sql(f"UPDATE runs SET state = 'finalizing' WHERE id = '{run.id}'")
        connection.exec_driver_sql("UPDATE run_references SET ref = '{\"id\":' WHERE name = 'evaluation'")
    after = attach(run.id, provider=at()).wait(pace=QUICK)
    assert isinstance(after.evaluation, EvaluationResult)
    assert metrics_of(after) == metrics_of(before)
    assert vendor.counts["generate"] == asked, "the answers were kept"
    with store.write() as connection:
        connection.exec_driver_sql("UPDATE reports SET report = '{\"identity\":'")
    assert run.report().evaluation == after.evaluation
