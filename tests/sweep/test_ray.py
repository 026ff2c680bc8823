"""Trials as tasks on a Ray cluster of this machine."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import llmtune
from llmtune import Hyperparameters, TuningJob
from llmtune.errors import InvalidSettings, MissingExtra
from llmtune.runs import Pace
from llmtune.sweeping.cluster import run_on_ray
from llmtune.testing.fake import Fake

pytest.importorskip("optuna")

OPTIONS: dict[str, Any] = {"method": "random", "pruning": False, "finalists": 0, "pace": Pace(first=0.01, most=0.05)}


@pytest.fixture
def vendor(monkeypatch: pytest.MonkeyPatch) -> Iterator[Fake]:
    with Fake() as fake:
        monkeypatch.setenv("LLMTUNE_FAKE_BASE_URL", fake.url)
        yield fake
        assert not fake.complaints, "\n".join(fake.complaints)


@pytest.fixture
def job(tmp_path: Path) -> TuningJob:
    rows = (
        {"messages": [{"role": "user", "content": f"case {at}"}, {"role": "assistant", "content": "yn"[at % 2]}]}
        for at in range(60)
    )
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return TuningJob(
        name="clustered",
        dataset=str(tmp_path / "rows.jsonl"),
        model={"fake": "m-1"},
        hyperparameters=Hyperparameters(epochs=1),
    )


@pytest.mark.slow
@pytest.mark.xdist_group("heavy")
def test_trials_run_on_a_cluster(job: TuningJob, vendor: Fake) -> None:
    pytest.importorskip("ray")
    here: list[Any] = []
    found = llmtune.sweep(
        job, "fake", {"lora_rank": (1, 4096)}, trials=6, parallel=2, ray="local", on_trial=here.append, **OPTIONS
    )
    assert len(found.trials) == len(vendor.jobs) == 6
    assert all(row.state == "complete" for row in found.trials)
    assert not here, "they were to run on the cluster"


def test_a_store_that_is_a_file_is_out_of_a_clusters_reach() -> None:
    pytest.importorskip("ray")
    with pytest.raises(InvalidSettings, match="cannot reach a store that is a file"):
        run_on_ray("x", "ray://10.0.0.1:10001", 2)


def test_without_ray_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingExtra, match="ray"):
        run_on_ray("x", "local", 2)
