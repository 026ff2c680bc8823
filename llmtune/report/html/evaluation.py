"""What the held-out rows said: metrics with their intervals, figures by label, confusion, and where it goes wrong."""

from __future__ import annotations

from collections.abc import Sequence

from markupsafe import Markup

from llmtune.evaluation.results import EvaluationResult, MetricValue, WorstRow
from llmtune.metrics.classification import ClassificationResult, ClassMetrics, recall_interval
from llmtune.metrics.comparison import Comparison, compare_unpaired
from llmtune.metrics.points import NotReported
from llmtune.report.format import count, difference, metric_name, number, p_words, pick_system, spread
from llmtune.report.html.elements import Child, el, join
from llmtune.report.html.page import Section, details, sorted_by, table
from llmtune.report.verdicts import outside_shares

#: Labels up to which the whole confusion matrix is shown; above, only what is confused most.
MATRIX_LABELS = 80
CONFUSED_SHOWN = 15
#: Characters of a prompt or an answer in the page; the JSON report holds what the evaluation kept.
TEXT_SHOWN = 3000
ROWS_SHOWN = 50
#: Rows that stand open; the rest can be opened.
ROWS_OPEN = 6

_HOW = {
    "likelihood": "labels scored by their likelihood",
    "text": "answers generated",
    "loss": "rows scored by their loss",
}


def held_out(
    result: EvaluationResult, *, before: str = "base", after: str = "tuned", id: str = "evaluation", title: str = ""
) -> Section:
    """Every metric of every system, and what separates the system `after` from the system `before`."""
    some = f" of {result.available:,}" if result.rows < result.available else ""
    said = f"{count(result.rows, 'row')}{some}, {_HOW[result.scored_by]}; intervals at {result.level:.0%}."
    if result.rule:
        said += f" Labels are read by the rule {result.rule}."
    absent = [
        el("p", f"The {name} model was not asked: {each.reason}", class_="dim")
        for name, each in result.systems.items()
        if isinstance(each, NotReported)
    ]
    missing = [
        el("p", f"{name}: {metric_name(metric)} not reported ({reason})", class_="dim")
        for name in result.systems
        if (system := result.system(name)) is not None
        for metric, reason in system.not_reported.items()
    ]
    outside = el("p", shares, class_="hint") if (shares := outside_shares(result)) else None
    body = join([el("p", said, class_="hint"), bars(result), _metrics(result, before, after), outside, absent, missing])
    return Section(id, title or "Held-out rows", body, short="Results")


def bars(result: EvaluationResult) -> Markup:
    """The main metric of each system as a bar, with its interval as a whisker."""
    values: list[tuple[str, MetricValue]] = []
    if result.majority is not None and result.main == "accuracy":
        values.append((f"always \u201c{_short(result.majority.label, 24)}\u201d", result.majority.accuracy))
    for name in result.systems:
        system = result.system(name)
        metric = system.get(result.main) if system is not None else None
        if metric is not None:
            values.append((name, metric))
    if not values or any(value.unit != "share" for _, value in values):
        return Markup("")
    rows = [el("div", el("span", name), bar(value), el("b", number(value.value, "share"))) for name, value in values]
    heading = el("p", metric_name(result.main), class_="bars-title")
    return el("div", heading, rows, class_="bars")


def bar(value: MetricValue) -> Markup:
    """A share as a bar with its interval."""
    low, high = (min(100.0, max(0.0, 100 * each)) for each in (value.interval.low, value.interval.high))
    return el(
        "svg",
        el("rect", class_="track", x="0", y="2", width="100", height="8"),
        el("rect", class_="fill", x="0", y="2", width=f"{100 * value.value:.2f}", height="8"),
        el("rect", class_="whisker", x=f"{low:.2f}", y="5.25", width=f"{max(0.4, high - low):.2f}", height="1.5"),
        viewBox="0 0 100 12",
        preserveAspectRatio="none",
        role="img",
        aria_label=f"{number(value.value, 'share')}, interval {spread(value.interval, 'share')}",
    )


def _metrics(result: EvaluationResult, before: str, after: str) -> Markup:
    answered = [system for name in result.systems if (system := result.system(name)) is not None]
    names = list(dict.fromkeys(metric.name for each in answered for metric in each.metrics))
    compared = any((each.name_a, each.name_b) == (before, after) for each in result.comparisons)
    headings = ["metric", *(each.name for each in answered), *(["difference", "verdict"] if compared else [])]
    rows: list[list[Child]] = []
    for name in names:
        unit, says = "", ""
        cells: list[Child] = []
        for each in answered:
            metric = each.get(name)
            if metric is None:
                cells.append("\u2013")
                continue
            unit, says = metric.unit, metric.says
            within = el("small", spread(metric.interval, unit))
            cells.append(sorted_by(metric.value, el("b", number(metric.value, unit)), within, class_="n two"))
        if compared:
            cells += _difference(result.comparison(name, before, after), unit)
        rows.append([el("td", metric_name(name), title=says), *cells])
    return (
        table(headings, rows, numbers=range(1, len(answered) + 1 + compared), caption="Metrics") if rows else Markup("")
    )


def _difference(comparison: Comparison | None, unit: str) -> list[Child]:
    if comparison is None:
        return ["", ""]
    within = el("small", spread(comparison.interval, unit))
    kind = {"better": "good", "worse": "bad"}.get(comparison.verdict, "doubt")
    test = el("small", f" {p_words(comparison.p_value)}") if comparison.p_value is not None else None
    return [
        sorted_by(comparison.difference, difference(comparison.difference, unit), within, class_="n two"),
        el("td", el("span", comparison.verdict, class_=kind), test),
    ]


# --- by label --------------------------------------------------------------------------------------------------------
def by_label(result: EvaluationResult, *, before: str = "base", after: str = "tuned") -> Section:
    """Precision, recall and F1 of each label, sortable, beside those of the system `before`."""
    tuned, owner = pick_system(result, after)
    if tuned is None or tuned.classification is None:
        return Section("labels", "By label", Markup(""))
    found = tuned.classification
    base = result.system(before)
    was_found = base.classification if base is not None and base is not tuned else None
    headings = ["label", "rows", "answered", "precision", "recall", "F1"]
    headings += [f"recall {before}", "change"] if was_found is not None else []
    rows: list[list[Child]] = []
    earlier = {each.label: each for each in was_found.classes} if was_found is not None else {}
    for row in found.classes:
        cells: list[Child] = [
            el("td", row.label, class_="label"),
            sorted_by(row.support, f"{row.support:,}", class_="n"),
            sorted_by(row.predicted, f"{row.predicted:,}", class_="n"),
            sorted_by(row.precision, number(row.precision, "share"), class_="n"),
            _recall(row),
            sorted_by(row.f1, number(row.f1, "share"), class_="n"),
        ]
        if was_found is not None:
            was = earlier.get(row.label)
            cells += [_recall(was), _change(was, row)] if was else ["", ""]
        rows.append(cells)
    rows_table = table(headings, rows, numbers=range(1, len(headings)), caption=f"The {tuned.name} model by label")
    averages = table(
        ["average", "precision", "recall", "F1"],
        [
            [name, *(number(value, "share") for value in (each.precision, each.recall, each.f1))]
            for name, each in (("macro", found.macro), ("micro", found.micro), ("weighted", found.weighted))
        ],
        numbers=(1, 2, 3),
        caption="Averages",
        sortable=False,
    )
    return Section(
        "labels", f"By label{owner}", rows_table + details("Averages over the labels", averages), short="By label"
    )


def _recall(row: ClassMetrics) -> Child:
    """A label's recall with its interval: with three rows it says little, and shows that."""
    interval = recall_interval(row)
    if interval is None:
        return sorted_by(row.recall, "\u2013", class_="n")
    within = el("small", spread(interval, "share"))
    return sorted_by(row.recall, number(row.recall, "share"), within, class_="n two")


def _change(was: ClassMetrics, row: ClassMetrics) -> Child:
    """The change of a label's recall; coloured only where so many rows can tell it from chance."""
    before, after = recall_interval(was), recall_interval(row)
    if before is None or after is None:
        return sorted_by(0.0, "\u2013", class_="n")
    found = compare_unpaired(was.recall, before, row.recall, after, rows=row.support, metric="recall")
    kind = {"better": "good", "worse": "bad"}.get(found.verdict)
    within = el("small", spread(found.interval, "share"))
    text = el("span", difference(found.difference, "share"), class_=kind)
    return sorted_by(found.difference, text, within, class_="n two")


def confusion(result: EvaluationResult, *, after: str = "tuned") -> Section:
    """True label by row, answer by column; and what is taken for what most often."""
    tuned, owner = pick_system(result, after)
    found = tuned.classification if tuned is not None else None
    if found is None or tuned is None:
        return Section("confusion", "Confusion", Markup(""))
    parts: list[Child] = [_confused(found)]
    if len(found.labels) <= MATRIX_LABELS:
        matrix = _matrix(found)
        parts.insert(0, matrix if len(found.labels) <= 12 else details("The whole matrix", matrix))
    else:
        parts.append(el("p", f"{len(found.labels)} labels: the whole matrix stands in the JSON report.", class_="hint"))
    if found.outside_answers:
        answers = [
            [_answer(each.answer), sorted_by(each.count, f"{each.count:,}", class_="n")]
            for each in found.outside_answers
        ]
        says = f"{count(found.outside, 'answer')} outside the label set"
        parts.append(details(says, table(["answer", "times"], answers, numbers=(1,), caption=says)))
    return Section("confusion", f"Confusion{owner}", join(parts), short="Confusion")


def _matrix(found: ClassificationResult) -> Markup:
    columns = [*found.labels, *(["(outside)"] if found.outside else [])]
    top = el(
        "tr", el("th", "true \\ answered", scope="col"), [el("th", el("span", each), scope="col") for each in columns]
    )
    lines = []
    for label, counts in zip(found.labels, found.confusion, strict=True):
        total = sum(counts) or 1
        cells = [
            _heat(amount, total, right=place < len(found.labels) and found.labels[place] == label)
            for place, amount in enumerate(counts[: len(columns)])
        ]
        lines.append(el("tr", el("th", label, scope="row"), cells))
    inner = el("table", el("thead", top), el("tbody", lines), class_="matrix")
    return el("div", inner, class_="scroll", tabindex="0", role="group", aria_label="Confusion matrix")


def _heat(amount: int, total: int, *, right: bool) -> Markup:
    if not amount:
        return Markup("<td></td>")
    level = max(1, round(9 * amount / total))
    return el("td", amount, class_=f"{'r' if right else 'w'}{level}")


def _confused(found: ClassificationResult) -> Markup:
    columns = [*found.labels, "(outside the labels)"]
    pairs = [
        (amount, sum(counts), label, columns[place])
        for label, counts in zip(found.labels, found.confusion, strict=True)
        for place, amount in enumerate(counts)
        if amount and columns[place] != label
    ]
    pairs.sort(key=lambda pair: (-pair[0], pair[2], pair[3]))
    if not pairs:
        return el("p", "No label was taken for another.", class_="hint")
    rows: list[list[Child]] = [
        [
            el("td", label, class_="label"),
            el("td", said, class_="label"),
            sorted_by(amount, f"{amount:,}", class_="n"),
            sorted_by(amount / total, number(amount / total, "share"), class_="n"),
        ]
        for amount, total, label, said in pairs[:CONFUSED_SHOWN]
    ]
    return table(
        ["true", "answered", "rows", "of its rows"], rows, numbers=(2, 3), caption="What is taken for what most often"
    )


# --- rows ------------------------------------------------------------------------------------------------------------
def worst(result: EvaluationResult, *, after: str = "tuned") -> Section:
    """Rows that went wrong, one under the other, as they are."""
    tuned, owner = pick_system(result, after)
    parts: list[Child] = []
    if tuned is not None and tuned.worst:
        parts.append(_rows(tuned.worst))
    if result.fit is not None and result.fit.hardest:
        parts.append(details("Training rows that stayed hardest", _rows(result.fit.hardest)))
    if result.contradictions:
        rows = [
            [
                el("td", _short(each.prompt, 300), class_="text"),
                el("td", [el("div", f"{label} ({where})") for label, where in each.answers]),
            ]
            for each in result.contradictions[:ROWS_SHOWN]
        ]
        parts.append(details("Contradicting labels", table(["prompt", "labels"], rows, caption="Contradicting labels")))
    title = "Surest mistakes" if result.scored_by == "likelihood" else "Worst answers"
    return Section("worst", title + owner, join(parts), short="Mistakes")


def _rows(rows: Sequence[WorstRow]) -> Markup:
    shown = [_row(row) for row in rows[:ROWS_SHOWN]]
    more = len(rows) - len(shown)
    rest = el("div", shown[ROWS_OPEN:], class_="rows")
    return join(
        [
            el("div", shown[:ROWS_OPEN], class_="rows"),
            details(f"{count(len(shown) - ROWS_OPEN, 'more row')}", rest) if len(shown) > ROWS_OPEN else None,
            el("p", f"{more} more in the JSON report", class_="hint") if more > 0 else None,
        ]
    )


def _row(row: WorstRow) -> Markup:
    where = f"line {row.line}" if row.line is not None else f"row {row.row}"
    pairs = [("asked", row.prompt), *([("expected", row.expected)] if row.expected else [])]
    return el(
        "article",
        el("p", where, f" \u00b7 {row.note}" if row.note else None, class_="dim"),
        el(
            "dl",
            [el("div", el("dt", name), el("dd", _short(text, TEXT_SHOWN), class_="text")) for name, text in pairs],
            el("div", el("dt", "got"), el("dd", _answer(row.got), class_="text")),
        ),
    )


def _answer(answer: str | None) -> Child:
    return el("i", "no answer") if answer is None else _short(answer, TEXT_SHOWN)


def _short(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[: most - 1]}\u2026"
