"""`make demo`, as its README promises it: training helps, by a margin nobody can call luck."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]

pytest.importorskip("torch")
pytest.importorskip("peft")


@pytest.mark.slow
@pytest.mark.xdist_group("heavy")
@pytest.mark.timeout(900)
def test_the_demo_beats_base_and_majority_beyond_doubt(own_home: Path) -> None:
    result = subprocess.run(
        [sys.executable, "-m", "llmtune", "tune", "examples/tickets/job.yaml", "--provider", "local", "--json"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env={**os.environ, "LLMTUNE_HOME": str(own_home)},
        timeout=850,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    report = json.loads(result.stdout)
    evaluation = report["evaluation"]
    assert evaluation["rows"] >= 200

    def accuracy(system: str) -> dict[str, float]:
        metric = next(each for each in evaluation["systems"][system]["metrics"] if each["name"] == "accuracy")
        return {"value": metric["value"], "low": metric["interval"]["low"], "high": metric["interval"]["high"]}

    tuned, base = accuracy("tuned"), accuracy("base")
    majority = evaluation["majority"]["accuracy"]
    for other in (base, {"value": majority["value"], "high": majority["interval"]["high"]}):
        assert tuned["value"] - other["value"] >= 0.20
        assert tuned["low"] > other["high"]
    for series in ("train/loss", "validation/loss", "validation/token_accuracy", "train/learning_rate"):
        assert len(report["series"][series]["points"]) >= 2, series
    losses = [point["value"] for point in report["series"]["train/loss"]["points"]]
    assert losses[-1] < losses[0] / 2
    assert report["diagnosis"]["verdict"]
    assert report["receipt"]
    adapter = Path(report["artifacts"]["model"])
    assert (adapter / "adapter_model.safetensors").is_file()
    # The progress went to standard error in plain lines, the way back was told, and nothing else was printed.
    assert "run " in result.stderr
    assert "Traceback" not in result.stderr
