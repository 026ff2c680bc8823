"""Findings about a dataset: what is wrong, where, and how to fix it. The codes are listed in docs/data.md."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any, Literal, NamedTuple

from llmtune.errors import InvalidData

#: How serious a finding is.
Severity = Literal["error", "warning", "info"]


class Finding(NamedTuple):
    """One problem of a dataset. `code` is a stable identifier; an error refuses the file, a warning does not, and what
    is only worth knowing (info) counts as neither: that is its `severity`. `remedy` says how to fix it.

    `line` is the 1-based line (or row number where rows are not lines); None where it is about the whole file.
    """

    code: str
    severity: Severity
    message: str
    remedy: str
    file: str | None = None
    line: int | None = None

    def at(self, file: str | None, line: int | None) -> Finding:
        """Return a copy of the finding with its file and line."""
        return self._replace(file=file, line=line)

    @property
    def is_error(self) -> bool:
        """Whether the finding refuses the file."""
        return self.severity == "error"

    @property
    def where(self) -> str:
        """`file:line`, `file`, or an empty string."""
        if self.file is None:
            return f"line {self.line}" if self.line is not None else ""
        return f"{self.file}:{self.line}" if self.line is not None else self.file

    def __str__(self) -> str:
        prefix = f"{self.where}: " if self.where else ""
        remedy = f" ({self.remedy})" if self.remedy else ""
        return f"{prefix}{self.severity}[{self.code}] {self.message}{remedy}"

    def as_dict(self) -> dict[str, Any]:
        """Return the values of the JSON output."""
        return self._asdict()


def error(code: str, message: str, remedy: str) -> Finding:
    """Build a finding that refuses the file; whoever knows its file and line adds them with `at`."""
    return Finding(code, "error", message, remedy)


def warning(code: str, message: str, remedy: str) -> Finding:
    """Build a finding that refuses nothing."""
    return Finding(code, "warning", message, remedy)


def info(code: str, message: str, remedy: str = "") -> Finding:
    """Build a finding that is worth knowing and not a problem."""
    return Finding(code, "info", message, remedy)


class FindingLog:
    """A log that counts all findings and keeps up to `keep` of each code, so that memory stays bounded."""

    def __init__(self, keep: int | None = 1000) -> None:
        self.keep = keep
        self.kept: list[Finding] = []
        self.counts: Counter[str] = Counter()
        self.errors = 0
        self.warnings = 0

    def add(self, finding: Finding) -> None:
        """Count a finding, and keep it while there is room for its code."""
        self.counts[finding.code] += 1
        self.errors += finding.severity == "error"
        self.warnings += finding.severity == "warning"
        if self.keep is None or self.counts[finding.code] <= self.keep:
            self.kept.append(finding)

    def extend(self, findings: Iterable[Finding]) -> None:
        """Add all findings."""
        for finding in findings:
            self.add(finding)

    def merge(self, log: FindingLog) -> None:
        """Add the findings of another log; those that it did not keep are only counted."""
        for finding in log.kept:
            self.add(finding)
        for code, count in log.counts.items():
            let_go = count - sum(finding.code == code for finding in log.kept) if log.keep is not None else 0
            self.counts[code] += let_go
        self.errors += log.errors - sum(finding.is_error for finding in log.kept)
        self.warnings += log.warnings - sum(finding.severity == "warning" for finding in log.kept)

    def in_order(self) -> list[Finding]:
        """Return the kept findings by file and line; those about whole files come last."""
        return sorted(self.kept, key=lambda finding: (finding.line is None, finding.file or "", finding.line or 0))


def invalid_data(findings: Iterable[Finding]) -> InvalidData:
    """Build the exception for findings: the first error with its remedy, and how many more there are."""
    listed = list(findings)
    errors = [finding for finding in listed if finding.is_error]
    first = errors[0] if errors else listed[0]
    prefix = f"{first.where}: " if first.where else ""
    more = f"; and {len(errors) - 1} more" if len(errors) > 1 else ""
    return InvalidData(f"{prefix}{first.message}{more}", findings=listed, hint=first.remedy or None)
