"""Trials are ordinary runs, chosen by a study, under one budget; a crash or another worker goes on."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import llmtune
from llmtune import Hyperparameters, Sweep, TuningJob
from llmtune.errors import InvalidJob, LlmtuneError, OverBudget
from llmtune.metrics.points import NotReported
from llmtune.provider.types import RunState
from llmtune.runs import job_room
from llmtune.runs.poller import PollInterval
from llmtune.runs.store.store import open_store
from llmtune.sweeps.space import Choice, Range, parse_space, read_space
from llmtune.testing import Phase
from llmtune.testing.fake_provider import FakeProvider, FakeSettings
from llmtune.testing.generic_vendor import Fake
from llmtune.testing.http import Refusal
from llmtune_openai.fake.service import FakeOpenAI as OpenAI

pytest.importorskip("optuna")

QUICK = PollInterval(first=0.01, most=0.05)
SPACE = {"learning_rate": (1e-5, 1e-2), "lora_rank": [4, 8, 16]}


class Bowl(Fake):
    """A vendor whose losses depend on the job's learning rate, lowest at 1e-3."""

    def _metrics(self, job: Any, step: int) -> dict[str, Any]:
        import math

        rate = job.body.get("hyperparameters", {}).get("learning_rate", 1e-3)
        worse = 0.1 * math.log10(rate / 1e-3) ** 2
        return {
            name: (value + worse if "loss" in name else value) for name, value in super()._metrics(job, step).items()
        }


@pytest.fixture
def vendor_kind() -> type[Fake]:
    return Bowl


def priced(vendor: Fake, price: float) -> FakeProvider:
    return FakeProvider("fake", FakeSettings(base_url=vendor.url, timeout=5, price=price))


@pytest.mark.slow
@pytest.mark.parametrize("method", ["random", "bayesian", "grid"])
def test_the_best_trial_is_the_one_with_the_lowest_validation_loss(method: Any, job: TuningJob, vendor: Bowl) -> None:
    sweep = llmtune.sweep(job, "fake", SPACE, method=method, trials=8, pruning=False, finalists=0, pace=QUICK)
    assert len(sweep.trials) == len(vendor.jobs) == 8
    values = [float(trial.value) for trial in sweep.trials]  # type: ignore[arg-type]
    assert sweep.best is not None
    assert sweep.best.value == min(values)
    assert len(set(values)) > 1
    for row, sent_job in zip(sweep.trials, vendor.jobs.values(), strict=True):
        assert row.run is not None
        assert set(row.params) == set(SPACE)
        assert sent_job.body["hyperparameters"]["lora_rank"] in SPACE["lora_rank"]
    assert sweep.job.hyperparameters_for("fake").learning_rate == sweep.best.params["learning_rate"]
    assert sweep.job.hyperparameters_for("fake").epochs == 1
    assert Sweep.model_validate_json(sweep.to_json()) == sweep


@pytest.mark.slow
def test_trials_never_see_the_test_rows_and_the_finalist_does_once(job: TuningJob, vendor: Bowl) -> None:
    sweep = llmtune.sweep(job, "fake", SPACE, method="random", trials=3, finalists=1, seeds=2, pace=QUICK)
    store = open_store()
    (final,) = sweep.finalists
    assert len(final.runs) == len(final.values) == 2
    assert final.params == sweep.best.params  # type: ignore[union-attr]
    assert not isinstance(final.interval, NotReported)
    tested = {record.id for record in store.runs() if "evaluation" in store.refs(record.id)}
    assert tested == set(final.runs)
    assert {store.get(run).tuning_job.seed for run in final.runs} == {0, 1}


@pytest.mark.slow
def test_the_same_call_again_runs_nothing_and_more_trials_add_to_it(job: TuningJob, vendor: Bowl) -> None:
    options: dict[str, Any] = {"method": "random", "pruning": False, "finalists": 0, "pace": QUICK}
    first = llmtune.sweep(job, "fake", SPACE, trials=3, **options)
    again = llmtune.sweep(job, "fake", SPACE, trials=3, **options)
    assert again.trials == first.trials
    assert len(vendor.jobs) == 3
    more = llmtune.sweep(job, "fake", SPACE, trials=5, **options)
    assert more.trials[:3] == first.trials
    assert len(vendor.jobs) == 5


def test_a_budget_holds_with_what_is_under_way(job: TuningJob, vendor: Bowl) -> None:
    provider = priced(vendor, 100.0)
    options: dict[str, Any] = {"method": "random", "pruning": False, "finalists": 0, "pace": QUICK}
    (first,) = llmtune.sweep(job, provider, SPACE, trials=1, **options).trials
    one = first.cost
    assert not isinstance(one, NotReported)
    assert one > 0
    sweep = llmtune.sweep(job, provider, SPACE, trials=9, budget=3.5 * one, **options)
    assert len(vendor.jobs) == 3
    assert sweep.stopped is not None
    assert "the next trial costs" in sweep.stopped
    assert sweep.spent == pytest.approx(3 * one)
    with pytest.raises(LlmtuneError, match="no trial"):
        llmtune.sweep(job, provider, {"lora_rank": [2, 3]}, trials=2, budget=0.1 * one, pace=QUICK)
    with pytest.raises(OverBudget, match="not confirmed"):
        llmtune.sweep(job, provider, SPACE, yes=False)


@pytest.mark.slow
def test_finalists_are_under_the_budget_too(job: TuningJob, vendor: Bowl) -> None:
    provider = priced(vendor, 100.0)
    options: dict[str, Any] = {"method": "random", "pruning": False, "pace": QUICK}
    (first,) = llmtune.sweep(job, provider, SPACE, trials=1, finalists=0, **options).trials
    one = first.cost
    assert not isinstance(one, NotReported)
    sweep = llmtune.sweep(job, provider, SPACE, trials=3, finalists=2, budget=4.5 * one, **options)
    assert len(vendor.jobs) == 4
    assert len(sweep.finalists) == 1
    assert not isinstance(sweep.spent, NotReported)
    assert 3.9 * one < sweep.spent < 4.5 * one
    assert any("was not trained as a finalist" in note and "of the budget are left" in note for note in sweep.notes)
    again = llmtune.sweep(job, provider, SPACE, trials=3, finalists=2, budget=4.5 * one, **options)
    assert len(vendor.jobs) == 4
    assert again.spent == pytest.approx(sweep.spent)


@pytest.mark.slow
def test_a_finalist_that_fails_is_a_note_and_what_was_found_is_kept(job: TuningJob, vendor: Bowl) -> None:
    options: dict[str, Any] = {"method": "random", "trials": 2, "pruning": False, "pace": QUICK}
    llmtune.sweep(job, "fake", SPACE, finalists=0, **options)
    vendor.outcome = "failure"
    sweep = llmtune.sweep(job, "fake", SPACE, finalists=1, **options)
    assert sweep.best is not None
    assert not sweep.finalists
    assert any("as a finalist" in note for note in sweep.notes)


def test_what_is_billed_beyond_the_budget_is_said(job: TuningJob, vendor: Bowl) -> None:
    sweep = llmtune.sweep(job, "fake", SPACE, method="random", trials=1, finalists=0, pace=QUICK)
    dear = sweep.model_copy(update={"budget": 5.0, "spent": 7.5})
    assert "spent 7.50 USD: 2.50 over the budget of 5.00, as billed" in dear.to_markdown()
    assert "2.50 over the budget of 5.00" in dear.to_html()
    assert "spent 4.00 USD of at most 5.00" in sweep.model_copy(update={"budget": 5.0, "spent": 4.0}).to_markdown()


@pytest.mark.slow
def test_a_trial_that_is_clearly_worse_is_cancelled_at_the_vendor(job: TuningJob, vendor: Bowl) -> None:
    slow = (Phase("queued"), Phase("training", looks=40, training=True), Phase("succeeded"))
    vendor.walks = {**vendor.walks, "success": slow}  # type: ignore[misc]
    rates = {"learning_rate": Choice(values=(1e-3, 1.1e-3, 0.9e-3, 1.05e-3, 1e-7, 1e-8))}
    sweep = llmtune.sweep(job, "fake", rates, method="grid", trials=6, seed=3, parallel=1, finalists=0, pace=QUICK)
    states = {trial.params["learning_rate"]: trial.state for trial in sweep.trials}
    pruned = [trial for trial in sweep.trials if trial.state == "pruned"]
    assert states[1e-3] == "complete"
    assert pruned
    assert all(trial.params["learning_rate"] < 1e-6 for trial in pruned)
    cancelled = [vendor_job for vendor_job in vendor.jobs.values() if vendor_job.word == "cancelled"]
    assert len(cancelled) == len(pruned)
    assert all("pruned at step" in trial.note for trial in pruned)
    saved = sum((trial.total_steps or 0) - (trial.steps or 0) for trial in pruned)
    assert saved > 0
    assert f"{len(pruned)} trial" in sweep.to_markdown()
    assert f"cancelled early: {saved:,} of their" in sweep.to_markdown()


def test_one_that_fails_is_a_row_and_not_the_end(job: TuningJob, vendor: Bowl) -> None:
    new_job = vendor.new_job

    def sometimes(*args: Any, **kwargs: Any) -> Any:
        vendor.outcome = "failure" if len(vendor.jobs) == 1 else "success"
        return new_job(*args, **kwargs)

    vendor.new_job = sometimes  # type: ignore[method-assign]
    sweep = llmtune.sweep(
        job, "fake", SPACE, method="random", trials=3, parallel=1, pruning=False, finalists=0, pace=QUICK
    )
    assert sorted(trial.state for trial in sweep.trials) == ["complete", "complete", "failed"]
    assert next(trial.note for trial in sweep.trials if trial.state == "failed")


class Crowded(OpenAI):
    """OpenAI with room for so many jobs at once."""

    room = 1

    def new_job(self, *args: Any, **kwargs: Any) -> Any:
        if sum(not job.ended for job in self.jobs.values()) >= self.room:
            raise Refusal(
                429, "You have reached the maximum number of active jobs, 1.", code="max_active_jobs_exceeded"
            )
        return super().new_job(*args, **kwargs)


@pytest.fixture
def crowded(monkeypatch: pytest.MonkeyPatch, no_long_pauses: None) -> Iterator[Crowded]:
    with Crowded(api_key="key") as fake:
        monkeypatch.setenv("OPENAI_API_KEY", "key")
        monkeypatch.setenv("LLMTUNE_OPENAI_BASE_URL", f"{fake.url}/v1")
        yield fake


OPENAI: dict[str, Any] = {"model": {"openai": "gpt-4.1-mini-2025-04-14"}}
EPOCHS = {"epochs": [1, 2, 3]}


def test_a_vendor_with_room_for_one_job_gets_one_trial_after_the_other(
    make_job: Callable[..., TuningJob], crowded: Crowded
) -> None:
    sweep = llmtune.sweep(
        make_job(**OPENAI), "openai", EPOCHS, method="grid", trials=3, pruning=False, finalists=1, pace=QUICK
    )
    assert [trial.state for trial in sweep.trials] == ["complete"] * 3
    assert sweep.stopped is None
    assert len(sweep.finalists) == 1
    assert len(crowded.jobs) == 4


def test_a_vendor_that_is_full_with_other_jobs_ends_the_sweep_with_what_it_has(
    make_job: Callable[..., TuningJob], crowded: Crowded, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(job_room, "FULL_SECONDS", 0.01)
    monkeypatch.setattr(job_room, "FULL_TRIES", 2)
    options: dict[str, Any] = {"method": "grid", "trials": 3, "parallel": 1, "pruning": False, "finalists": 0}
    closed = crowded.room

    def close(row: Any) -> None:
        crowded.room = 0

    sweep = llmtune.sweep(make_job(**OPENAI), "openai", EPOCHS, pace=QUICK, on_trial=close, **options)
    assert [trial.state for trial in sweep.trials] == ["complete", "failed"]
    assert sweep.best is not None
    assert "maximum number of active jobs" in str(sweep.stopped)
    crowded.room = closed
    again = llmtune.sweep(make_job(**OPENAI), "openai", EPOCHS, pace=QUICK, **options)
    assert sum(trial.state == "complete" for trial in again.trials) == 3
    assert len(crowded.jobs) == 3


CHILD = """
import os, signal, sys
import llmtune
from llmtune import TuningJob
from llmtune.runs.poller import PollInterval
from llmtune.runs import failpoints
where, nth = sys.argv[2], int(sys.argv[3])
passed = 0
def die(arrow):
    global passed
    passed += arrow == where
    if arrow == where and passed == nth:
        os.kill(os.getpid(), signal.SIGKILL)
failpoints.failpoint_hook = die
space = {"learning_rate": (1e-5, 1e-2), "lora_rank": [4, 8, 16]}
llmtune.sweep(TuningJob.load(sys.argv[1]), "fake", space, method="random", trials=6, parallel=2, pruning=False,
              finalists=1, pace=PollInterval(first=0.01, most=0.05))
"""


@pytest.mark.slow
@pytest.mark.parametrize(("where", "nth"), [("planned", 2), ("after-submit", 3), ("job-kept", 4), ("reported", 2)])
def test_killed_in_the_middle_it_goes_on_without_a_duplicate(
    job: TuningJob, vendor: Bowl, tmp_path: Path, where: str, nth: int
) -> None:
    job.save(tmp_path / "job.yaml")
    done = subprocess.run(
        [sys.executable, "-c", CHILD, str(tmp_path / "job.yaml"), where, str(nth)],
        env=dict(os.environ),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    loaded = TuningJob.load(tmp_path / "job.yaml")
    options: dict[str, Any] = {"method": "random", "trials": 6, "parallel": 2, "pruning": False, "finalists": 1}
    sweep = llmtune.sweep(loaded, "fake", SPACE, pace=QUICK, **options)
    assert len(sweep.trials) == 6
    assert all(trial.state == "complete" for trial in sweep.trials)
    assert len(vendor.jobs) == 7  # six trials and the finalist
    assert all(record.state is RunState.SUCCEEDED for record in open_store().runs())


@pytest.mark.slow
@pytest.mark.xdist_group("heavy")
def test_it_searches_on_this_machine(job: TuningJob, tmp_path: Path) -> None:
    pytest.importorskip("peft")
    from llmtune.cli.app import app

    job.model_copy(update={"hyperparameters": Hyperparameters(epochs=1, max_steps=3)}).save(tmp_path / "job.yaml")
    arguments = ["sweep", str(tmp_path / "job.yaml"), "-s", "learning_rate=1e-4..1e-2", "-s", "lora_rank=4,8"]
    arguments += ["--trials", "2", "--method", "random", "--best", str(tmp_path / "best.yaml")]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    assert "best: learning_rate" in result.output
    assert "on the test rows" in result.output
    assert TuningJob.load(tmp_path / "best.yaml").hyperparameters_for("local").lora_rank in (4, 8)


# --- the space -------------------------------------------------------------------------------------------------------
def test_a_space_is_said_in_words_or_in_python() -> None:
    definitions = parse_space(["learning_rate=1e-5..1e-3", "lora_rank=4,8,16", "packing=true,false"])
    space = read_space(definitions)
    assert space["learning_rate"] == Range(low=1e-5, high=1e-3, log=True)
    assert space["lora_rank"] == Choice(values=(4, 8, 16))
    assert space["packing"] == Choice(values=(True, False))
    assert read_space({"epochs": (1, 5)})["epochs"] == Range(low=1, high=5, whole=True)


@pytest.mark.parametrize(
    ("space", "message"),
    [
        ({}, "nothing to search"),
        ({"provider": "fake"}, "give a list of backends"),
        ({"learning_rat": (1e-5, 1e-3)}, "did you mean 'learning_rate'"),
        ({"learning_rate": (1e-3, 1e-5)}, "is not below"),
        ({"lora_rank": [0]}, "lora_rank = 0"),
        ({"epochs": 3}, "neither a range"),
    ],
)
def test_what_is_no_space_is_refused(space: dict[str, Any], message: str, job: TuningJob) -> None:
    with pytest.raises(InvalidJob, match=message):
        llmtune.sweep(job, "fake", space)


def test_a_backend_that_reports_no_such_metric_says_so(job: TuningJob, vendor: Bowl) -> None:
    with pytest.raises(LlmtuneError, match="reported no validation/accuracy"):
        llmtune.sweep(
            job, "fake", SPACE, metric="validation/accuracy", trials=1, finalists=0, pruning=False, pace=QUICK
        )
