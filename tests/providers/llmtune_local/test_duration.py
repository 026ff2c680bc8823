"""How long a run takes is estimated from an earlier one, else roughly, and says which."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from llmtune import TuningJob
from llmtune.planning.plan import plan
from llmtune.provider.duration import Duration, MeasuredSpeed, Span


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    path = tmp_path / "rows.jsonl"
    with path.open("w") as file:
        for number in range(400):
            turns = [("user", f"Parcel {number} is late, what now?"), ("assistant", "late" if number % 2 else "lost")]
            file.write(json.dumps({"messages": [{"role": role, "content": text} for role, text in turns]}) + "\n")
    return path


def estimate(rows: Path, speed: MeasuredSpeed | None = None, **fields: Any) -> Duration:
    options = {"local": {"device": "cpu", "num_threads": 1}}
    job = {"name": "parcels", "dataset": str(rows), "model": "tiny", "provider_options": options} | fields
    receipt = plan(TuningJob.model_validate(job), "local", recall_speed=lambda _, device: speed)
    assert receipt.duration is not None
    return receipt.duration


def test_without_an_earlier_run_it_is_rough_and_says_so(rows: Path) -> None:
    duration = estimate(rows)
    assert not duration.measured
    assert duration.training is not None
    assert duration.evaluation is not None
    assert 0 < duration.training.low < duration.training.high
    assert duration.sentence().startswith("about ")
    assert duration.sentence().endswith("million parameters on 1 core, measured on no run yet")
    longer = estimate(rows, hyperparameters={"epochs": 100})
    shorter = estimate(rows, hyperparameters={"max_steps": 1})
    assert longer.training is not None
    assert shorter.training is not None
    assert shorter.training.high < duration.training.high < longer.training.high
    larger = estimate(rows, model="some/model-7B")
    assert larger.training is not None
    assert larger.training.low > longer.training.low
    assert "does not say its size" in estimate(rows, model="some/model").sentence()


def test_an_earlier_run_has_measured_it(rows: Path) -> None:
    speed = MeasuredSpeed(run="r-1", tokens=10_000, tokens_per_second=100.0, seconds_per_question=0.5)
    once, twice = (estimate(rows, speed, hyperparameters={"epochs": epochs}) for epochs in (1, 2))
    assert once.measured
    assert once.training is not None
    assert twice.training is not None
    assert twice.training.high == pytest.approx(2 * once.training.high)
    assert once.evaluation == twice.evaluation == Span(low=0.8 * 0.5 * 120, high=1.5 * 0.5 * 120)  # 40 rows, 3 models
    assert "by the speed of run r-1 (100 tokens/s in all)" in once.sentence()
    unasked = estimate(rows, speed.model_copy(update={"seconds_per_question": None}), hyperparameters={"epochs": 1})
    assert unasked.evaluation is not None


@pytest.mark.parametrize(
    ("low", "high", "says"),
    [
        (3, 8, "3 to 8 seconds"),
        (0.1, 0.4, "1 second"),
        (61, 62, "61 to 62 seconds"),
        (170, 490, "3 to 8 minutes"),
        (30, 300, "1 to 5 minutes"),
        (3600, 5400, "60 to 90 minutes"),
        (7200, 36000, "2 to 10 hours"),
    ],
)
def test_a_span_in_words(low: float, high: float, says: str) -> None:
    assert str(Span(low=low, high=high)) == says


@pytest.mark.slow
def test_it_opens_no_store_and_loads_no_library(rows: Path) -> None:
    code = (
        "import sys; from llmtune import TuningJob, plan; from llmtune_local import duration;"
        "assert 'torch' not in sys.modules;"
        f"job = TuningJob(name='t', dataset={str(rows)!r}, model='tiny');"
        "assert plan(job, 'local').duration.training;"
        "assert 'sqlalchemy' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
