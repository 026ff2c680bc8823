"""How far the probabilities of labels can be believed: the reliability diagram and the risk-coverage curve."""

from __future__ import annotations

from collections.abc import Sequence

from llmtune.evaluation.results import EvaluationResult, SystemResult
from llmtune.metrics.calibration import Calibration
from llmtune.report.document import Column, Details, Line, Plot, Plots, Section, Table, Text
from llmtune.report.format import count, number, pick_system
from llmtune.report.verdicts import describe_calibration


def confidence(result: EvaluationResult, *, after: str = "tuned") -> Section | None:
    """Return the section about the confidence of the labels; None where no probabilities are reported."""
    tuned, owner = pick_system(result, after)
    if tuned is None or tuned.calibration is None:
        return None
    systems = [
        (system, system.calibration)
        for name in result.systems
        if (system := result.system(name)) is not None and system.calibration is not None
    ]
    blocks = [
        Text(describe_calibration(tuned)),
        Plots([_reliability(tuned.calibration), _coverage(systems, tuned.name)]),
        Details("The numbers", [_bins(tuned.calibration), _areas(systems)]),
    ]
    return Section("confidence", f"Confidence{owner}", blocks, short="Confidence", folded=True)


def _reliability(calibration: Calibration) -> Plot:
    """Draw accuracy over confidence; a dot grows with the rows of its bin, and the diagonal is perfect calibration."""
    return Plot(
        "How often it is right, by how sure it is",
        f"Reliability: {len(calibration.bins)} groups of rows by confidence; the numbers stand below",
        "sure",
        lines=[
            ("", "ideal", [(0.0, 0.0), (1.0, 1.0)]),
            ("", "after", [(group.confidence, group.accuracy) for group in calibration.bins]),
        ],
        dots=draw_bins(calibration),
    )


def draw_bins(calibration: Calibration) -> list[tuple[float, float, float, str]]:
    """Return a dot for each bin: its accuracy over its confidence, larger with more rows, and its numbers."""
    largest = max(group.rows for group in calibration.bins)
    return [
        (
            group.confidence,
            group.accuracy,
            1.2 + 1.8 * (group.rows / largest) ** 0.5,
            f"{number(group.confidence, 'share')} sure, {number(group.accuracy, 'share')} right, "
            f"{count(group.rows, 'row')}",
        )
        for group in calibration.bins
    ]


def _coverage(systems: Sequence[tuple[SystemResult, Calibration]], after: str) -> Plot:
    """Draw the error over the share of rows that are answered, the surest first, for every system."""
    curves = [(system, calibration) for system, calibration in systems if len(calibration.coverage) > 1]
    highest = max((1 - calibration.accuracy for _, calibration in curves), default=1.0)
    scale = min(1.0, max(0.05, 1.25 * highest))
    lines: list[Line] = [
        (
            system.name,
            "after" if system.name == after else "before",
            [(point.coverage, min(1.0, point.error / scale)) for point in calibration.coverage],
        )
        for system, calibration in sorted(curves, key=lambda pair: pair[0].name == after)
    ]
    rivals = ", ".join(system.name for system, _ in curves if system.name != after)
    grey = f"; grey: {rivals}" if rivals else ""
    title = f"Errors when only the surest rows are answered (up to {number(scale, 'share')}; blue: {after}{grey})"
    label = "Risk and coverage: " + "; ".join(
        f"{system.name}: {number(calibration.coverage[-1].error, 'share')} of all rows wrong"
        for system, calibration in systems
    )
    return Plot(title, label, "answered", lines)


def _bins(calibration: Calibration) -> Table:
    rows = [
        [number(group.confidence, "share"), number(group.accuracy, "share"), f"{group.rows:,}"]
        for group in calibration.bins
    ]
    columns = [Column(heading, "number") for heading in ("sure", "right", "rows")]
    return Table("By confidence", columns, rows, sortable=False)


def _areas(systems: Sequence[tuple[SystemResult, Calibration]]) -> Table:
    rows = [
        [
            system.name,
            number(calibration.reliability),
            number(calibration.resolution),
            number(calibration.uncertainty),
            number(calibration.coverage_area, "share"),
        ]
        for system, calibration in systems
    ]
    headings = ("reliability", "resolution", "uncertainty", "area under errors")
    caption = "Parts of the Brier score (reliability - resolution + uncertainty), and the mean error over all coverages"
    columns = [Column("model"), *(Column(heading, "number") for heading in headings)]
    return Table(caption, columns, rows, sortable=False)
