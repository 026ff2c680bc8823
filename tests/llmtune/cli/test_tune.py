"""Before money is spent: a run that has finished with the same content is named, with how to take it."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest

import llmtune
from llmtune import Hyperparameters, TuningJob
from llmtune.cli.output import PlainConsole
from llmtune.cli.tune import confirm, find_finished
from llmtune.errors import InvalidJob, OverBudget
from llmtune.runs.plans import plan
from llmtune.runs.poller import PollInterval
from llmtune.testing.generic_vendor import Fake


@pytest.fixture
def job(tmp_path: Path) -> TuningJob:
    turns = [{"role": "user", "content": "hello {n}"}, {"role": "assistant", "content": "good day {n}"}]
    lines = (json.dumps({"messages": turns}).replace("{n}", str(n)) + "\n" for n in range(60))
    (tmp_path / "rows.jsonl").write_text("".join(lines))
    return TuningJob(name="t", dataset=str(tmp_path / "rows.jsonl"), model="m-1")


@pytest.mark.parametrize("providers", ["fake", "fake,local"])
def test_a_stall_timeout_is_that_of_the_wait(
    providers: str, job: TuningJob, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from typer.testing import CliRunner

    from llmtune.cli.app import app

    waits: list[dict[str, float | None]] = []

    def follow(run: llmtune.Run, **timeouts: float | None) -> llmtune.Report:
        waits.append(timeouts)
        return run.wait(pace=PollInterval(first=0.01, most=0.05))

    monkeypatch.setattr("llmtune.cli.progress.follow", follow)
    job.save(tmp_path / "job.yaml")
    arguments = [str(tmp_path / "job.yaml"), "-p", providers, "--yes", "--stall-timeout", "90", "--json"]
    with Fake() as vendor:
        monkeypatch.setenv("LLMTUNE_FAKE_BASE_URL", vendor.url)
        more = ["--fallback-on", "failed"] if "," in providers else []
        CliRunner().invoke(app, ["tune", *arguments, *more], catch_exceptions=False)
    assert [wait["stall_timeout"] for wait in waits] == [90.0]


def test_a_finished_run_of_the_same_content_is_named(job: TuningJob, monkeypatch: pytest.MonkeyPatch) -> None:
    with Fake() as vendor:
        monkeypatch.setenv("LLMTUNE_FAKE_BASE_URL", vendor.url)
        assert find_finished(job, plan(job, "fake")) is None
        report = llmtune.tune(job, "fake", pace=PollInterval(first=0.01, most=0.05))
        receipt = plan(job, "fake")
        record = find_finished(job, receipt)
        assert record is not None
        assert record.id == report.identity.run_id
        changed = job.model_copy(update={"hyperparameters": Hyperparameters(epochs=7)})
        assert find_finished(changed, plan(changed, "fake")) is None

        monkeypatch.setattr("llmtune.cli.output.confirm", lambda question: False)
        monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
        written = io.StringIO()
        monkeypatch.setattr("llmtune.cli.output.err", PlainConsole(file=written, force_terminal=True, width=200))
        with pytest.raises(OverBudget, match="not confirmed"):
            confirm(receipt, record)
    output = " ".join(written.getvalue().split())
    assert "has finished with the same job on the same rows: --reuse returns its model and costs nothing" in output
    assert record.id in output
    assert "a plan sends nothing" not in output


def test_seeds_are_trained_from_the_command_line(
    job: TuningJob, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from typer.testing import CliRunner

    from llmtune.cli.app import app

    job.save(tmp_path / "job.yaml")
    with Fake() as vendor:
        monkeypatch.setenv("LLMTUNE_FAKE_BASE_URL", vendor.url)
        command = ["tune", str(tmp_path / "job.yaml"), "-p", "fake", "--seeds", "2", "--yes", "--json"]
        shown = CliRunner().invoke(app, command, catch_exceptions=False)
        assert len(vendor.jobs) == 2
    assert [result["seed"] for result in json.loads(shown.stdout)["seeds"]["results"]] == [0, 1]


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--seeds", "2", "--detach"], "the spread is computed when all runs have ended"),
        (["--seeds", "2", "-p", "fake,local"], "seeds are compared at one backend"),
        (["--seeds", "1"], "seeds is 2 to 100, not 1"),
    ],
)
def test_seeds_that_cannot_be_compared_are_refused(
    more: list[str], message: str, job: TuningJob, tmp_path: Path
) -> None:
    from typer.testing import CliRunner

    from llmtune.cli.app import app

    job.save(tmp_path / "job.yaml")
    with pytest.raises(InvalidJob, match=message):
        CliRunner().invoke(
            app, ["tune", str(tmp_path / "job.yaml"), "-p", "fake", "--yes", *more], catch_exceptions=False
        )


def test_the_question_before_money_names_the_number_of_runs(job: TuningJob, monkeypatch: pytest.MonkeyPatch) -> None:
    with Fake() as vendor:
        monkeypatch.setenv("LLMTUNE_FAKE_BASE_URL", vendor.url)
        with pytest.raises(OverBudget, match="bills each of 3 runs"):
            confirm(plan(job, "fake"), runs=3)
