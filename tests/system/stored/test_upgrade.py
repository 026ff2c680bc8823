"""A run that trains while llmtune is upgraded under it ends, and the new version has its report.

An upgrade replaces every file of the package. A worker has read what it needs into memory before its first step, so a
file that is no longer there, or is another version's, does not concern it; here every module that the worker started
from is made unusable, and the checkout takes the place of the new version.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("heavy"), pytest.mark.timeout(600)]

JOB = """\
name: long
dataset: {path: rows.jsonl, split: [0.6, 0.2, 0.2]}
model: tiny
hyperparameters: {epochs: 2, batch_size: 8, learning_rate: 2e-3, lora_rank: 2, checkpoint_every: 4}
seed: 3
"""

#: Added to the copy that the worker starts from: after its second step it waits for the upgrade.
WAIT = """

_append_metrics = RunDir.append_metrics


def _append_and_wait(self, points):
    _append_metrics(self, points)
    if points[-1].step >= 2:
        (self.path / "waits").touch()
        while not (self.path / "upgraded").exists():
            time.sleep(0.02)


RunDir.append_metrics = _append_and_wait
"""


def lay(into: Path) -> Path:
    """Put a copy of the package into a folder, as an installation has it."""
    for package in (ROOT / "llmtune", *sorted((ROOT / "providers").glob("llmtune_*"))):
        shutil.copytree(package, into / package.name, ignore=shutil.ignore_patterns("__pycache__", "fake"))
    return into


def until(true: Callable[[], bool], folder: Path, seconds: float = 300) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        log = folder / "worker.log"
        assert time.monotonic() < deadline, log.read_text() if log.exists() else "it never began"
        time.sleep(0.02)


def test_a_worker_ends_after_its_modules_were_replaced(tmp_path: Path) -> None:
    pytest.importorskip("peft")
    installed, project = lay(tmp_path / "installed"), tmp_path / "project"
    project.mkdir()
    (project / "job.yaml").write_text(JOB)
    with (project / "rows.jsonl").open("w") as file:
        for at in range(40):
            turns = [{"role": "user", "content": f"{at} of {at % 7}"}, {"role": "assistant", "content": "yes"}]
            file.write(json.dumps({"messages": turns}) + "\n")
    with (installed / "llmtune_local" / "run_state" / "run_dir.py").open("a") as file:
        file.write(WAIT)

    def llmtune(path: list[Path], *arguments: str) -> subprocess.CompletedProcess[str]:
        environment = {name: value for name, value in os.environ.items() if not name.startswith("LLMTUNE_")}
        environment |= {
            "LLMTUNE_HOME": str(tmp_path / "home"),
            "HF_HUB_OFFLINE": "1",
            "PYTHONPATH": os.pathsep.join(map(str, path)),
        }
        command = [sys.executable, "-P", "-m", "llmtune", *arguments]
        return subprocess.run(command, cwd=project, env=environment, capture_output=True, text=True, check=False)

    started = llmtune([installed], "tune", "job.yaml", "-p", "local", "--detach")
    assert started.returncode == 0, started.stderr
    (folder,) = (tmp_path / "home" / "local").iterdir()

    def status() -> dict[str, object]:
        path = folder / "status.json"
        return dict(json.loads(path.read_text())) if path.exists() else {}

    until(lambda: (folder / "waits").exists() or status().get("state") == "failed", folder)
    for path in installed.rglob("*.py"):
        path.write_text("raise ImportError('this file was replaced by an upgrade')\n")
    for path in installed.rglob("__pycache__"):
        shutil.rmtree(path)
    assert status()["state"] == "running", (folder / "worker.log").read_text()
    (folder / "upgraded").touch()
    until(lambda: status()["state"] in ("succeeded", "failed", "cancelled"), folder)
    assert status()["state"] == "succeeded", (folder / "worker.log").read_text()

    assert "replaced by an upgrade" in llmtune([installed], "runs", "list").stderr  # nothing of the old one is left
    current = [ROOT, ROOT / "providers"]
    report = llmtune(current, "runs", "attach", "long", "--json")
    assert report.returncode == 0, report.stderr
    assert json.loads(report.stdout)["identity"]["state"] == "succeeded"
    assert len((folder / "launched").read_text().splitlines()) == 1
