"""One number without an editor, and a dataset in the place of a job file."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from llmtune.cli import job_options
from llmtune.cli.app import app
from llmtune.cli.output import PlainConsole
from llmtune.errors import InvalidJob
from llmtune.job.spec import TuningJob
from llmtune.runs.api import list_runs
from llmtune.testing.generic_vendor import Fake


def llmtune(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments], catch_exceptions=False)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    turns = [{"role": "user", "content": "hello {n}"}, {"role": "assistant", "content": "good day {n}"}]
    lines = (json.dumps({"messages": turns}).replace("{n}", str(n)) + "\n" for n in range(60))
    (tmp_path / "rows.jsonl").write_text("".join(lines))
    path = tmp_path / "job.yaml"
    path.write_text("name: t\ndataset: rows.jsonl\nmodel: m-1\nhyperparameters: {epochs: 3}\n")
    return path


CHANGES = ("--set", "learning_rate=1e-3", "--set", "epochs=2", "--name", "small", "--seed", "7", "--limit-rows", "9")


def test_plan_shows_what_was_changed(file: Path) -> None:
    text = llmtune("plan", file, "-p", "local", *CHANGES).stdout
    assert "changed: hyperparameters.epochs 2 (the job file has 3)" in text
    assert "changed: name small (the job file has t)" in text
    assert "9 train, 6 validation, 6 test rows" in text
    document = json.loads(llmtune("plan", file, "-p", "local", *CHANGES, "--json").stdout)
    assert document["changed"]["hyperparameters.epochs"] == {"before": 3, "after": 2}
    assert document["plans"]["local"]["fields"]["learning_rate"]["requested"] == 0.001


def test_the_stored_job_is_the_one_that_ran(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Fake() as vendor:
        monkeypatch.setenv("LLMTUNE_FAKE_BASE_URL", vendor.url)
        done = llmtune("tune", file, "-p", "fake", "--yes", "--detach", *CHANGES)
        assert done.exit_code == 0
        assert "changed: seed 7 (it is not set in the job file)" in done.stderr
        (run,) = list_runs()
    stored = run.record.tuning_job
    assert (stored.name, stored.seed, stored.dataset.limit_rows) == ("small", 7, 9)
    assert (stored.hyperparameters.epochs, stored.hyperparameters.learning_rate) == (2, 0.001)


@pytest.mark.parametrize(
    "command", [["tune"], ["plan"], ["compare", "-p", "local"], ["sweep", "--show-space"], ["sweep", "run"]]
)
def test_every_command_with_a_job_takes_them(command: list[str], file: Path) -> None:
    with pytest.raises(InvalidJob, match=r"--set, --seed: hyperparameters.epochs must be a valid integer, not 'many'"):
        llmtune(command[0], *command[1:], file, "--set", "epochs=many", "--seed", "3")


def test_limited_rows_are_the_same_ones_and_the_held_out_ones_stay(file: Path) -> None:
    from llmtune.data.dataset import Dataset

    spec = TuningJob.load(file).dataset
    unlimited, nine, twelve = (
        Dataset.from_spec(spec.model_copy(update={"limit_rows": count})) for count in (None, 9, 12)
    )
    assert (len(unlimited.train), len(nine.train), len(twelve.train)) == (48, 9, 12)
    assert {row.line for row in nine.train} < {row.line for row in twelve.train}
    assert nine.test == unlimited.test
    assert nine.validation == unlimited.validation
    lines = [row.line or 0 for row in nine.train]
    assert lines == sorted(lines)


@pytest.mark.parametrize("command", ["tune", "plan", "sweep"])
def test_a_dataset_off_a_terminal_is_answered_with_the_command_to_type(command: str, file: Path) -> None:
    rows = file.with_name("rows.jsonl")
    with pytest.raises(InvalidJob, match="is a dataset, not a job file") as caught:
        llmtune(command, rows, "-p", "local")
    assert caught.value.exit_code == 2
    assert caught.value.hint == (
        f"write its job first: llmtune init {rows} --provider local; then: llmtune {command} job.yaml"
    )


def test_a_list_in_json_is_a_dataset_and_a_mapping_a_job(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(' [{"text": "a"}]')
    (tmp_path / "b.json").write_text('{"name": "t"}')
    assert job_options.is_dataset(tmp_path / "a.json")
    assert not job_options.is_dataset(tmp_path / "b.json")
    assert job_options.is_dataset(Path("hf://owner/name"))
    assert not job_options.is_dataset(Path("job.yaml"))


@pytest.mark.parametrize("agreed", [True, False])
def test_on_a_terminal_the_job_is_proposed(
    agreed: bool, tmp_path: Path, tickets_csv: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    import io

    data = tickets_csv(tmp_path / "tickets.csv", 120)
    monkeypatch.chdir(tmp_path)
    screen, questions = io.StringIO(), []

    def confirm(question: str, **_: object) -> bool:
        questions.append(question)
        return agreed

    monkeypatch.setattr("llmtune.cli.output.err", PlainConsole(file=screen, force_terminal=True, width=100))
    monkeypatch.setattr("llmtune.cli.output.confirm", confirm)
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    options = job_options.JobOptions(model="tiny", seed=3)
    if agreed:
        job, _ = options.load(data, "tune", "local")
        assert (job.model, job.seed, job.dataset.paths["path"]) == ("tiny", 3, "tickets.csv")
        assert TuningJob.load("job.yaml").name == "tickets"
    else:
        with pytest.raises(InvalidJob, match="is a dataset"):
            options.load(data, "tune", "local")
        assert not Path("job.yaml").exists()
    assert questions == ["Write this job to job.yaml and train it at local?"]
    assert "model: tiny" in screen.getvalue()
