"""The best step's weights are not lost while the disk is full."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from llmtune_local.run_state.damage import DiskFull
from llmtune_local.training.best_weights import BestWeights


def test_weights_stay_in_memory_until_there_is_room(tmp_path: Path) -> None:
    best = BestWeights(tmp_path / "best")
    weights = {"a": torch.ones(2)}
    with pytest.raises(DiskFull):
        best.keep(weights, byte_count=1 << 60)
    assert best.read() is weights
    assert not (tmp_path / "best").exists()
    best.keep({"a": torch.zeros(2)}, byte_count=8)
    assert torch.equal(best.read()["a"], torch.zeros(2))
    assert torch.equal(BestWeights(tmp_path / "best").read()["a"], torch.zeros(2))
    (tmp_path / "best" / "weights.pt").unlink()
    best.write()  # nothing is held that could be written
    assert not (tmp_path / "best" / "weights.pt").exists()
