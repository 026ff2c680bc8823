"""Results on the held-out rows: metrics with their intervals, figures by label, confusion, worst rows."""

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
from llmtune.report.verdicts import describe_outside_answers

#: Most labels for which the whole confusion matrix is shown; above, only the most confused pairs.
MATRIX_LABELS = 80
CONFUSED_SHOWN = 15
#: Most characters of a prompt or an answer in the page; the JSON report holds all that the evaluation stored.
TEXT_SHOWN = 3000
ROWS_SHOWN = 50
#: Rows that are shown at once; the others can be opened.
ROWS_OPEN = 6

_SCORING = {
    "likelihood": "labels scored by their likelihood",
    "text": "answers generated",
    "loss": "rows scored by their loss",
}


def held_out(
    result: EvaluationResult, *, before: str = "base", after: str = "tuned", id: str = "evaluation", title: str = ""
) -> Section:
    """Return the section with every metric of every system, and the difference from `before` to `after`."""
    some = f" of {result.available:,}" if result.rows < result.available else ""
    summary = f"{count(result.rows, 'row')}{some}, {_SCORING[result.scored_by]}; intervals at {result.level:.0%}."
    if result.rule:
        summary += f" Labels are read by the rule {result.rule}."
    absent = [
        el("p", f"The {name} model was not asked: {absence.reason}", class_="dim")
        for name, absence in result.systems.items()
        if isinstance(absence, NotReported)
    ]
    missing = [
        el("p", f"{name}: {metric_name(metric)} not reported ({reason})", class_="dim")
        for name in result.systems
        if (system := result.system(name)) is not None
        for metric, reason in system.not_reported.items()
    ]
    outside = el("p", shares, class_="hint") if (shares := describe_outside_answers(result)) else None
    body = join(
        [el("p", summary, class_="hint"), bars(result), _metrics(result, before, after), outside, absent, missing]
    )
    return Section(id, title or "Held-out rows", body, short="Results")


def bars(result: EvaluationResult) -> Markup:
    """Draw the main metric of each system as a bar, with its interval as a whisker."""
    values: list[tuple[str, MetricValue]] = []
    if result.majority is not None and result.main == "accuracy":
        values.append((f"always \u201c{_shorten(result.majority.label, 24)}\u201d", result.majority.accuracy))
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
    """Draw a share as a bar with its interval."""
    low, high = (min(100.0, max(0.0, 100 * bound)) for bound in (value.interval.low, value.interval.high))
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
    names = list(dict.fromkeys(metric.name for system in answered for metric in system.metrics))
    compared = any((comparison.name_a, comparison.name_b) == (before, after) for comparison in result.comparisons)
    headings = ["metric", *(system.name for system in answered), *(["difference", "verdict"] if compared else [])]
    rows: list[list[Child]] = []
    for name in names:
        unit, says = "", ""
        cells: list[Child] = []
        for answering in answered:
            metric = answering.get(name)
            if metric is None:
                cells.append("\u2013")
                continue
            unit, says = metric.unit, metric.says
            within = el("small", spread(metric.interval, unit))
            cells.append(sorted_by(metric.value, el("b", number(metric.value, unit)), within, class_="n two"))
        if compared:
            cells += _difference_cells(result.comparison(name, before, after), unit)
        rows.append([el("td", metric_name(name), title=says), *cells])
    return (
        table(headings, rows, numbers=range(1, len(answered) + 1 + compared), caption="Metrics") if rows else Markup("")
    )


def _difference_cells(comparison: Comparison | None, unit: str) -> list[Child]:
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
    """Return the section with precision, recall and F1 of each label, beside the recall of the system `before`."""
    tuned, owner = pick_system(result, after)
    if tuned is None or tuned.classification is None:
        return Section("labels", "By label", Markup(""))
    classification = tuned.classification
    base = result.system(before)
    base_classification = base.classification if base is not None and base is not tuned else None
    headings = ["label", "rows", "answered", "precision", "recall", "F1"]
    headings += [f"recall {before}", "change"] if base_classification is not None else []
    rows: list[list[Child]] = []
    earlier = (
        {label_metrics.label: label_metrics for label_metrics in base_classification.classes}
        if base_classification is not None
        else {}
    )
    for row in classification.classes:
        cells: list[Child] = [
            el("td", row.label, class_="label"),
            sorted_by(row.support, f"{row.support:,}", class_="n"),
            sorted_by(row.predicted, f"{row.predicted:,}", class_="n"),
            sorted_by(row.precision, number(row.precision, "share"), class_="n"),
            _recall_cell(row),
            sorted_by(row.f1, number(row.f1, "share"), class_="n"),
        ]
        if base_classification is not None:
            label_metrics = earlier.get(row.label)
            cells += [_recall_cell(label_metrics), _change_cell(label_metrics, row)] if label_metrics else ["", ""]
        rows.append(cells)
    rows_table = table(headings, rows, numbers=range(1, len(headings)), caption=f"The {tuned.name} model by label")
    averages = table(
        ["average", "precision", "recall", "F1"],
        [
            [name, *(number(value, "share") for value in (average.precision, average.recall, average.f1))]
            for name, average in (
                ("macro", classification.macro),
                ("micro", classification.micro),
                ("weighted", classification.weighted),
            )
        ],
        numbers=(1, 2, 3),
        caption="Averages",
        sortable=False,
    )
    return Section(
        "labels", f"By label{owner}", rows_table + details("Averages over the labels", averages), short="By label"
    )


def _recall_cell(row: ClassMetrics) -> Child:
    """Return the cell of a label's recall with its interval, which shows how little a few rows say."""
    interval = recall_interval(row)
    if interval is None:
        return sorted_by(row.recall, "\u2013", class_="n")
    within = el("small", spread(interval, "share"))
    return sorted_by(row.recall, number(row.recall, "share"), within, class_="n two")


def _change_cell(earlier: ClassMetrics, row: ClassMetrics) -> Child:
    """Return the cell of a change in recall; coloured only where the rows suffice to tell it from chance."""
    before, after = recall_interval(earlier), recall_interval(row)
    if before is None or after is None:
        return sorted_by(0.0, "\u2013", class_="n")
    comparison = compare_unpaired(earlier.recall, before, row.recall, after, rows=row.support, metric="recall")
    kind = {"better": "good", "worse": "bad"}.get(comparison.verdict)
    within = el("small", spread(comparison.interval, "share"))
    text = el("span", difference(comparison.difference, "share"), class_=kind)
    return sorted_by(comparison.difference, text, within, class_="n two")


def confusion(result: EvaluationResult, *, after: str = "tuned") -> Section:
    """Return the section with the confusion matrix (true label by row) and the labels that are confused most."""
    tuned, owner = pick_system(result, after)
    classification = tuned.classification if tuned is not None else None
    if classification is None or tuned is None:
        return Section("confusion", "Confusion", Markup(""))
    parts: list[Child] = [_confused_table(classification)]
    if len(classification.labels) <= MATRIX_LABELS:
        matrix = _matrix(classification)
        parts.insert(0, matrix if len(classification.labels) <= 12 else details("The whole matrix", matrix))
    else:
        parts.append(
            el("p", f"{len(classification.labels)} labels: the whole matrix stands in the JSON report.", class_="hint")
        )
    if classification.outside_answers:
        answers = [
            [_answer(outside_answer.answer), sorted_by(outside_answer.count, f"{outside_answer.count:,}", class_="n")]
            for outside_answer in classification.outside_answers
        ]
        says = f"{count(classification.outside, 'answer')} outside the label set"
        parts.append(details(says, table(["answer", "times"], answers, numbers=(1,), caption=says)))
    return Section("confusion", f"Confusion{owner}", join(parts), short="Confusion")


def _matrix(classification: ClassificationResult) -> Markup:
    columns = [*classification.labels, *(["(outside)"] if classification.outside else [])]
    top = el(
        "tr",
        el("th", "true \\ answered", scope="col"),
        [el("th", el("span", column), scope="col") for column in columns],
    )
    lines = []
    for label, counts in zip(classification.labels, classification.confusion, strict=True):
        total = sum(counts) or 1
        cells = [
            _matrix_cell(
                amount, total, right=index < len(classification.labels) and classification.labels[index] == label
            )
            for index, amount in enumerate(counts[: len(columns)])
        ]
        lines.append(el("tr", el("th", label, scope="row"), cells))
    inner = el("table", el("thead", top), el("tbody", lines), class_="matrix")
    return el("div", inner, class_="scroll", tabindex="0", role="group", aria_label="Confusion matrix")


def _matrix_cell(amount: int, total: int, *, right: bool) -> Markup:
    if not amount:
        return Markup("<td></td>")
    level = max(1, round(9 * amount / total))
    return el("td", amount, class_=f"{'r' if right else 'w'}{level}")


def _confused_table(classification: ClassificationResult) -> Markup:
    columns = [*classification.labels, "(outside the labels)"]
    pairs = [
        (amount, sum(counts), label, columns[index])
        for label, counts in zip(classification.labels, classification.confusion, strict=True)
        for index, amount in enumerate(counts)
        if amount and columns[index] != label
    ]
    pairs.sort(key=lambda pair: (-pair[0], pair[2], pair[3]))
    if not pairs:
        return el("p", "No label was taken for another.", class_="hint")
    rows: list[list[Child]] = [
        [
            el("td", label, class_="label"),
            el("td", answer, class_="label"),
            sorted_by(amount, f"{amount:,}", class_="n"),
            sorted_by(amount / total, number(amount / total, "share"), class_="n"),
        ]
        for amount, total, label, answer in pairs[:CONFUSED_SHOWN]
    ]
    return table(["true", "answered", "rows", "of its rows"], rows, numbers=(2, 3), caption="Most often confused")


# --- rows ------------------------------------------------------------------------------------------------------------
def worst(result: EvaluationResult, *, after: str = "tuned") -> Section:
    """Return the section with the rows that went wrong, with prompt, expected and given answer."""
    tuned, owner = pick_system(result, after)
    parts: list[Child] = []
    if tuned is not None and tuned.worst:
        parts.append(_rows(tuned.worst))
    if result.fit is not None and result.fit.hardest:
        parts.append(details("Training rows that stayed hardest", _rows(result.fit.hardest)))
    if result.contradictions:
        rows = [
            [
                el("td", _shorten(contradiction.prompt, 300), class_="text"),
                el("td", [el("div", f"{label} ({where})") for label, where in contradiction.answers]),
            ]
            for contradiction in result.contradictions[:ROWS_SHOWN]
        ]
        parts.append(details("Contradicting labels", table(["prompt", "labels"], rows, caption="Contradicting labels")))
    title = "Surest mistakes" if result.scored_by == "likelihood" else "Worst answers"
    return Section("worst", title + owner, join(parts), short="Mistakes")


def _rows(rows: Sequence[WorstRow]) -> Markup:
    articles = [_row(row) for row in rows[:ROWS_SHOWN]]
    more = len(rows) - len(articles)
    closed = el("div", articles[ROWS_OPEN:], class_="rows")
    return join(
        [
            el("div", articles[:ROWS_OPEN], class_="rows"),
            details(f"{count(len(articles) - ROWS_OPEN, 'more row')}", closed) if len(articles) > ROWS_OPEN else None,
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
            [el("div", el("dt", name), el("dd", _shorten(text, TEXT_SHOWN), class_="text")) for name, text in pairs],
            el("div", el("dt", "got"), el("dd", _answer(row.got), class_="text")),
        ),
    )


def _answer(answer: str | None) -> Child:
    return el("i", "no answer") if answer is None else _shorten(answer, TEXT_SHOWN)


def _shorten(text: str, limit: int) -> str:
    return text if len(text) <= limit else f"{text[: limit - 1]}\u2026"
