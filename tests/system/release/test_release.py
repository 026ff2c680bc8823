"""The release: a wheel and an sdist with what belongs into them, and a wheel that works where it is installed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from pathlib import Path

import pytest

from llmtune import __version__

ROOT = Path(__file__).resolve().parents[3]
pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("release")]


def test_the_wheel_has_what_it_needs_and_nothing_else(dist: Path) -> None:
    names = set(zipfile.ZipFile(next(dist.glob("*.whl"))).namelist())
    for path in ("llmtune/py.typed", "llmtune_local/tiny", "llmtune_local/tiny_encoder"):
        assert any(name.startswith(path) for name in names), path
    for licence in ("LICENSE", "NOTICE", "llmtune/report/html/vendor/uplot/LICENSE"):
        assert any(name.endswith(f".dist-info/licenses/{licence}") for name in names), licence
    tops = {name.split("/")[0] for name in names}
    assert {top for top in tops if not top.startswith("llmtune")} == set()
    assert [name for name in names if name.endswith((".pyc", ".db", ".orig")) or "/tests/" in name] == []


def test_the_sdist_can_be_tested_and_built_again(dist: Path) -> None:
    with tarfile.open(next(dist.glob("*.tar.gz"))) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    for path in ("pyproject.toml", "Makefile", "constraints.txt", "README.md", "CHANGELOG.md", "LICENSE", "NOTICE"):
        assert path in names, path
    for folder in ("llmtune/", "providers/", "tests/", "docs/", "examples/"):
        assert any(name.startswith(folder) for name in names), folder


def test_the_installed_wheel_answers(dist: Path, tmp_path: Path) -> None:
    place = tmp_path / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(place)], check=True)
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    site = place / "lib" / version / "site-packages"
    wheel = next(dist.glob("*.whl"))
    zipfile.ZipFile(wheel).extractall(site)
    # Dependencies are those of the running environment; the path comes after the wheel's, and its own hooks stay out.
    (site / "running.pth").write_text(sysconfig.get_path("purelib") + "\n")
    (tmp_path / "rows.jsonl").write_text(
        "\n".join(
            json.dumps({"messages": [{"role": "user", "content": f"{n}?"}, {"role": "assistant", "content": "yes"}]})
            for n in range(40)
        )
    )
    (tmp_path / "job.yaml").write_text("name: wheel\ndataset: rows.jsonl\nmodel: tiny\n")
    inside = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    inside["LLMTUNE_HOME"] = str(tmp_path / "home")

    def run(*words: str) -> str:
        code = "from llmtune.cli import main; main()"
        command = [str(place / "bin" / "python"), "-c", code, *words]
        done = subprocess.run(command, cwd=tmp_path, env=inside, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert run("--version").strip() == f"llmtune {__version__}"
    assert "Train:" in run("--help")
    planned = json.loads(run("plan", "job.yaml", "--provider", "local", "--json"))
    assert planned["plans"]["local"]["fields"]
    where = [str(place / "bin" / "python"), "-c", "import llmtune; print(llmtune.__file__)"]
    shown = subprocess.run(where, cwd=tmp_path, env=inside, capture_output=True, text=True, check=True).stdout
    assert shown.startswith(str(place))
