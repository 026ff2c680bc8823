"""Whatever lies in the current folder, a worker runs its own libraries, however it is started."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from llmtune_local.run_state.run_dir import RunDir
from llmtune_local.worker import fork_server
from llmtune_local.worker.launch import launch

pytestmark = pytest.mark.usefixtures("strange_folder")

#: Uses three libraries whose names lie in the current folder too, and a module of the user's own, from PYTHONPATH.
LOOK = "import numpy, secrets, types, mine; numpy.ndarray, secrets.token_hex, types.FunctionType; print(mine.VALUE)"

#: As torchrun starts its members: a Python of its own accord, which knows nothing but the environment.
MEMBER = [sys.executable, "-u", "-m", "member"]


class Started(Exception):
    """A process would have been started."""

    def __init__(self, command: list[str], environment: dict[str, str] | None) -> None:
        super().__init__(command)
        self.command = command
        self.environment = environment


@pytest.fixture
def would_start(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[], Any]], Started]:
    """Return the process that a call would start, without starting it."""

    def refuse(command: list[str], *, env: dict[str, str] | None = None, **_: Any) -> Any:
        raise Started(command, env)

    def call(start: Callable[[], Any]) -> Started:
        with monkeypatch.context() as patched, pytest.raises(Started) as caught:
            patched.setattr(subprocess, "Popen", refuse)
            start()
        return caught.value

    return call


@pytest.fixture(autouse=True)
def own_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Modules of the user's own, on PYTHONPATH beside what is there."""
    library = tmp_path / "library"
    library.mkdir()
    (library / "mine.py").write_text("VALUE = 7\n")
    (library / "member.py").write_text(LOOK + "\n")
    before = [os.environ["PYTHONPATH"]] if os.environ.get("PYTHONPATH") else []
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(library), *before]))
    monkeypatch.delenv("PYTHONSAFEPATH", raising=False)


def output(command: list[str], environment: dict[str, str] | None) -> str:
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def python_of(started: Started) -> list[str]:
    """Return the interpreter and its options."""
    return started.command[: started.command.index("-m")]


def test_python_itself_runs_what_lies_in_the_current_folder(strange_folder: Path) -> None:
    subprocess.run([sys.executable, "-c", "import numpy"], check=True)
    assert (strange_folder / "ran").read_text() == "numpy\n"
    (strange_folder / "ran").unlink()


@pytest.mark.parametrize(
    ("options", "module"),
    [
        ({}, "llmtune_local.worker"),
        ({"processes": 2}, "torch.distributed.run"),
        ({"processes": 2, "launcher": "ray"}, "llmtune_local.worker.ray_launcher"),
    ],
)
def test_a_worker_is_started_on_its_own_libraries(
    options: dict[str, Any], module: str, tmp_path: Path, would_start: Callable[..., Started]
) -> None:
    folder = RunDir(tmp_path / "run")
    folder.path.mkdir()
    (folder.path / "request.json").write_text(json.dumps({"options": options}))
    started = would_start(lambda: launch(folder.path))
    assert module in started.command
    assert output([*python_of(started), "-c", LOOK], started.environment) == "7"
    assert output(MEMBER, started.environment) == "7"


def test_the_forking_process_is_started_on_its_own_libraries(would_start: Callable[..., Started]) -> None:
    started = would_start(fork_server.ForkServer)
    assert "llmtune_local.worker.fork_server" in started.command
    assert output([*python_of(started), "-c", LOOK], started.environment) == "7"
    assert output(MEMBER, started.environment) == "7"


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_a_job_is_trained_in_such_a_folder(strange_folder: Path) -> None:
    row = {"messages": [{"role": "user", "content": "Where is it?"}, {"role": "assistant", "content": "shipping"}]}
    (strange_folder / "rows.jsonl").write_text("".join(json.dumps(row | {"id": n}) + "\n" for n in range(12)))
    (strange_folder / "job.yaml").write_text(
        "name: strange\ndataset: {train: rows.jsonl}\nmodel: tiny\n"
        "hyperparameters: {max_steps: 2, batch_size: 4}\nevaluation: {max_rows: 1, baseline: false}\n"
    )
    # The path of a console script has no current folder either.
    command = [sys.executable, "-P", "-m", "llmtune", "tune", "job.yaml", "--provider", "local", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stderr
    assert "succeeded" in done.stdout
