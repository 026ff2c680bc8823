"""Eighty columns: lists and boards that can be read there, and files refused by their ending before any work."""

from __future__ import annotations

import asyncio
import io
from pathlib import Path

import pytest
from typer.testing import CliRunner

from llmtune.cli import runs as runs_command
from llmtune.cli.app import app
from llmtune.cli.output import PlainConsole
from llmtune.errors import InvalidSettings
from llmtune.provider.types import Progress, RunState
from llmtune.report.terminal import print_report
from llmtune.runs.poller import Update
from llmtune.runs.store.store import open_store
from tests.llmtune.report.leaderboard.test_document import board
from tests.llmtune.runs.helpers import a_record


@pytest.fixture
def screen(monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    written = io.StringIO()
    monkeypatch.setattr("llmtune.cli.output.out", PlainConsole(file=written, width=80, force_terminal=False))
    return written


def test_the_list_of_runs(screen: io.StringIO) -> None:
    store = open_store()
    progress = Progress(step=1200, total_steps=12000)
    for number, name in enumerate(("tickets", "customer-support-router-with-a-long-name"), 1):
        record = a_record(
            id=f"{number:010d}",
            name=name,
            provider="azure-eu",
            model="gpt-4.1-mini-2025-04-14",
            state=RunState.FINALIZING,
            progress=progress,
            created=float(number),
        )
        store.create_or_join(record)
    CliRunner().invoke(app, ["runs", "list"], catch_exceptions=False)
    lines = screen.getvalue().splitlines()
    assert max(map(len, lines)) <= 80
    (row,) = [line for line in lines if line.startswith("0000000001")]
    assert row.split()[:3] == ["0000000001", "tickets", "azure-eu"]
    assert "…" not in screen.getvalue()
    assert "finalizing" in row
    assert "1200/12000" in row
    assert "1970-01-01" in row


def test_watch_names_the_runs(screen: io.StringIO) -> None:
    record = a_record(id="aaaaaaaaaa", name="tickets", state=RunState.RUNNING)

    class Handle:
        id = record.id

        async def updates(self):
            yield Update(record=record, points=(), events=(), moved=True)

    asyncio.run(runs_command._watch_all([Handle()], as_json=False))  # type: ignore[list-item]
    assert screen.getvalue().split() == ["aaaaaaaaaa", "tickets", "running"]


def test_a_board_is_cut_into_tables_that_fit() -> None:
    written = io.StringIO()
    leaderboard = board()
    standings = tuple(
        row.model_copy(update={"label": f"{row.label}:a-model-with-a-name", "lost": {"lora_rank": "it chooses"}})
        for row in leaderboard.standings
    )
    print_report(
        leaderboard.model_copy(update={"standings": standings}),
        PlainConsole(file=written, width=80, force_terminal=False),
    )
    _, _, tables = written.getvalue().partition("\n\n")
    lines = tables.splitlines()
    assert max(len(line) for line in lines if "does not use" not in line) <= 80
    assert "local:a-model-with-a-name does not use lora_rank" in lines
    for heading in ("quality", "interval", "training", "p50 / p95"):
        assert sum(heading in line for line in lines) == 1
    cells = [line for line in lines if line.startswith("local:a-model-with-a-name ")]
    assert len(cells) >= 2  # each table names its rows


@pytest.mark.parametrize(
    ("command", "endings"),
    [
        (["report", "RUN", "-o", "r.pdf"], ".html, .json, .md or .txt"),
        (["report", "RUN", "-o", "r"], ".html, .json, .md or .txt"),
        (["compare", "job.yaml", "-p", "local", "-o", "r.pdf"], ".html, .json or .md"),
        (["sweep", "job.yaml", "-o", "r.pdf"], ".html, .json or .md"),
        (["sweep", "job.yaml", "--best", "best.txt"], ".yaml, .yml or .json"),
    ],
)
def test_an_unknown_ending_is_refused_before_anything_is_done(
    command: list[str], endings: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InvalidSettings, match="nothing is written in that format") as caught:
        CliRunner().invoke(app, command, catch_exceptions=False)
    assert caught.value.hint == f"end it in {endings}"
    assert command[-1] in caught.value.message
    assert not list(tmp_path.iterdir())
