"""One job with several seeds: each trained once, the spread in every report, and nothing trained or paid for twice."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from llmtune.errors import InvalidJob, OverBudget, RunFailed
from llmtune.job.spec import Hyperparameters, TuningJob
from llmtune.metrics.points import NotReported
from llmtune.report.schema import Report
from llmtune.runs import seed_spread, seeds
from llmtune.runs.api import attach, list_runs, tune
from llmtune.runs.evaluate_run import evaluate_run
from llmtune.runs.plans import plan
from llmtune.runs.poller import PollInterval
from llmtune.runs.run import Run
from llmtune.runs.seeds import HIGHEST_SEED, tune_seeds
from llmtune.runs.store.store import open_store
from llmtune.testing.fake_provider import FakeProvider, FakeSettings
from llmtune.testing.generic_vendor import Fake

QUICK = PollInterval(first=0.01, most=0.05)


@pytest.fixture
def job(tmp_path: Path) -> TuningJob:
    path = tmp_path / "rows.jsonl"
    rows = (
        {"messages": [{"role": "user", "content": f"case {at}"}, {"role": "assistant", "content": "yes"}]}
        for at in range(60)
    )
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return TuningJob(name="seeds", dataset=str(path), model="m-1", seed=7, hyperparameters=Hyperparameters(epochs=1))


def provider(vendor: Fake, **settings: Any) -> FakeProvider:
    return FakeProvider("fake", FakeSettings(base_url=vendor.url, timeout=5, **settings))


def test_every_seed_is_trained_once_and_every_report_has_the_spread(job: TuningJob) -> None:
    with Fake() as vendor:
        report = tune(job, provider(vendor), seeds=2, pace=QUICK)
        assert [started.body["seed"] for started in vendor.jobs.values()] == [7, 8]
        spread = report.seeds
        assert spread is not None
        assert [result.seed for result in spread.results] == [7, 8]
        assert report.identity.run_id == spread.results[0].run
        assert len({result.run for result in spread.results}) == 2
        for result in spread.results:
            other = attach(result.run, provider=provider(vendor)).report()
            assert other.seeds == spread
            assert other.job["seed"] == result.seed
        assert {run.record.group for run in list_runs()} == {"seeds"}

        again = tune(job, provider(vendor), seeds=3, pace=QUICK)  # one more; the others are not trained again
        assert again.identity.run_id == report.identity.run_id
        assert len(vendor.jobs) == 3
        tune(job, provider(vendor), seeds=2, new=True, pace=QUICK)
        assert len(vendor.jobs) == 5


def test_the_call_continues_after_an_interruption(job: TuningJob) -> None:
    with Fake() as vendor:
        backend = provider(vendor)
        asked: list[str] = []

        def interrupt(run: Run) -> Report:
            asked.append(run.id)
            if len(asked) == 2:
                raise KeyboardInterrupt
            return run.wait(pace=QUICK)

        with pytest.raises(KeyboardInterrupt):
            tune_seeds(job, backend, 3, follow=interrupt)
        assert len(vendor.jobs) == 3  # a hosted backend is given all of them at once
        report = tune_seeds(job, backend, 3, follow=lambda run: run.wait(pace=QUICK))
        assert len(vendor.jobs) == 3
        assert report.seeds is not None
        assert asked == [result.run for result in report.seeds.results[:2]]


def test_a_seed_that_fails_stands_with_its_reason(job: TuningJob) -> None:
    with Fake() as vendor:
        vendor.outcome = "failure"
        with pytest.raises(RunFailed):
            tune(job, provider(vendor), seeds=2, pace=QUICK)
        assert len(vendor.jobs) == 2

    with Fake() as vendor:
        backend = provider(vendor)
        ended: list[str] = []

        def follow(run: Run) -> Report:
            ended.append(run.id)
            if len(ended) == 2:
                raise RunFailed("the run failed: out of memory")
            return run.wait(pace=QUICK)

        report = tune_seeds(job.model_copy(update={"seed": 20}), backend, 3, follow=follow)
    assert report.seeds is not None
    lost = report.seeds.results[1].value
    assert isinstance(lost, NotReported)
    assert "out of memory" in lost.reason


def test_a_budget_is_for_all_seeds_together(job: TuningJob) -> None:
    with Fake() as vendor:
        backend = provider(vendor, price=3.0)
        one = plan(job, backend).cost.total
        assert one is not None
        assert one > 0
        with pytest.raises(OverBudget, match="3 seeds cost about"):
            tune(job, backend, seeds=3, budget=2.5 * one, pace=QUICK)
        assert vendor.jobs == {}
        assert tune(job, backend, seeds=3, budget=3.0 * one + 1e-9, pace=QUICK).succeeded


@pytest.mark.parametrize("number", [-1, 0, 1, seeds.MAX_SEEDS + 1])
def test_a_number_that_makes_no_sense_is_refused(job: TuningJob, number: int) -> None:
    with pytest.raises(InvalidJob, match="seeds: seeds is 2 to 100"):
        tune(job, "fake", seeds=number)
    assert list_runs() == []


def test_seeds_above_the_highest_are_refused_before_the_first_is_paid(job: TuningJob) -> None:
    with Fake() as vendor:
        with pytest.raises(InvalidJob, match="seed must be less than or equal to 2147483647"):
            TuningJob(name="seeds", dataset="rows.jsonl", model="m-1", seed=HIGHEST_SEED + 1)
        late = job.model_copy(update={"seed": HIGHEST_SEED - 1})
        with pytest.raises(InvalidJob, match="3 seeds from 2147483646 on would pass the highest"):
            tune(late, provider(vendor), seeds=3)
        assert vendor.jobs == {}


def test_several_backends_are_refused(job: TuningJob) -> None:
    with pytest.raises(InvalidJob, match="at one backend"):
        tune(job, ["fake", "local"], seeds=2)
    with pytest.raises(InvalidJob, match="fallback_on needs a list"):
        tune(job, "fake", seeds=2, fallback_on=["failed"])


def test_an_evaluation_on_other_rows_takes_the_spread_away(job: TuningJob, tmp_path: Path) -> None:
    with Fake() as vendor:
        backend = provider(vendor)
        report = tune(job, backend, seeds=2, pace=QUICK)
        run = attach(report.identity.run_id, provider=backend)
        refs = open_store().refs(run.id)
        assert seed_spread.read(refs, run.id, report.evaluation) == report.seeds is not None
        others = tmp_path / "others.jsonl"
        rows = [
            {"messages": [{"role": "user", "content": f"other {at}"}, {"role": "assistant", "content": "no"}]}
            for at in range(30)
        ]
        others.write_text("".join(json.dumps(row) + "\n" for row in rows))
        evaluate_run(open_store(), run.id, backend, dataset=others)
        assert run.report().seeds is None


def test_a_damaged_record_is_no_spread(job: TuningJob) -> None:
    with Fake() as vendor:
        report = tune(job, provider(vendor), seeds=2, pace=QUICK)
    damaged = {seed_spread.REFERENCE: {"id": seed_spread.MEASURED, "data": {"result": {"metric": 3}}}}
    assert seed_spread.read(damaged, report.identity.run_id, report.evaluation) is None
    assert seed_spread.read({}, report.identity.run_id, report.evaluation) is None
