"""Every code block of README and docs is held to the code.

Python runs, page by page, in a folder of its own. TOML and YAML parse, and a job is a valid `TuningJob`. Each
`llmtune ...` line in a shell block is parsed by the real command line: a command or option that is gone fails here.
A Python block that cannot run here says why in the line above it, `<!-- no-run: reason -->`; the reasons are listed
below, so that a new one is seen.
"""

from __future__ import annotations

import json
import re
import shlex
import shutil
import textwrap
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

import llmtune
from llmtune.graders import load_grader
from llmtune.server.tuning.keys import read_keys
from llmtune.server.tuning.models import Target
from llmtune_openai.fake.service import FakeOpenAI
from tests.system.docs.shell import typed_on

ROOT = Path(__file__).resolve().parents[3]
BLOCK = re.compile(
    r"(?:^<!-- no-run: (?P<reason>[^>]+?) -->\n)?(?:^<!-- save: [\w.]+ -->\n)?"
    r"^```(?P<language>[^\n]*)\n(?P<text>.*?)^```$",
    re.DOTALL | re.MULTILINE,
)
SHELL = {"sh", "bash", "console"}
PROSE = {"", "text"}

#: Python blocks that do not run here: page -> reasons, in order.
NO_RUN = {
    "docs/after-openai.md": ["needs a server under way"],
    "docs/classification.md": ["needs the SST-2 files"],
    "docs/coming-from/litellm.md": ["litellm is not installed"],
    "docs/coming-from/trl.md": ["TRL is not installed"],
    "docs/compare.md": ["needs accounts"],
    "docs/decisions.md": ["needs a run with labels"],
    "docs/fallback.md": ["needs accounts"],
    "docs/page.md": ["needs an account"],
    "docs/providers/together.md": ["needs an account"],
    "docs/rescue.md": ["needs an account"],
    "docs/runs.md": ["needs an account", "needs an account"],
    "docs/serve-teams.md": ["needs a server under way"] * 3,
    "docs/serve.md": ["needs a server under way", "needs a server under way"],
    "docs/verify.md": ["needs a server"],
    "docs/sweep.md": ["trains more than twenty times"],
    "docs/vision.md": ["needs the run of this page"],
}


@dataclass(frozen=True)
class Block:
    page: str
    line: int
    language: str
    text: str
    reason: str | None

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


def blocks() -> list[Block]:
    found = []
    for page in [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]:
        if page.name == "plugin.md":  # typed to its end, verbatim, by tests/system/plugin
            continue
        text = page.read_text(encoding="utf-8")
        for match in BLOCK.finditer(text):
            line = text[: match.start("text")].count("\n")
            name = page.relative_to(ROOT).as_posix()
            found.append(Block(name, line, match["language"].strip(), match["text"], match["reason"]))
    return found


ALL = blocks()


def of(*languages: str) -> list[Block]:
    return [block for block in ALL if block.language in languages]


def test_every_language_is_one_that_is_checked() -> None:
    assert len(ALL) > 60
    strange = [f"{block}: {block.language}" for block in ALL if block.language not in {*SHELL, *PROSE} | KINDS]
    assert not strange


KINDS = {"python", "toml", "yaml", "json"}


@pytest.mark.parametrize("block", of("json"), ids=str)
def test_rows_in_json_are_json(block: Block) -> None:
    for line in block.text.splitlines():
        json.loads(line)


def test_what_does_not_run_is_listed_with_its_reason() -> None:
    marked: dict[str, list[str]] = {}
    for block in ALL:
        if block.reason is not None and block.language == "python":  # shell: test_shell.py
            marked.setdefault(block.page, []).append(block.reason)
    assert marked == NO_RUN


# --- data ----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("block", of("toml"), ids=str)
def test_toml_parses(block: Block) -> None:
    assert tomllib.loads(block.text)


@pytest.mark.parametrize("block", of("yaml"), ids=str)
def test_yaml_parses_and_a_job_is_valid(block: Block, tmp_path: Path) -> None:
    data = YAML(typ="safe").load(block.text)
    assert data
    if isinstance(data, dict) and {"name", "model"} <= set(data):
        llmtune.TuningJob.model_validate(data)
    elif isinstance(data, dict) and "kind" in data:  # a grader
        (tmp_path / "grader.json").write_text(json.dumps(data))
        load_grader(tmp_path / "grader.json")
    elif isinstance(data, dict) and "default" in data:  # a model map of `llmtune serve --tuning`
        assert [Target.parse(text, name) for name, text in data.items()]
    elif isinstance(data, dict) and all(isinstance(entry, dict) and "sha256" in entry for entry in data.values()):
        path = tmp_path / "keys.yaml"  # a key file of `llmtune keys`
        path.write_text(block.text)
        assert read_keys(path).keys() == data.keys()
    elif isinstance(data, dict):
        job = {"name": "t", "model": "m", "dataset": "rows.jsonl"}
        llmtune.TuningJob.model_validate(job | data)


# --- shell ---------------------------------------------------------------------------------------------------------
def commands(block: Block) -> list[list[str]]:
    """The `llmtune` commands of a shell block; with `$` prompts, only lines that carry one are typed."""
    text = block.text.replace("\\\n", " ")
    lines = text.splitlines()
    if any(line.startswith("$ ") for line in lines):
        lines = [line[2:] for line in lines if line.startswith("$ ")]
    found = []
    for line in lines:
        words = shlex.split(line.split(" > ")[0], comments=True)
        if words[:1] == ["llmtune"]:
            found.append(words[1:])
    return found


def parse(words: list[str]) -> None:
    """Parse a command line as `llmtune` would, and do nothing."""
    from typer.main import get_command

    from llmtune.cli.app import app

    command: Any = get_command(app)
    name, context = "llmtune", None
    while hasattr(command, "resolve_command"):
        context = command.context_class(command, info_name=name, parent=context)
        if (default := getattr(command, "default", None)) and (not words or words[0] not in command.commands):
            words = [default, *words]
        head = next((at for at, word in enumerate(words) if not word.startswith("-")), None)
        assert head is not None, f"{' '.join(words)}: no command"
        name, command, words = command.resolve_command(context, words[head:])
        assert command is not None
    command.make_context(name, list(words), parent=context)


SHELLS = [block for block in of(*SHELL) if commands(block)]


@pytest.mark.parametrize("block", SHELLS, ids=str)
def test_every_command_is_one_the_command_line_knows(
    block: Block, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for words in commands(block):
        for word in words:  # files that a command wants to exist
            if re.fullmatch(r"[\w./*-]+\.(yaml|yml|jsonl|csv|json)", word):
                (tmp_path / word).parent.mkdir(parents=True, exist_ok=True)
                (tmp_path / word).touch()
        try:
            parse(words)
        except Exception as error:  # noqa: BLE001 -- typer keeps the class of its usage errors to itself
            message = getattr(error, "message", "") or repr(error)
            pytest.fail(f"{block}: llmtune {shlex.join(words)}: {message}")


def test_a_command_or_option_that_is_gone_is_noticed() -> None:
    for words in (["tuen", "job.yaml"], ["tune", "job.yaml", "--no-such-option"], ["runs", "attach", "a", "b", "c"]):
        with pytest.raises(Exception, match=r"(?i)no such|unexpected"):
            parse(words)


# --- Python --------------------------------------------------------------------------------------------------------
TINY_JOB = """
from llmtune import Hyperparameters, TuningJob
job = TuningJob(
    name="router", dataset="tickets.jsonl", model="tiny",
    hyperparameters=Hyperparameters(max_steps=4, batch_size=8, max_sequence_length=256),
)
"""
#: What a page's blocks take as given.
GIVEN = {
    "docs/metrics.md": TINY_JOB + "from llmtune import tune\nreport = tune(job, 'fake')\n",
    "docs/testing.md": TINY_JOB,
}
#: What is called after a page's blocks.
AFTER = {"docs/testing.md": "test_our_pipeline(None)\n"}

RUNNING = [block for block in of("python") if block.reason is None]
PAGES = {page: list(group) for page, group in groupby(RUNNING, key=lambda block: block.page)}
TRAINS = {"README.md", "docs/metrics.md"}


@pytest.fixture
def openai_service(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeOpenAI]:
    """OpenAI's service as its SDK and llmtune find it: a stand-in on this machine."""
    pytest.importorskip("openai")
    with FakeOpenAI(api_key="sk-test") as service:
        monkeypatch.setenv("OPENAI_API_KEY", "sk-test")
        for variable in ("OPENAI_BASE_URL", "LLMTUNE_OPENAI_BASE_URL"):
            monkeypatch.setenv(variable, f"{service.url}/v1")
        yield service
        assert not service.complaints


@pytest.mark.slow
@pytest.mark.parametrize(
    "page",
    [pytest.param(page, marks=pytest.mark.xdist_group("heavy") if page in TRAINS else ()) for page in sorted(PAGES)],
)
def test_the_python_of_a_page_runs(
    page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    if page in TRAINS:
        pytest.importorskip("peft")
    lines = (ROOT / "examples/tickets/tickets.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)[:120]
    for file in ("tickets.jsonl", "rows.jsonl", "examples/tickets/tickets.jsonl"):
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).write_text("".join(lines), encoding="utf-8")
    (tmp_path / "tickets.csv").write_text("prompt,completion\nWhere is it?,shipping\nPay me back,billing\n")
    for typed in typed_on(ROOT / page)[0]:
        if typed.file:
            (tmp_path / typed.file).write_text(typed.command, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    if page == "docs/coming-from/openai.md":
        request.getfixturevalue("openai_service")
    names: dict[str, Any] = {"__name__": "page"}
    exec(compile(GIVEN.get(page, ""), f"{page} (given)", "exec"), names)
    for block in PAGES[page]:
        # Lines keep their numbers, so that a traceback points into the page.
        exec(compile("\n" * block.line + textwrap.dedent(block.text), block.page, "exec"), names)
    exec(compile(AFTER.get(page, ""), f"{page} (after)", "exec"), names)
    shutil.rmtree(tmp_path / "examples", ignore_errors=True)
