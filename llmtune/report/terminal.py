"""The report on a terminal: the headline first, then the numbers behind it, then the next steps.

Fits 80 columns; colours only where the console has them. Every text that comes from a job, a dataset or a model is
printed as text, never as markup, and its control characters are written out.
"""

from __future__ import annotations

import io
import textwrap
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from rich.box import ASCII, ROUNDED
from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.padding import Padding
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from llmtune.evaluation.results import EvaluationResult, MetricValue, SystemResult
from llmtune.metrics.points import NotReported, Series
from llmtune.provider.types import RunState
from llmtune.report import terminal_chart
from llmtune.report.format import (
    count,
    difference,
    escape_control_chars,
    judged_name,
    metric_name,
    number,
    one_line,
    pick_system,
    spread,
)
from llmtune.report.summary import summary_rows
from llmtune.report.verdicts import CHEAP, describe_calibration, describe_outside_answers
from llmtune.report.verification import difference_lines, figure_lines, headline

if TYPE_CHECKING:
    from llmtune.report.schema import Report

#: Rows shown of what may be long; the JSON report holds all.
WORST_SHOWN = 3
WARNINGS_SHOWN = 8

_GOOD, _BAD, _DOUBT = "green", "red", "yellow"
_STATE_COLOURS = {RunState.SUCCEEDED: _GOOD, RunState.FAILED: _BAD, RunState.LOST: _BAD, RunState.CANCELLED: _DOUBT}
_LOSS_COLOURS = ("cyan", "magenta")


def print_report(report: Report, console: Console | None = None) -> None:
    """Print the report to a console (None: standard output), with colours where it has them."""
    (console or Console(highlight=False, emoji=False)).print(ReportView(report), highlight=False, crop=False)


def to_text(report: Report, *, width: int = 80, ascii_only: bool = False) -> str:
    """Return the report as plain text of `width` columns."""
    buffer = io.StringIO()
    console = Console(file=buffer, width=width, no_color=True, force_terminal=False, highlight=False, emoji=False)
    console.print(ReportView(report, ascii_only=ascii_only), highlight=False, crop=False)
    return "\n".join(line.rstrip() for line in buffer.getvalue().splitlines()) + "\n"


class ReportView:
    """A report that rich can print."""

    def __init__(self, report: Report, *, ascii_only: bool | None = None) -> None:
        self.report = report
        self._ascii = ascii_only

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        ascii_only = options.ascii_only if self._ascii is None else self._ascii
        # A line of text runs easier on the eye when it is not as wide as the screen.
        view = _View(self.report, min(options.max_width, 100), ascii_only)
        for part in view.parts():
            yield from console.render(part, options.update_width(view.width))


class _Code:
    """A line that is copied: indented, and never wrapped or cut however narrow the terminal."""

    def __init__(self, text: str, label: str = "") -> None:
        self._line = Text.assemble("  ", (label, "dim"), escape_control_chars(text), no_wrap=True, overflow="ignore")

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield self._line


class _View:
    def __init__(self, report: Report, width: int, ascii_only: bool) -> None:
        self.report = report
        self.width = width
        self.ascii = ascii_only
        self.dot = " - " if ascii_only else " \u00b7 "
        self.arrow = "->" if ascii_only else "\u2192"

    def parts(self) -> Iterator[RenderableType]:
        """Yield everything, from the top."""
        yield self.title()
        yield self.verdict()
        for heading, body in self.sections():
            if body:
                yield Text()
                yield Text(heading, style="bold")
                for part in body:
                    yield part if isinstance(part, _Code) else Padding(part, (0, 0, 0, 2))

    def sections(self) -> Iterator[tuple[str, list[RenderableType]]]:
        """Yield the headings and their contents; an empty section is left out."""
        result = self.report.evaluation
        if isinstance(result, EvaluationResult):
            yield self.held_out_heading(result), [*self.bars(result), *self.metrics(result)]
        yield "Training", list(self.training())
        yield "Diagnosis", list(self.diagnosis())
        yield "Servers", list(self.servers())
        yield "What became of the settings", list(self.receipt())
        yield "Facts", [self.facts()]
        if isinstance(result, EvaluationResult):
            heading = "Surest mistakes" if result.scored_by == "likelihood" else "Worst answers"
            system, owner = pick_system(result, judged_name(result))
            yield heading + owner, list(self.worst(result, system))
        yield "Warnings", list(self.warnings())
        yield "Next", list(self.following())

    # --- the top -----------------------------------------------------------------------------------------------------
    def title(self) -> Text:
        identity = self.report.identity
        who = identity.provider if identity.provider == identity.kind else f"{identity.provider} ({identity.kind})"
        line = Text(no_wrap=False)
        line.append(one_line(identity.job_name), style="bold")
        line.append(self.dot, style="dim")
        line.append(identity.state.value, style=f"bold {_STATE_COLOURS.get(identity.state, '')}".strip())
        for part in (who, one_line(identity.model), f"{identity.method}/{identity.adapter}", identity.run_id):
            line.append(self.dot, style="dim")
            line.append(one_line(part))
        return line

    def verdict(self) -> RenderableType:
        result = self.report.evaluation
        comparison = result.comparison() if isinstance(result, EvaluationResult) else None
        colour = {"better": _GOOD, "worse": _BAD, "not separable": _DOUBT}.get(
            comparison.verdict if comparison else "", ""
        )
        if self.report.identity.state is not RunState.SUCCEEDED:
            colour = _STATE_COLOURS.get(self.report.identity.state, "")
        box = ASCII if self.ascii else ROUNDED
        return Panel(
            Text(escape_control_chars(self.report.headline)), border_style=colour or "dim", padding=(0, 1), box=box
        )

    # --- held-out rows -----------------------------------------------------------------------------------------------
    def held_out_heading(self, result: EvaluationResult) -> str:
        how = {"likelihood": "labels by likelihood", "text": "by generated text", "loss": "by loss"}[result.scored_by]
        rows = count(result.rows, "held-out row")
        some = f"{rows} of {result.available:,}" if result.rows < result.available else rows
        return f"{some}, {how}, intervals at {result.level:.0%}"

    def bars(self, result: EvaluationResult) -> Iterator[RenderableType]:
        values = [(name, metric) for name, metric in self._columns(result, result.main) if metric is not None]
        if not values or values[0][1].unit != "share":
            return
        best = max(metric.value for _, metric in values)
        width = max(10, min(48, self.width - 36))
        for name, metric in values:
            drawn = terminal_chart.bar(
                metric.value, metric.interval.low, metric.interval.high, width, ascii_only=self.ascii
            )
            line = Text(no_wrap=True)
            line.append(f"{one_line(name, 9):<9} ")
            line.append(drawn, style=_GOOD if metric.value == best else "dim")
            line.append(f" {number(metric.value, metric.unit):>6}", style="bold")
            line.append(f"  {spread(metric.interval, metric.unit)}", style="dim")
            yield line
        yield Text()

    def _columns(self, result: EvaluationResult, metric: str) -> list[tuple[str, MetricValue | None]]:
        columns: list[tuple[str, MetricValue | None]] = []
        if result.majority is not None:
            columns.append(("majority", result.majority.accuracy if metric == "accuracy" else None))
        for name, system in result.systems.items():
            columns.append((name, system.get(metric) if isinstance(system, SystemResult) else None))
        return columns

    def metrics(self, result: EvaluationResult) -> Iterator[RenderableType]:
        names = list(
            dict.fromkeys(
                metric.name
                for system in result.systems.values()
                if isinstance(system, SystemResult)
                for metric in system.metrics
            )
        )
        # The bars show every baseline; a table of base and tuned model fits 80 columns.
        answered = [name for name in result.systems if name not in CHEAP and result.system(name) is not None]
        if not names:
            return
        compared = any(comparison.name_a == "base" for comparison in result.comparisons)
        table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0), header_style="dim", show_header=True)
        table.add_column("")
        for name in answered:
            table.add_column(Text(one_line(name, 12)), justify="right", min_width=12)
        if compared:
            table.add_column("difference", justify="right", min_width=12)
            table.add_column("verdict")
        for name in names:
            cells: list[RenderableType] = [Text(metric_name(one_line(name, 20)))]
            unit = ""
            for system_name in answered:
                system = result.systems[system_name]
                metric = system.get(name) if isinstance(system, SystemResult) else None
                if metric is None:
                    cells.append(Text("-", style="dim"))
                    continue
                unit = metric.unit
                cell = Text(number(metric.value, unit))
                cell.append(f"\n{spread(metric.interval, unit)}", style="dim")
                cells.append(cell)
            cells += self._difference(result, name, unit) if compared else []
            table.add_row(*cells)
        yield table
        if outside := describe_outside_answers(result):
            yield Text(escape_control_chars(outside), style=_DOUBT)
        tuned = result.system(judged_name(result))
        if tuned is not None and (sure := describe_calibration(tuned)):
            yield Text(escape_control_chars(sure), style="dim")
        if result.rule is not None:
            yield Text(f"labels read by the rule {one_line(result.rule)}", style="dim")

    def _difference(self, result: EvaluationResult, metric: str, unit: str) -> list[RenderableType]:
        comparison = result.comparison(metric)
        if comparison is None:
            return [Text(""), Text("")]
        moved = Text(difference(comparison.difference, unit))
        moved.append(f"\n{spread(comparison.interval, unit)}", style="dim")
        colour = {"better": _GOOD, "worse": _BAD}.get(comparison.verdict, _DOUBT)
        return [moved, Text(comparison.verdict, style=colour)]

    # --- training ----------------------------------------------------------------------------------------------------
    def training(self) -> Iterator[RenderableType]:
        train, validation = self._curve("train/loss"), self._curve("validation/loss")
        if validation is None:
            validation = self._curve("validation/full_loss")
        yield from self._chart(train, validation)
        table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
        for heading in ("", "first", "last", "best", "", "source"):
            table.add_column(heading, justify="left" if heading in ("", "source") else "right")
        absent: dict[str, list[str]] = {}
        for name, series in self.report.series.items():
            if isinstance(series, NotReported) or not series.points:
                reason = series.reason if isinstance(series, NotReported) else "no point was reported"
                absent.setdefault(one_line(reason), []).append(one_line(name, 40))
                continue
            first, last, best = series.first, series.last, series.best
            unit = series.unit if series.unit == "share" else ""
            table.add_row(
                Text(one_line(name, 28)),
                number(first.value, unit) if first else "",
                number(last.value, unit) if last else "",
                Text(f"{number(best.value, unit)} at {best.step}") if best else Text(""),
                Text(terminal_chart.sparkline(series.values, 12, ascii_only=self.ascii)),
                Text(", ".join(source.replace("_", " ") for source in series.sources), style="dim"),
            )
        if table.row_count:
            yield table
        if absent:  # nobody can act on these: one line for all
            reasons = "; ".join(f"{', '.join(names)} ({reason})" for reason, names in absent.items())
            yield Text(f"not reported: {reasons}", style="dim")

    def _curve(self, name: str) -> Series | None:
        series = self.report.series.get(name)
        return series if isinstance(series, Series) and series.points else None

    def _chart(self, train: Series | None, validation: Series | None) -> Iterator[RenderableType]:
        dense = [(float(point.step), point.value) for point in train.points] if train else []
        sparse = [(float(point.step), point.value) for point in validation.points] if validation else []
        if len(dense) + len(sparse) < 3:
            return
        width = max(20, min(68, self.width - 14))
        drawn = terminal_chart.draw(dense, sparse, width=width, height=8, ascii_only=self.ascii)
        if drawn is None:
            return
        labels = {0: number(drawn.top), len(drawn.rows) - 1: number(drawn.bottom)}
        edge = "|" if self.ascii else "\u2502"
        for index, row in enumerate(drawn.rows):
            line = Text(f"{labels.get(index, ''):>7} ", style="dim", no_wrap=True)
            line.append(edge, style="dim")
            for cell in row:
                line.append(cell.char, style=_LOSS_COLOURS[cell.curve] if cell.curve is not None else "")
            yield line
        corner, floor = ("+", "-") if self.ascii else ("\u2514", "\u2500")
        yield Text(f"{'':>8}{corner}{floor * width}", style="dim", no_wrap=True)
        start, end = f"step {drawn.left:g}", f"{drawn.right:g}"
        axis = Text(f"{'':>9}{start}", style="dim", no_wrap=True)
        legend = Text(no_wrap=True)
        if dense:
            legend.append("." if self.ascii else "\u28c0\u28c0", style=_LOSS_COLOURS[0])
            legend.append(" training loss  ", style="dim")
        if sparse:
            legend.append("o" if self.ascii else "\u25cf", style=_LOSS_COLOURS[1])
            legend.append(" validation loss", style="dim")
        gap = width - len(start) - len(end) - legend.cell_len
        if gap < 2:
            yield axis
            yield Text(f"{'':>9}").append_text(legend)
            return
        axis.append(" " * (gap // 2))
        axis.append_text(legend)
        axis.append(" " * (gap - gap // 2))
        axis.append(end)
        yield axis
        yield Text()

    def diagnosis(self) -> Iterator[RenderableType]:
        diagnosis = self.report.diagnosis
        if diagnosis.verdict == "unclear" and not self.report.succeeded:
            return
        colour = {"good fit": _GOOD, "overfit": _DOUBT, "underfit": _DOUBT, "diverged": _BAD}.get(
            diagnosis.verdict, "dim"
        )
        yield Text(escape_control_chars(diagnosis.sentence), style=colour)
        for line in diagnosis.evidence:
            yield Text(escape_control_chars(line), style="dim")
        for spike in diagnosis.spikes[:3]:
            yield Text(escape_control_chars(spike.sentence()), style=_DOUBT)
        if len(diagnosis.spikes) > 3:
            yield Text(f"and {count(len(diagnosis.spikes) - 3, 'more spike')}", style="dim")
        for advice in diagnosis.advice:
            yield self._item(f"try: {advice}")
        for check in self.report.checks:
            mark, style = ("ok", _GOOD) if check.passed else ("FAILED", _BAD)
            check_line = Text(f"{mark} ", style=style)
            check_line.append(f"{one_line(check.name)}: {one_line(check.says, 300)}", style="default")
            yield check_line

    # --- servers -----------------------------------------------------------------------------------------------------
    def servers(self) -> Iterator[RenderableType]:
        for verification in self.report.verifications:
            colour = {"same": _GOOD, "drift": _BAD}.get(verification.verdict, _DOUBT)
            yield Text(one_line(headline(verification), 600), style=colour)
            for line in difference_lines(verification):
                yield self._item(line)
            for line in figure_lines(verification):
                yield Text(one_line(line), style="dim")

    # --- settings ----------------------------------------------------------------------------------------------------
    def receipt(self) -> Iterator[RenderableType]:
        requested = [row for row in self.report.receipt if row.requested is not None and row.support != "inherent"]
        plain = [row for row in requested if row.support == "sent" and "." not in row.field]
        if plain:
            settings = ", ".join(f"{row.field}={_value(row.requested)}" for row in plain)
            yield self._labelled("sent", settings, _GOOD)
        for support, colour in (("converted", "cyan"), ("unsupported", _DOUBT), ("invalid", _BAD)):
            for row in (row for row in requested if row.support == support):
                why = row.rule if support == "converted" else row.reason
                went = f" {self.arrow} {_value(row.effective)}" if support == "converted" else ""
                yield self._labelled(
                    support,
                    f"{row.field}={_value(row.requested)}{went}: {one_line(why or 'no reason given', 300)}",
                    colour,
                )
        counts = {
            support: sum(row.support == support for row in self.report.receipt)
            for support in ("inherent", "default", "not_applicable")
        }
        unset = ", ".join(f"{amount} {support.replace('_', ' ')}" for support, amount in counts.items() if amount)
        if unset:
            yield Text(f"the other fields: {unset}", style="dim")

    def _labelled(self, label: str, text: str, colour: str) -> Table:
        grid = Table.grid(padding=(0, 1))
        grid.add_column(width=11, style=colour)
        grid.add_column(overflow="fold")
        grid.add_row(Text(label), Text(escape_control_chars(text)))
        return grid

    def _item(self, text: str) -> Table:
        grid = Table.grid(padding=(0, 1))
        grid.add_column(width=1)
        grid.add_column(overflow="fold")
        grid.add_row(Text("-" if self.ascii else "\u2022", style="dim"), Text(escape_control_chars(text)))
        return grid

    # --- facts -------------------------------------------------------------------------------------------------------
    def facts(self) -> Table:
        table = Table.grid(padding=(0, 2))
        table.add_column(style="dim", no_wrap=True)
        table.add_column(overflow="fold")
        for name, value in summary_rows(self.report):
            table.add_row(Text(one_line(name, 24)), Text(escape_control_chars(value)))
        return table

    # --- the end -----------------------------------------------------------------------------------------------------
    def worst(self, result: EvaluationResult, system: SystemResult | None) -> Iterator[RenderableType]:
        if system is None:
            return
        for row in system.worst[:WORST_SHOWN]:
            where = f"line {row.line}" if row.line is not None else f"row {row.row}"
            note = f" ({one_line(row.note, 80)})" if row.note else ""
            yield Text(f"{where}{note}", style="dim")
            yield self._quoted("asked", row.prompt)
            if row.expected:
                yield self._quoted("expected", row.expected)
            yield self._quoted("got", "(no answer)" if row.got is None else row.got)
        more = len(system.worst) - WORST_SHOWN
        if more > 0:
            yield Text(f"{more} more in the JSON report", style="dim")
        if result.fit is not None and result.fit.hardest:
            hardest = ", ".join(
                f"{f'line {row.line}' if row.line is not None else f'row {row.row}'} ({number(row.score)})"
                for row in result.fit.hardest[:5]
            )
            yield Text(f"training rows of highest loss: {hardest}", style="dim")

    def _quoted(self, label: str, text: str) -> Text:
        width = self.width - 16
        line = Text(f"  {label:<9} ", style="dim", no_wrap=True, overflow="ellipsis")
        line.append(
            textwrap.shorten(one_line(text, 500), width, placeholder="..." if self.ascii else "\u2026"), "default"
        )
        return line

    def warnings(self) -> Iterator[RenderableType]:
        warnings: Sequence[str] = self.report.warnings
        for warning in warnings[:WARNINGS_SHOWN]:
            yield self._item(one_line(warning, 400))
        if len(warnings) > WARNINGS_SHOWN:
            yield Text(f"and {len(warnings) - WARNINGS_SHOWN} more in the JSON report", style="dim")

    def following(self) -> Iterator[RenderableType]:
        report = self.report
        if report.succeeded and not isinstance(report.identity.tuned_model, NotReported):
            yield _Code(f"llmtune chat {report.identity.run_id}", "talk to it   ")
            if isinstance(report.evaluation, NotReported):
                yield _Code(f"llmtune evaluate {report.identity.run_id}", "evaluate it  ")
        elif report.succeeded:
            yield _Code(f"llmtune runs attach {report.identity.run_id}", "ask again    ")
        if report.reproduce:
            yield _Code(report.reproduce, "run it again ")
        yield _Code(f"llmtune report {report.identity.run_id} --format json", "all of it    ")
        if isinstance(report.snippet, str) and report.snippet:
            yield Text("call it", style="dim")
            yield from (_Code(f"  {line}") for line in report.snippet.splitlines())


def _value(value: object) -> str:
    return one_line(str(value), 60) if not isinstance(value, dict) else one_line(", ".join(map(str, value)), 60)
