"""The gradient of a reinforcement step is that of TRL's GRPOTrainer on the same answers, where TRL is installed (the
extra `bench`)."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest


@pytest.mark.slow
def test_gradients_are_those_of_trl() -> None:
    pytest.importorskip("trl")
    pytest.importorskip("peft")
    path = Path(__file__).resolve().parents[3] / "benchmarks" / "reinforcement_gradients.py"
    spec = importlib.util.spec_from_file_location("reinforcement_gradients", path)
    assert spec is not None
    assert spec.loader is not None
    benchmark = importlib.util.module_from_spec(spec)
    sys.modules["reinforcement_gradients"] = benchmark
    spec.loader.exec_module(benchmark)
    assert benchmark.main() == 0
