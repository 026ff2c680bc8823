"""The generated references hold what the code offers, and one that disagrees with it fails `make check`."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import typer

from llmtune.cli.app import app

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def generate(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(ROOT / "tools" / "docs"))
    import generate_docs

    return generate_docs


def leaves(command: Any, path: tuple[str, ...] = ("llmtune",)) -> Iterator[tuple[str, Any]]:
    inner = getattr(command, "commands", {})
    for name, subcommand in inner.items():
        # What is typed without its own name stands under the name of its group.
        yield from leaves(subcommand, path if name == getattr(command, "default", None) else (*path, name))
    if not inner:
        yield " ".join(path), command


def sections(page: str) -> dict[str, str]:
    parts = re.split(r"^## ", page, flags=re.MULTILINE)[1:]
    return {part.partition("\n")[0]: part.partition("\n")[2] for part in parts}


def test_every_command_and_option_is_in_the_reference() -> None:
    reference = sections((ROOT / "docs/cli.md").read_text(encoding="utf-8"))
    commands = dict(leaves(typer.main.get_command(app)))
    assert len(commands) > 30
    for name, command in commands.items():
        section = " ".join(reference[name].split())
        assert " ".join(command.help.split())[:40].split("|")[0] in section, name
        for param in command.params:
            for option in (*param.opts, *param.secondary_opts) if param.opts[0].startswith("-") else ():
                assert param.name == "help" or f"`{option}`" in section, (name, option)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("| `--budget` | number |", "| `--budget` | text |"),
        ("Train, evaluate and report.", "Train and report."),
        ("| 2 | wrong input |", "| 2 | wrong |"),
    ],
)
def test_a_page_that_says_something_else_is_out_of_date(generate: ModuleType, old: str, new: str) -> None:
    page = (ROOT / "docs/cli.md").read_text(encoding="utf-8")
    assert old in page
    assert generate.fill(page) == page
    assert generate.fill(page.replace(old, new)) == page


@pytest.mark.slow
@pytest.mark.parametrize("columns", ["30", "200"])
def test_the_width_and_colours_of_a_terminal_change_nothing(columns: str) -> None:
    env = {**os.environ, "COLUMNS": columns, "TERMINAL_WIDTH": columns, "FORCE_COLOR": "1"}
    done = subprocess.run(
        [sys.executable, "tools/docs/generate_docs.py", "--check"],
        cwd=ROOT,
        env=env,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stdout + done.stderr


# --- Python names ----------------------------------------------------------------------------------------------------
def test_every_public_name_is_described_on_one_page() -> None:
    pages = "".join(page.read_text(encoding="utf-8") for page in sorted((ROOT / "docs/reference").glob("*.md")))
    titles = re.findall(r"^### (?:class )?`?(\w+)`?$", pages, re.MULTILINE)
    modules = json.loads((ROOT / "docs/api.json").read_text(encoding="utf-8"))["modules"]
    names = sorted(
        name for members in modules.values() for name, entry in members.items() if not str(entry).startswith("as in ")
    )
    assert sorted(titles) == names
    for members in modules.values():
        for name, entry in members.items():
            for member in entry.get("members", {}) if isinstance(entry, dict) else ():
                if member == "__init__" or member.startswith("test_"):
                    continue
                inherited = re.search(
                    rf"^### class {name}\n+(?:```.*?```\n+)?Based on", pages, re.MULTILINE | re.DOTALL
                )
                assert f"**`{name}.{member}`**" in pages or inherited, f"{name}.{member}"


@pytest.mark.parametrize(
    ("page", "old", "new"),
    [
        ("reference/llmtune.md", "budget: float | None = None", "budget: float = 5"),
        ("reference/errors.md", "The vendor's own credential chain found nothing usable.", "No key."),
        ("reference.md", "[`TuningJob`](reference/llmtune.md#class-tuningjob), ", ""),
    ],
)
def test_a_signature_or_docstring_that_changed_is_out_of_date(
    generate: ModuleType, page: str, old: str, new: str
) -> None:
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    assert old in text
    assert generate.fill(text) == text
    assert generate.fill(text.replace(old, new)) == text


def test_a_module_without_a_page_is_noticed(generate: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    import reference_python

    homes = dict(reference_python.homes())
    homes.pop("llmtune.provider.http")
    monkeypatch.setattr(reference_python, "homes", lambda: homes)
    assert reference_python.missing() == ["llmtune.provider.http"]


DOCSTRING = """One sentence with `tune` and *stars*.

    code = set(in_)

After it.

Args:
    rows: how many, and
        more of it.
    *rest: others, see `no_such_name`.

Raises:
    InvalidJob: when wrong.
"""


def test_a_docstring_becomes_markdown_with_links(generate: ModuleType) -> None:
    import reference_python

    assert [line for line in reference_python.prose(DOCSTRING, "llmtune.md", "start") if line] == [
        r"One sentence with [`tune`](#tune) and \*stars\*.",
        "```text",
        "code = set(in_)",
        "```",
        "After it.",
        "**Args:**",
        "- `rows`: how many, and more of it.",
        "- `*rest`: others, see `no_such_name`.",
        "**Raises:**",
        "- [`InvalidJob`](errors.md#class-invalidjob): when wrong.",
    ]
