"""How far the probabilities of labels can be believed: the reliability diagram and the risk-coverage curve."""

from __future__ import annotations

from collections.abc import Sequence

from markupsafe import Markup

from llmtune.evaluation.results import EvaluationResult, SystemResult
from llmtune.metrics.calibration import Calibration
from llmtune.report.format import count, number, pick_system
from llmtune.report.html.elements import el, join
from llmtune.report.html.page import Section, details, table
from llmtune.report.verdicts import describe_calibration

#: Units of a drawing, which is square; the page scales it.
SIDE = 100.0


def confidence(result: EvaluationResult, *, after: str = "tuned") -> Section:
    """Return the section about the confidence of the labels; it is empty where no probabilities are reported."""
    tuned, owner = pick_system(result, after)
    if tuned is None or tuned.calibration is None:
        return Section("confidence", "Confidence", Markup(""))
    systems = [
        (system, system.calibration)
        for name in result.systems
        if (system := result.system(name)) is not None and system.calibration is not None
    ]
    body = join(
        [
            el("p", describe_calibration(tuned)),
            el("div", _reliability(tuned.calibration), _coverage(systems, tuned.name), class_="pictures"),
            details("The numbers", _bins(tuned.calibration) + _areas(systems)),
        ]
    )
    return Section("confidence", f"Confidence{owner}", body, short="Confidence")


def _reliability(calibration: Calibration) -> Markup:
    """Draw accuracy over confidence; a dot grows with the rows of its bin, and the diagonal is perfect calibration."""
    largest = max(group.rows for group in calibration.bins)
    dots = [
        el(
            "circle",
            el(
                "title",
                f"{number(group.confidence, 'share')} sure, {number(group.accuracy, 'share')} right, "
                f"{count(group.rows, 'row')}",
            ),
            cx=f"{SIDE * group.confidence:.2f}",
            cy=f"{SIDE * (1 - group.accuracy):.2f}",
            r=f"{1.2 + 1.8 * (group.rows / largest) ** 0.5:.2f}",
        )
        for group in calibration.bins
    ]
    points = [(SIDE * group.confidence, SIDE * (1 - group.accuracy)) for group in calibration.bins]
    diagonal = el("line", class_="ideal", x1="0", y1=SIDE, x2=SIDE, y2="0")
    label = f"Reliability: {len(calibration.bins)} groups of rows by confidence; the numbers stand below"
    return draw_figure(
        "How often it is right, by how sure it is", label, [diagonal, draw_line(points, "after"), *dots], "sure"
    )


def _coverage(systems: Sequence[tuple[SystemResult, Calibration]], after: str) -> Markup:
    """Draw the error over the share of rows that are answered, the surest first, for every system."""
    curves = [(system, calibration) for system, calibration in systems if len(calibration.coverage) > 1]
    highest = max((1 - calibration.accuracy for _, calibration in curves), default=1.0)
    scale = min(1.0, max(0.05, 1.25 * highest))
    lines = [
        draw_line(
            [(SIDE * point.coverage, SIDE * max(0.0, 1 - point.error / scale)) for point in calibration.coverage],
            "after" if system.name == after else "before",
            system.name,
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
    return draw_figure(title, label, lines, "answered")


def draw_figure(title: str, label: str, shapes: Sequence[Markup], axis: str) -> Markup:
    """Draw shapes in a square frame; `label` tells what they show to whom cannot see them, `axis` names the x axis."""
    frame = el("rect", class_="frame", x="0", y="0", width=SIDE, height=SIDE)
    drawing = el("svg", frame, shapes, viewBox="-3 -3 106 106", role="img", aria_label=label)
    ends = el("div", el("span", "0%"), el("span", axis), el("span", "100%"), class_="axis")
    return el("figure", el("figcaption", title), drawing, ends)


def draw_line(points: Sequence[tuple[float, float]], kind: str, name: str = "") -> Markup:
    """Draw a line of the `kind` "before" (grey) or "after" (blue), through points with y downwards."""
    where = " ".join(f"{across:.2f},{down:.2f}" for across, down in points)
    return el("polyline", el("title", name) if name else None, class_=kind, points=where)


def _bins(calibration: Calibration) -> Markup:
    rows = [
        [number(group.confidence, "share"), number(group.accuracy, "share"), f"{group.rows:,}"]
        for group in calibration.bins
    ]
    return table(["sure", "right", "rows"], rows, numbers=range(3), caption="By confidence", sortable=False)


def _areas(systems: Sequence[tuple[SystemResult, Calibration]]) -> Markup:
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
    headings = ["model", "reliability", "resolution", "uncertainty", "area under errors"]
    caption = "Parts of the Brier score (reliability - resolution + uncertainty), and the mean error over all coverages"
    return table(headings, rows, numbers=range(1, 5), caption=caption, sortable=False)
