"""Keys that a row format leaves out, counted over a file and reported once: there may be one in every row."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from llmtune.data.findings import Finding, warning

if TYPE_CHECKING:
    from llmtune.data.example import Example
    from llmtune.data.formats.base import RowFormat

CODE = "changed-extra"

#: Keys that are named; more than that are data themselves.
_NAMED = 20


class LeftOut:
    """The keys that are left out of the rows of one file, by the number of rows that have them."""

    def __init__(self) -> None:
        self.format = ""
        self.rows: Counter[str] = Counter()

    def problems(self, writer: RowFormat, example: Example) -> list[Finding]:
        """The writer's problems with an example, less those about keys that are left out: they are counted here."""
        found = writer.problems(example)
        if all(finding.code != CODE for finding in found):
            return found
        self.format = writer.name
        self.rows.update(writer.left_out(example))
        return [finding for finding in found if finding.code != CODE]

    def merge(self, other: LeftOut) -> None:
        """Add what another part of the file has."""
        self.format = self.format or other.format
        self.rows.update(other.rows)

    def findings(self) -> list[Finding]:
        """One warning for all of the keys, or none."""
        if not self.rows:
            return []
        named = [f"{key!r} ({count:,} row{'s' * (count > 1)})" for key, count in self.rows.most_common(_NAMED)]
        more = f" and {len(self.rows) - _NAMED:,} more" if len(self.rows) > _NAMED else ""
        return [
            warning(
                CODE,
                f"{self.format} rows leave out {len(self.rows):,} key{'s' * (len(self.rows) > 1)}:"
                f" {', '.join(named)}{more}",
                "they are not sent; put what should be learned into the messages",
            )
        ]
