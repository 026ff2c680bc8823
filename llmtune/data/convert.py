"""Writing examples in a row format, and converting one file into another: streamed, and complete or not at all."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import orjson

from llmtune.data.checks.left_out import LeftOut
from llmtune.data.checks.per_row import check_example, rename_turns
from llmtune.data.checks.vendor_rules import method_of
from llmtune.data.example import Example
from llmtune.data.findings import Finding, FindingLog, invalid_data
from llmtune.data.formats.base import RowFormat
from llmtune.data.formats.registry import get_format, vendors
from llmtune.data.formats.row_features import PLAIN, features
from llmtune.data.io.reading import Reading
from llmtune.data.io.writing import Written, write_file


def is_fatal(finding: Finding, *, allow_lossy: bool) -> bool:
    """Return whether a problem stops the writing: a loss does unless it is allowed, an impossibility always does."""
    return finding.is_error and not (allow_lossy and finding.code.startswith("lost-"))


def encode(
    examples: Iterable[Example], format: str | RowFormat, *, allow_lossy: bool = False, log: FindingLog | None = None
) -> Iterator[bytes]:
    """Yield examples as lines of a row format, each with its line end.

    What the format cannot hold is added to the log, by line; keys that are left out are in one finding at the end.
    With `allow_lossy` a loss is a warning; otherwise it is an error and its row is left out, as is every row that the
    format cannot express at all. Without a log, the first such row raises `InvalidData`.
    """
    fmt = get_format(format) if isinstance(format, str) else format
    pairs = ((example, features(example)) for example in examples)
    return _encode(pairs, fmt, allow_lossy=allow_lossy, log=log)


def _encode(
    examples: Iterable[tuple[Example, int]], fmt: RowFormat, *, allow_lossy: bool, log: FindingLog | None
) -> Iterator[bytes]:
    """Encode pairs of an example and its `features`."""
    lossless, write, dumps = fmt.lossless_features, fmt.write, orjson.dumps
    left_out = LeftOut()
    option = orjson.OPT_APPEND_NEWLINE
    for example, bits in examples:
        if bits & ~lossless:
            stops = False
            for finding in left_out.problems(fmt, example):
                stopped = is_fatal(finding, allow_lossy=allow_lossy)
                stops = stops or stopped
                placed = finding.at(None, example.line)
                if not stopped and finding.is_error:
                    placed = placed._replace(severity="warning")
                if log is not None:
                    log.add(placed)
                elif stopped:
                    raise invalid_data([placed])
            if stops:
                continue
        yield dumps(write(example), option=option)
    if log is not None:
        log.extend(left_out.findings())


def write(
    examples: Iterable[Example],
    path: str | os.PathLike[str],
    format: str | RowFormat = "chat",
    *,
    allow_lossy: bool = False,
    overwrite: bool = True,
) -> Written:
    """Write examples to a file of JSON lines (or .json, .csv, .tsv, .parquet, each also compressed: .gz .zst ...).

    The file appears complete or not at all. Raises `InvalidData` with every row that the format cannot hold.
    """
    fmt = get_format(format) if isinstance(format, str) else format
    log = FindingLog()
    return write_file(encode(examples, fmt, allow_lossy=allow_lossy, log=log), Path(path), fmt, log, overwrite)


def convert(  # noqa: PLR0913
    source: str | os.PathLike[str],
    target: str | os.PathLike[str],
    to: str,
    *,
    format: str = "auto",
    columns: Mapping[str, str] | None = None,
    label_column: str | None = None,
    on_empty: str = "error",
    system: str = "keep",
    allow_lossy: bool = False,
    overwrite: bool = False,
    method: str | None = None,
    model: str | None = None,
) -> Written:
    """Convert a file to another row format (or to the one a provider takes), in one pass and bounded memory.

    For a provider, `method` (sft, dpo, classification) adds its own checks of a row, as `check` does; None takes the
    method that the rows are for.

    Raises `InvalidData` with all findings when a row of the source is invalid, does not fit the format, or is refused
    by the provider that `to` names; then nothing is written. Warnings are in the result.
    """
    rules = vendors().get(to)
    log = FindingLog()
    reading = Reading(source, format, columns=columns, label_column=label_column, on_empty=on_empty, system=system)
    checked_method = None  # the method whose requirements on a row are checked, too
    row_format = reading.recognise() if rules is not None else None
    if rules is not None:
        checked_method = method or method_of(row_format, rules)
        if method is None and checked_method not in rules.defaults:
            checked_method = None
    method = checked_method or method or "sft"
    fmt = get_format(to, method=method, model=model, source="" if row_format is None else row_format.name)

    def valid_rows() -> Iterator[tuple[Example, int]]:
        for row in reading:
            if row.__class__ is not Example:
                log.add(row)  # type: ignore[arg-type]
                continue
            bits = features(row)
            if bits & ~PLAIN or checked_method in ("dpo", "classification"):
                turns_key = reading.format.turns_key if reading.format is not None else "messages"
                for fault in rename_turns(check_example(row, checked_method, bits), row, turns_key):
                    log.add(fault.at(reading.path, row.line))
            if rules is not None:
                for fault in rules.row_rules(row, method, model):
                    log.add(fault.at(reading.path, row.line))
            yield row, bits

    lossy = _FileFindings(log, reading.path)
    lines = _encode(valid_rows(), fmt, allow_lossy=allow_lossy, log=lossy)
    return write_file(lines, Path(target), fmt, log, overwrite)


class _FileFindings(FindingLog):
    """A log that passes findings on to another one with the name of their file."""

    def __init__(self, log: FindingLog, file: str) -> None:
        super().__init__()
        self._log = log
        self._file = file

    def add(self, finding: Finding) -> None:
        self._log.add(finding.at(self._file, finding.line))
