"""A run on a Ray cluster: two CPU processes, one of which is killed; and what is said where there is no cluster."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from llmtune.provider.types import JobRef, RunState
from llmtune_local import LocalProvider
from llmtune_local.run_state.run_dir import RunDir
from llmtune_local.settings import LocalSettings
from llmtune_local.worker import ray_launcher

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("heavy"), pytest.mark.timeout(600)]

RAY = {"device": "cpu", "dtype": "float32", "processes": 2, "launcher": "ray"}


def losses(folder: RunDir) -> list[float]:
    return [line.value for line in folder.read_metrics()[0] if line.series == "train/loss"]


def parts() -> list[int]:
    """Ray's processes of a team."""
    pids = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            command = path.read_text(errors="replace")
            if command.startswith("ray::") and "TrainWorker" in command:
                pids.append(int(path.parent.name))
    return pids


@pytest.fixture
def ray_here() -> None:
    """Ray, where its cluster starts at all."""
    pytest.importorskip("ray.train")
    code = """
from llmtune._ray import on_ray
with on_ray("local", cpus=1, purpose="a look") as ray:
    assert ray.get(ray.remote(lambda: 7).remote()) == 7
"""
    try:
        tried = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=90, check=False)
    except subprocess.TimeoutExpired:
        pytest.skip("Ray's cluster does not start here within 90 s")
    if tried.returncode:
        pytest.skip(f"Ray's cluster does not start here: {tried.stderr.strip().splitlines()[-1:]}")


@pytest.mark.usefixtures("ray_here", "strange_folder")
def test_a_team_on_a_cluster_survives_a_killed_process(
    make_request: Callable[..., Any], train: Callable[..., Any], tmp_path: Path
) -> None:
    settings = {"epochs": 12, "checkpoint_every": 5, "dropout": 0.0}
    alone = train({"options": {"device": "cpu", "dtype": "float32"}}, **settings)
    folder = RunDir(tmp_path / "cluster")
    folder.write_request(make_request({"options": RAY}, **settings))
    provider = LocalProvider("local", LocalSettings(runs=str(tmp_path)))
    job = JobRef(id=folder.path.name, url=None, data={"folder": str(folder.path)})
    end = time.monotonic() + 500
    killed = False
    while not (snapshot := provider.poll(job, None)).state.final and time.monotonic() < end:
        if not killed and folder.checkpoints() and len(team := parts()) == 2:
            os.kill(max(team), signal.SIGKILL)
            killed = True
        time.sleep(0.05)
    assert killed
    assert snapshot.state is RunState.SUCCEEDED, (snapshot.error, folder.error_tail())
    status = folder.read_status()
    assert status is not None
    assert status.attempt >= 2
    assert "2 processes" in status.features
    assert any("resumed from step" in event.message for event in snapshot.events)
    assert losses(folder) == pytest.approx(losses(alone.folder), rel=1e-3, abs=1e-5)
    assert len((folder.path / "launched").read_text().splitlines()) == 1, "Ray itself started them again"


def test_without_ray_the_extra_is_named_in_the_run(
    make_request: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    monkeypatch.setattr("logging.basicConfig", lambda **_: None)  # it is the process's own, and this one is a test's
    folder = RunDir(tmp_path / "nowhere")
    folder.write_request(make_request({"options": RAY}))
    assert ray_launcher.main([str(folder.path)]) == 1
    status = folder.read_status()
    assert status is not None
    assert status.state == "failed"
    assert "ray" in (status.error or "")
