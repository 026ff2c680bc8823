"""Several processes train what one trains: the same losses, and one end for all of them."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from llmtune.errors import DeviceUnavailable, InvalidJob
from llmtune.provider.types import JobRef, RunState
from llmtune.runs.store.store import open_store
from llmtune_local import LocalProvider
from llmtune_local.models import memory_estimate
from llmtune_local.run_state.run_dir import RunDir
from llmtune_local.run_state.schema import WorkerOptions
from llmtune_local.settings import LocalOptions, LocalSettings
from llmtune_local.training.distributed import ALONE, WorkerGroup, check_worker_group, join
from llmtune_local.worker.launch import launch
from llmtune_local.worker.supervisor import keep_alive
from tests.providers.llmtune_local.worker_groups import ended, members, rank_of, series, temporary_run, wait

if sys.platform != "linux":
    pytest.skip("who is at work is read from /proc", allow_module_level=True)

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("heavy"), pytest.mark.timeout(240)]

TWO = {"device": "cpu", "processes": 2}


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[RunDir]:
    yield from temporary_run(tmp_path)


def rows_of(method: str, data: dict[str, str], folder: Path) -> dict[str, str]:
    if method == "sft":
        return data
    pair = {"dpo": {"prompt": "one two", "chosen": "odd one", "rejected": "no"}, "classification": {"text": "one two"}}
    path = folder / "rows.jsonl"
    lines = [
        {key: f"{text} {'fox ' * (i % 5)}" for key, text in pair[method].items()}
        | ({"label": str(i % 2)} if method == "classification" else {})
        for i in range(25)
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return {"train": str(path), "validation": str(path)}


@pytest.mark.usefixtures("strange_folder")
@pytest.mark.parametrize("method", ["sft", "dpo", "classification"])
def test_two_processes_give_the_losses_of_one(
    make_request: Callable[..., Any],
    train: Callable[..., Any],
    data: dict[str, str],
    tmp_path: Path,
    folder: RunDir,
    method: str,
) -> None:
    run_request: dict[str, Any] = {"method": method, "files": rows_of(method, data, tmp_path)}
    if method == "classification":
        run_request["model"] = "tiny-encoder"
    # 25 rows by 8: the last step has one row, and one process none.
    settings = {"dropout": 0.0, "attention_dropout": 0.0, "epochs": 2, "learning_rate": 1e-3, "eval_every": 2}
    alone = train(run_request | {"options": {"device": "cpu", "dtype": "float32"}}, **settings)
    folder.write_request(make_request(run_request | {"options": TWO | {"dtype": "float32"}}, **settings))
    launch(folder.path)
    assert ended(folder) == "succeeded"
    names = {line.series for line in folder.read_metrics()[0]} - {"train/tokens_per_second"}
    assert {"train/loss", "validation/loss", "train/grad_norm"} <= names
    for name in names:
        # Sums in another order, carried on from step to step by Adam: 1e-4 relative.
        assert series(folder, name) == pytest.approx(series(alone.folder, name), rel=1e-4, abs=1e-5), name
    result, expected = folder.read_result(), alone.folder.read_result()
    assert result is not None
    assert "2 processes" in result.features
    assert (result.steps, result.tokens, result.trained_tokens) == (
        expected.steps,
        expected.tokens,
        expected.trained_tokens,
    )
    assert members(folder) == []


@pytest.mark.parametrize("victim", [0, 1])
def test_a_killed_process_costs_the_steps_since_the_last_checkpoint(
    make_request: Callable[..., Any], train: Callable[..., Any], folder: RunDir, victim: int
) -> None:
    settings = {"epochs": 12, "checkpoint_every": 5, "dropout": 0.0}
    alone = train({"options": {"device": "cpu", "dtype": "float32"}}, **settings)
    folder.write_request(make_request({"options": TWO | {"dtype": "float32"}}, **settings))
    provider = LocalProvider("local", LocalSettings(runs=str(folder.path.parent)))
    keep_alive(folder)
    assert wait(lambda: folder.checkpoints())
    os.kill(next(pid for pid in members(folder) if rank_of(pid) == victim), signal.SIGKILL)
    job = JobRef(id=folder.path.name, url=None, data={"folder": str(folder.path)})
    snapshot = wait(lambda: provider.poll(job, None), until=lambda polled: polled.state.final, seconds=180)
    assert snapshot.state is RunState.SUCCEEDED, snapshot.error
    status = folder.read_status()
    assert status is not None
    assert status.attempt == 2
    assert any("resumed from step" in event.message for event in snapshot.events)
    assert series(folder, "train/loss") == pytest.approx(series(alone.folder, "train/loss"), rel=1e-3, abs=1e-5)
    assert wait(lambda: members(folder), until=lambda pids: not pids) == []


def test_a_team_that_is_cancelled_keeps_a_checkpoint_and_goes_on(
    make_request: Callable[..., Any], folder: RunDir
) -> None:
    folder.write_request(make_request({"options": TWO}, epochs=200))
    launch(folder.path)
    assert wait(lambda: series(folder, "train/loss"))
    folder.cancel()
    assert ended(folder) == "cancelled"
    assert members(folder) == []
    assert folder.checkpoints()


def test_nobody_trains_on_when_the_launcher_is_killed(make_request: Callable[..., Any], folder: RunDir) -> None:
    folder.write_request(make_request({"options": TWO}, epochs=500))
    launcher = launch(folder.path)
    assert wait(lambda: series(folder, "train/loss"))
    assert len(members(folder)) == 2
    os.kill(launcher.pid, signal.SIGKILL)
    assert wait(lambda: members(folder), until=lambda pids: not pids, seconds=20) == []
    status = folder.read_status()
    assert status is not None
    assert status.state == "running"  # so that whoever polls starts it again


def test_a_job_with_two_processes_is_an_ordinary_run(tmp_path: Path) -> None:
    import llmtune
    from llmtune import Hyperparameters, TuningJob

    lines = [
        {"messages": [{"role": "user", "content": f"case {i}"}, {"role": "assistant", "content": "yn"[i % 2]}]}
        for i in range(40)
    ]
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    job = TuningJob(
        name="pair",
        dataset=str(path),
        model="tiny",
        hyperparameters=Hyperparameters(epochs=1, max_steps=2),
        provider_options={"local": {"processes": 2, "device": "cpu"}},
    )
    report = llmtune.tune(job, "local")
    (run,) = open_store().runs()
    assert run.state is RunState.SUCCEEDED
    assert any("2 processes" in event.message for _, event in llmtune.attach(run.id).events())
    assert report.to_markdown()


@pytest.mark.parametrize("environment", [{}, {"WORLD_SIZE": "3", "RANK": "0"}])
def test_another_number_of_processes_is_refused(environment: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("WORLD_SIZE", "RANK"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(InvalidJob, match=r"2 processes were asked for and [13] started"):
        join(WorkerOptions(processes=2), "cpu")
    assert join(WorkerOptions(), "cpu") is ALONE  # a variable of the user's own does not make a team


def test_what_cannot_be_is_said_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    with pytest.raises(ValueError, match="launcher worker starts one process, not 2"):
        LocalOptions(launcher="worker", processes=2)
    with pytest.raises(InvalidJob, match="mps"):
        check_worker_group(WorkerOptions(processes=2), "mps")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(DeviceUnavailable, match="2 processes need as many CUDA devices and there are 1"):
        check_worker_group(WorkerOptions(processes=2), "cuda")
    check_worker_group(WorkerOptions(processes=2), "cpu")
    check_worker_group(WorkerOptions(processes=2, launcher="ray"), "cuda")


def test_shares_are_disjoint_and_whole() -> None:
    batches = list("abcdefg")
    parts = [WorkerGroup(rank, 3).share(batches) for rank in range(3)]
    assert sorted(batch for part in parts for batch in part) == batches
    assert WorkerGroup(2, 3).share(["a"]) == []


def test_memory_is_told_for_all_processes_together() -> None:
    shape = memory_estimate.read_shape("tiny")
    assert shape is not None
    plan = memory_estimate.Plan(adapter="lora", tokens=512, trained_tokens=128)
    one, two = (memory_estimate.estimate(shape, replace(plan, processes=count)).peak or 0 for count in (1, 2))
    assert two == 2 * one
    assert memory_estimate.count_sharing_processes({"processes": 2}, "cpu") == 2
    assert memory_estimate.count_sharing_processes({"processes": 2}, "cuda") == 1
    assert memory_estimate.count_sharing_processes({"processes": 2, "launcher": "ray"}, "cpu") == 1
