"""Pythons are found by what they answer, and the environments cover what the package says it supports."""

from __future__ import annotations

import sys
import tomllib
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[2]
RUNNING = f"{sys.version_info.major}.{sys.version_info.minor}"


@pytest.fixture
def pythons(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(ROOT / "tools"))
    import make_pythons

    return make_pythons


def command(folder: Path, name: str, script: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(f"#!/bin/sh\n{script}\n")
    (folder / name).chmod(0o755)


def test_the_oldest_supported_python_is_the_one_that_is_required(pythons: ModuleType) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert project["requires-python"] == f">={pythons.supported()[0]}"
    assert set(pythons.LOWEST_EXTRAS) <= set(project["optional-dependencies"])


def test_the_running_python_needs_no_path(pythons: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    assert pythons.find_python(RUNNING) == sys.executable


def test_a_python_on_the_path_is_taken_and_a_shim_with_nothing_behind_it_is_not(
    pythons: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:/bin")
    command(tmp_path / "bin", "python3.98", "echo 3.98")
    command(tmp_path / "bin", "python3.99", "echo 'not installed' >&2; exit 127")
    assert pythons.find_python("3.98") == "python3.98"
    assert pythons.find_python("3.99") is None
    assert pythons.find_python("3.97") is None


def test_a_python_that_pyenv_has_is_found_behind_its_shim(
    pythons: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:/bin")
    command(tmp_path / "bin", "python3.99", "exit 127")
    command(tmp_path / "bin", "pyenv", f'case $1 in versions) echo 3.9.9; echo 3.99.4;; *) echo {tmp_path}/"$2";; esac')
    command(tmp_path / "3.99.4" / "bin", "python", "echo 3.99")
    assert pythons.find_python("3.99") == str(tmp_path / "3.99.4" / "bin" / "python")
