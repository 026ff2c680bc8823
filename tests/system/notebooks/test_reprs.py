"""What a notebook or a prompt shows of jobs, plans, runs and results: short, escaped, without secrets."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any, Protocol

import pytest

from llmtune import Board, Hyperparameters, Report, Run, Sweep, TuningJob, list_runs, plan, start
from llmtune.runs.store.store import open_store
from llmtune.sweeps.results import TrialRow
from tests.llmtune.report.conftest import evaluation, identity, make
from tests.llmtune.report.leaderboard.test_document import board
from tests.llmtune.runs.helpers import QUICK, a_record

SECRET = "sk-1234567890abcdefghij"
EVIL = f"</td><script>alert(1)</script><img src=x onerror=alert(1)> \x1b[2J {SECRET}"

#: The elements that a fragment may have: nothing that loads or runs anything.
ELEMENTS = {"div", "p", "b", "ul", "li", "table", "thead", "tbody", "tr", "th", "td"}


class Shown(Protocol):
    def _repr_html_(self) -> str: ...


class Elements(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.names: set[str] = set()
        self.attributes: list[tuple[str, str | None]] = []
        self.open: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.names.add(tag)
        self.attributes += attrs
        self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def a_job(folder: Path, name: str = "router", **fields: Any) -> TuningJob:
    rows = [f'{{"prompt": "Where is parcel {row}?", "completion": "shipping"}}\n' for row in range(20)]
    (folder / "rows.jsonl").write_text("".join(rows))
    return TuningJob(name=name, dataset=folder / "rows.jsonl", model="tiny-1", **fields)


def a_sweep(name: str = "router", trials: int = 40) -> Sweep:
    rows = tuple(
        TrialRow(
            number=number,
            params={"learning_rate": 1e-4 * (number + 1), "lora_target_modules": name},
            state="complete",
            value=1.0 - number / 100,
            run=f"run{number}",
        )
        for number in range(trials)
    )
    job = TuningJob(name="router", dataset="rows.jsonl", model="tiny")
    return Sweep(
        name=name,
        provider="local",
        group="sweep 1",
        method="bayesian",
        metric="validation/loss",
        direction="minimize",
        trials=rows,
        job=job,
    )


def a_run(**fields: Any) -> Run:
    record = a_record(**fields)
    store = open_store()
    store.create_or_join(record, join=False, reuse=False)
    return Run(record.id)


def values(folder: Path, evil: str) -> dict[str, Shown]:
    """One value of each kind, with a text from outside in it."""
    name = f"router {evil}"[:120]
    job = a_job(folder, name=name, tags={"team": name}, hyperparameters=Hyperparameters(epochs=2))
    report: Report = make(identity=identity(job_name=name, tuned_model=name), warnings=[name], error=name)
    return {
        "job": job,
        "receipt": plan(job, "fake"),
        "run": a_run(name=name, error=name, warnings=(name,)),
        "report": report,
        "board": board(evil),
        "sweep": a_sweep(name),
    }


@pytest.mark.parametrize("kind", ["job", "receipt", "run", "report", "board", "sweep"])
def test_what_is_shown_is_small_escaped_and_holds_no_secret(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VENDOR_API_KEY", SECRET)
    value = values(tmp_path, EVIL)[kind]
    html = value._repr_html_()
    read = Elements(html)
    assert read.names <= ELEMENTS
    assert not read.attributes
    assert not read.open
    assert "&lt;script&gt;" in html or "&lt;/td&gt;" in html
    assert len(html.encode()) < 8_000
    for text in (html, repr(value), str(value)):
        assert SECRET not in text
        assert "\x1b" not in text
    assert len(repr(value)) <= 400
    assert "\n" not in repr(value)


def test_a_job_shows_what_it_sets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job = TuningJob(name="router", dataset="rows.jsonl", model="tiny", hyperparameters=Hyperparameters(epochs=2))
    assert repr(job) == (
        "TuningJob(name='router', dataset=DatasetSpec(path='rows.jsonl'), model='tiny',"
        " hyperparameters=Hyperparameters(epochs=2))"
    )
    assert "<th>hyperparameters</th><td>epochs: 2</td>" in job._repr_html_()
    assert "batch_size" not in job._repr_html_()


def test_a_plan_shows_what_becomes_of_each_field_that_is_set(tmp_path: Path) -> None:
    receipt = plan(a_job(tmp_path, hyperparameters=Hyperparameters(epochs=2)), "fake")
    assert repr(receipt) == "Receipt(job='router', provider='fake', model='tiny-1', cost='0.00 USD')"
    html = receipt._repr_html_()
    assert "<td>epochs</td><td>2</td><td>sent</td><td>2</td>" in html
    assert "ready to start" in html


def test_a_run_shows_its_state_and_never_fails(tmp_path: Path) -> None:
    job = a_job(tmp_path)
    run = start(job, "fake")
    run.wait(pace=QUICK)
    assert repr(run) == f"Run({run.id!r}, 'router' at fake: succeeded)"
    assert repr(list_runs()) == f"[{run!r}]"
    assert "succeeded" in run._repr_html_()
    missing = Run("nowhere00000")
    assert repr(missing) == "Run('nowhere00000')"
    assert "nowhere00000" in missing._repr_html_()


def test_a_report_shows_its_headline_and_figures() -> None:
    report = make(evaluation=evaluation())
    assert re.fullmatch(
        r"Report\(run='\w+', job='[^']+', provider='\w+', state='succeeded', \w+=0\.\d+\)", repr(report)
    )
    html = report._repr_html_()
    assert report.headline.split(".")[0][:30] in html
    assert "95% interval" in html
    assert report.identity.run_id in html
    assert report._repr_markdown_() == report.to_markdown()


def test_a_board_shows_the_verdict_and_every_member() -> None:
    leaderboard: Board = board()
    html = leaderboard._repr_html_()
    for row in leaderboard.standings:
        assert row.label in html
    assert "side by side" in html
    assert repr(leaderboard).startswith("Board(name='router', metric='accuracy', rows=")
    assert "'gone'" in repr(leaderboard)


def test_a_sweep_shows_the_best_trials_and_how_many_more_there_are() -> None:
    sweep = a_sweep()
    html = sweep._repr_html_()
    assert html.count("<tr>") == 11
    assert "30 more trials" in html
    assert "validation/loss 0.6100, trial 39" in html
    assert repr(sweep) == (
        "Sweep(name='router', provider='local', trials=40, best={'learning_rate': 0.004,"
        " 'lora_target_modules': 'router'}, validation/loss=0.61)"
    )
