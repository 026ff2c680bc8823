"""What is wrong with a dataset, where, and how to fix it. The codes are listed in docs/data.md."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any, Literal, NamedTuple

from llmtune.errors import InvalidData

Severity = Literal["error", "warning", "info"]


class Finding(NamedTuple):
    """One fault. `code` is a stable identifier; an error refuses the file, a warning does not; what
    is only worth knowing (info) counts as neither.

    `line` is the 1-based line (or row number where rows are not lines); None where the fault is the file's.
    """

    code: str
    severity: Severity
    message: str
    remedy: str
    file: str | None = None
    line: int | None = None

    def at(self, file: str | None, line: int | None) -> Finding:
        """The same finding at a place."""
        return self._replace(file=file, line=line)

    @property
    def is_error(self) -> bool:
        return self.severity == "error"

    @property
    def where(self) -> str:
        """`file:line`, `file`, or an empty string."""
        if self.file is None:
            return f"line {self.line}" if self.line is not None else ""
        return f"{self.file}:{self.line}" if self.line is not None else self.file

    def __str__(self) -> str:
        place = f"{self.where}: " if self.where else ""
        remedy = f" ({self.remedy})" if self.remedy else ""
        return f"{place}{self.severity}[{self.code}] {self.message}{remedy}"

    def as_dict(self) -> dict[str, Any]:
        """For JSON output."""
        return self._asdict()


def error(code: str, message: str, remedy: str) -> Finding:
    """A finding that refuses the file; the place is added by whoever knows it."""
    return Finding(code, "error", message, remedy)


def warning(code: str, message: str, remedy: str) -> Finding:
    """A finding that refuses nothing."""
    return Finding(code, "warning", message, remedy)


def info(code: str, message: str, remedy: str = "") -> Finding:
    """A finding that is worth knowing and no fault."""
    return Finding(code, "info", message, remedy)


class FindingLog:
    """Findings, counted all and kept up to `keep` of each code, so that a file of faults stays in bounded memory."""

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
        """Add each."""
        for finding in findings:
            self.add(finding)

    def merge(self, other: FindingLog) -> None:
        """Add what another log has counted and kept; what that one let go is counted only."""
        for finding in other.kept:
            self.add(finding)
        for code, count in other.counts.items():
            let_go = count - sum(finding.code == code for finding in other.kept) if other.keep is not None else 0
            self.counts[code] += let_go
        self.errors += other.errors - sum(finding.is_error for finding in other.kept)
        self.warnings += other.warnings - sum(finding.severity == "warning" for finding in other.kept)

    def in_order(self) -> list[Finding]:
        """What was kept, by file and line; what concerns whole files comes last."""
        return sorted(self.kept, key=lambda finding: (finding.line is None, finding.file or "", finding.line or 0))


def refuse(findings: Iterable[Finding]) -> InvalidData:
    """The exception for findings: the first error's place and remedy, and how many more there are."""
    found = list(findings)
    errors = [finding for finding in found if finding.is_error]
    first = errors[0] if errors else found[0]
    place = f"{first.where}: " if first.where else ""
    more = f"; and {len(errors) - 1} more" if len(errors) > 1 else ""
    return InvalidData(f"{place}{first.message}{more}", findings=found, hint=first.remedy or None)
