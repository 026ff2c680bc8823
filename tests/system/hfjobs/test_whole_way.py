"""Rented runs from start to end, where machines are taken away, budgets are used up and clients are killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from llmtune.job.spec import TuningJob
from llmtune.provider.types import JobRef, RunState, Snapshot
from llmtune.runs.api import attach
from llmtune.runs.failpoints import FAILPOINTS
from llmtune.runs.ids import new_run_id, run_key
from llmtune.runs.plans import plan
from llmtune.runs.poller import PollInterval
from llmtune.runs.store.store import open_store
from llmtune_hfjobs import HfJobsProvider
from llmtune_hfjobs.fake.service import FakeHfJobs
from tests.providers.llmtune_hfjobs.conftest import TOKEN, TRAINED, provider_at

pytestmark = pytest.mark.slow
EVERY_ARROW = bool(os.environ.get("EVERY_ARROW"))
PACE = PollInterval(first=0.1, most=0.5)


@pytest.fixture
def vendor(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    with FakeHfJobs(api_key=TOKEN, results=TRAINED) as fake:
        yield fake
        assert fake.complaints == []


def write_job(folder: Path, *, options: dict[str, Any] | None = None, **hyperparameters: Any) -> TuningJob:
    rows = [
        {"messages": [{"role": "user", "content": f"ticket {n}"}, {"role": "assistant", "content": f"team {n % 3}"}]}
        for n in range(40)
    ]
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    recipe = {"max_steps": 4, "batch_size": 8, "epochs": 20} | hyperparameters
    return TuningJob.model_validate(
        {
            "name": "rented",
            "dataset": str(path),
            "model": "tiny",
            "adapter": "lora",
            "hyperparameters": recipe,
            "evaluation": {"max_rows": 2, "baseline": False},
            "provider_options": {"hfjobs": options or {}},
        }
    )


def submit(provider: HfJobsProvider, job: TuningJob, folder: Path) -> JobRef:
    from llmtune.planning.plan import read_dataset

    dataset: Any = read_dataset(job)
    receipt = plan(job, provider, dataset=dataset)
    files = {str(file.role): provider.upload(file) for file in provider.encode(dataset, receipt, folder / "e").files}
    return provider.submit(provider.build(receipt, files), run_key(new_run_id()))


def wait(provider: HfJobsProvider, ref: JobRef, *, until: Callable[[Snapshot], bool]) -> list[Snapshot]:
    snapshots: list[Snapshot] = []
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline:
        snapshots.append(provider.poll(ref, snapshots[-1].cursor if snapshots else None))
        if until(snapshots[-1]) or snapshots[-1].state.final:
            return snapshots
        time.sleep(0.2)
    raise AssertionError(f"nothing within 300 s; the last is {snapshots[-1]}")


def read_losses(provider: HfJobsProvider, ref: JobRef) -> dict[int, float]:
    points = provider.poll(ref, None).points
    return {point.step: point.value for point in points if point.series == "train/loss"}


def test_a_run_that_is_preempted_goes_on_and_learns_the_same(vendor: FakeHfJobs, tmp_path: Path) -> None:
    provider = provider_at(vendor)
    whole = submit(provider, write_job(tmp_path, max_steps=30, checkpoint_every=4), tmp_path / "a")
    wait(provider, whole, until=lambda snapshot: False)
    expected = read_losses(provider, whole)
    assert sorted(expected) == list(range(1, 31))

    vendor.results = None
    broken = submit(provider, write_job(tmp_path, max_steps=30, checkpoint_every=4), tmp_path / "b")
    key = broken.data["key"]
    stored = vendor.root / "buckets" / "acme" / "llmtune" / "runs" / key / "checkpoints"
    job = vendor.jobs[broken.id]
    process = vendor.machines[job.id]
    deadline = time.monotonic() + 300
    while not any(stored.glob("step-*/trainer.pt")) and process.exit_status is None:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    vendor.preempt(job)
    last = wait(provider, broken, until=lambda snapshot: False)[-1]
    assert last.state is RunState.SUCCEEDED, last.error
    assert process.attempts == 2, "the service started the job again"
    assert len(vendor.jobs) == 2
    actual = read_losses(provider, broken)
    assert sorted(actual) == sorted(expected)
    assert max(abs(actual[step] - expected[step]) for step in expected) < 1e-6
    assert last.model is not None
    assert not stored.parent.exists() or not any(path.is_file() for path in stored.parent.rglob("*"))


def test_a_run_that_has_used_up_its_budget_ends_and_says_how_it_goes_on(vendor: FakeHfJobs, tmp_path: Path) -> None:
    """That it stops with a checkpoint in time is in test_entry.py, by a clock of its own."""
    provider = provider_at(vendor)
    options = {"max_cost": 2 * 0.007, "machine": "t4-small"}  # two minutes
    create = vendor.create_job

    def with_used(call: Any) -> Any:
        for run in (vendor.root / "buckets" / "acme" / "llmtune" / "runs").iterdir():
            (run / "used.json").write_text(json.dumps({"seconds": 119.0}), encoding="utf-8")
        return create(call)

    vendor.create_job = with_used  # type: ignore[method-assign]
    ref = submit(provider, write_job(tmp_path, options=options), tmp_path / "e")
    assert vendor.jobs[ref.id].body["timeoutSeconds"] == 120 + 60
    last = wait(provider, ref, until=lambda snapshot: False)[-1]
    assert last.state is RunState.FAILED
    assert last.error is not None
    assert "stopped at its limit of cost or time; it had no checkpoint yet" in last.error
    assert last.billed is not None
    assert last.billed.amount == pytest.approx(0.007)
    assert vendor.running == []
    assert provider.resume_point(ref) == "the beginning: it has no checkpoint"


CLIENT = """
import os, signal, sys
from llmtune.job.spec import TuningJob
from llmtune.runs import failpoints
from llmtune.runs.api import start
from llmtune.runs.poller import PollInterval
from llmtune_hfjobs import HfJobsProvider
from llmtune_hfjobs.settings import HfJobsSettings
job = TuningJob.model_validate_json(sys.argv[1])
arrow = sys.argv[3]
failpoints.failpoint_hook = lambda name: os.kill(os.getpid(), signal.SIGKILL) if name == arrow else None
provider = HfJobsProvider("hfjobs", HfJobsSettings(base_url=sys.argv[2], timeout=10))
start(job, provider, yes=True).wait(timeout=300, pace=PollInterval(first=0.1, most=0.5))
"""

#: There are no deployments here. One arrow of each stretch; with EVERY_ARROW in the environment all of them.
ARROWS = [name for name in FAILPOINTS if "deploy" not in name]
if not EVERY_ARROW:
    ARROWS = ["after-submit", "polled"]


@pytest.mark.parametrize("arrow", ARROWS)
def test_a_client_that_is_killed_leaves_one_job_and_no_orphan(vendor: FakeHfJobs, tmp_path: Path, arrow: str) -> None:
    job = write_job(tmp_path, options={"machine": "t4-small"})
    child = subprocess.run(
        [sys.executable, "-c", CLIENT, job.model_dump_json(), vendor.url, arrow],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
        capture_output=True,
        timeout=300,
        check=False,
    )
    assert child.returncode == -signal.SIGKILL, child.stderr.decode()[-2000:]
    provider = provider_at(vendor)
    (record,) = open_store().runs()
    run = attach(record.id, provider=provider)
    run.wait(timeout=300, pace=PACE)
    assert run.state is RunState.SUCCEEDED
    assert len(vendor.jobs) == 1
    assert vendor.running == []
    assert provider.list_strays() == []
    bucket = vendor.root / "buckets" / "acme" / "llmtune"
    assert [path for path in bucket.rglob("*") if path.is_file() and path.suffix != ".whl"] == []
