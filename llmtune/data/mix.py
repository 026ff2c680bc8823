"""Mixing several files of rows into one training file, each with a weight."""

from __future__ import annotations

import heapq
import math
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from llmtune.data.checks.per_row import check_example, rename_turns
from llmtune.data.convert import write
from llmtune.data.dataset import take_rows
from llmtune.data.example import Example
from llmtune.data.findings import Finding, FindingLog, invalid_data
from llmtune.data.io.reading import Reading
from llmtune.data.io.writing import Written
from llmtune.data.stored_rows import ChainedRows, store_rows
from llmtune.errors import InvalidData, LlmtuneError

#: Rows of a file are repeated at most so often.
MAX_WEIGHT = 1000


class MixedFile(NamedTuple):
    """A file of a mix: its weight, its own rows, and how many of the mix's rows are its."""

    path: str
    weight: float
    rows: int
    mixed: int


class Mix(NamedTuple):
    """A mix that was written, and the files that it is made of."""

    written: Written
    files: tuple[MixedFile, ...]


def mix(
    files: Iterable[tuple[str, float]],
    target: str | os.PathLike[str],
    *,
    to: str | None = None,
    on_empty: str = "error",
    system: str = "keep",
    allow_lossy: bool = False,
    overwrite: bool = False,
) -> Mix:
    """Write the rows of several files as one file, each file's as often as its weight says.

    With weight 1 each row of a file is in the mix once, with 2 twice, with 0.2 a fifth of the rows are, chosen by their
    content: the same ones every time, and more of them with a higher weight. Rows keep the order of their file, and
    those of each file are spread evenly over the mix. The same call writes the same file.

    Args:
        files: paths and weights, each above 0 and at most 1000.
        target: the file to write, in any container that `llmtune.data.convert.write` knows.
        to: the row format to write; None takes the first file's.
        on_empty: "error" or "drop" rows with an empty answer.
        system: "keep" system turns, or "fold" them into the first user turn.
        allow_lossy: leave out what the row format cannot hold, with a warning.
        overwrite: replace a file that is there.

    Raises `InvalidData` with every finding when a row of a file is invalid, or the files' rows are of several kinds;
    `LlmtuneError` for a weight out of range, or a target that is there. Nothing is written then.
    """
    target = Path(target)
    if target.exists() and not overwrite:
        raise LlmtuneError(f"{target} is already there", hint="name another file, or allow overwriting (--overwrite)")
    log = FindingLog()
    parts: list[Sequence[Example]] = []
    mixed_files: list[MixedFile] = []
    formats: list[str] = []
    kinds: dict[str, str] = {}
    for path, weight in files:
        if not (math.isfinite(weight) and 0 < weight <= MAX_WEIGHT):
            raise LlmtuneError(f"{path}: weight {weight:g} is not above 0 and at most {MAX_WEIGHT:,}")
        reading = Reading(path, on_empty=on_empty, system=system)
        rows = store_rows(_read_valid(reading, log))
        if log.errors:
            continue
        if not rows:
            raise InvalidData(f"{path}: there are no rows to mix in")
        part = _weigh(rows, weight)
        if not part:
            raise LlmtuneError(
                f"{path}: a share of {weight:g} of {len(rows):,} rows is no row", hint="give a higher weight"
            )
        kinds.setdefault(_find_kind(rows[0]), path)
        formats.append(reading.format.name if reading.format is not None else "chat")
        parts.append(part)
        mixed_files.append(MixedFile(path, weight, len(rows), len(part)))
    if log.errors:
        raise invalid_data(log.in_order())
    if not parts:
        raise LlmtuneError("there is no file to mix", hint="name files, each with a weight: general.jsonl=0.2")
    if len(kinds) > 1:
        listed = " and ".join(f"{kind} ({path})" for kind, path in kinds.items())
        raise InvalidData(f"rows of several kinds cannot be trained on together: {listed}")
    written = write(_spread(parts), target, to or formats[0], allow_lossy=allow_lossy, overwrite=overwrite)
    findings = (*log.in_order(), *written.findings)
    return Mix(written._replace(findings=findings), tuple(mixed_files))


def _read_valid(reading: Reading, log: FindingLog) -> Iterator[Example]:
    """Yield the rows of a file that can be trained on; what is wrong with the others is logged."""
    for row in reading:
        if isinstance(row, Finding):
            log.add(row)
            continue
        turns_key = reading.format.turns_key if reading.format is not None else "messages"
        for finding in rename_turns(check_example(row, None), row, turns_key):
            log.add(finding.at(reading.path, row.line))
        yield row


def _find_kind(row: Example) -> str:
    if row.preference is not None:
        return "preference pairs"
    return "plain texts" if row.text is not None else "conversations"


def _weigh(rows: Sequence[Example], weight: float) -> Sequence[Example]:
    """Return the rows as often as a weight says: whole copies, then a part chosen by content."""
    copies, share = divmod(weight, 1)
    chosen = math.floor(len(rows) * share + 0.5)
    parts = [rows] * int(copies) + ([take_rows(rows, chosen)] if chosen else [])
    return parts[0] if len(parts) == 1 else ChainedRows(*parts)


def _spread(parts: Sequence[Sequence[Example]]) -> Iterator[Example]:
    """Yield the rows of all parts, those of each in their order and evenly spread."""

    def place(number: int, rows: Sequence[Example]) -> Iterator[tuple[float, int, int, Example]]:
        for index, row in enumerate(rows):
            yield (index + 0.5) / len(rows), number, index, row

    ordered = heapq.merge(*(place(number, rows) for number, rows in enumerate(parts)), key=lambda entry: entry[:3])
    return (row for *_, row in ordered)
