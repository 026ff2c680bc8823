"""docs/plugin.md is followed to its end, word for word, in an empty folder and a fresh virtual environment.

Nothing is fetched: llmtune comes as a wheel built from this checkout, and what it depends on is lent by the environment
that runs the tests. One thing is changed: the port in the page becomes one that is free.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[2]
PORT = "8399"


@pytest.fixture(scope="module")
def lent(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Everything installed here but llmtune and the installers, as links in one folder."""
    folder = tmp_path_factory.mktemp("lent")
    withheld = ("llmtune", "_llmtune", "pip", "setuptools", "_distutils_hack", "__pycache__")
    for place in map(Path, sys.path):
        if place.name != "site-packages" or not place.is_dir():
            continue
        for each in place.iterdir():
            if not each.name.startswith(withheld) and each.suffix != ".pth" and not (folder / each.name).exists():
                (folder / each.name).symlink_to(each)
    return folder


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """llmtune as its users get it."""
    folder = tmp_path_factory.mktemp("wheels")
    build = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(folder)]
    done = subprocess.run(build, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


class Reader:
    """Somebody at a terminal, who types what the page says; what is exported and activated stays so."""

    def __init__(self, folder: Path, environment: dict[str, str]) -> None:
        self._state = folder / "terminal"
        self._state.write_text(f"cd '{folder}'\n")
        self._environment = environment
        self._others: list[subprocess.Popen[str]] = []

    def _shell(self, text: str) -> list[str]:
        after = f'export -p > "{self._state}"; echo "cd \'$PWD\'" >> "{self._state}"'
        return ["bash", "-e", "-c", f'. "{self._state}"\n{text}\n{after}']

    def type(self, text: str) -> str:
        """Run a block; everything that was printed. Each command must succeed."""
        done = subprocess.run(
            self._shell(text),
            env=self._environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        assert done.returncode == 0, f"{text}\n{done.stdout}"
        return done.stdout

    def elsewhere(self, text: str) -> str:
        """Run a block in another terminal, where it goes on; its first line."""
        shell = ["bash", "-e", "-c", f'. "{self._state}"\n{text}']
        process = subprocess.Popen(
            shell,
            env=self._environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self._others.append(process)
        assert process.stdout is not None
        return process.stdout.readline()

    @property
    def folder(self) -> Path:
        """Where the terminal stands."""
        return Path(self._state.read_text().splitlines()[-1].removeprefix("cd '").removesuffix("'"))

    def leave(self) -> None:
        """End what runs in other terminals."""
        for process in self._others:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()


@pytest.fixture
def reader(tmp_path: Path, lent: Path, wheels: Path) -> Iterator[Reader]:
    """A reader in an empty home, with a bare Python and no index of packages."""
    tools = tmp_path / "tools"
    tools.mkdir()
    (tools / "python").write_text(f'#!/bin/sh\nexec "{getattr(sys, "_base_executable", sys.executable)}" "$@"\n')
    (tools / "python").chmod(0o755)
    home = tmp_path / "home"
    home.mkdir()
    given = {
        "PATH": f"{tools}:/usr/local/bin:/usr/bin:/bin",
        "HOME": str(home),
        "PYTHONPATH": str(lent),
        "PIP_NO_INDEX": "1",
        "PIP_FIND_LINKS": str(wheels),
        "PIP_NO_BUILD_ISOLATION": "0",  # pip's spelling of "on": the build tool is lent too
        "PIP_CONFIG_FILE": os.devnull,
        "PIP_NO_CACHE_DIR": "1",
        "PIP_DISABLE_PIP_VERSION_CHECK": "1",
        "LANG": "C.UTF-8",
    }
    someone = Reader(home, given)
    yield someone
    someone.leave()


def free_port() -> str:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return str(listening.getsockname()[1])


def assert_shows(output: str, expected: str) -> None:
    """Every line of `expected` stands in the output, in that order; `...` stands for any lines between."""
    lines = iter([" ".join(line.split()) for line in output.splitlines()])
    for wanted in (" ".join(line.split()) for line in expected.splitlines()):
        assert wanted in ("...", "") or any(wanted in line for line in lines), f"not seen: {wanted}\n{output}"


@pytest.fixture
def tutorial(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The module that reads the page."""
    monkeypatch.syspath_prepend(str(ROOT / "tools" / "docs"))
    import tutorial

    return tutorial


def test_the_page_and_the_package_are_the_same_text(tutorial: ModuleType) -> None:
    wanted = tutorial.files(tutorial.PAGE.read_text(encoding="utf-8"))
    assert wanted == tutorial.kept(tutorial.PACKAGE)
    assert {"pyproject.toml", "llmtune_acme/provider.py", "tests/test_acme.py", "job.yaml"} <= set(wanted)


@pytest.mark.slow
def test_the_tutorial_works_word_for_word(reader: Reader, tutorial: ModuleType) -> None:
    port, output = free_port(), ""
    for block in tutorial.blocks(tutorial.PAGE.read_text(encoding="utf-8")):
        text = block.text.replace(PORT, port)
        if block.is_file:
            path = reader.folder / (block.title or "")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(block.text, encoding="utf-8")
        elif block.language == "text":
            assert_shows(output, text)
        elif block.title is None:
            output = reader.type(text)
        else:
            output = reader.elsewhere(text)
    made = tutorial.kept(reader.folder)
    del made["tickets.jsonl"]
    assert made == tutorial.kept(tutorial.PACKAGE)

    # What was packed is whole: installed from its wheel, away from its folder, it still has its prices.
    reader.type("pip install --force-reinstall --no-deps dist/llmtune_acme-*.whl")
    where = "import llmtune_acme, llmtune; print(llmtune_acme.__file__); print(llmtune.__file__)"
    shown = reader.type(f"cd /; llmtune providers acme --model acme-small; python -c '{where}'")
    assert "training 2.0" in shown
    acme, llmtune = shown.splitlines()[-2:]
    assert Path(acme).parent.parent == Path(llmtune).parent.parent
    assert ".venv" in Path(llmtune).parts
