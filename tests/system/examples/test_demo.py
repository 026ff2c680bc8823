"""`make demo`, as the README promises it: training helps, by a margin nobody can call luck."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from llmtune import Report
from llmtune.evaluation.results import EvaluationResult
from llmtune.metrics.points import Series

ROOT = Path(__file__).resolve().parents[3]

pytest.importorskip("torch")
pytest.importorskip("peft")


def measure(report: Report, system: str, metric: str) -> tuple[float, float, float]:
    """Return a system's figure and the ends of its interval."""
    assert isinstance(report.evaluation, EvaluationResult)
    if system == "majority":
        assert report.evaluation.majority is not None
        value = report.evaluation.majority.accuracy
    else:
        result = report.evaluation.system(system)
        assert result is not None, system
        value = result[metric]
    return value.value, value.interval.low, value.interval.high


def load_shell() -> ModuleType:
    place = ROOT / "tests" / "system" / "docs" / "shell.py"
    spec = importlib.util.spec_from_file_location("demo_shell", place)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def list_differences(page: Path, outputs: dict[str, str]) -> list[str]:
    """Return what a page shows below its commands and `outputs` lacks; every command must have an output there."""
    shell = load_shell()
    missing = {typed.command: shell.comes_out(typed.shown, outputs[typed.command]) for typed in shell.typed_on(page)[0]}
    return [f"{command}: {line}" for command, line in missing.items() if line is not None]


def load_report(name: str, home: Path) -> Report:
    command = [sys.executable, "-m", "llmtune", "report", name, "--format", "json"]
    environment = {**os.environ, "LLMTUNE_HOME": str(home)}
    return Report.from_json(subprocess.run(command, capture_output=True, check=True, env=environment).stdout)


@pytest.mark.slow
@pytest.mark.xdist_group("heavy")
@pytest.mark.timeout(1500)
def test_both_models_beat_what_costs_less_beyond_doubt(own_home: Path, tmp_path: Path) -> None:
    result = subprocess.run(
        [sys.executable, "tools/demo.py", "--out", str(tmp_path / "demo")],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env={**os.environ, "LLMTUNE_HOME": str(own_home)},
        timeout=1450,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    orders, tickets = load_report("order-extraction", own_home), load_report("ticket-router", own_home)
    for report, metric, others, rows in (
        (orders, "exact_match", ("base", "nearest", "few_shot"), 120),
        (tickets, "accuracy", ("base", "majority"), 200),
    ):
        assert isinstance(report.evaluation, EvaluationResult)
        assert report.evaluation.rows >= rows
        value, low, _ = measure(report, "tuned", metric)
        for other in others:
            its_value, _, its_high = measure(report, other, metric)
            assert value - its_value >= 0.20, other
            assert low > its_high, other
        losses = report.series["train/loss"]
        assert isinstance(losses, Series)
        assert losses.points[-1].value < losses.points[0].value / 2
        assert report.diagnosis.verdict
        assert (Path(report.artifacts["model"]) / "model.safetensors").is_file()
        assert not report.job.get("hyperparameters")  # what is shown is what the defaults do
    # The summary is the end of what is printed, progress and the runs' ids go to standard error.
    for shown in (
        "the tuned model",
        "the same model before tuning",
        "a linear model",
        "extraction.html",
        "routing.html",
    ):
        assert shown in result.stdout
    assert (tmp_path / "demo" / "extraction.html").stat().st_size > 10_000
    assert (tmp_path / "demo" / "routing.html").stat().st_size > 10_000
    # What the example's README shows is this run.
    made = subprocess.run(
        [sys.executable, "make.py"], cwd=tmp_path / "demo" / "extraction", capture_output=True, text=True, check=True
    )
    outputs = {"python make.py": made.stdout, "llmtune tune job.yaml --provider local": orders.to_text(100)}
    assert list_differences(ROOT / "examples" / "extraction" / "README.md", outputs) == []
    assert "run " in result.stderr
    assert "Traceback" not in result.stderr
