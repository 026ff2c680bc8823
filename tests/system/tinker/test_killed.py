"""Real processes of a run at Tinker, killed on their way: the session, the steps and the losses stay one run's."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest

import llmtune.provider as core
from llmtune.job.spec import Hyperparameters, TuningJob
from llmtune.planning.plan import read_dataset
from llmtune.runs.ids import new_run_id, run_key
from llmtune.runs.plans import plan
from llmtune.testing import faults
from llmtune_local.worker import supervisor
from llmtune_tinker.fake.service import FakeTinker
from llmtune_tinker.provider import TinkerProvider
from llmtune_tinker.run_folder import LoopFolder
from llmtune_tinker.settings import TinkerSettings
from tests.providers.llmtune_tinker.conftest import QWEN, Threads, tinker_vendor

__all__ = ["tinker_vendor"]

pytestmark = pytest.mark.slow


def prepare(provider: TinkerProvider, folder: Path) -> core.Request:
    rows = [
        {"messages": [{"role": "user", "content": f"ticket {n}"}, {"role": "assistant", "content": "ab"[n % 2] * 3}]}
        for n in range(24)
    ]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    job = TuningJob(
        name="killed",
        dataset=str(folder / "rows.jsonl"),
        model={"tinker": QWEN},
        hyperparameters=Hyperparameters(epochs=1, batch_size=4, learning_rate=0.1, checkpoint_every=1),
        provider_options={"tinker": {"tokenizer": "tiny"}},
    )
    dataset: Any = read_dataset(job)
    receipt = plan(job, provider, dataset=dataset)
    assert receipt.refusals == ()
    encoded = provider.encode(dataset, receipt, folder / "encoded")
    files = {str(file.role): provider.upload(file) for file in encoded.files}
    return provider.build(receipt, files)


def run_to_its_end(provider: TinkerProvider, ref: core.JobRef) -> core.Snapshot:
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline:
        snapshot = provider.poll(ref, None)
        if snapshot.state.final:
            return snapshot
        time.sleep(0.2)
    raise AssertionError(f"no end: {snapshot.raw_state}")


def losses(snapshot: core.Snapshot) -> dict[int, float]:
    return {point.step: point.value for point in snapshot.points if point.series == "train/loss"}


def test_killed_between_gradient_and_update_and_while_a_state_is_saved(
    tinker_vendor: FakeTinker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LLMTUNE_HOME", str(tmp_path / "home"))
    provider = TinkerProvider("tinker", TinkerSettings(base_url=tinker_vendor.url, timeout=5))
    request = prepare(provider, tmp_path)
    threads = Threads()  # the undisturbed run needs no process of its own
    with monkeypatch.context() as patch:
        patch.setattr(supervisor, "launch", threads.launch)
        patch.setattr(supervisor, "_worker_runs", threads.runs)
        undisturbed = run_to_its_end(provider, provider.submit(request, run_key(new_run_id())))
        threads.join()
    assert undisturbed.state is core.RunState.SUCCEEDED, undisturbed.error
    assert undisturbed.model is not None

    key = run_key(new_run_id())
    folder = LoopFolder(tmp_path / "home" / "tinker" / "runs" / key)

    def kill() -> None:
        status = folder.read_status()
        assert status is not None
        assert status.pid is not None
        os.kill(status.pid, signal.SIGKILL)

    # the gradient of step 3 is taken, its update never arrives
    between = faults.Fault(kind="call", handled=False, action=kill)
    tinker_vendor.faults.add(between, route="optim_step", after=2)
    # the state of a later step is saved, and nobody hears of it
    unheard = faults.Fault(kind="call", handled=True, action=kill)
    tinker_vendor.faults.add(unheard, route="save", after=4)
    ref = provider.submit(request, key)
    killed = run_to_its_end(provider, ref)
    assert killed.state is core.RunState.SUCCEEDED, killed.error
    assert killed.model is not None
    status = folder.read_status()
    assert status is not None
    assert status.attempt == 3
    assert tinker_vendor.updates_of(killed.model.id) == tinker_vendor.updates_of(undisturbed.model.id)
    assert len(tinker_vendor.updates_of(killed.model.id)) == len(losses(undisturbed))
    assert losses(killed) == losses(undisturbed)
    assert len(tinker_vendor.jobs_with(key)) == 1, "one session for one run"
    assert tinker_vendor.complaints == []
    assert all(
        "tml-test" not in path.read_text("utf-8", "replace") for path in folder.path.rglob("*") if path.is_file()
    )
