"""The document of a sweep: the best configuration, every trial with its curve, importance of fields, and cost."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llmtune.report.cells import DASH, amount_cell, bullets, reported
from llmtune.report.document import (
    Charts,
    Column,
    Document,
    Inline,
    KeyValues,
    Section,
    Span,
    Style,
    Table,
    Text,
)
from llmtune.report.format import money
from llmtune.report.html.charts import overlay_charts
from llmtune.sweeps.results import Sweep, TrialRow
from llmtune.sweeps.text import cost_lines, finalist_line, format_value, headline, note_lines, trial_count

#: Curves in one chart: more colours could not be told apart.
CURVES = 8

_STATE_STYLES: dict[str, Style] = {"complete": "good", "pruned": "doubt", "failed": "bad", "running": "accent"}


def document(sweep: Sweep) -> Document:
    """Return the document of a sweep."""
    title = f"{sweep.name}: {trial_count(sweep)}"
    return Document(
        title=title,
        heading=title,
        line=[sweep.provider, sweep.method, f"by {sweep.metric}", sweep.group],
        verdict=Span(headline(sweep)),
        remarks=[Text(f"Stopped by {sweep.stopped}.", "doubt")] if sweep.stopped else (),
        sections=[section(sweep) for section in SECTIONS],
    )


def _charted_trials(sweep: Sweep) -> list[TrialRow]:
    """Return the best trials, best first, as many as a chart can show."""
    return sweep.ranked()[:CURVES]


def finalists(sweep: Sweep) -> Section:
    """Return the section with the results of the best configurations on the test rows."""
    lines = [finalist_line(finalist) for finalist in sweep.finalists]
    brief = bullets([f"on the test rows: {line}" for line in lines])
    return Section("finalists", "On the test rows", bullets(lines), short="Tested", brief=brief)


def curves(sweep: Sweep) -> Section:
    """Return the section with the curves of the best trials."""
    trials = _charted_trials(sweep)
    charts = overlay_charts(
        [(f"trial {trial.number}", {sweep.metric: trial.curve} if trial.curve else {}) for trial in trials]
    )
    title = f"Curves of the best {len(trials)}"
    return Section("curves", title, [Charts(charts)] if charts else (), short="Curves", brief=())


def trials(sweep: Sweep) -> Section:
    """Return the section with every trial."""
    names = list(dict.fromkeys(name for trial in sweep.trials for name in trial.params))
    colours = {trial.number: colour for colour, trial in enumerate(_charted_trials(sweep))}
    rows: list[list[Inline]] = []
    for trial in sweep.ranked(every=True):
        value = None if trial.value is None else float(trial.value)
        rows.append(
            [
                Span(str(trial.number), value=trial.number, colour=colours.get(trial.number)),
                DASH if value is None else Span(f"{value:.4f}", "strong", value=value),
                *(_param_cell(trial.params.get(name)) for name in names),
                amount_cell(trial.steps, "{:,}".format),
                amount_cell(trial.cost, lambda cost: money(cost, "USD")),
                Span(trial.state, _STATE_STYLES[trial.state]),
                Span(trial.run or "", "code" if trial.run else ""),
                trial.note,
            ]
        )
    columns = (
        Column("trial", "word"),
        *(Column(name, "number") for name in (sweep.metric, *names)),
        Column("steps", "number", medium="page"),
        Column("cost", "number", medium="page"),
        Column("state", "word"),
        Column("run"),
        Column("note", "reason", medium="page"),
    )
    return Section("trials", "Trials", [Table("Trials", columns, rows, titled=False)])


def _param_cell(value: Any) -> Inline:
    if value is None:
        return DASH
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return Span(format_value(value), value=float(value) if is_number else None)


def importance(sweep: Sweep) -> Section:
    """Return the section that says how much each field mattered."""
    shares = [(name, f"{100 * share:.0f}%", share) for name, share in sweep.importance.items()]
    rows: list[list[Inline]] = [[name, Span(text, value=share)] for name, text, share in shares]
    how = "Share of the metric's variation over the trials that each field explains (fANOVA)."
    table = Table("Importance", (Column("field"), Column("share", "number")), rows, titled=False)
    brief = [Text(f"what mattered: {', '.join(f'{name} {text}' for name, text, _ in shares)}")]
    return Section(
        "importance", "What mattered", [Text(how, "hint"), table] if rows else (), brief=brief if rows else ()
    )


def search(sweep: Sweep) -> Section:
    """Return the section with remarks on the search."""
    return Section("search", "The search", bullets(note_lines(sweep)), short="Search")


def cost(sweep: Sweep) -> Section:
    """Return the section with what was spent and saved."""
    spent = reported(sweep.spent, lambda amount: money(amount, "USD"))
    budget = [] if sweep.budget is None else [("budget", money(sweep.budget, "USD"))]
    pairs: list[tuple[str, Inline]] = [("spent, billed or estimated", spent), *budget]
    lines = bullets(cost_lines(sweep))
    return Section("cost", "Cost", [KeyValues(pairs), *lines], brief=lines)


def best(sweep: Sweep) -> Section:
    """Return the section with the best configuration."""
    params = {} if sweep.best is None else sweep.best.params
    pairs: list[tuple[str, Inline]] = [(name, format_value(value)) for name, value in params.items()]
    return Section("best", "The best job", [KeyValues(pairs)] if pairs else (), brief=())


#: The sections of a sweep, in order.
SECTIONS: tuple[Callable[[Sweep], Section], ...] = (finalists, curves, trials, importance, search, cost, best)
