"""Printing of findings and counts for `llmtune data`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from llmtune.data.checks.check import CheckReport, FileReport
    from llmtune.data.findings import Finding

#: Findings printed per code.
SHOWN = 10


def print_finding(finding: Finding) -> None:
    """Print one finding: its location, the problem, and the remedy below."""
    from rich.markup import escape

    from llmtune.cli.output import out

    color = {"error": "red", "warning": "yellow", "info": "dim"}[finding.severity]
    location = f"{finding.where}: " if finding.where else ""
    code = escape(f"[{finding.code}]")
    out.print(
        f"{escape(location)}[{color}]{finding.severity}[/] {escape(finding.message)} [dim]{code}[/]", soft_wrap=True
    )
    if finding.remedy:
        out.print(f"    [dim]{escape(finding.remedy)}[/]", soft_wrap=True)


def print_findings(findings: Iterable[Finding], counts: Mapping[str, int], show: int) -> None:
    """Print findings by location: the first `show` of each code (0: all), then how many more there are."""
    from llmtune.cli.output import out

    printed: Counter[str] = Counter()
    for finding in findings:
        printed[finding.code] += 1
        if show == 0 or printed[finding.code] <= show:
            print_finding(finding)
    for code, count in (counts or printed).items():
        if show and count > show:
            out.print(f"    ... and {count - show:,} more of [dim]\\[{code}][/] (--show 0 prints all)", soft_wrap=True)


def print_report(report: CheckReport, show: int) -> None:
    """Print the columns that are read, the findings, one line per file, and the totals."""
    from rich.markup import escape

    from llmtune.cli.output import out

    for file in report.files:
        if file.columns:
            of = f" of {file.role}" if len(report.files) > 1 else ""
            out.print(escape(f"columns{of}: {describe_columns(file)}"), soft_wrap=True)
    print_findings(report.findings, report.counts, show)
    for file in report.files:
        stats = file.stats
        about = "" if stats.exact else "about "
        tokens = f", {about}{stats.total_tokens:,} tokens" if stats.total_tokens else ""
        out.print(f"{file.role}: {stats.rows:,} valid rows, {file.format or 'no known format'}{tokens}", soft_wrap=True)
    color = "red" if report.errors else "yellow" if report.warnings else "green"
    errors = "1 error" if report.errors == 1 else f"{report.errors:,} errors"
    warnings = "1 warning" if report.warnings == 1 else f"{report.warnings:,} warnings"
    out.print(f"[{color}]{errors}, {warnings}[/]")


def describe_columns(file: FileReport) -> str:
    """Describe which keys of a file are read and which are not: "text = utterance, label = intent; not used: id"."""
    read = ", ".join(name if name == key else f"{name} = {key}" for name, key in file.columns.items())
    if not file.unused:
        return read
    more = f" and {len(file.unused) - 20:,} more" if len(file.unused) > 20 else ""
    return f"{read}; not used: {', '.join(file.unused[:20])}{more}"


def print_stats(counted: dict[str, Any], bills: dict[str, Any], epochs: int) -> None:
    """Print the counts of one file, and the tokens that backends bill for it."""
    from llmtune.cli.output import out

    tokens = counted["tokens"]
    out.print(
        f"{counted['rows']:,} rows of {counted['format']}, {counted['turns']:,} turns, {counted['bytes']:,} bytes"
    )
    roles = ", ".join(f"{role} {tokens[role]:,}" for role in ("system", "user", "assistant", "tool") if tokens[role])
    thoughts = tokens["reasoning"]
    share = f"; {thoughts:,} are reasoning ({thoughts / tokens['total']:.0%})" if thoughts else ""
    out.print(f"{tokens['total']:,} tokens ({roles}); {tokens['trained']:,} of them trained on{share}", soft_wrap=True)
    out.print(f"[dim]{tokens['rule']}[/]", soft_wrap=True)
    lengths = ", ".join(f"{name} {value:,}" for name, value in counted["lengths"].items())
    out.print(f"tokens per row: {lengths}", soft_wrap=True)
    labels = counted["labels"]
    if labels:
        first = ", ".join(f"{label} {count:,}" for label, count in list(labels.items())[:12])
        more = f", and {len(labels) - 12} more" if len(labels) > 12 else ""
        out.print(f"{len(labels)} labels: {first}{more}", soft_wrap=True, markup=False)
    passes = "pass" if epochs == 1 else "passes"
    for name, bill in bills.items():
        out.print(f"{name:<11}bills {bill['tokens']:,} tokens for {epochs} {passes}: {bill['rule']}", soft_wrap=True)
