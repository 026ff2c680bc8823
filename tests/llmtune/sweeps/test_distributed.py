"""Several workers, one study: nobody runs a trial twice, and the count and the budget hold over all of them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import llmtune
from llmtune import TuningJob
from llmtune.errors import InvalidData, RunNotFound
from llmtune.runs.poller import PollInterval
from llmtune.runs.store.store import open_store
from llmtune.sweeps.distributed import join_sweep
from llmtune.testing.generic_vendor import Fake

pytest.importorskip("optuna")

QUICK = PollInterval(first=0.01, most=0.05)
SPACE = {"learning_rate": (1e-5, 1e-2), "lora_rank": [4, 8, 16]}
OPTIONS: dict[str, Any] = {"method": "random", "pruning": False, "finalists": 0, "pace": QUICK}


@pytest.fixture
def job(make_job: Callable[..., TuningJob]) -> TuningJob:
    return make_job(60, name="shared", model={"fake": "m-1"})


WORKER = """
import os, pathlib, signal, sys, time
import llmtune
from llmtune import TuningJob
from llmtune.runs.poller import PollInterval
from llmtune.runs import failpoints
from llmtune.sweeps.distributed import join_sweep
pace = PollInterval(first=0.01, most=0.05)
what, path, trials = sys.argv[1:4]
joined = pathlib.Path(path).with_name("joined")
def tell(row):
    sys.stdout.write(f"trial {row.number}\\n")  # at once: another thread may print, too
    sys.stdout.flush()
    if what == "join":
        joined.touch()
    while not joined.exists():  # the one that begins leaves something to the one that joins
        time.sleep(0.02)
if what == "die":
    def die(arrow):
        if arrow == "after-submit":
            os.kill(os.getpid(), signal.SIGKILL)
    failpoints.failpoint_hook = die
if what == "sweep":
    space = {"learning_rate": (1e-5, 1e-2), "lora_rank": [4, 8, 16]}
    found = llmtune.sweep(TuningJob.load(path), "fake", space, method="random", trials=int(trials), parallel=2,
                          pruning=False, finalists=0, pace=pace, on_trial=tell)
    print("done", len(found.trials), sum(each.state == "complete" for each in found.trials), flush=True)
else:
    join_sweep(parallel=2, pace=pace, on_trial=tell)
"""


def worker(what: str, path: Path, trials: int) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", WORKER, what, str(path), str(trials)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=dict(os.environ))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_two_processes_share_one_study(
    kind: str, job: TuningJob, vendor: Fake, tmp_path: Path, request: pytest.FixtureRequest, monkeypatch: Any
) -> None:
    if kind == "postgresql":
        monkeypatch.setenv("LLMTUNE_STORE", request.getfixturevalue("postgres_url"))
    job.save(tmp_path / "job.yaml")
    first = worker("sweep", tmp_path / "job.yaml", 16)
    assert first.stdout is not None
    begun = first.stdout.readline()  # it is under way
    second = worker("join", tmp_path / "job.yaml", 16)
    joined_output, wrong = second.communicate(timeout=240)
    assert second.returncode == 0, wrong
    first_output, wrong = first.communicate(timeout=240)
    assert first.returncode == 0, wrong
    here, there = (begun + first_output).split("\n"), joined_output.split("\n")
    assert "done 16 16" in here
    ran = Counter(line for line in (*here, *there) if line.startswith("trial "))
    assert sorted(ran) == sorted(f"trial {number}" for number in range(16))
    assert set(ran.values()) == {1}
    assert any(line.startswith("trial ") for line in there), "the second worker ran none"
    assert len(vendor.jobs) == 16


@pytest.mark.slow
def test_a_worker_that_dies_leaves_its_trial_to_another(job: TuningJob, vendor: Fake, tmp_path: Path) -> None:
    llmtune.sweep(job, "fake", SPACE, trials=1, **OPTIONS)
    invited = more_trials(job, 4)
    dead = worker("die", tmp_path / "unused", 0)
    dead.communicate(timeout=240)
    assert dead.returncode == -signal.SIGKILL
    rows = join_sweep(invited, pace=QUICK)
    assert sorted(row.number for row in rows) == [1, 2, 3]
    assert all(row.state == "complete" for row in rows)
    assert len(vendor.jobs) == 4
    assert join_sweep(invited, pace=QUICK) == ()


def more_trials(job: TuningJob, trials: int) -> str:
    """Leave an invitation to more trials than have been run; the sweep's name."""
    from llmtune.sweeps import study as studies
    from llmtune.sweeps.distributed import PREFIX, _find_sweep

    (name,) = studies.list_studies(PREFIX)
    _, invitation = _find_sweep(name)
    import optuna

    study = optuna.load_study(study_name=name, storage=studies._open_storage())
    study.set_user_attr("llmtune", invitation.model_copy(update={"trials": trials}).model_dump(mode="json"))
    return name.removeprefix(PREFIX)


def test_the_budget_is_everybodys(job: TuningJob, vendor: Fake, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLMTUNE_FAKE_PRICE", "100")
    (only,) = llmtune.sweep(job, "fake", SPACE, trials=1, **OPTIONS).trials
    assert isinstance(only.cost, float)
    assert only.cost > 0
    sweep = llmtune.sweep(job, "fake", SPACE, trials=9, budget=2.5 * only.cost, **OPTIONS)
    assert sweep.stopped
    assert join_sweep(sweep.group, pace=QUICK) == ()
    assert len(vendor.jobs) == 2


def test_other_rows_are_refused(job: TuningJob, vendor: Fake, tmp_path: Path) -> None:
    llmtune.sweep(job, "fake", SPACE, trials=1, **OPTIONS)
    name = more_trials(job, 2)
    (tmp_path / "rows.jsonl").write_text((tmp_path / "rows.jsonl").read_text().replace("case", "other"))
    with pytest.raises(InvalidData, match="not the rows that the sweep was started with"):
        join_sweep(name, pace=QUICK)
    assert len(vendor.jobs) == 1


def test_no_sweep_is_said_in_a_sentence(job: TuningJob, vendor: Fake) -> None:
    with pytest.raises(RunNotFound, match="no sweep in this store is unfinished"):
        join_sweep()
    llmtune.sweep(job, "fake", SPACE, trials=1, **OPTIONS)
    with pytest.raises(RunNotFound, match="no sweep in this store is 'abc'"):
        join_sweep("abc")


@pytest.mark.slow
def test_join_from_the_command_line(job: TuningJob, vendor: Fake) -> None:
    from llmtune.cli.app import app

    llmtune.sweep(job, "fake", SPACE, trials=1, **OPTIONS)
    name = more_trials(job, 2)
    result = CliRunner().invoke(app, ["sweep", "join", name, "--json"])
    assert result.exit_code == 0, result.output
    assert "1 trials were run here" in result.output
    (row,) = json.loads(result.stdout.splitlines()[-1])
    assert row["number"] == 1
    assert len(open_store().runs()) == 2


STUDY = """
import sys
sys.stdin.readline()
from llmtune.sweeps.space import read_space
from llmtune.sweeps.study import open_study
import optuna
print("ready", flush=True)
sys.stdin.readline()
space = read_space({"lora_rank": [1, 2]})
print(len(open_study("sweep x", space, method="random", direction="minimize", seed=0, pruning=False).trials))
"""


@pytest.mark.slow
def test_workers_that_begin_at_once_make_the_tables_once() -> None:
    workers = [
        subprocess.Popen(
            [sys.executable, "-c", STUDY],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=dict(os.environ),
        )
        for _ in range(4)
    ]
    for attempt in (0, 1):
        for process in workers:
            assert process.stdin is not None
            assert process.stdout is not None
            if attempt:
                assert process.stdout.readline() == "ready\n"
        for process in workers:
            process.stdin.write("\n")  # type: ignore[union-attr]
            process.stdin.flush()  # type: ignore[union-attr]
    for process in workers:
        out, wrong = process.communicate(timeout=240)
        assert process.returncode == 0, wrong
        assert out == "0\n"
