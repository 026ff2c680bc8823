"""Trials as tasks on a Ray cluster of this machine."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

import llmtune
from llmtune import TuningJob
from llmtune.errors import InvalidSettings, MissingExtra
from llmtune.runs.poller import PollInterval
from llmtune.sweeps.ray import run_on_ray
from llmtune.testing.generic_vendor import Fake

pytest.importorskip("optuna")

OPTIONS: dict[str, Any] = {
    "method": "random",
    "pruning": False,
    "finalists": 0,
    "pace": PollInterval(first=0.01, most=0.05),
}


@pytest.fixture
def job(make_job: Callable[..., TuningJob]) -> TuningJob:
    return make_job(60, name="clustered", model={"fake": "m-1"})


@pytest.mark.slow
@pytest.mark.xdist_group("heavy")
def test_trials_run_on_a_cluster(job: TuningJob, vendor: Fake) -> None:
    pytest.importorskip("ray")
    here: list[Any] = []
    sweep = llmtune.sweep(
        job, "fake", {"lora_rank": (1, 4096)}, trials=6, parallel=2, ray="local", on_trial=here.append, **OPTIONS
    )
    assert len(sweep.trials) == len(vendor.jobs) == 6
    assert all(row.state == "complete" for row in sweep.trials)
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
