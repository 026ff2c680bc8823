"""Local runs on the same lifecycle: killed, they end as if nobody had disturbed them."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

from llmtune.evaluation.results import EvaluationResult
from llmtune.job.spec import TuningJob
from llmtune.runs.api import start

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


def test_a_run_of_the_model_in_the_package_is_evaluated_again_on_other_rows(tmp_path: Path) -> None:
    labels = ("billing", "shipping")

    def rows(path: Path, numbers: range) -> Path:
        path.write_text("".join(f'{{"text": "case {n}", "label": "{labels[n % 2]}"}}\n' for n in numbers))
        return path

    job = TuningJob.model_validate(
        {
            "name": "cases",
            "dataset": {"path": str(rows(tmp_path / "cases.jsonl", range(24))), "split": [0.5, 0.0, 0.5]},
            "model": "tiny",
            "hyperparameters": {"max_steps": 1, "batch_size": 4},
            "evaluation": {"max_rows": 2, "baselines": []},
        }
    )
    run = start(job, "local")
    first = run.wait()
    report = run.evaluate(rows(tmp_path / "new.jsonl", range(100, 103)))
    assert isinstance(first.evaluation, EvaluationResult)
    assert isinstance(report.evaluation, EvaluationResult)
    assert report.evaluation.rows == 2
    assert report.evaluated_on.endswith("new.jsonl")
    assert [each.rows for each in report.earlier_evaluations] == [first.evaluation.rows]
    assert run.report() == report
