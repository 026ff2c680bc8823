"""Servers, and exports, that were asked whether they answer as the tuned model does."""

from __future__ import annotations

from llmtune.report.cells import bullets
from llmtune.report.document import Block, Section, Style, Text
from llmtune.report.schema import Report
from llmtune.report.verification import difference_lines, figure_lines, headline


def servers(report: Report) -> Section:
    """Return the section with the verdict on each server and export, what differs there, and what was compared."""
    styles: dict[str, Style] = {"same": "good", "drift": "bad"}
    blocks: list[Block] = []
    for verification in report.verifications:
        blocks.append(Text(headline(verification), styles.get(verification.verdict, "doubt")))
        lines = [*difference_lines(verification), *figure_lines(verification), *verification.notes]
        blocks += bullets(lines)
    return Section("servers", "Servers and exports", blocks)
