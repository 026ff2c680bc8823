"""Local runs on the same lifecycle: killed, they end as if nobody had disturbed them."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

pytestmark = pytest.mark.usefixtures("no_long_pauses")

pytest.importorskip("torch")
pytest.importorskip("peft")


@pytest.fixture(scope="module")
def trials() -> ModuleType:
    path = Path(__file__).resolve().parents[2] / "benchmarks" / "crash_local.py"
    spec = importlib.util.spec_from_file_location("crash_local", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["crash_local"] = module
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
def test_a_killed_worker_and_a_killed_parent_end_with_the_same_losses(trials: ModuleType) -> None:
    calm = trials.run_local_trial("none:0")
    assert calm.fault is None
    assert sorted(calm.losses) == list(range(1, trials.STEPS + 1))
    for victim in ("worker:3", "parent:after-submit", "both:4"):
        outcome = trials.run_local_trial(victim, calm.losses)
        assert outcome.fault is None
        assert (outcome.killed, outcome.jobs, outcome.orphans) == (1, 1, 0)
