"""`--help` of every command: in groups, in whole sentences, with values as people write them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from llmtune.cli.app import app


def commands(path: tuple[str, ...], command: Any) -> Iterator[tuple[str, ...]]:
    yield path
    for name, inner in getattr(command, "commands", {}).items():
        yield from commands((*path, name), inner)


EVERY = list(commands((), typer.main.get_command(app)))


def help_of(*path: str) -> str:
    result = CliRunner().invoke(app, [*path, "--help"], env={"COLUMNS": "80"}, terminal_width=80)
    assert result.exit_code == 0
    return result.output


@pytest.mark.parametrize("path", EVERY, ids=" ".join)
def test_no_type_of_the_library_and_no_broken_sentence(path: tuple[str, ...]) -> None:
    text = help_of(*path)
    assert not re.search(r"INTEGER|RANGE\b(?!\])|<\w+|list\[|\brange>|\.\.\.\n|\[default", text.replace("=RANGE", ""))
    assert max(map(len, text.splitlines())) <= 80
    assert re.match(r"Usage: llmtune|Usage: root", text)


@pytest.mark.parametrize("path", EVERY, ids=" ".join)
def test_every_help_text_is_a_sentence(path: tuple[str, ...]) -> None:
    command: Any = typer.main.get_command(app)
    for name in path:
        command = command.commands[name]
    texts = [command.help, *(param.help for param in command.params if not getattr(param, "hidden", False))]
    for text in texts:
        assert text
        assert text.rstrip().endswith((".", ")", ":")), text
        assert text[0].isupper() or text.startswith(("-", "llmtune")), text


def test_options_stand_in_groups() -> None:
    text = help_of("tune")
    headings = re.findall(r"^(\w[\w ]*):$", text, re.MULTILINE)
    assert headings == ["Arguments", "Options", "Change the job", "Money", "Output"]
    change = text.partition("Change the job:")[2].partition("Money:")[0]
    assert re.findall(r"^  (--[\w-]+) (\S+)", change, re.MULTILINE) == [
        ("--set", "FIELD=VALUE"),
        ("--model", "MODEL"),
        ("--name", "NAME"),
        ("--seed", "N"),
        ("--limit-rows", "N"),
    ]
    assert "--budget USD" in text
    assert "Usage: root tune JOB [OPTIONS]" in text or "tune JOB [OPTIONS]" in text
    assert "--no-strict" not in text
    assert CliRunner().invoke(app, ["tune", "none.yaml", "--no-strict"]).exit_code != 0


def test_commands_stand_in_groups_with_whole_sentences() -> None:
    text = help_of()
    headings = re.findall(r"^(\w[\w ]*):$", text, re.MULTILINE)
    assert headings == ["Train", "Data", "Results", "The tuned model", "Set up", "Options"]
    assert "Show what each backend would do with a job, and what it would cost." in " ".join(text.split())


@pytest.mark.parametrize(
    ("typed", "answer"),
    [
        (["tun"], "Did you mean 'tune'?"),
        (["runs", "lst"], "Did you mean 'list'?"),
        (["tune", "--provder", "x"], "--provider"),
        (["sweep", "run", "--trial", "3"], "--trials"),
    ],
)
def test_a_command_or_option_that_is_nearly_right(typed: list[str], answer: str) -> None:
    result = CliRunner().invoke(app, typed)
    assert result.exit_code == 2
    assert answer in result.stderr
