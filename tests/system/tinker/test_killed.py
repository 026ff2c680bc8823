"""Real processes of a run at Tinker, killed on their way: the session, the steps and the losses stay one run's."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path
from typing import Any, Literal

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


def prepare(provider: TinkerProvider, folder: Path, method: Literal["sft", "dpo"]) -> core.Request:
    rows: list[Any] = [
        {"messages": [{"role": "user", "content": f"ticket {n}"}, {"role": "assistant", "content": "ab"[n % 2] * 3}]}
        for n in range(24)
    ]
    if method == "dpo":
        rejected = [{"role": "assistant", "content": "c"}]
        rows = [{"prompt": row["messages"][:1], "chosen": row["messages"][1:], "rejected": rejected} for row in rows]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    job = TuningJob(
        name="killed",
        dataset=str(folder / "rows.jsonl"),
        model={"tinker": QWEN},
        method=method,
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


#: Where the process is killed, by method: the route, whether the call is still taken, and how many are before it.
KILLS: dict[str, list[tuple[str, bool, int]]] = {
    # the gradient of step 3 is taken, its update never arrives; the state of a later step is saved, and nobody hears
    "sft": [("optim_step", False, 2), ("save", True, 4)],
    # after the pass for the reference and two steps of two: between the likelihoods of step 3 and their gradient
    "dpo": [("forward_backward", True, 5)],
}


@pytest.mark.parametrize("method", ["sft", "dpo"])
def test_killed_in_the_middle_of_a_step_and_while_a_state_is_saved(
    tinker_vendor: FakeTinker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: Literal["sft", "dpo"]
) -> None:
    monkeypatch.setenv("LLMTUNE_HOME", str(tmp_path / "home"))
    provider = TinkerProvider("tinker", TinkerSettings(base_url=tinker_vendor.url, timeout=5))
    request = prepare(provider, tmp_path, method)
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

    for route, handled, before in KILLS[method]:
        fault = faults.Fault(kind="call", handled=handled, action=kill)
        tinker_vendor.faults.add(fault, route=route, after=before)
    ref = provider.submit(request, key)
    killed = run_to_its_end(provider, ref)
    assert killed.state is core.RunState.SUCCEEDED, killed.error
    assert killed.model is not None
    status = folder.read_status()
    assert status is not None
    assert status.attempt == 1 + len(KILLS[method])
    assert tinker_vendor.updates_of(killed.model.id) == tinker_vendor.updates_of(undisturbed.model.id)
    assert len(tinker_vendor.updates_of(killed.model.id)) == len(losses(undisturbed))
    assert losses(killed) == losses(undisturbed)
    assert len(tinker_vendor.jobs_with(key)) == 1, "one session for one run"
    assert tinker_vendor.complaints == []
    assert all(
        "tml-test" not in path.read_text("utf-8", "replace") for path in folder.path.rglob("*") if path.is_file()
    )
