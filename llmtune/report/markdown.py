"""The report as GitHub-flavoured Markdown: for a pull request, a wiki or a mail.

Every text that comes from a job, a dataset or a model is escaped: it can neither break a table nor become a link, an
image or a mention.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from llmtune.evaluation.results import EvaluationResult, SystemResult, WorstRow
from llmtune.metrics.classification import ClassMetrics, recall_interval
from llmtune.metrics.points import NotReported, Series
from llmtune.provider.types import RunState
from llmtune.report import terminal_chart
from llmtune.report.format import count, difference, escape_control_chars, metric_name, number, one_line, spread
from llmtune.report.summary import summary_rows
from llmtune.report.verdicts import describe_calibration, describe_outside_answers
from llmtune.report.verification import difference_lines, figure_lines, headline

if TYPE_CHECKING:
    from llmtune.report.schema import Report

_MARKS = {RunState.SUCCEEDED: "\u2705", RunState.FAILED: "\u274c", RunState.CANCELLED: "\u23f9\ufe0f"}

WORST_SHOWN = 5
LABELS_SHOWN = 30

_SPECIAL = re.compile(r"([\\`*_\[\]<>#|~&$])|^([-+]|\d+(?=[.)]))")


def plain(text: str, limit: int = 300) -> str:
    """Escape a text to one line of plain Markdown: no table, link, image, tag, formula or mention."""
    flat = _SPECIAL.sub(_escaped, one_line(text, limit))
    flat = re.sub(r"(?i)\b(https?|www)(?=[:.])", lambda match: f"{match.group()}\u200b", flat)
    return flat.replace("@", "@\u200b").replace("\n", " ")


def _escaped(match: re.Match[str]) -> str:
    return f"{match.group()}\\" if match.group().isdigit() else f"\\{match.group()}"


def code(text: str, limit: int = 200) -> str:
    """Format a text as inline code, whatever backticks it holds; safe in a table."""
    flat = one_line(text, limit).replace("|", "\u2502")
    fence = "`" * (max((len(run) for run in re.findall(r"`+", flat)), default=0) + 1)
    pad = " " if flat.startswith("`") or flat.endswith("`") or not flat else ""
    return f"{fence}{pad}{flat}{pad}{fence}"


def block(text: str, language: str = "") -> str:
    """Format a text as a fenced block that no backtick in it can close."""
    fence = "`" * max(3, max((len(run) for run in re.findall(r"`+", text)), default=0) + 1)
    return f"{fence}{language}\n{escape_control_chars(text).rstrip()}\n{fence}"


def table(headings: Sequence[str], rows: Sequence[Sequence[str]], right: Sequence[int] = ()) -> str:
    """Format a table; `right` are the columns aligned right. Cells must be escaped already."""
    rule = ["---:" if column in right else "---" for column in range(len(headings))]
    lines = [headings, rule, *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def render(report: Report) -> str:
    """Return the report as Markdown."""
    return "\n\n".join(part for part in _parts(report) if part) + "\n"


def _parts(report: Report) -> Iterator[str]:
    identity = report.identity
    yield f"# {plain(identity.job_name)}"
    mark = {RunState.SUCCEEDED: "\u2705", RunState.FAILED: "\u274c", RunState.LOST: "\u2753"}.get(
        identity.state, "\u23f8\ufe0f"
    )
    yield f"{mark} **{plain(report.headline, 1000)}**"
    tuned = identity.tuned_model
    yield table(
        ["", ""],
        [
            ["run", code(identity.run_id)],
            ["state", identity.state.value],
            ["backend", plain(identity.provider)],
            ["base model", code(identity.model)],
            ["tuned model", plain(str(tuned)) if isinstance(tuned, NotReported) else code(tuned)],
            ["method", f"{plain(identity.method)}, {plain(identity.adapter)}"],
        ],
    )
    if isinstance(report.evaluation, EvaluationResult):
        yield from evaluation_parts(report.evaluation)
    else:
        yield f"## Evaluation\n\n{plain(str(report.evaluation))}"
    yield from _training(report)
    yield from _diagnosis(report)
    yield from _servers(report)
    yield from _receipt(report)
    yield "## Facts"
    yield table(["", ""], [[plain(name), plain(value, 600)] for name, value in summary_rows(report)])
    if report.warnings:
        yield "## Warnings"
        yield "\n".join(f"- {plain(warning, 600)}" for warning in report.warnings)
    yield "## Again, and onwards"
    if report.reproduce:
        yield "Run the same job again:"
        yield block(report.reproduce, "sh")
    if isinstance(report.snippet, str) and report.snippet:
        yield "Call the tuned model:"
        yield block(report.snippet, "python")


def evaluation_parts(result: EvaluationResult) -> Iterator[str]:
    """Yield the parts of an evaluation: metrics, the labels, the worst rows."""
    yield "## Held-out rows"
    how = {
        "likelihood": "labels scored by their likelihood",
        "text": "answers generated",
        "loss": "rows scored by their loss",
    }[result.scored_by]
    some = f" of {result.available:,}" if result.rows < result.available else ""
    rule = f" Labels are read by the rule {plain(result.rule)}." if result.rule else ""
    yield f"{count(result.rows, 'row')}{some}, {how}; intervals at {result.level:.0%}.{rule}"
    yield _metrics(result)
    if shares := describe_outside_answers(result):
        yield plain(shares)
    for name, system in result.systems.items():
        if isinstance(system, NotReported):
            yield f"The {plain(name)} model was not asked: {plain(system.reason)}"
    tuned = result.system("tuned")
    if tuned is not None:
        yield from _calibration(tuned)
        yield from _classes(tuned)
        yield from _rows(f"Where the {plain(tuned.name)} model goes wrong", tuned.worst)
    if result.fit is not None:
        yield from _rows("Training rows that stayed hardest", result.fit.hardest)
    if result.contradictions:
        rows = [
            [
                plain(contradiction.prompt, 160),
                "<br>".join(f"{plain(label, 60)} ({plain(where)})" for label, where in contradiction.answers),
            ]
            for contradiction in result.contradictions[:WORST_SHOWN]
        ]
        body = table(["prompt", "labels"], rows)
        yield f"<details><summary>Contradicting labels</summary>\n\n{body}\n\n</details>"


def _metrics(result: EvaluationResult) -> str:
    answered = [system for system in result.systems.values() if isinstance(system, SystemResult)]
    names = list(dict.fromkeys(metric.name for system in answered for metric in system.metrics))
    majority = result.majority
    headings = ["metric", *(plain(system.name) for system in answered)]
    headings += ["majority class"] if majority else []
    headings += ["difference", "verdict"]
    rows = []
    for name in names:
        unit, cells = "", [plain(metric_name(name))]
        for system in answered:
            metric = system.get(name)
            if metric is None:
                cells.append("\u2013")
                continue
            unit = metric.unit
            cells.append(f"**{number(metric.value, unit)}**<br>{spread(metric.interval, unit)}")
        if majority:
            accuracy = majority.accuracy
            cells.append(
                f"{number(accuracy.value, 'share')}<br>{spread(accuracy.interval, 'share')}"
                if name == "accuracy"
                else ""
            )
        comparison = result.comparison(name)
        if comparison is None:
            cells += ["", ""]
        else:
            cells.append(f"{difference(comparison.difference, unit)}<br>{spread(comparison.interval, unit)}")
            cells.append(comparison.verdict)
        rows.append(cells)
    return table(headings, rows, right=range(1, len(headings) - 1))


def _calibration(system: SystemResult) -> Iterator[str]:
    if system.calibration is None:
        return
    yield plain(describe_calibration(system), 400)
    rows = [
        [number(group.confidence, "share"), number(group.accuracy, "share"), f"{group.rows:,}"]
        for group in system.calibration.bins
    ]
    body = table(["sure", "right", "rows"], rows, right=range(3))
    yield f"<details><summary>How sure the {plain(system.name)} model is</summary>\n\n{body}\n\n</details>"


def _classes(system: SystemResult) -> Iterator[str]:
    classification = system.classification
    if classification is None:
        return
    weighed = classification.beta != 1.0
    classes = [row for row in classification.classes if row.support or row.predicted][:LABELS_SHOWN]
    rows = [
        [
            plain(row.label, 60),
            number(row.precision, "share"),
            _recall(row),
            number(row.f1, "share"),
            *([number(row.f_beta, "share")] if weighed else []),
            f"{row.support:,}",
        ]
        for row in classes
    ]
    more = len([row for row in classification.classes if row.support or row.predicted]) - len(classes)
    tail = f"\n\n{more} more labels are in the JSON report." if more else ""
    outside = f"\n\n{classification.outside} answers were outside the label set." if classification.outside else ""
    heads = ["label", "precision", "recall", "F1", *([f"F{classification.beta:g}"] if weighed else []), "rows"]
    body = table(heads, rows, right=range(1, len(heads)))
    yield f"<details><summary>The {plain(system.name)} model by label</summary>\n\n{body}{tail}{outside}\n\n</details>"


def _recall(row: ClassMetrics) -> str:
    interval = recall_interval(row)
    return "\u2013" if interval is None else f"{number(row.recall, 'share')}<br>{spread(interval, 'share')}"


def _rows(title: str, worst: Sequence[WorstRow]) -> Iterator[str]:
    if not worst:
        return
    rows = [
        [
            f"line {row.line}" if row.line is not None else f"row {row.row}",
            plain(row.prompt, 160),
            plain(row.expected, 120),
            "*no answer*" if row.got is None else plain(row.got, 120),
            plain(row.note, 120),
        ]
        for row in worst[:WORST_SHOWN]
    ]
    body = table(["", "prompt", "expected", "got", ""], rows)
    yield f"<details><summary>{title}</summary>\n\n{body}\n\n</details>"


def _training(report: Report) -> Iterator[str]:
    yield "## Training"
    drawn = curve_text(report)
    if drawn:
        yield block(drawn)
    rows = []
    absent: dict[str, list[str]] = {}
    for name, series in report.series.items():
        if isinstance(series, NotReported):
            absent.setdefault(series.reason, []).append(name)
            continue
        first, last, best = series.first, series.last, series.best
        unit = series.unit if series.unit == "share" else ""
        rows.append(
            [
                plain(name),
                number(first.value, unit) if first else "",
                number(last.value, unit) if last else "",
                f"{number(best.value, unit)} at step {best.step}" if best else "",
                ", ".join(source.replace("_", " ") for source in series.sources),
            ]
        )
    if rows:
        yield table(["series", "first", "last", "best", "source"], rows, right=(1, 2, 3))
    if absent:  # nobody can act on these: one line for all
        reasons = "; ".join(f"{', '.join(names)} ({reason})" for reason, names in absent.items())
        yield plain(f"Not reported: {reasons}.", 1000)


def curve_text(report: Report, width: int = 72, height: int = 8, *, ascii_only: bool = False) -> str:
    """Draw training loss as a line and validation loss as marks, in characters; empty when there is no curve."""
    curves = []
    for names in (("train/loss",), ("validation/loss", "validation/full_loss")):
        series = next((candidate for name in names if isinstance(candidate := report.series.get(name), Series)), None)
        curves.append([(float(point.step), point.value) for point in series.points] if series is not None else [])
    if len(curves[0]) + len(curves[1]) < 3:
        return ""
    drawn = terminal_chart.draw(curves[0], curves[1], width=width, height=height, ascii_only=ascii_only)
    if drawn is None:
        return ""
    labels = {0: number(drawn.top), len(drawn.rows) - 1: number(drawn.bottom)}
    edge, corner, floor = ("|", "+", "-") if ascii_only else ("\u2502", "\u2514", "\u2500")
    lines = [
        f"{labels.get(index, ''):>7} {edge}{''.join(cell.char for cell in row)}".rstrip()
        for index, row in enumerate(drawn.rows)
    ]
    start, end = f"step {drawn.left:g}", f"{drawn.right:g}"
    mark = "o" if ascii_only else "\u25cf"
    legend = f"line: training loss{f', {mark}: validation loss' if curves[1] else ''}" if curves[0] else ""
    lines.append(f"{'':>8}{corner}{floor * width}")
    lines.append(f"{'':>9}{start}{legend.center(width - len(start) - len(end))}{end}")
    return "\n".join(lines)


def _diagnosis(report: Report) -> Iterator[str]:
    diagnosis = report.diagnosis
    if diagnosis.verdict == "unclear" and not report.succeeded:
        return
    yield "## Diagnosis"
    yield plain(diagnosis.sentence, 600)
    lines = [
        *diagnosis.evidence,
        *(spike.sentence() for spike in diagnosis.spikes),
        *(f"Try: {advice}" for advice in diagnosis.advice),
    ]
    lines += [f"{'ok' if check.passed else 'FAILED'}: {check.name}: {check.says}" for check in report.checks]
    if lines:
        yield "\n".join(f"- {plain(line, 600)}" for line in lines)


def _servers(report: Report) -> Iterator[str]:
    if not report.verifications:
        return
    yield "## Servers"
    for verification in report.verifications:
        yield f"**{plain(headline(verification), 600)}**"
        lines = [*difference_lines(verification), *figure_lines(verification)]
        yield "\n".join(f"- {plain(line, 600)}" for line in lines)


def _receipt(report: Report) -> Iterator[str]:
    requested = [row for row in report.receipt if row.requested is not None and row.support != "inherent"]
    if not requested:
        return
    yield "## What became of the settings"
    yield table(
        ["field", "asked", "became", "used", "why"],
        [
            [
                code(row.field),
                code(str(row.requested), 60),
                row.support.replace("_", " "),
                "" if row.effective is None else code(str(row.effective), 60),
                plain(row.rule or row.reason or ""),
            ]
            for row in requested
        ],
    )
