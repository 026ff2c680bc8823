"""A run on several machines, of which this one plays two: they meet, lose one another and meet again."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from llmtune.errors import LlmtuneError
from llmtune.provider.types import JobRef, RunState
from llmtune_local import LocalProvider
from llmtune_local.run_state.run_dir import RunDir
from llmtune_local.settings import LocalOptions, LocalSettings
from llmtune_local.worker import join, supervisor
from llmtune_local.worker.launch import torchrun_arguments
from tests.providers.llmtune_local.worker_groups import members, rank_of, series, temporary_run, wait

FLOAT32 = {"device": "cpu", "dtype": "float32"}


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[RunDir]:
    yield from temporary_run(tmp_path)


def free_port() -> int:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return int(listening.getsockname()[1])


@pytest.mark.slow
@pytest.mark.xdist_group("heavy")
@pytest.mark.timeout(400)
@pytest.mark.skipif(sys.platform != "linux", reason="who is at work is read from /proc")
def test_two_machines_train_what_one_does_though_one_is_lost(
    make_request: Callable[..., Any], train: Callable[..., Any], folder: RunDir
) -> None:
    settings = {"epochs": 6, "checkpoint_every": 5}
    alone = train({"options": FLOAT32}, **settings)
    nodes = {"processes": 2, "nodes": 2, "rendezvous": f"localhost:{free_port()}", "sharding": "shard"}
    folder.write_request(make_request({"options": FLOAT32 | nodes}, **settings))
    provider = LocalProvider("local", LocalSettings(runs=str(folder.path.parent)))
    job = JobRef(id=folder.path.name, url=None, data={"folder": str(folder.path)})
    supervisor.keep_alive(folder)
    snapshot = provider.poll(job, None)
    assert [event.message for event in snapshot.events] == [
        f"the run begins when 1 other machine has joined: run `python -m llmtune_local.worker.join {folder.path} --node"
        " N` there (N from 1 to 1)"
    ]
    command = [sys.executable, "-m", "llmtune_local.worker.join", str(folder.path)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as second:
        try:
            assert wait(lambda: folder.checkpoints()), folder.error_tail()
            os.kill(next(pid for pid in members(folder) if rank_of(pid) == 1), signal.SIGKILL)
            snapshot = wait(lambda: provider.poll(job, None), until=lambda polled: polled.state.final, seconds=240)
            assert snapshot.state is RunState.SUCCEEDED, snapshot.error
            assert second.wait(timeout=60) == 0
        finally:
            second.terminate()
        assert second.stderr is not None
        assert "the run is over" in second.stderr.read()
    assert any("resumed from step" in event.message for event in folder.read_events()[0])
    assert series(folder, "train/loss") == pytest.approx(series(alone.folder, "train/loss"), rel=1e-3)
    assert wait(lambda: members(folder), until=lambda pids: not pids) == []


def test_a_machine_that_the_run_does_not_wait_for_is_told(
    make_request: Callable[..., Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(LlmtuneError, match=r"nothing holds no run"):
        join.join_run(RunDir(tmp_path / "nothing"), 1)
    alone, pair = RunDir(tmp_path / "alone"), RunDir(tmp_path / "pair")
    alone.write_request(make_request())
    pair.write_request(make_request({"options": {"processes": 4, "nodes": 2, "rendezvous": "host:29500"}}))
    with pytest.raises(LlmtuneError, match="is on one machine"):
        join.join_run(alone, 1)
    assert join.main([str(pair.path), "--node", "2"]) == join.NOT_JOINED
    assert "the run has 2 machines, and waits for none of number 2" in capsys.readouterr().err
    pair.cancel()
    assert join.main([str(pair.path), "--node", "1"]) == join.OVER


def test_the_number_of_a_machine_is_slurms(
    make_request: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []
    monkeypatch.setattr(join, "join_run", lambda folder, node: asked.append((folder.path, node)) or 0)
    assert join.main([str(tmp_path)]) == 0
    monkeypatch.setenv("SLURM_NODEID", "3")
    assert join.main([str(tmp_path)]) == 0
    assert asked == [(tmp_path, 1), (tmp_path, 3)]


def test_machines_meet_at_the_rendezvous() -> None:
    options = {"processes": 8, "nodes": 2, "rendezvous": "node0:29500"}
    arguments = torchrun_arguments(options, 1)
    assert {"--nnodes=2", "--nproc-per-node=4", "--node-rank=1", "--master-addr=node0", "--master-port=29500"} <= set(
        arguments
    )


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"processes": 3, "nodes": 2, "rendezvous": "a:1"}, "3 processes cannot be divided equally among 2 nodes"),
        ({"processes": 2, "nodes": 2}, "2 nodes need rendezvous: HOST:PORT"),
        ({"processes": 2, "nodes": 2, "rendezvous": "a"}, "2 nodes need rendezvous: HOST:PORT"),
        ({"processes": 2, "nodes": 2, "rendezvous": "a:70000"}, "2 nodes need rendezvous: HOST:PORT"),
        ({"processes": 2, "nodes": 2, "rendezvous": "a:1", "launcher": "ray"}, "a Ray cluster spreads the processes"),
    ],
)
def test_machines_that_cannot_meet_are_refused(options: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        LocalOptions(**options)
