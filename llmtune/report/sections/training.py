"""The curves of a run, and what they and the scores point to."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from llmtune.metrics.points import MetricPoint, NotReported, series_info
from llmtune.report.cells import bullets
from llmtune.report.document import (
    Block,
    Card,
    Cards,
    Charts,
    Column,
    Details,
    Inline,
    Section,
    Span,
    Style,
    Table,
    Text,
)
from llmtune.report.format import count, number
from llmtune.report.html.charts import MOST_POINTS, chart_data
from llmtune.report.schema import Report, SampledRow
from llmtune.report.terminal_chart import sparkline

#: Answers of a row that are shown, at most, and characters of a text.
ANSWERS_SHOWN = 5
TEXT_SHOWN = 300

#: Spikes of the loss that are shown at once.
SPIKES_SHOWN = 3

_COLUMNS = (
    Column("series", "word"),
    Column("first", "number"),
    Column("last", "number"),
    Column("best", "number"),
    Column("points", "number", medium="page"),
    Column("", medium="terminal"),
    Column("source"),
)


def training(report: Report) -> Section:
    """Return the section with the curves; first, last and best value of each; and why a series is missing."""
    charts = Charts(chart_data(report.series))
    rows: list[list[Inline]] = []
    missing: list[list[Inline]] = []
    reasons: dict[str, list[str]] = {}
    thinned = []
    for name, series in report.series.items():
        info = series_info(name)
        if isinstance(series, NotReported) or not series.points:
            absence = series if isinstance(series, NotReported) else NotReported("no point was reported")
            missing.append([info.title, "", "", "", "", "", Span(str(absence), "dim")])
            reasons.setdefault(absence.reason, []).append(name)
            continue
        if len(series.points) > MOST_POINTS:
            thinned.append(f"{info.title} ({count(len(series.points), 'point')})")
        unit = series.unit if series.unit == "share" else ""
        values = [_point(point, unit) for point in (series.first, series.last)]
        best = _point(series.best, unit, f" at {series.best.step}" if series.best else "")
        points = Span(f"{len(series.points):,}", value=len(series.points))
        sources = ", ".join(source.replace("_", " ") for source in series.sources)
        title = Span(info.title, title=f"{name}: {info.meaning}")
        rows.append([title, *values, best, points, sparkline(series.values, 12), sources])
    brief: list[Block] = [charts, Table("Series", _COLUMNS, rows)] if rows else []
    if reasons:  # nobody can act on these: one line for all
        named = "; ".join(f"{', '.join(names)} ({reason})" for reason, names in reasons.items())
        brief.append(Text(f"not reported: {named}", "dim"))
    if not report.identity.state.final:  # what would soon be out of date is left out
        rows = []
    blocks: list[Block] = [charts]
    if rows or missing:
        blocks.append(Table("Series", _COLUMNS, [*rows, *missing]))
    if thinned:
        how = (
            f"Drawn with the lowest and highest value of each stretch: {', '.join(thinned)}. The JSON report holds all."
        )
        blocks.append(Text(how, "hint"))
    return Section("training", "Training", blocks, brief=brief)


def _point(point: MetricPoint | None, unit: str, step: str = "") -> Span:
    return Span("") if point is None else Span(number(point.value, unit) + step, value=point.value)


def samples(report: Report) -> Section:
    """Return the section with the answers to a few validation rows while the model trained."""
    steps = _choose_steps(report.samples)
    cards = [_sampled(number, row, steps) for number, row in enumerate(report.samples, start=1)]
    blocks: list[Block] = [Cards(cards)] if cards else []
    more = len(cards) - 1
    brief: list[Block] = [Cards(cards[:1]), *([Text(count(more, "more row"), "dim")] if more > 0 else [])]
    return Section("samples", "Answers while training", blocks, brief=brief if cards else ())


def _choose_steps(rows: Sequence[SampledRow]) -> list[int]:
    """Return the steps whose answers are shown: the first, the last, and of those between the last ones with a new
    answer. The JSON report holds all."""
    steps = sorted({step for row in rows for step in row.answers})
    new = [
        step
        for before, step in pairwise(steps)
        if any(row.answers.get(before) != row.answers.get(step) for row in rows) and step != steps[-1]
    ]
    return [*steps[:1], *new[-(ANSWERS_SHOWN - 2) :], *steps[1:][-1:]]


def _sampled(number: int, row: SampledRow, steps: Sequence[int]) -> Card:
    expected = [("expected", _shorten(row.expected))] if row.expected else []
    answers = [(f"step {step:,}", _shorten(row.answers.get(step, "")) or "(empty)") for step in steps]
    return Card(f"validation row {number}", [("asked", _shorten(row.prompt)), *expected, *answers])


def _shorten(text: str, limit: int = TEXT_SHOWN) -> str:
    return text if len(text) <= limit else f"{text[: limit - 1]}\u2026"


def diagnosis(report: Report) -> Section | None:
    """Return the section that says underfit, good or overfit, with the numbers that say so and what to try."""
    result = report.diagnosis
    if not report.identity.state.final or (result.verdict == "unclear" and not report.succeeded):
        return None
    styles: dict[str, Style] = {"good fit": "good", "overfit": "doubt", "underfit": "doubt", "diverged": "bad"}
    spikes = [spike.sentence() for spike in result.spikes]
    blocks: list[Block] = [Text(Span(result.sentence, "strong"), styles.get(result.verdict, ""))]
    blocks += bullets([*result.evidence, *spikes[:SPIKES_SHOWN]])
    if more := spikes[SPIKES_SHOWN:]:
        blocks.append(Details(count(len(more), "more spike"), bullets(more)))
    blocks += [Text("Worth trying:"), *bullets(result.advice)] if result.advice else []
    checks: list[Inline] = [
        [Span("ok", "good") if check.passed else Span("FAILED", "bad"), f" {check.name}: {check.says}"]
        for check in report.checks
    ]
    return Section("diagnosis", "Diagnosis", [*blocks, *bullets(checks)])
