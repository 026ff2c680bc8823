"""The HTML page of a sweep: the best configuration, every trial with its curve, importance of fields, and cost."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from markupsafe import Markup

from llmtune.metrics.points import NotReported
from llmtune.report.format import money
from llmtune.report.html.charts import chart_figures, overlay_charts
from llmtune.report.html.elements import Child, el
from llmtune.report.html.notebook import card, grid
from llmtune.report.html.page import Section, facts_list, page, sorted_by, table
from llmtune.report.html.run import state_mark
from llmtune.sweeps.results import Sweep, TrialRow
from llmtune.sweeps.text import cost_lines, finalist_line, format_value, headline, note_lines, trial_count

#: Curves in one chart: more colours could not be told apart.
CURVES = 8

#: Trials that a notebook shows: the best ones.
SHOWN_TRIALS = 10

_STATES = {"complete": "succeeded", "pruned": "cancelled", "failed": "failed", "running": "running"}


def render(sweep: Sweep) -> str:
    """Return the sweep as one self-contained HTML file."""
    curves_by_trial = [
        (trial, {} if trial.curve is None else {sweep.metric: trial.curve}) for trial in _charted_trials(sweep)
    ]
    charts = overlay_charts([(f"trial {trial.number}", curves) for trial, curves in curves_by_trial])
    title = f"{sweep.name}: {trial_count(sweep)}"
    line = (sweep.provider, sweep.method, f"by {sweep.metric}", sweep.group)
    header = el(
        "header",
        el("h1", sweep.name),
        el("p", [el("span", part) for part in line], class_="line"),
        el("p", headline(sweep), class_="verdict"),
        el("p", f"Stopped by {sweep.stopped}.", class_="doubt") if sweep.stopped else None,
    )
    return page(title, _sections(sweep, charts), header=header, data={"charts": charts})


def show_sweep(sweep: Sweep) -> Markup:
    """Return what a notebook shows of a sweep: the best configuration and the best trials."""
    trials = sweep.ranked(every=True)
    names = list(dict.fromkeys(name for trial in sweep.trials for name in trial.params))
    rows = [
        [
            str(trial.number),
            "\u2013" if trial.value is None else f"{trial.value:.4f}",
            *(format_value(trial.params.get(name, "\u2013")) for name in names),
            trial.state,
            trial.run,
        ]
        for trial in trials[:SHOWN_TRIALS]
    ]
    hidden = len(trials) - len(rows)
    return card(
        f"{sweep.name}: {trial_count(sweep)} at {sweep.provider}",
        [headline(sweep), *(f"on the test rows: {finalist_line(finalist)}" for finalist in sweep.finalists)],
        grid(["trial", sweep.metric, *names, "state", "run"], rows),
        warnings=[f"{hidden:,} more trials: to_markdown() and to_html() list all"] if hidden else (),
    )


def _charted_trials(sweep: Sweep) -> list[TrialRow]:
    """Return the best trials, best first, as many as a chart can show."""
    return sweep.ranked()[:CURVES]


def _sections(sweep: Sweep, charts: list[dict[str, Any]]) -> Iterator[Section]:
    finalists = [el("li", finalist_line(finalist)) for finalist in sweep.finalists]
    yield Section("finalists", "On the test rows", el("ul", finalists) if finalists else Markup(""), short="Tested")
    yield Section("curves", f"Curves of the best {len(_charted_trials(sweep))}", chart_figures(charts), short="Curves")
    yield Section("trials", "Trials", _trials_table(sweep))
    yield Section("importance", "What mattered", _importance_table(sweep))
    lines = [el("li", line) for line in note_lines(sweep)]
    yield Section("search", "The search", el("ul", lines) if lines else Markup(""), short="Search")
    yield Section("cost", "Cost", _cost_list(sweep))
    yield Section("best", "The best job", _job_list(sweep))


def _trials_table(sweep: Sweep) -> Markup:
    names = list(dict.fromkeys(name for trial in sweep.trials for name in trial.params))
    colours = {trial.number: index for index, trial in enumerate(_charted_trials(sweep))}
    rows: list[list[Child]] = []
    for trial in sweep.ranked(every=True):
        colour = colours.get(trial.number)
        mark = None if colour is None else el("span", "\u25a0 ", class_=f"k{colour}", aria_hidden="true")
        value: Child = "\u2013"
        if trial.value is not None:
            value = sorted_by(float(trial.value), el("b", f"{trial.value:.4f}"), class_="n")
        state = el("td", state_mark(_STATES[trial.state]), el("small", f" {trial.note}") if trial.note else None)
        rows.append(
            [
                sorted_by(trial.number, mark, str(trial.number)),
                value,
                *(_param_cell(trial.params.get(name)) for name in names),
                "\u2013" if trial.steps is None else f"{trial.steps:,}",
                "\u2013" if isinstance(trial.cost, NotReported) else money(trial.cost, "USD"),
                el("td", el("code", trial.run or "")),
                state,
            ]
        )
    headings = ["trial", sweep.metric, *names, "steps", "cost", "run", "state"]
    return table(headings, rows, numbers=range(1, len(names) + 4), caption="Trials", titled=False)


def _param_cell(value: Any) -> Child:
    if value is None:
        return "\u2013"
    if isinstance(value, int | float) and not isinstance(value, bool):
        return sorted_by(float(value), format_value(value), class_="n")
    return format_value(value)


def _importance_table(sweep: Sweep) -> Markup:
    if not sweep.importance:
        return Markup("")
    rows: list[list[Child]] = [
        [name, sorted_by(share, f"{100 * share:.0f}%", class_="n")] for name, share in sweep.importance.items()
    ]
    how = "Share of the metric's variation over the trials that each field explains (fANOVA)."
    shares = table(("field", "share"), rows, numbers=(1,), caption="Importance", titled=False)
    return el("p", how, class_="hint") + shares


def _cost_list(sweep: Sweep) -> Markup:
    spent = str(sweep.spent) if isinstance(sweep.spent, NotReported) else money(sweep.spent, "USD")
    facts: list[tuple[str, Child]] = [("spent, billed or estimated", spent)]
    if sweep.budget is not None:
        facts.append(("budget", money(sweep.budget, "USD")))
    lines = [el("li", line) for line in cost_lines(sweep)]
    return facts_list(facts) + (el("ul", lines) if lines else Markup(""))


def _job_list(sweep: Sweep) -> Markup:
    best = sweep.best
    if best is None:
        return Markup("")
    return facts_list([(name, format_value(value)) for name, value in best.params.items()])
