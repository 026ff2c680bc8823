"""`llmtune grade` writes the source by which a backend scores."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner, Result

from llmtune.cli.grade import grade
from llmtune.errors import EXIT_NOT_PASSED, InvalidJob, InvalidSettings, UnknownName

APP = typer.Typer()
APP.command()(grade)
NUMERIC = {"kind": "match", "operation": "numeric", "reference": "answer"}


def call(folder: Path, grader: dict[str, Any], *options: str) -> Result:
    (folder / "grader.json").write_text(json.dumps(grader))
    rows = [{"messages": [{"role": "user", "content": f"{n} and 1?"}], "answer": str(n + 1)} for n in range(20)]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return CliRunner().invoke(APP, [str(folder / "grader.json"), str(folder / "rows.jsonl"), *options])


@pytest.mark.parametrize(
    ("provider", "function"),
    [("azure", "grade"), ("vertex", "evaluate"), ("bedrock", "lambda_handler"), ("sagemaker", "lambda_handler")],
)
def test_the_source_of_each_backend_is_written(tmp_path: Path, provider: str, function: str) -> None:
    file = tmp_path / "source.py"
    result = call(tmp_path, NUMERIC, "--source-for", provider, "-o", str(file))
    assert result.exit_code == 0, result.output
    names: dict[str, Any] = {}
    exec(file.read_text(encoding="utf-8"), names)
    assert callable(names[function])


def test_nothing_is_written_of_a_grader_that_is_not_fit(tmp_path: Path) -> None:
    file = tmp_path / "source.py"
    result = call(tmp_path, {"kind": "regex", "pattern": "never"}, "--source-for", "azure", "-o", str(file))
    assert result.exit_code == EXIT_NOT_PASSED
    assert not file.exists()


@pytest.mark.parametrize(
    ("grader", "options", "error", "sentence"),
    [
        (NUMERIC, ("--source-for", "azure"), InvalidSettings, "go together"),
        (NUMERIC, ("-o", "x.py"), InvalidSettings, "go together"),
        (NUMERIC, ("--source-for", "azur", "-o", "x.py"), UnknownName, "did you mean 'azure'"),
        (NUMERIC, ("--source-for", "together", "-o", "x.py"), InvalidJob, "runs no grader"),
        ({"kind": "similarity"}, ("--source-for", "vertex", "-o", "x.py"), InvalidJob, "cannot run there"),
    ],
)
def test_what_cannot_be_written_is_said_before_the_trial(
    tmp_path: Path, grader: dict[str, Any], options: tuple[str, ...], error: type[Exception], sentence: str
) -> None:
    result = call(tmp_path, grader, *options)
    assert isinstance(result.exception, error)
    assert sentence in f"{result.exception} {getattr(result.exception, 'hint', '')}"
