"""The panel in a report: in all renderings, with its verdict, and with the reason where there is none."""

from __future__ import annotations

from pathlib import Path

import pytest

from llmtune.evaluation.panel.measure import PanelRun
from llmtune.job.spec import EvaluationSpec
from llmtune.metrics.points import NotReported
from llmtune.report.schema import Report
from tests.llmtune.evaluation.conftest import Likely, Scripted
from tests.llmtune.evaluation.panel.test_measure import adds, panel_of, question, run
from tests.llmtune.report.conftest import evaluation, make


@pytest.fixture(scope="module")
def worse(tmp_path_factory: pytest.TempPathFactory) -> Report:
    sums = panel_of(tmp_path_factory.mktemp("panel") / "sums.jsonl", *map(question, range(100)))
    result = run(PanelRun(sums, EvaluationSpec()), Likely(adds(below=90), loss=1.0), Likely(adds(below=50), loss=1.5))
    return make(evaluation=result)


def test_every_rendering_shows_figures_margin_and_verdict(worse: Report) -> None:
    for text in (worse.to_markdown(), worse.to_html(), worse.to_text(width=110)):
        assert "What else changed" in text
        for part in ("90.0%", "50.0%", "5.0 points", "log likelihood", "0.100 nats per token", "worse"):
            assert part in text
    page = worse.to_html()
    assert "even" in page
    assert "40 questions lost, 0 gained, of which 6 are shown" in page
    assert "sum 50" in page


def test_a_loss_stands_in_the_headline(worse: Report) -> None:
    assert (
        "The tuned model is worse than its base by more than 5.0 points outside the task: accuracy 90.0% to 50.0%"
        " (-40.0 points, 95% interval "
    ) in worse.headline


def test_a_base_that_knows_nothing_has_little_to_lose(tmp_path: Path) -> None:
    sums = panel_of(tmp_path / "sums.jsonl", *map(question, range(100)))
    result = run(PanelRun(sums, EvaluationSpec()), Likely(adds(below=2)), Likely(adds(below=2)))
    text = make(evaluation=result).to_markdown()
    assert (
        "The base model answers only 2.0% of the questions right, so accuracy has little to lose; the likelihood of the"
        " reference answers says more."
    ) in text
    assert "is worse than its base" not in text


def test_the_reason_stands_where_nothing_was_asked() -> None:
    gone = run(NotReported("own.jsonl does not exist"), Scripted(adds(below=1)), Scripted(adds(below=1)))
    assert "not reported (own.jsonl does not exist)" in make(evaluation=gone).to_markdown()
    assert "What else changed" not in make(evaluation=evaluation()).to_markdown()
