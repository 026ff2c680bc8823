"""The page of a sweep: the best configuration, every trial and its curve, what mattered, what it cost."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from markupsafe import Markup

from llmtune.metrics.points import NotReported
from llmtune.report.format import money
from llmtune.report.html.charts import chart_places, overlaid
from llmtune.report.html.elements import Child, el
from llmtune.report.html.page import Section, facts_list, page, sorted_by, table
from llmtune.report.html.run import state_mark
from llmtune.sweeps.results import Sweep, TrialRow
from llmtune.sweeps.text import asides, headline, shown, sums, tested, trial_count

#: Curves in one chart: more colours than these nobody can tell apart.
CURVES = 8

_STATES = {"complete": "succeeded", "pruned": "cancelled", "failed": "failed", "running": "running"}


def render(found: Sweep) -> str:
    """The sweep as one HTML file."""
    named = [(each, {} if each.curve is None else {found.metric: each.curve}) for each in _best(found)]
    charts = overlaid([(f"trial {each.number}", curves) for each, curves in named])
    title = f"{found.name}: {trial_count(found)}"
    line = (found.provider, found.method, f"by {found.metric}", found.group)
    header = el(
        "header",
        el("h1", found.name),
        el("p", [el("span", each) for each in line], class_="line"),
        el("p", headline(found), class_="verdict"),
        el("p", f"Stopped by {found.stopped}.", class_="doubt") if found.stopped else None,
    )
    return page(title, _sections(found, charts), header=header, data={"charts": charts})


def _best(found: Sweep) -> list[TrialRow]:
    """The trials in order, best first, as many as a chart can show."""
    return found.ranked()[:CURVES]


def _sections(found: Sweep, charts: list[dict[str, Any]]) -> Iterator[Section]:
    finals = [el("li", tested(each)) for each in found.finalists]
    yield Section("finalists", "On the test rows", el("ul", finals) if finals else Markup(""), short="Tested")
    yield Section("curves", f"Curves of the best {len(_best(found))}", chart_places(charts), short="Curves")
    yield Section("trials", "Trials", _trials(found))
    yield Section("importance", "What mattered", _importance(found))
    lines = [el("li", line) for line in asides(found)]
    yield Section("search", "The search", el("ul", lines) if lines else Markup(""), short="Search")
    yield Section("cost", "Cost", _cost(found))
    yield Section("best", "The best job", _job(found))


def _trials(found: Sweep) -> Markup:
    names = list(dict.fromkeys(name for each in found.trials for name in each.params))
    colours = {each.number: place for place, each in enumerate(_best(found))}
    rows: list[list[Child]] = []
    for each in found.ranked(every=True):
        place = colours.get(each.number)
        mark = None if place is None else el("span", "\u25a0 ", class_=f"k{place}", aria_hidden="true")
        value: Child = "\u2013"
        if each.value is not None:
            value = sorted_by(float(each.value), el("b", f"{each.value:.4f}"), class_="n")
        state = el("td", state_mark(_STATES[each.state]), el("small", f" {each.note}") if each.note else None)
        rows.append(
            [
                sorted_by(each.number, mark, str(each.number)),
                value,
                *(_param(each.params.get(name)) for name in names),
                "\u2013" if each.steps is None else f"{each.steps:,}",
                "\u2013" if isinstance(each.cost, NotReported) else money(each.cost, "USD"),
                el("td", el("code", each.run or "")),
                state,
            ]
        )
    headings = ["trial", found.metric, *names, "steps", "cost", "run", "state"]
    return table(headings, rows, numbers=range(1, len(names) + 4), caption="Trials", titled=False)


def _param(value: Any) -> Child:
    if value is None:
        return "\u2013"
    if isinstance(value, int | float) and not isinstance(value, bool):
        return sorted_by(float(value), shown(value), class_="n")
    return shown(value)


def _importance(found: Sweep) -> Markup:
    if not found.importance:
        return Markup("")
    rows: list[list[Child]] = [
        [name, sorted_by(share, f"{100 * share:.0f}%", class_="n")] for name, share in found.importance.items()
    ]
    how = "Share of the metric's variation over the trials that each field explains (fANOVA)."
    told = table(("field", "share"), rows, numbers=(1,), caption="Importance", titled=False)
    return el("p", how, class_="hint") + told


def _cost(found: Sweep) -> Markup:
    spent = str(found.spent) if isinstance(found.spent, NotReported) else money(found.spent, "USD")
    facts: list[tuple[str, Child]] = [("spent, billed or estimated", spent)]
    if found.budget is not None:
        facts.append(("budget", money(found.budget, "USD")))
    lines = [el("li", line) for line in sums(found)]
    return facts_list(facts) + (el("ul", lines) if lines else Markup(""))


def _job(found: Sweep) -> Markup:
    best = found.best
    if best is None:
        return Markup("")
    return facts_list([(name, shown(value)) for name, value in best.params.items()])
