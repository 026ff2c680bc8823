"""The gate for the panel: passed, worse, or undecided, at a margin of one's own."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from llmtune.errors import InvalidJob, NotJudged, UnknownName
from llmtune.evaluation.panel.measure import PanelRun
from llmtune.job.spec import EvaluationSpec
from llmtune.metrics.points import NotReported
from llmtune.provider.generation import Unavailable
from llmtune.report.panel_gate import gate_panel
from llmtune.report.schema import Report
from tests.llmtune.evaluation.conftest import Likely, Scripted
from tests.llmtune.evaluation.panel.test_measure import adds, panel_of, question, run
from tests.llmtune.report.conftest import evaluation, make


@pytest.fixture(scope="module")
def lost(tmp_path_factory: pytest.TempPathFactory) -> Report:
    """A run that has lost 8 of 100 questions, and 0.2 nats per token."""
    sums = panel_of(tmp_path_factory.mktemp("panel") / "sums.jsonl", *map(question, range(100)))
    result = run(PanelRun(sums, EvaluationSpec()), Likely(adds(below=98), loss=1.0), Likely(adds(below=90), loss=1.2))
    return make(evaluation=result)


@pytest.mark.parametrize(
    ("margin", "verdict", "code"), [(20.0, "not worse", 0), (8.0, "undecided", 6), (1.0, "worse", 5)]
)
def test_the_margin_decides(lost: Report, margin: float, verdict: str, code: int) -> None:
    result = gate_panel(lost, margin=margin)
    assert (result.verdict, result.exit_code, result.passed) == (verdict, code, code == 0)
    assert (result.unit, result.margin, round(result.delta, 9)) == ("points", margin, -8.0)
    assert result.low < -8.0 < result.high
    assert f"by more than {margin:.1f} point" in result.reason
    mark = {0: "\u2705 llmtune gate: passed", 5: "\u274c llmtune gate: not passed", 6: "\u2754 llmtune gate: undecided"}
    assert result.to_markdown().startswith(f"### {mark[code]}")
    assert json.loads(result.model_dump_json())["verdict"] == verdict


def test_likelihoods_have_a_margin_in_nats(lost: Report) -> None:
    assert gate_panel(lost, margin=0.15, metric="log_likelihood").exit_code == 5
    passed = gate_panel(lost, margin=0.25, metric="log_likelihood")
    assert (passed.exit_code, passed.unit) == (0, "nats/token")
    assert "by more than 0.250 nats per token" in passed.reason


def test_a_loss_by_the_other_figure_is_noted(lost: Report, tmp_path: Path) -> None:
    (note,) = gate_panel(lost, margin=20.0).notes
    assert note.startswith("The tuned model is worse than its base by more than 0.100 nats per token outside the task")
    assert f"- {note[:60]}" in gate_panel(lost, margin=20.0).to_markdown()
    sums = panel_of(tmp_path / "sums.jsonl", *map(question, range(100)))
    floor = run(PanelRun(sums, EvaluationSpec()), Likely(adds(below=2)), Likely(adds(below=2)))
    (note,) = gate_panel(make(evaluation=floor), margin=5.0).notes
    assert note.startswith("The base model answers only 2.0% of the questions right")


def test_it_is_not_judged_without_a_panel(lost: Report, tmp_path: Path) -> None:
    with pytest.raises(NotJudged, match="was asked no panel") as raised:
        gate_panel(make(evaluation=evaluation()), margin=1.0)
    assert "--panel general" in str(raised.value.hint)
    with pytest.raises(NotJudged, match="was not evaluated: no test rows"):
        gate_panel(make(evaluation=NotReported("no test rows")), margin=1.0)
    gone = run(NotReported("own.jsonl does not exist"), Scripted(adds(below=1)), Scripted(adds(below=1)))
    with pytest.raises(NotJudged, match=r"was asked no panel: own\.jsonl does not exist"):
        gate_panel(make(evaluation=gone), margin=1.0)
    sums = panel_of(tmp_path / "sums.jsonl", *map(question, range(20)))
    alone = run(PanelRun(sums, EvaluationSpec()), Unavailable("it needs a deployment"), Scripted(adds(below=9)))
    with pytest.raises(NotJudged, match=r"the base model was not asked \(it needs a deployment\)"):
        gate_panel(make(evaluation=alone), margin=1.0)
    silent = run(PanelRun(sums, EvaluationSpec()), Scripted(adds(below=9)), Scripted(adds(below=9)))
    with pytest.raises(NotJudged, match=r"has no log likelihood on its panel: the base model has none \(the backend"):
        gate_panel(make(evaluation=silent), margin=1.0, metric="log_likelihood")
    with pytest.raises(InvalidJob, match="a margin is 0 or more"):
        gate_panel(lost, margin=float("nan"))
    with pytest.raises(UnknownName, match="did you mean 'accuracy'"):
        gate_panel(lost, margin=1.0, metric="acuracy")
