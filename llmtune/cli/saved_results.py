"""Results that `llmtune report` can show: the report of a run, or a leaderboard, sweep or rescue from a file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from llmtune.errors import InvalidData

if TYPE_CHECKING:
    from pydantic import BaseModel

    from llmtune.report.leaderboard.board import Board
    from llmtune.report.schema import Report
    from llmtune.rescues.results import RescueReport
    from llmtune.sweeps.results import Sweep

Result = TypeVar("Result", bound="BaseModel")


def find(name: str) -> Report | Board | RescueReport | Sweep:
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
            from llmtune.report.leaderboard.board import Board

            return _read(Board, "board", path, content)
        if {"golden", "agreement"} <= fields:
            from llmtune.rescues.results import RescueReport

            return _read(RescueReport, "rescue", path, content)
        if {"trials", "finalists"} <= fields:
            from llmtune.sweeps.results import Sweep

            return _read(Sweep, "sweep", path, content)
    return load_report(name if path == Path(name) else str(path))


def load_report(name: str) -> Report:
    """Load the report of a run, or of a file."""
    from llmtune.report.schema import Report

    path = Path(name)
    if path.suffix == ".json" and (path.exists() or path.parent != Path()):
        return Report.load(path)
    from llmtune.cli.run_names import open_run

    return open_run(name, "succeeded").report()


def _read(model: type[Result], kind: str, path: Path, content: bytes) -> Result:
    from pydantic import ValidationError

    try:
        return model.model_validate_json(content)
    except ValidationError as error:
        message = f"{path} is not a valid {kind}: {error.errors(include_url=False)[0]['msg']}"
        raise InvalidData(message, hint="it may be from another version of llmtune") from None


def _fields(content: bytes) -> set[str]:
    import orjson

    try:
        data = orjson.loads(content)
    except orjson.JSONDecodeError:
        return set()
    return set(data) if isinstance(data, dict) else set()
