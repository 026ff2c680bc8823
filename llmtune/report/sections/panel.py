"""What else changed: base and tuned model on the questions of a panel, outside the task."""

from __future__ import annotations

from llmtune.evaluation.results import EvaluationResult, PanelResult, PanelTest
from llmtune.metrics.points import NotReported
from llmtune.report.cells import DASH, PANEL_STYLES, change_cell, figure_cell
from llmtune.report.document import Block, Card, Cards, Column, Details, Inline, Section, Span, Table, Text
from llmtune.report.format import count, metric_name, number
from llmtune.report.verdicts import describe_margin, describe_panel

TITLE = "What else changed"


def panel(result: EvaluationResult) -> Section | None:
    """Return the section of a panel; None where the job asks for none."""
    measured = result.panel
    if measured is None:
        return None
    if isinstance(measured, NotReported):
        return Section("panel", TITLE, [Text(str(measured), "dim")], short="Panel", brief=())
    hint = Text(
        f"{count(measured.questions, 'question')} of the panel {measured.name!r}, outside the task, asked of base and"
        " tuned model alike and scored by fixed rules; no model judges another.",
        "hint",
    )
    sentences: list[Block] = [Text(sentence) for sentence in describe_panel(measured)]
    notes: list[Block] = [Text(f"Left out: {kind} ({reason})", "dim") for kind, reason in measured.left_out.items()]
    notes += [
        Text(f"The {name} model was not asked: {system.reason}", "dim")
        for name, system in measured.systems.items()
        if isinstance(system, NotReported)
    ]
    figures = _figures(measured)
    return Section(
        "panel",
        TITLE,
        [hint, *figures, *sentences, *_skills(measured), *notes, *_lost(measured)],
        short="Panel",
        brief=[*figures, *sentences, *notes],
        brief_title=f"{TITLE}: {count(measured.questions, 'question')} outside the task",
    )


def _figures(result: PanelResult) -> list[Block]:
    """Return the table of both figures, with margin and verdict."""
    systems = [system for name in ("base", "tuned") if (system := result.system(name)) is not None]
    if not systems:
        return []
    columns = [Column("figure"), *(Column(system.name, "number") for system in systems)]
    compared = bool(result.tests)
    columns += [Column("difference", "number"), Column("margin", "number"), Column("verdict")] if compared else []
    rows: list[list[Inline]] = []
    for name in ("accuracy", "log_likelihood"):
        values = [system.accuracy if name == "accuracy" else system.log_likelihood for system in systems]
        if all(isinstance(value, NotReported) for value in values):
            continue
        title = next(value.says for value in values if not isinstance(value, NotReported))
        row: list[Inline] = [Span(metric_name(name), title=title), *map(figure_cell, values)]
        test = result.test(name)
        if test is not None:
            row += [change_cell(test.comparison, test.unit), describe_margin(test), _verdict(test)]
        elif compared:
            row += ["", "", ""]
        rows.append(row)
    return [Table("Base and tuned model on the panel", columns, rows, titled=False, sortable=False)]


def _verdict(test: PanelTest) -> Span:
    return Span(test.verdict, PANEL_STYLES[test.verdict])


def _skills(result: PanelResult) -> list[Block]:
    if not result.skills:
        return []
    columns = [Column("skill"), *(Column(name, "number") for name in ("questions", "base", "tuned", "difference"))]
    rows: list[list[Inline]] = [
        [
            skill.skill,
            f"{skill.questions:,}",
            _share(skill.base),
            _share(skill.tuned),
            Span(DASH, value=0.0)
            if skill.base == skill.tuned
            else Span(f"{100 * (skill.tuned - skill.base):+.1f} points", value=skill.tuned - skill.base),
        ]
        for skill in result.skills
    ]
    return [Table("By skill (too few questions each to tell small differences from chance)", columns, rows)]


def _share(value: float) -> Span:
    return Span(number(value, "share"), value=value)


def _lost(result: PanelResult) -> list[Block]:
    """Return the questions that only the base model answers right, of each skill the first ones."""
    if not result.lost_in_all:
        return []
    cards = [
        Card(f"{loss.skill} ({loss.id})", [("asked", loss.prompt), ("base", loss.before), ("tuned", loss.after)])
        for loss in result.lost
    ]
    listed = "" if len(cards) == result.lost_in_all else f", of which {len(cards)} are shown"
    summary = f"{count(result.lost_in_all, 'question')} lost, {result.gained_in_all:,} gained{listed}"
    return [Details(summary, [Cards(cards)])]
