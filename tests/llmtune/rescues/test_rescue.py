"""A tuned model leaves its vendor: fetched, remembered, trained again, compared, whatever dies on the way."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import llmtune
from llmtune._retry import RetryPolicy
from llmtune.errors import LlmtuneError, OverBudget, RunFailed
from llmtune.evaluation.results import EvaluationResult
from llmtune.job.spec import TuningJob
from llmtune.metrics.points import NotReported
from llmtune.provider.types import RunState
from llmtune.rescues.results import GoldenSet
from llmtune.runs.api import start
from llmtune.runs.poller import PollInterval
from llmtune.runs.store.store import open_store
from llmtune.testing.faults import refusal
from llmtune.testing.generic_vendor import Fake
from llmtune_openai.fake.service import FakeOpenAI
from tests.llmtune.rescues.helpers import questions, save, tickets

QUICK = RetryPolicy(first=0.01, most=0.02, tries=2)


def follow(run: Any) -> Any:
    return run.wait(timeout=120, pace=PollInterval(first=0.01, most=0.05))


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Any:
    with Fake() as vendor:
        monkeypatch.setenv("LLMTUNE_FAKE_BASE_URL", vendor.url)
        yield vendor
        assert not vendor.complaints, "\n".join(vendor.complaints)


@pytest.mark.slow
@pytest.mark.xdist_group("heavy")
def test_from_a_hosted_model_to_this_machine(vendor: FakeOpenAI, old_model: str, tmp_path: Path) -> None:
    pytest.importorskip("peft")
    out = tmp_path / "out"
    found = llmtune.rescue(old_model, "local", model="tiny", out=out, follow=follow)
    assert found.done == ("fetch", "golden", "plan", "train", "report")
    # Its rows: what it learned from, and those it did not, to be judged by.
    assert [json.loads(line) for line in (out / "data/train.jsonl").read_text().splitlines()] == tickets(60)
    assert [json.loads(line) for line in (out / "data/test.jsonl").read_text().splitlines()] == tickets(24, first=60)
    # Its answers, once each.
    golden = [json.loads(line) for line in (out / "golden.jsonl").read_text().splitlines()]
    assert len(golden) == 24
    assert questions(vendor) == {row["prompt"][-1]["content"]: 1 for row in golden}
    assert {row["answer"] for row in golden} <= {"billing", "network", "hardware"}
    wanted = {row["messages"][1]["content"]: row["messages"][2]["content"] for row in tickets(24, first=60)}
    assert {row["prompt"][-1]["content"]: row["expected"] for row in golden} == wanted
    # The job, which runs again as it stands.
    job = TuningJob.load(out / "job.yaml")
    assert job.model == {"local": "tiny"}
    assert job.hyperparameters.epochs == 2
    assert job.hyperparameters.batch_size == 4
    assert job.seed == 7
    assert not (out / "job.yaml").read_text().count(str(tmp_path))
    # Old against new, by labels and by the old model's own answers.
    report = found.report
    assert report is not None
    assert isinstance(report.labels, EvaluationResult)
    old, new = report.labels.system("old"), report.labels.system("new")
    assert old is not None
    assert new is not None
    right = sum(row["answer"] == row["expected"] for row in golden) / len(golden)
    assert old["accuracy"].value == pytest.approx(right)
    assert report.labels.comparison(a="old", b="new") is not None
    assert isinstance(report.agreement, EvaluationResult)
    assert "Old against new" in (out / "report.html").read_text()
    page = (out / "report.md").read_text()
    assert "Old against new" in page
    assert old_model in page
    assert json.loads((out / "report.json").read_text())["run"] == found.run


def test_the_same_call_again_does_nothing_twice(vendor: FakeOpenAI, fake: Fake, old_model: str, tmp_path: Path) -> None:
    options: dict[str, Any] = {"model": "m-1", "out": tmp_path / "out", "follow": follow}
    first = llmtune.rescue(old_model, "fake", **options)
    again = llmtune.rescue(old_model, "fake", **options)
    assert again.run == first.run
    assert len(fake.jobs) == 1
    assert set(questions(vendor).values()) == {1}
    with pytest.raises(LlmtuneError, match="holds the rescue of"):
        llmtune.rescue("ft:another", "fake", **options)


def test_a_snapshot_stops_before_training(vendor: FakeOpenAI, fake: Fake, old_model: str, tmp_path: Path) -> None:
    out = tmp_path / "out"
    found = llmtune.rescue(old_model, "fake", model="m-1", out=out, snapshot_only=True)
    assert found.done == ("fetch", "golden", "plan")
    assert not fake.jobs
    assert {path.name for path in out.iterdir()} == {"data", "golden.jsonl", "job.yaml", "receipt.json", "rescue.json"}
    whole = llmtune.rescue(old_model, "fake", model="m-1", out=out, follow=follow)
    assert whole.done[-1] == "report"
    assert set(questions(vendor).values()) == {1}


def test_a_job_file_that_was_changed_by_hand_is_left_alone(
    vendor: FakeOpenAI, fake: Fake, old_model: str, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    llmtune.rescue(old_model, "fake", model="m-1", out=out, snapshot_only=True)
    changed = (out / "job.yaml").read_text() + "# as the team wants it\n"
    (out / "job.yaml").write_text(changed)
    before = {path.name for path in out.iterdir()}
    with pytest.raises(LlmtuneError, match=r"job\.yaml was changed since it was written") as caught:
        llmtune.rescue(old_model, "fake", model="m-2", out=out, follow=follow)
    assert "llmtune tune" in str(caught.value.hint)
    assert "rename it" in str(caught.value.hint)
    assert (out / "job.yaml").read_text() == changed
    assert {path.name for path in out.iterdir()} == before
    assert not fake.jobs
    (out / "job.yaml").rename(out / "mine.yaml")
    for model in ("m-2", "m-1"):  # what was written here itself is replaced
        llmtune.rescue(old_model, "fake", model=model, out=out, snapshot_only=True)
        assert TuningJob.load(out / "job.yaml").model == {"fake": model}


def test_its_job_id_names_it_too(vendor: FakeOpenAI, fake: Fake, old_model: str, tmp_path: Path) -> None:
    (job,) = vendor.jobs
    found = llmtune.rescue(job, "fake", model="m-1", out=tmp_path / "out", snapshot_only=True)
    assert found.source is not None
    assert found.source.model == old_model
    assert isinstance(found.golden, GoldenSet)


def test_a_run_of_the_store_keeps_its_own_test_rows(vendor: FakeOpenAI, fake: Fake, tmp_path: Path) -> None:
    rows = save(tmp_path / "rows.jsonl", tickets(90))
    job = TuningJob(name="router", dataset=str(rows), model={"openai": "gpt-4.1-mini-2025-04-14", "fake": "m-1"})
    run = start(job, "openai", yes=True)
    follow(run)
    found = llmtune.rescue(run.id, "fake", out=tmp_path / "out", follow=follow)
    assert found.source is not None
    assert found.source.run == run.id
    assert set(found.source.files) == {"train", "validation", "test"}
    assert not found.source.seen_in_training
    assert found.report is not None
    assert found.report.model == "m-1"  # the model that the job names for it


# --- when something is gone ------------------------------------------------------------------------------------------
def test_after_the_vendor_takes_no_more_jobs_reading_still_works(
    vendor: FakeOpenAI, fake: Fake, old_model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    vendor.closed = True
    monkeypatch.setenv("LLMTUNE_TODAY", "2027-01-10")
    found = llmtune.rescue(old_model, "fake", model="m-1", out=tmp_path / "out", follow=follow)
    assert isinstance(found.golden, GoldenSet)
    assert found.golden.answered == 24
    assert found.report is not None


def test_after_the_model_stopped_answering_it_says_so_and_goes_on(
    vendor: FakeOpenAI, fake: Fake, old_model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LLMTUNE_TODAY", "2027-06-01")
    vendor.shutdowns = {"gpt-4.1-mini-2025-04-14": "2027-01-14"}
    said: list[str] = []
    found = llmtune.rescue(old_model, "fake", model="m-1", out=tmp_path / "out", follow=follow, say=said.append)
    assert isinstance(found.golden, NotReported)
    assert "stopped answering on 2027-01-14" in found.golden.reason
    assert any("no golden set" in text for text in said)
    assert not questions(vendor)
    assert found.report is not None
    assert isinstance(found.report.agreement, NotReported)
    assert isinstance(found.report.labels, EvaluationResult)  # the new model is judged all the same
    assert "none: " in (tmp_path / "out/report.md").read_text()
    assert "Old against new" in (tmp_path / "out/report.html").read_text()


def test_a_model_that_is_gone_before_its_day_is_found_out_by_asking(
    vendor: FakeOpenAI, fake: Fake, old_model: str, tmp_path: Path
) -> None:
    vendor.faults.add(refusal(404, "The model does not exist"), route="chat", times=1000)
    found = llmtune.rescue(old_model, "fake", model="m-1", out=tmp_path / "out", follow=follow, patience=QUICK)
    assert isinstance(found.golden, NotReported)
    assert "does not answer any more" in found.golden.reason
    assert found.report is not None


def test_rows_that_are_gone_are_named_and_may_be_given(
    vendor: FakeOpenAI, fake: Fake, old_model: str, tmp_path: Path
) -> None:
    (job,) = vendor.jobs.values()
    del vendor.files[job.body["training_file"]]
    with pytest.raises(LlmtuneError, match=r"training rows .* cannot be fetched any more") as caught:
        llmtune.rescue(old_model, "fake", model="m-1", out=tmp_path / "out")
    assert "--data" in (caught.value.hint or "")
    assert (tmp_path / "out/golden.jsonl").exists()  # what could be saved was saved
    mine = save(tmp_path / "mine.jsonl", tickets(60))
    found = llmtune.rescue(old_model, "fake", model="m-1", out=tmp_path / "out", data=mine, follow=follow)
    assert found.report is not None
    assert found.source is not None
    assert found.source.files["train"].came_from == str(mine)
    assert set(questions(vendor).values()) == {1}  # the answers that were saved are not asked for again


def test_rows_given_when_everything_is_gone_are_asked_too(
    vendor: FakeOpenAI, fake: Fake, old_model: str, tmp_path: Path
) -> None:
    vendor.files.clear()
    out = tmp_path / "out"
    with pytest.raises(LlmtuneError, match="cannot be fetched any more"):
        llmtune.rescue(old_model, "fake", model="m-1", out=out)
    assert not questions(vendor)
    mine = save(tmp_path / "mine.jsonl", tickets(60))
    found = llmtune.rescue(old_model, "fake", model="m-1", out=out, data=mine, follow=follow)
    assert isinstance(found.golden, GoldenSet)
    assert found.source is not None
    assert found.source.seen_in_training
    assert found.report is not None
    assert isinstance(found.report.agreement, EvaluationResult)


def test_without_rows_held_out_the_report_says_whom_that_flatters(
    vendor: FakeOpenAI, fake: Fake, old_model: str, tmp_path: Path
) -> None:
    (job,) = vendor.jobs.values()
    del vendor.files[job.body["validation_file"]]
    found = llmtune.rescue(old_model, "fake", model="m-1", out=tmp_path / "out", follow=follow)
    assert found.source is not None
    assert found.source.seen_in_training
    assert "validation" in found.source.gone
    assert "flatter" in (tmp_path / "out/report.md").read_text()


def test_nobody_knows_it(vendor: FakeOpenAI, tmp_path: Path) -> None:
    with pytest.raises(LlmtuneError, match="neither the store nor any backend knows 'ft:nobody'") as caught:
        llmtune.rescue("ft:nobody", "fake", model="m-1", out=tmp_path / "out")
    assert "openai" in caught.value.message
    assert not (tmp_path / "out").exists()


def test_a_value_that_the_new_backend_refuses_is_left_to_it_and_named(
    vendor: FakeOpenAI, old_model: str, tmp_path: Path
) -> None:
    (job,) = vendor.jobs.values()
    job.body["method"]["supervised"]["hyperparameters"]["learning_rate_multiplier"] = 2.0
    found = llmtune.rescue(old_model, "local", model="tiny", out=tmp_path / "out", snapshot_only=True)
    kept = TuningJob.load(tmp_path / "out/job.yaml").hyperparameters
    told = json.loads((tmp_path / "out/receipt.json").read_text())
    fields = {row["field"]: row["support"] for row in told["fields"]}
    assert kept.learning_rate_multiplier is not None or any("learning_rate_multiplier" in note for note in found.notes)
    assert "invalid" not in fields.values()


def test_given_prompts_stay_with_the_folder(vendor: FakeOpenAI, fake: Fake, old_model: str, tmp_path: Path) -> None:
    out, mine = tmp_path / "out", save(tmp_path / "prompts.jsonl", tickets(9, first=200))
    llmtune.rescue(old_model, "fake", model="m-1", out=out, prompts=mine, snapshot_only=True)
    mine.unlink()
    found = llmtune.rescue(old_model, "fake", model="m-1", out=out, follow=follow)
    assert found.report is not None
    assert isinstance(found.report.agreement, EvaluationResult)
    assert set(questions(vendor)) == {row["messages"][1]["content"] for row in tickets(9, first=200)}
    assert set(questions(vendor).values()) == {1}
    other = save(tmp_path / "other.jsonl", tickets(3, first=300))
    with pytest.raises(LlmtuneError, match="begun with other prompts"):
        llmtune.rescue(old_model, "fake", model="m-1", out=out, prompts=other)


def test_a_run_that_failed_is_left_behind_by_the_same_call(
    vendor: FakeOpenAI, fake: Fake, old_model: str, tmp_path: Path
) -> None:
    fake.outcome = "failure"
    with pytest.raises(RunFailed):
        llmtune.rescue(old_model, "fake", model="m-1", out=tmp_path / "out", follow=follow)
    fake.outcome = "success"
    found = llmtune.rescue(old_model, "fake", model="m-1", out=tmp_path / "out", follow=follow)
    assert found.report is not None
    assert len(fake.jobs) == 2
    assert set(questions(vendor).values()) == {1}


# --- money -----------------------------------------------------------------------------------------------------------
def test_answers_are_not_paid_for_without_consent(vendor: FakeOpenAI, old_model: str, tmp_path: Path) -> None:
    with pytest.raises(OverBudget, match="old model's answers"):
        llmtune.rescue(old_model, "fake", model="m-1", out=tmp_path / "out", yes=False)
    assert not questions(vendor)
    with pytest.raises(OverBudget, match="over the budget"):
        llmtune.rescue(old_model, "fake", model="m-1", out=tmp_path / "out", budget=1e-9)
    assert not questions(vendor)


def test_answers_paid_for_before_a_stop_count_against_the_budget(
    vendor: FakeOpenAI, fake: Fake, old_model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from llmtune.rescues import rescue

    out = tmp_path / "out"
    llmtune.rescue(old_model, "fake", model="m-1", out=out, snapshot_only=True)
    given: list[float | None] = []

    def begin(*_: Any, budget: float | None, **__: Any) -> Any:
        given.append(budget)
        raise OverBudget("enough seen")

    monkeypatch.setattr(rescue, "start", begin)
    with pytest.raises(OverBudget, match="enough seen"):
        llmtune.rescue(old_model, "fake", model="m-1", out=out, budget=1.0)
    (left,) = given
    assert left is not None
    assert 0 < left < 1.0


def test_a_model_that_answers_again_is_asked_by_the_same_call(
    vendor: FakeOpenAI, fake: Fake, old_model: str, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    vendor.faults.add(refusal(404, "The model does not exist"), route="chat", times=1000)
    first = llmtune.rescue(old_model, "fake", model="m-1", out=out, patience=QUICK, snapshot_only=True)
    assert isinstance(first.golden, NotReported)
    vendor.faults.clear()
    found = llmtune.rescue(old_model, "fake", model="m-1", out=out, snapshot_only=True)
    assert isinstance(found.golden, GoldenSet)
    assert found.golden.answered == 24
    assert not any("no golden set" in note for note in found.notes)


def test_the_cost_and_the_sampling_are_shown_before(vendor: FakeOpenAI, old_model: str, tmp_path: Path) -> None:
    seen: list[Any] = []

    def refuse(cost: float | None, formula: str, sampling: dict[str, Any]) -> None:
        seen.append((cost, formula, sampling))
        raise OverBudget("no")

    with pytest.raises(OverBudget, match="no"):
        llmtune.rescue(old_model, "fake", model="m-1", out=tmp_path / "out", yes=False, confirm=refuse)
    ((cost, formula, sampling),) = seen
    assert cost > 0
    assert "24 answers" in formula
    assert sampling["temperature"] == 0
    assert not questions(vendor)


# --- killed in the middle --------------------------------------------------------------------------------------------
CHILD = """
import os, signal, sys
from llmtune.evaluation import inference
from llmtune.rescues import golden_set
from llmtune.runs import failpoints
import llmtune

inference.MAX_THREADS = 1
model, out, where, base_model = sys.argv[1:5]
if where == "fetched":
    from llmtune_openai.provider import OpenAIProvider
    def fetched(self, *_):
        os.kill(os.getpid(), signal.SIGKILL)
    OpenAIProvider.download = fetched
elif where.startswith("answer"):
    left = int(where.partition(":")[2])
    put = golden_set.GoldenFile.put
    def counted(self, key, value):
        global left
        put(self, key, value)
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
    golden_set.GoldenFile.put = counted
else:
    def die(failpoint):
        if failpoint == where:
            os.kill(os.getpid(), signal.SIGKILL)
    failpoints.failpoint_hook = die
llmtune.rescue(model, "fake", model=base_model, out=out)
"""


@pytest.mark.slow
@pytest.mark.parametrize("where", ["fetched", "answer:7", "submitting", "after-submit", "polled", "evaluated"])
def test_a_kill_anywhere_costs_nothing_twice(
    vendor: FakeOpenAI, fake: Fake, old_model: str, tmp_path: Path, where: str
) -> None:
    out = tmp_path / "out"
    done = subprocess.run(
        [sys.executable, "-c", CHILD, old_model, str(out), where, "m-1"],
        env=dict(os.environ),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    if where.startswith("answer"):
        assert len((out / "golden.jsonl").read_text().splitlines()) == 7
        with (out / "golden.jsonl").open("a") as file:
            file.write('{"key": "torn')  # and the disk stopped in the middle of a line
    found = llmtune.rescue(old_model, "fake", model="m-1", out=out, follow=follow)
    assert found.done[-1] == "report"
    assert len(fake.jobs) == 1
    assert len(open_store().runs()) == 1
    assert set(questions(vendor).values()) == {1}
    assert len(questions(vendor)) == 24
    assert len((out / "golden.jsonl").read_text().splitlines()) == 24


@pytest.mark.slow
@pytest.mark.xdist_group("heavy")
def test_a_kill_while_this_machine_trains_leaves_one_run(vendor: FakeOpenAI, old_model: str, tmp_path: Path) -> None:
    pytest.importorskip("peft")
    out = tmp_path / "out"
    child = CHILD.replace('"fake"', '"local"')
    done = subprocess.run(
        [sys.executable, "-c", child, old_model, str(out), "polled", "tiny"],
        env=dict(os.environ),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    (killed,) = open_store().runs()
    assert killed.state is not RunState.SUCCEEDED
    found = llmtune.rescue(old_model, "local", model="tiny", out=out, follow=follow)
    assert found.run == killed.id
    assert [record.id for record in open_store().runs()] == [killed.id]
    assert found.report is not None
    assert set(questions(vendor).values()) == {1}


# --- the command -----------------------------------------------------------------------------------------------------
@pytest.mark.slow
def test_the_command_ends_with_a_verdict_and_a_folder(
    vendor: FakeOpenAI, fake: Fake, old_model: str, tmp_path: Path
) -> None:
    from llmtune.cli.app import app

    arguments = ["rescue", old_model, "--to", "fake", "--model", "m-1", "--out", str(tmp_path / "out"), "--yes"]
    shown = CliRunner().invoke(app, arguments)
    assert shown.exit_code == 0, shown.output
    assert "The new model" in shown.output
    assert "report.md" in shown.output
    told = json.loads(CliRunner().invoke(app, [*arguments, "--json"]).stdout)
    assert told["done"][-1] == "report"


def test_doctor_prints_the_way_out(vendor: FakeOpenAI, old_model: str) -> None:
    from llmtune.cli.app import app

    shown = CliRunner().invoke(app, ["doctor", "--lifecycle", "--provider", "openai"])
    assert f"llmtune rescue {old_model} --from openai" in shown.output
