"""The command line's manners: one spelling for one thing, JSON with a schema, nothing but text in a pipe."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import typer

from llmtune.cli.app import app

#: Commands that print no result: they talk, serve, or print JSON in any case.
WITHOUT_JSON = {"chat", "ui", "schema", "serve", "keys add", "keys remove"}  # a new key is a line by itself
#: Options that mean the same wherever they stand, and so are explained in the same words.
SAME = ("--allow-lossy-data", "--allow-unknown-cost", "--column", "--label-column", "--overwrite", "--sink", "--jobs")


def commands() -> Iterator[tuple[str, Any]]:
    """Every command by its words."""

    def walk(command: Any, path: tuple[str, ...]) -> Iterator[tuple[str, Any]]:
        inner = getattr(command, "commands", None)
        if inner is None:
            yield " ".join(path), command
        else:
            for name, subcommand in inner.items():
                yield from walk(subcommand, (*path, name))

    yield from walk(typer.main.get_command(app), ())


def options() -> Iterator[tuple[str, Any]]:
    for name, command in commands():
        for param in command.params:
            if param.opts[0].startswith("-"):
                yield name, param


def llmtune(*args: str | Path, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "llmtune", *map(str, args)],
        capture_output=True,
        text=True,
        env={**os.environ, "COLUMNS": "80", **env},
        timeout=120,
        check=False,
    )


@pytest.fixture
def job(tmp_path: Path) -> Path:
    row = {"messages": [{"role": "user", "content": "Where is it?"}, {"role": "assistant", "content": "shipping"}]}
    (tmp_path / "rows.jsonl").write_text("\n".join(json.dumps(row) for _ in range(40)) + "\n")
    (tmp_path / "job.yaml").write_text("name: finish\ndataset: rows.jsonl\nmodel: tiny\n")
    return tmp_path / "job.yaml"


def test_every_command_that_prints_a_result_prints_it_as_json() -> None:
    with_json = {name for name, option in options() if "--json" in option.opts}
    assert {name for name, _ in commands()} - with_json - WITHOUT_JSON == set()


def test_one_thing_has_one_short_letter() -> None:
    letters: dict[str, set[tuple[str, ...]]] = {}
    for _, option in options():
        long = next(spelling for spelling in option.opts if spelling.startswith("--"))
        letters.setdefault(long, set()).add(
            tuple(spelling for spelling in option.opts if not spelling.startswith("--"))
        )
    letters.pop("--limit")  # `data peek` counts rows with -n as head does
    assert {name: spellings for name, spellings in letters.items() if len(spellings) > 1} == {}


@pytest.mark.parametrize("name", SAME)
def test_one_thing_is_explained_in_the_same_words(name: str) -> None:
    helps = {option.help for _, option in options() if name in option.opts}
    assert len(helps) == 1, helps


@pytest.mark.slow
def test_the_help_of_every_command_is_plain_text_of_eighty_columns() -> None:
    from typer.testing import CliRunner

    for name, _ in commands():
        result = CliRunner().invoke(app, [*name.split(), "--help"], env={"COLUMNS": "80"}, prog_name="llmtune")
        assert result.exit_code == 0, (name, result.output)
        assert "\x1b" not in result.output
        assert [line for line in result.output.splitlines() if len(line) > 80] == [], name


@pytest.mark.slow
@pytest.mark.parametrize(
    "arguments", [["providers"], ["runs", "list"], ["config", "show"], ["doctor"], ["data", "formats"]]
)
def test_a_pipe_gets_text_without_escapes(arguments: list[str], tmp_path: Path) -> None:
    result = llmtune(*arguments, LLMTUNE_HOME=str(tmp_path), TERM="xterm-256color")
    assert result.returncode == 0, result.stderr
    assert result.stdout
    assert "\x1b" not in result.stdout + result.stderr


def test_an_error_under_json_is_json_of_its_schema(job: Path) -> None:
    job.write_text("name: finish\ndataset: rows.jsonl\nmodel: tiny\nhyperparameters: {epoch: 2}\n")
    refused = llmtune("plan", job, "--json")
    assert (refused.returncode, refused.stdout) == (2, "")
    document = json.loads(refused.stderr.splitlines()[-1])
    jsonschema.validate(document, json.loads(llmtune("schema", "error").stdout))
    assert document["error"]["exit_code"] == 2
    assert "epoch" in document["error"]["message"]


@pytest.mark.parametrize("what", ["job", "error", "init", "plan", "tune", "compare", "sweep", "rescue", "gate", "diff"])
def test_every_schema_is_one(what: str) -> None:
    document = json.loads(llmtune("schema", what).stdout)
    jsonschema.Draft202012Validator.check_schema(document)
    assert document["title"] == f"llmtune {what}"


@pytest.mark.slow
def test_what_tune_and_diff_print_is_valid_against_their_schemas(job: Path, tmp_path: Path) -> None:
    home = {"LLMTUNE_HOME": str(tmp_path / "home")}
    trained = llmtune("tune", job, "--json", **home)
    assert trained.returncode == 0, trained.stderr
    jsonschema.validate(json.loads(trained.stdout), json.loads(llmtune("schema", "tune").stdout))
    (tmp_path / "report.json").write_text(trained.stdout)
    result = llmtune("diff", tmp_path / "report.json", tmp_path / "report.json", "--json", **home)
    assert result.returncode == 0, result.stderr
    jsonschema.validate(json.loads(result.stdout), json.loads(llmtune("schema", "diff").stdout))
    assert "\x1b" not in trained.stderr
    stored = tmp_path / "home" / "store.db"
    assert stored.stat().st_mode & 0o777 == 0o600


def test_a_reader_that_goes_away_ends_it_silently(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "llmtune", "schema", "report"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == b""
        process.wait(60)


def test_completion_can_be_shown() -> None:
    result = llmtune("--show-completion", "bash")
    by_variable = llmtune(_LLMTUNE_COMPLETE="complete_bash", COMP_WORDS="llmtune ru", COMP_CWORD="1")
    assert "runs" in by_variable.stdout, (result, by_variable.stderr)
