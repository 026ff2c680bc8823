"""Results on the held-out rows: metrics with their intervals, figures by label, confusion, worst rows."""

from __future__ import annotations

from collections.abc import Sequence

from llmtune.evaluation.results import EvaluationResult, SystemResult, WorstRow
from llmtune.metrics.classification import ClassificationResult, ClassMetrics, recall_interval
from llmtune.metrics.comparison import compare_unpaired
from llmtune.metrics.points import NotReported
from llmtune.report.cells import DASH, VERDICT_STYLES, change_cell, figure_cell
from llmtune.report.document import (
    Bars,
    Block,
    Card,
    Cards,
    Column,
    Details,
    Inline,
    Matrix,
    Section,
    Span,
    Style,
    Table,
    Text,
)
from llmtune.report.format import count, metric_name, number, p_words, pick_system, spread
from llmtune.report.verdicts import CHEAP, describe_calibration, describe_outside_answers

#: Most labels for which the whole confusion matrix is shown; above, only the most confused pairs.
MATRIX_LABELS = 80
CONFUSED_SHOWN = 15
#: Most characters of a prompt or an answer in the page; the JSON report holds all that the evaluation stored.
TEXT_SHOWN = 3000
ROWS_SHOWN = 50

_SCORING = {"likelihood": "labels by likelihood", "text": "by generated text", "loss": "by loss"}


def held_out(
    result: EvaluationResult | NotReported,
    *,
    before: str = "base",
    after: str = "tuned",
    id: str = "evaluation",
    title: str = "Held-out rows",
) -> Section:
    """Return the section with every metric of every system, and the difference from `before` to `after`."""
    if isinstance(result, NotReported):
        return Section(id, title, [Text(str(result), "dim")], brief=())
    rows = count(result.rows, "held-out row")
    some = f"{rows} of {result.available:,}" if result.rows < result.available else rows
    summary = f"{some}, {_SCORING[result.scored_by]}, intervals at {result.level:.0%}"
    notes: list[Block] = []
    if shares := describe_outside_answers(result):
        notes.append(Text(shares, "doubt"))
    if result.rule:
        notes.append(Text(f"Labels are read by the rule {result.rule}.", "dim"))
    for name, absence in result.systems.items():
        if isinstance(absence, NotReported):
            notes.append(Text(f"The {name} model was not asked: {absence.reason}", "dim"))
    missing = [
        Text(f"{name}: {metric_name(metric)} not reported ({reason})", "dim")
        for name in result.systems
        if (system := result.system(name)) is not None
        for metric, reason in system.not_reported.items()
    ]
    systems = [system for name in result.systems if (system := result.system(name)) is not None]
    bars = _bars(result)
    tuned = result.system(after)
    surely = [Text(sure, "dim")] if tuned is not None and (sure := describe_calibration(tuned)) else []
    # The bars show every baseline; a table of base and tuned model fits 80 columns.
    few = [system for system in systems if system.name not in CHEAP]
    return Section(
        id,
        title,
        [Text(summary, "hint"), *bars, *_metrics(result, systems, before, after), *notes, *missing],
        short="Results",
        brief=[*bars, *_metrics(result, few, before, after), *notes, *surely],
        brief_title=summary,
    )


def _bars(result: EvaluationResult) -> list[Block]:
    """Return the main metric of each system as a bar."""
    values = []
    if result.majority is not None and result.main == "accuracy":
        label = Span("majority class", title=f"always \u201c{_shorten(result.majority.label, 24)}\u201d")
        values.append((label, result.majority.accuracy))
    values += [
        (Span(name), metric)
        for name in result.systems
        if (system := result.system(name)) is not None and (metric := system.get(result.main)) is not None
    ]
    is_share = bool(values) and values[0][1].unit == "share"
    return [Bars(metric_name(result.main), values)] if is_share else []


def _metrics(result: EvaluationResult, systems: Sequence[SystemResult], before: str, after: str) -> list[Block]:
    names = list(dict.fromkeys(metric.name for system in systems for metric in system.metrics))
    if not names:
        return []
    compared = any((comparison.name_a, comparison.name_b) == (before, after) for comparison in result.comparisons)
    columns = [Column("metric"), *(Column(system.name, "number") for system in systems)]
    columns += [Column("difference", "number"), Column("verdict")] if compared else []
    rows: list[list[Inline]] = []
    for name in names:
        metrics = [system.get(name) for system in systems]
        known = next(metric for metric in metrics if metric is not None)
        row: list[Inline] = [Span(metric_name(name), title=known.says), *map(figure_cell, metrics)]
        comparison = result.comparison(name, before, after) if compared else None
        if comparison is not None:
            test = "" if comparison.p_value is None else p_words(comparison.p_value)
            verdict = Span(comparison.verdict, VERDICT_STYLES[comparison.verdict], test)
            row += [change_cell(comparison, known.unit), verdict]
        elif compared:
            row += ["", ""]
        rows.append(row)
    return [Table("Metrics", columns, rows)]


# --- by label --------------------------------------------------------------------------------------------------------
def by_label(result: EvaluationResult, *, before: str = "base", after: str = "tuned") -> Section | None:
    """Return the section with precision, recall and F1 of each label, beside the recall of the system `before`."""
    tuned, owner = pick_system(result, after)
    if tuned is None or tuned.classification is None:
        return None
    classification = tuned.classification
    base = result.system(before)
    compared = base.classification if base is not None and base is not tuned else None
    earlier = {row.label: row for row in compared.classes} if compared is not None else {}
    headings = ["rows", "answered", "precision", "recall", "F1"]
    headings += [f"F{classification.beta:g}"] if classification.beta != 1.0 else []
    headings += [f"recall {before}", "change"] if compared is not None else []
    rows: list[list[Inline]] = []
    for row in classification.classes:
        cells: list[Inline] = [row.label, f"{row.support:,}", f"{row.predicted:,}", _share(row.precision), _recall(row)]
        cells.append(_share(row.f1))
        cells += [_share(row.f_beta)] if classification.beta != 1.0 else []
        if compared is not None:
            then = earlier.get(row.label)
            cells += [_recall(then), _change(then, row)] if then else ["", ""]
        rows.append(cells)
    columns = [Column("label", "label"), *(Column(heading, "number") for heading in headings)]
    averages: list[list[Inline]] = [
        [name, _share(average.precision), _share(average.recall), _share(average.f1)]
        for name, average in (
            ("macro", classification.macro),
            ("micro", classification.micro),
            ("weighted", classification.weighted),
        )
    ]
    average_columns = [Column("average"), *(Column(heading, "number") for heading in ("precision", "recall", "F1"))]
    blocks = [
        Table(f"The {tuned.name} model by label", columns, rows),
        Details("Averages over the labels", [Table("Averages", average_columns, averages, sortable=False)]),
    ]
    return Section("labels", f"By label{owner}", blocks, short="By label", folded=True)


def _share(value: float, style: Style = "", note: str = "") -> Span:
    return Span(number(value, "share"), style, note, value)


def _recall(row: ClassMetrics) -> Span:
    """Return a label's recall with its interval, which shows how little a few rows say."""
    interval = recall_interval(row)
    return Span(DASH, value=row.recall) if interval is None else _share(row.recall, note=spread(interval, "share"))


def _change(earlier: ClassMetrics, row: ClassMetrics) -> Span:
    """Return a change in recall; coloured only where the rows suffice to tell it from chance."""
    before, after = recall_interval(earlier), recall_interval(row)
    if before is None or after is None:
        return Span(DASH, value=0.0)
    comparison = compare_unpaired(earlier.recall, before, row.recall, after, rows=row.support, metric="recall")
    style = "" if comparison.verdict == "not separable" else VERDICT_STYLES[comparison.verdict]
    return change_cell(comparison, "share", style)


# --- confusion -------------------------------------------------------------------------------------------------------
def confusion(result: EvaluationResult, *, after: str = "tuned") -> Section | None:
    """Return the section with the confusion matrix (true label by row) and the labels that are confused most."""
    tuned, owner = pick_system(result, after)
    classification = tuned.classification if tuned is not None else None
    if classification is None:
        return None
    labels = classification.labels
    blocks: list[Block] = [_most_confused(classification)]
    if len(labels) <= MATRIX_LABELS:
        columns = [*labels, *(["(outside)"] if classification.outside else [])]
        amounts = [counts[: len(columns)] for counts in classification.confusion]
        matrix = Matrix("Confusion matrix", labels, columns, amounts)
        blocks.insert(0, matrix if len(labels) <= 12 else Details("The whole matrix", [matrix]))
    else:
        blocks.append(Text(f"{len(labels)} labels: the whole matrix stands in the JSON report.", "hint"))
    if classification.outside_answers:
        caption = f"{count(classification.outside, 'answer')} outside the label set"
        rows = [
            ["(no answer)" if answer.answer is None else _shorten(answer.answer), f"{answer.count:,}"]
            for answer in classification.outside_answers
        ]
        blocks.append(Details(caption, [Table(caption, [Column("answer", "label"), Column("times", "number")], rows)]))
    return Section("confusion", f"Confusion{owner}", blocks, short="Confusion", folded=True)


def _most_confused(classification: ClassificationResult) -> Block:
    answers = [*classification.labels, "(outside the labels)"]
    pairs = [
        (amount, sum(counts), label, answers[index])
        for label, counts in zip(classification.labels, classification.confusion, strict=True)
        for index, amount in enumerate(counts)
        if amount and answers[index] != label
    ]
    pairs.sort(key=lambda pair: (-pair[0], pair[2], pair[3]))
    if not pairs:
        return Text("No label was taken for another.", "hint")
    rows: list[list[Inline]] = [
        [label, answer, f"{amount:,}", _share(amount / total)] for amount, total, label, answer in pairs
    ]
    columns = [Column("true", "label"), Column("answered", "label"), Column("rows", "number")]
    return Table("Most often confused", [*columns, Column("of its rows", "number")], rows[:CONFUSED_SHOWN])


# --- rows ------------------------------------------------------------------------------------------------------------
def worst(result: EvaluationResult, *, after: str = "tuned") -> Section:
    """Return the section with the rows that went wrong, with prompt, expected and given answer."""
    tuned, owner = pick_system(result, after)
    blocks = _cards(tuned.worst) if tuned is not None else []
    brief: list[Block] = list(blocks[:1])
    if result.fit is not None and result.fit.hardest:
        blocks.append(Details("Training rows that stayed hardest", _cards(result.fit.hardest)))
        hardest = ", ".join(f"{_place(row)} ({number(row.score)})" for row in result.fit.hardest[:5])
        brief.append(Text(f"training rows of highest loss: {hardest}", "dim"))
    if result.contradictions:
        rows = [
            [
                _shorten(contradiction.prompt, 300),
                "; ".join(f"{label} ({places})" for label, places in contradiction.answers),
            ]
            for contradiction in result.contradictions[:ROWS_SHOWN]
        ]
        columns = [Column("prompt", "text"), Column("labels")]
        blocks.append(Details("Contradicting labels", [Table("Contradicting labels", columns, rows)]))
    title = "Surest mistakes" if result.scored_by == "likelihood" else "Worst answers"
    return Section("worst", title + owner, blocks, short="Mistakes", folded=True, brief=brief)


def _cards(rows: Sequence[WorstRow]) -> list[Block]:
    cards = [_card(row) for row in rows[:ROWS_SHOWN]]
    hidden = len(rows) - len(cards)
    more = [Text(f"{hidden} more in the JSON report", "hint")] if hidden > 0 else []
    return [Cards(cards), *more] if cards else []


def _card(row: WorstRow) -> Card:
    expected = [("expected", _shorten(row.expected))] if row.expected else []
    got = ("got", "(no answer)" if row.got is None else _shorten(row.got))
    return Card(
        f"{_place(row)} ({row.note})" if row.note else _place(row), [("asked", _shorten(row.prompt)), *expected, got]
    )


def _place(row: WorstRow) -> str:
    return f"line {row.line}" if row.line is not None else f"row {row.row}"


def _shorten(text: str, limit: int = TEXT_SHOWN) -> str:
    return text if len(text) <= limit else f"{text[: limit - 1]}\u2026"
