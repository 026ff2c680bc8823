"""The spread over seeds in a report: what it says of a difference, and what a gate makes of it."""

from __future__ import annotations

import pytest

from llmtune.errors import InvalidData
from llmtune.metrics.intervals import interval_between_seeds, interval_over_seeds
from llmtune.metrics.points import NotReported
from llmtune.report.gate import gate
from llmtune.report.schema import Report, SeedResult, SeedSpread
from tests.llmtune.report.test_gate import run


def spread(*values: float | None, seed_sent: bool = True) -> SeedSpread:
    """Return the spread of accuracies; None is a run that failed."""
    results = [
        SeedResult(seed=at, run=f"ltrun000000{at}", value=NotReported("out of memory") if value is None else value)
        for at, value in enumerate(values)
    ]
    figures = [value for value in values if value is not None]
    few = NotReported("fewer than two runs have a figure")
    return SeedSpread(
        metric="accuracy",
        unit="share",
        results=tuple(results),
        mean=sum(figures) / len(figures) if figures else few,
        interval=interval_over_seeds(figures, unit="share") if len(figures) > 1 else few,
        seed_sent=seed_sent,
    )


def with_seeds(report: Report, *values: float | None, seed_sent: bool = True) -> Report:
    return report.model_copy(update={"seeds": spread(*values, seed_sent=seed_sent)})


def test_intervals_over_seeds_are_those_of_student() -> None:
    interval = interval_over_seeds([0.80, 0.82, 0.84])
    assert (interval.low, interval.high) == (pytest.approx(0.82 - 0.04968, abs=1e-5), pytest.approx(0.86968, abs=1e-5))
    assert interval_over_seeds([0.1, 0.99], unit="share").high == 1.0
    with pytest.raises(InvalidData, match="at least two"):
        interval_over_seeds([0.8])
    # One run against three: the spread of the three stands for both; 0.02 * sqrt(1 + 1/3) * 4.302653.
    between = interval_between_seeds([0.70], [0.80, 0.82, 0.84])
    assert between is not None
    assert between.high - 0.12 == pytest.approx(0.09937, abs=1e-5)
    assert interval_between_seeds([0.7], [0.8]) is None


def test_a_difference_beyond_the_seeds_keeps_its_verdict(report: Report) -> None:
    assert report.headline.startswith("Tuning helped: ")
    shown = with_seeds(report, 0.90, 0.91, 0.92)
    assert shown.headline.startswith("Tuning helped: ")
    assert "With 3 seeds accuracy is 91.0% on average (95% interval 88.5 to 93.5 over the seeds), from 90.0% to" in (
        shown.headline
    )


def test_a_difference_within_the_seeds_is_not_called_one(report: Report) -> None:
    shown = with_seeds(report, 0.92, 0.30, 0.15)
    assert shown.headline.startswith("Tuning is not shown to help or hurt: accuracy was ")
    assert "and with 3 seeds it is 45.7% on average" in shown.headline
    assert "Tuning helped" not in shown.headline
    assert shown.render("document").verdict.style == "doubt"


def test_the_section_has_every_seed(report: Report) -> None:
    text = with_seeds(report, 0.90, None, 0.92, seed_sent=False).to_text(width=120)
    assert "90.0%" in text
    assert "out of memory" in text
    assert "The backend takes no seed" in text
    for shown in (with_seeds(report, 0.90, None), with_seeds(report, 0.90, 0.91)):
        for rendering in (shown.to_markdown(), shown.to_html(), shown.to_text()):
            assert "Seeds" in rendering
        assert Report.from_json(shown.to_json()) == shown
    assert "Of 2 seeds only one has a figure" in with_seeds(report, 0.90, None).to_text(width=120)
    assert "takes no seed" not in with_seeds(report, 0.90, 0.91).to_text(width=120)
    assert "Seeds" not in report.to_markdown()


def test_a_gate_asks_the_seeds_too() -> None:
    baseline, candidate = run(3, name="ltbaseline01"), run(20)
    assert gate(candidate, baseline, resamples=400).passed
    steady = gate(with_seeds(candidate, 0.95, 0.94, 0.95), baseline, resamples=400)
    assert steady.passed
    assert any("from seed to seed the difference lies between" in note for note in steady.notes)
    shaky = gate(with_seeds(candidate, 0.95, 0.70, 0.45), baseline, resamples=400)
    assert (shaky.passed, shaky.exit_code) == (False, 5)
    assert "is not shown to be better than the baseline: accuracy 66.7% to 95.0%" in shaky.reason
    assert "from seed to seed" in shaky.reason
    close = gate(with_seeds(candidate, 0.95, 0.70, 0.45), baseline, not_worse=5.0, resamples=400)
    assert not close.passed
    assert "no more than 5.0 points worse" in close.reason
    assert gate(candidate, with_seeds(baseline, 0.66, 0.67, 0.67), resamples=400).passed
    only_one = gate(with_seeds(candidate, 0.95, None), baseline, resamples=400)
    assert only_one.passed
    assert not any("seed" in note for note in only_one.notes)
