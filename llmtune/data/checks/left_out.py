"""Keys that a row format leaves out or that nothing reads, counted and reported once per file."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

import orjson

from llmtune.data.findings import Finding, info, warning
from llmtune.data.io.reading import MEDIA

if TYPE_CHECKING:
    from llmtune.data.example import Example
    from llmtune.data.formats.base import RowFormat

CODE = "changed-extra"

#: Keys that are named; of more, the keys are data themselves.
_NAMED = 20


class LeftOut:
    """The keys that are left out of the rows of one file, with the number of rows that have each."""

    def __init__(self) -> None:
        self.format = ""
        self.rows: Counter[str] = Counter()

    def problems(self, writer: RowFormat, example: Example) -> list[Finding]:
        """Return the writer's problems with an example; those about keys that are left out are only counted."""
        findings = writer.problems(example)
        if all(finding.code != CODE for finding in findings):
            return findings
        self.format = writer.name
        self.rows.update(writer.left_out(example))
        return [finding for finding in findings if finding.code != CODE]

    def merge(self, part: LeftOut) -> None:
        """Add the counts of another part of the file."""
        self.format = self.format or part.format
        self.rows.update(part.rows)

    def findings(self) -> list[Finding]:
        """Return one warning for all of the keys, or none."""
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


#: A key whose values have fewer characters than this on average is an id, a date or a name; more is text.
_SHORT = 20
#: Keys that have a finding of their own.
_REPORTED = frozenset(MEDIA)
#: Formats that read a second text of the prompt, from a column named "context".
_WITH_CONTEXT = frozenset(("prompt_completion", "alpaca", "preference_pair"))


class UnusedKeys:
    """The keys that nothing reads in the rows of one file: how many rows have each, and how long its values are."""

    def __init__(self) -> None:
        self.rows: Counter[str] = Counter()
        self.characters: Counter[str] = Counter()

    def add(self, example: Example, turns_key: str = "messages") -> None:
        """Count the keys of one row and of its turns. Keys with an empty value are not counted: nothing is lost."""
        sizes: dict[str, int] = {}
        extra = dict(example.extra or {})
        if example.preference is not None and isinstance(extra.get("input"), dict):
            extra |= {f"input.{key}": value for key, value in extra.pop("input").items()}
        for key, value in extra.items():
            if key not in _REPORTED and (size := _measure_length(value)):
                sizes[key] = size
        answers = (*example.preference.preferred, *example.preference.rejected) if example.preference else ()
        for message in (*example.messages, *answers):
            for key, value in (message.extra or {}).items():
                if size := _measure_length(value):
                    name = f"{turns_key}[].{key}"
                    sizes[name] = sizes.get(name, 0) + size
        self.rows.update(sizes.keys())
        self.characters.update(sizes)

    def merge(self, part: UnusedKeys) -> None:
        """Add the counts of another part of the file."""
        self.rows.update(part.rows)
        self.characters.update(part.characters)

    def findings(self, format: str, *, warnings_only: bool = False) -> list[Finding]:
        """Return one finding per key: a warning where it holds text that may belong to the prompt, else information."""
        out: list[Finding] = []
        for key, count in self.rows.most_common(_NAMED):
            average = round(self.characters[key] / count)
            rows = f"{count:,} row{'s' * (count > 1)}, {average:,} characters on average"
            if average < _SHORT:
                if not warnings_only:
                    out.append(info("unused-key", f"{key!r} is not used: {rows}"))
                continue
            option = f": --column context={key}" if format in _WITH_CONTEXT and "[]" not in key else ""
            out.append(
                warning(
                    "unused-key",
                    f"{key!r} is not used: {rows}: does it belong to the prompt?",
                    f"if so, put it there{option}; else remove it from the rows",
                )
            )
        if len(self.rows) > _NAMED and not warnings_only:
            out.append(info("unused-key", f"{len(self.rows) - _NAMED:,} more keys are not used"))
        return out


def _measure_length(value: Any) -> int:
    """Return the length of a value as text or JSON, in characters; 0 where it is empty."""
    if value is None or value in ("", [], {}):
        return 0
    if isinstance(value, (dict, list)):
        return len(orjson.dumps(value, default=str))
    return len(str(value))
