"""The main metric of runs that differ in nothing but their seed."""

from __future__ import annotations

from llmtune.metrics.points import NotReported
from llmtune.report.document import Block, Column, Inline, Section, Span, Table, Text
from llmtune.report.format import metric_name, number
from llmtune.report.schema import Report
from llmtune.report.verdicts import describe_seeds


def seeds(report: Report) -> Section | None:
    """Return the section with the figure of every seed; None for a job that was trained with one."""
    spread = report.seeds
    if spread is None:
        return None
    rows: list[list[Inline]] = []
    for result in spread.results:
        value = result.value
        figure = (
            Span(str(value), "dim")
            if isinstance(value, NotReported)
            else Span(number(value, spread.unit), "strong", value=value)
        )
        run = Span(f"{result.run} (this run)" if result.run == report.identity.run_id else result.run)
        rows.append([Span(str(result.seed), value=result.seed), figure, run])
    columns = [Column("seed", "number"), Column(metric_name(spread.metric), "number"), Column("run")]
    table = Table("Seeds", columns, rows, titled=False)
    sentence = describe_seeds(spread)
    note = "" if spread.seed_sent else "The backend takes no seed: these are repetitions, which it seeds itself."
    blocks: list[Block] = [table, *(Text(text, "hint") for text in (sentence, note) if text)]
    return Section("seeds", "Seeds", blocks, brief=blocks)
