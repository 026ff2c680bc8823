"""Results that `llmtune report` can show: the report of a run, or a leaderboard, sweep or rescue from a file."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from llmtune.errors import InvalidData

if TYPE_CHECKING:
    from rich.console import Console

    from llmtune.report.schema import Report


@dataclass(frozen=True)
class SavedResult:
    """One result in each of its output formats."""

    to_json: Callable[[], str]
    to_markdown: Callable[[], str]
    to_html: Callable[[], str]
    show: Callable[[Console], None]


def find(name: str) -> SavedResult:
    """Find a result: a run (of several with one name the newest that succeeded); or a file that holds a saved result.

    Raises:
        RunNotFound: there is no such run.
        InvalidData: the file is not a valid report, leaderboard, sweep or rescue.
    """
    path = Path(name)
    if path.is_dir() and (path / "rescue.json").exists():
        path = path / "report.json"
    if path.suffix == ".json" and path.is_file():
        content = path.read_bytes()
        fields = _fields(content)
        if "standings" in fields:
            return _board(path, content)
        if {"golden", "agreement"} <= fields:
            return _rescue(path, content)
        if {"trials", "finalists"} <= fields:
            return _sweep(path, content)
    return _run(load_report(name if path == Path(name) else str(path)))


def load_report(name: str) -> Report:
    """Load the report of a run, or of a file."""
    from llmtune.report.schema import Report

    path = Path(name)
    if path.suffix == ".json" and (path.exists() or path.parent != Path()):
        return Report.load(path)
    from llmtune.cli.run_names import open_run

    return open_run(name, "succeeded").report()


def _run(report: Report) -> SavedResult:
    def show(console: Console) -> None:
        from llmtune.report.terminal import print_report

        print_report(report, console)

    return SavedResult(report.to_json, report.to_markdown, report.to_html, show)


def _board(path: Path, content: bytes) -> SavedResult:
    from pydantic import ValidationError

    from llmtune.report.leaderboard.board import Board

    try:
        board = Board.model_validate_json(content)
    except ValidationError as error:
        raise _unreadable(path, "board", error.errors(include_url=False)[0]["msg"]) from None

    def show(console: Console) -> None:
        from llmtune.report.leaderboard.text import print_board

        print_board(board, console)

    return SavedResult(board.to_json, board.to_markdown, board.to_html, show)


def _rescue(path: Path, content: bytes) -> SavedResult:
    from pydantic import ValidationError

    from llmtune.rescues.html import render
    from llmtune.rescues.results import RescueReport
    from llmtune.rescues.text import to_markdown, verdict

    try:
        report = RescueReport.model_validate_json(content)
    except ValidationError as error:
        raise _unreadable(path, "rescue", error.errors(include_url=False)[0]["msg"]) from None

    def show(console: Console) -> None:
        console.print(verdict(report), markup=False, soft_wrap=True)

    return SavedResult(report.to_json, lambda: to_markdown(report), lambda: render(report), show)


def _sweep(path: Path, content: bytes) -> SavedResult:
    from pydantic import ValidationError

    from llmtune.sweeps.results import Sweep
    from llmtune.sweeps.text import print_sweep

    try:
        sweep = Sweep.model_validate_json(content)
    except ValidationError as error:
        raise _unreadable(path, "sweep", error.errors(include_url=False)[0]["msg"]) from None
    return SavedResult(sweep.to_json, sweep.to_markdown, sweep.to_html, lambda console: print_sweep(sweep, console))


def _fields(content: bytes) -> set[str]:
    import orjson

    try:
        data = orjson.loads(content)
    except orjson.JSONDecodeError:
        return set()
    return set(data) if isinstance(data, dict) else set()


def _unreadable(path: Path, what: str, why: str) -> InvalidData:
    return InvalidData(f"{path} is not a valid {what}: {why}", hint="it may be from another version of llmtune")
