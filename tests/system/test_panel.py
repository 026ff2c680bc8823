"""The panel on real trainings of the model in the package: what is lost is found, and a harmless run is not blamed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from llmtune.cli.app import app
from llmtune.evaluation.panel import questions
from llmtune.evaluation.results import EvaluationResult, PanelResult
from llmtune.job.spec import TuningJob
from llmtune.metrics.points import NotReported
from llmtune.runs.api import start

pytest.importorskip("torch")
pytest.importorskip("peft")

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("no_long_pauses")]


def train(folder: Path, panel: bool | str, **hyperparameters: float) -> tuple[str, PanelResult]:
    """Train on narrow rows, and return the run's id with what it says of the panel."""
    rows = [
        {
            "messages": [
                {"role": "user", "content": f"Order {n}: which crate?"},
                {"role": "assistant", "content": f"crate {n % 7} on shelf {n % 3}, row {n % 5}"},
            ]
        }
        for n in range(40)
    ]
    (folder / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    job = TuningJob.model_validate(
        {
            "name": "crates",
            "dataset": str(folder / "rows.jsonl"),
            "model": "tiny",
            "hyperparameters": {"batch_size": 8, **hyperparameters},
            "evaluation": {"panel": panel, "max_rows": 2, "fit_rows": 0, "baselines": ["base"]},
            "seed": 0,
        }
    )
    run = start(job, "local")
    report = run.wait()
    assert isinstance(report.evaluation, EvaluationResult)
    assert isinstance(report.evaluation.panel, PanelResult)
    return run.id, report.evaluation.panel


def test_forgetting_is_found_and_a_minimal_training_is_not_blamed(tmp_path: Path) -> None:
    shipped = (Path(questions.__file__).parent / "general.jsonl").read_text(encoding="utf-8").splitlines()
    some = tmp_path / "some.jsonl"
    some.write_text("\n".join(shipped[::8]), encoding="utf-8")
    overtrained, lost = train(tmp_path, str(some), max_steps=40, learning_rate=5e-3)
    minimal, same = train(tmp_path, str(some), max_steps=1, learning_rate=1e-5)
    for panel in (lost, same):
        assert (panel.questions, panel.left_out) == (35, {})
        for name in ("base", "tuned"):
            system = panel.system(name)
            assert system is not None
            assert not isinstance(system.log_likelihood, NotReported)
    loss, no_loss = lost.test("log_likelihood"), same.test("log_likelihood")
    assert loss is not None
    assert no_loss is not None
    assert loss.comparison.a == no_loss.comparison.a  # one base, asked once
    assert loss.verdict == lost.verdict == "worse"
    assert no_loss.verdict == "not worse"
    gate = ["--panel-margin", "0.1", "--metric", "log_likelihood"]
    for run, code, text in ((overtrained, 5, "not passed"), (minimal, 0, "passed")):
        result = CliRunner().invoke(app, ["gate", run, *gate])
        assert (result.exit_code, result.output.splitlines()[0]) == (code, text)
    shown = CliRunner().invoke(app, ["report", overtrained])
    assert "What else changed: 35 questions outside the task" in shown.output
