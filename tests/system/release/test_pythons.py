"""The wheel on every supported Python, and with the lowest versions that pyproject.toml admits.

`tools/make_pythons.py` makes the environments; `make test-slow` runs it before the tests, which reach no index.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from llmtune import __version__

ROOT = Path(__file__).resolve().parents[3]
MADE = Path(os.environ.get("LLMTUNE_TEST_PYTHONS") or ROOT / ".venv" / "pythons")
TEAMS = ("shipping", "returns", "billing")

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

#: What the README does in Python, at the service that comes with the package.
SCRIPT = """
from llmtune import Hyperparameters, TuningJob, tune
from llmtune.provider.registry import known_kinds, provider_class

for kind in known_kinds():
    provider_class(kind)
job = TuningJob(name="in-python", dataset="tickets.jsonl", model="m-1", hyperparameters=Hyperparameters(epochs=2))
print(tune(job, provider="fake").headline)
"""

#: What is used of the extras, in the environment that has them.
EXTRAS = """
import llmtune.server.app, llmtune.server.tuning.app
from llmtune.metrics.text import chrf, rouge_l
import pandas, psycopg, pyarrow, pyarrow.parquet
pyarrow.parquet.write_table(pyarrow.table({"prompt": ["a?"] * 9, "completion": ["b"] * 9}), "rows.parquet")
assert chrf("one two", "one two") == rouge_l("one two", "one two") == 1
"""


class Installed:
    """The wheel in an environment of its own, with the libraries of one of those that were made."""

    def __init__(self, name: str, dist: Path, folder: Path) -> None:
        made = MADE / name
        if not (made / "bin" / "python").exists():
            pytest.skip(f"{made} is not there: tools/make_pythons.py makes it, where that Python is installed")
        self.folder, self.bin = folder, folder / "venv" / "bin"
        self.environment = {
            key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "VIRTUAL"))
        }
        self.environment |= {"LLMTUNE_HOME": str(folder / "home"), "COLUMNS": "120", "NO_COLOR": "1"}
        python = str(self.bin / "python")
        self.run(str(made / "bin" / "python"), "-m", "venv", "--without-pip", str(folder / "venv"))
        where = "import sysconfig; print(sysconfig.get_path('purelib'))"
        site, libraries = (self.run(each, "-c", where).strip() for each in (python, str(made / "bin" / "python")))
        (Path(site) / "libraries.pth").write_text(f"{libraries}\n")
        uv = str(Path(sys.executable).parent / "uv")
        wheel = next(dist.glob("*.whl"))
        self.run(
            uv, "pip", "install", "--quiet", "--offline", "--no-index", "--no-deps", "--python", python, str(wheel)
        )

    def run(self, *command: str) -> str:
        """Run a command in the folder; what it prints. It must succeed."""
        done = subprocess.run(
            command, cwd=self.folder, env=self.environment, capture_output=True, text=True, check=False, timeout=300
        )
        assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}"
        return done.stdout

    def has(self, module: str) -> bool:
        """Return whether a library is in the environment."""
        code = f"import importlib.util; print(importlib.util.find_spec({module!r}) is not None)"
        return self.run(str(self.bin / "python"), "-c", code).strip() == "True"

    def llmtune(self, *arguments: str) -> str:
        """Type a command as it was installed."""
        return self.run(str(self.bin / "llmtune"), *arguments)

    def document(self, *arguments: str) -> Any:
        """What a command prints as JSON."""
        return json.loads(self.llmtune(*arguments, "--json"))


def write_tickets(path: Path, rows: int) -> None:
    """Write rows that name the team which answers a question."""
    with path.open("w") as file:
        for number in range(rows):
            turns = [
                {"role": "user", "content": f"Case {number}: who answers a question about {TEAMS[number % 3]}?"},
                {"role": "assistant", "content": TEAMS[number % 3]},
            ]
            file.write(json.dumps({"messages": turns}) + "\n")


@pytest.mark.parametrize("name", ["3.11", "3.12", "3.13"])
def test_the_readme_trains(name: str, dist: Path, tmp_path: Path) -> None:
    installed = Installed(name, dist, tmp_path)
    if not installed.has("torch"):
        pytest.skip("`python tools/make_pythons.py --local` adds what trains")
    write_tickets(tmp_path / "tickets.jsonl", 120)
    installed.llmtune("init", "tickets.jsonl", "--yes", "--model", "tiny")
    installed.llmtune("plan", "job.yaml", "--provider", "local")
    report = installed.document("tune", "job.yaml", "--provider", "local")
    assert report["identity"]["state"] == "succeeded"
    assert report["evaluation"]["systems"]["tuned"]
    assert len(installed.document("runs", "list")["runs"]) == 1
    installed.llmtune("runs", "attach", "tickets")
    installed.llmtune("report", "tickets", "--format", "html", "-o", "run.html")
    installed.llmtune("doctor", "--lifecycle")
    swept = installed.document(
        "sweep", "job.yaml", "-s", "learning_rate=1e-4..1e-2", "--set", "epochs=2", "--trials", "2"
    )
    assert len(swept["trials"]) == 2


@pytest.mark.parametrize("name", ["3.11", "3.12", "3.13", "lowest"])
def test_the_wheel_plans_and_runs(name: str, dist: Path, tmp_path: Path) -> None:
    installed = Installed(name, dist, tmp_path)
    write_tickets(tmp_path / "tickets.jsonl", 60)
    version = installed.run(str(installed.bin / "python"), "-c", "import sys; print('%d.%d' % sys.version_info[:2])")
    assert version.strip() == (name if name != "lowest" else "3.11")

    assert installed.llmtune("--version").strip() == f"llmtune {__version__}"
    assert "Train:" in installed.llmtune("--help")
    assert "0 errors" in installed.llmtune("data", "check", "tickets.jsonl")
    installed.llmtune("init", "tickets.jsonl", "--yes", "--model", "m-1")
    plans = installed.document("plan", "job.yaml", "--provider", "fake,local,openai,bedrock")["plans"]
    assert plans["fake"]["request"]["body"]["model"] == "m-1"
    assert plans["local"]["fields"]
    job = (tmp_path / "job.yaml").read_text().replace("m-1", "tiny")
    (tmp_path / "here.yaml").write_text(job)
    ready = installed.document("plan", "here.yaml", "--provider", "local")["plans"]["local"]["ready"]
    if not installed.has("torch"):
        assert ready["extra"] == "missing"  # said in the plan, which shows all else; the model itself is in the package
    report = installed.document("tune", "job.yaml", "--provider", "fake", "--yes")
    assert report["identity"]["state"] == "succeeded"
    (run,) = installed.document("runs", "list")["runs"]
    assert run["id"] == report["identity"]["run_id"]
    assert installed.document("runs", "attach", "tickets") == report
    installed.llmtune("report", "tickets", "--format", "html", "-o", "run.html")
    assert (tmp_path / "run.html").stat().st_size > 10_000
    assert installed.document("doctor")["installation"] is None
    installed.llmtune("doctor", "--lifecycle")
    installed.llmtune("runs", "backup", "backup.tar")
    assert installed.run(str(installed.bin / "python"), "-c", SCRIPT).strip()
    if name == "lowest":
        installed.run(str(installed.bin / "python"), "-c", EXTRAS)
        assert "9 valid rows" in installed.llmtune("data", "check", "rows.parquet")
        assert plans["openai"]["ready"]["extra"] == "installed"
        swept = installed.document(
            "sweep", "job.yaml", "-p", "fake", "-s", "learning_rate=1e-4..1e-2", "--trials", "2", "--yes"
        )
        assert len(swept["trials"]) == 2
