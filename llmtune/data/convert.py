"""Writing examples in a row format, and converting one file into another: streamed, whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import orjson

from llmtune.data.checks.left_out import LeftOut
from llmtune.data.checks.per_row import check_example, in_own_terms, is_simple
from llmtune.data.checks.vendor_rules import method_of
from llmtune.data.example import Example
from llmtune.data.findings import Finding, FindingLog, refuse
from llmtune.data.formats.base import RowFormat
from llmtune.data.formats.registry import get_format, vendors
from llmtune.data.io.reading import Reading
from llmtune.data.io.writing import Written, write_file


def refuses(finding: Finding, *, allow_lossy: bool) -> bool:
    """Whether a problem of writing stops it: a loss does unless it is allowed, an impossibility always does."""
    return finding.is_error and not (allow_lossy and finding.code.startswith("lost-"))


def encode(
    examples: Iterable[Example], format: str | RowFormat, *, allow_lossy: bool = False, log: FindingLog | None = None
) -> Iterator[bytes]:
    """Examples as lines of a row format, each with its line end. What cannot be carried goes to the log, by line;
    keys that are left out, at the end and in one finding.

    With `allow_lossy` a loss is a warning there; otherwise it is an error and its row is left out, as is every row
    the format cannot express at all. Without a log, the first such row raises `InvalidData`.
    """
    fmt = get_format(format) if isinstance(format, str) else format
    pairs = ((example, is_simple(example)) for example in examples)
    return _encode(pairs, fmt, allow_lossy=allow_lossy, log=log)


def _encode(
    examples: Iterable[tuple[Example, bool]], fmt: RowFormat, *, allow_lossy: bool, log: FindingLog | None
) -> Iterator[bytes]:
    """`encode`, for examples of which it is known whether they are plain conversations."""
    takes, write, dumps = fmt.takes_plain(), fmt.write, orjson.dumps
    left_out = LeftOut()
    option = orjson.OPT_APPEND_NEWLINE
    for example, simple in examples:
        if not (simple and takes(example)):
            stops = False
            for finding in left_out.problems(fmt, example):
                stopped = refuses(finding, allow_lossy=allow_lossy)
                stops = stops or stopped
                placed = finding.at(None, example.line)
                if not stopped and finding.is_error:
                    placed = placed._replace(severity="warning")
                if log is not None:
                    log.add(placed)
                elif stopped:
                    raise refuse([placed])
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

    The file appears whole or not at all. Raises `InvalidData` with every row that the format cannot carry.
    """
    fmt = get_format(format) if isinstance(format, str) else format
    log = FindingLog()
    return write_file(encode(examples, fmt, allow_lossy=allow_lossy, log=log), Path(path), fmt, log, overwrite)


def convert(
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

    For a provider, `method` (sft, dpo, classification) adds what that one asks of a row, as `check` does; None takes
    the rows for what they are.

    Raises `InvalidData` with all findings when a row of the source is wrong, cannot be carried, or is refused by the
    provider that `to` names; then nothing is written. Warnings are in the result.
    """
    rules = vendors().get(to)
    log = FindingLog()
    reading = Reading(source, format, columns=columns, label_column=label_column, on_empty=on_empty, system=system)
    asked = None  # the method whose demands on a row are checked, too
    if rules is not None:
        asked = method or method_of(reading.recognise(), rules)
        if method is None and asked not in rules.defaults:
            asked = None
    method = asked or method or "sft"
    fmt = get_format(to, method=method, model=model)

    def sound() -> Iterator[tuple[Example, bool]]:
        for item in reading:
            if item.__class__ is not Example:
                log.add(item)  # type: ignore[arg-type]
                continue
            simple = is_simple(item)
            if not simple or asked in ("dpo", "classification"):
                turns_key = reading.format.turns_key if reading.format is not None else "messages"
                for fault in in_own_terms(check_example(item, asked), item, turns_key):
                    log.add(fault.at(reading.path, item.line))
            if rules is not None:
                for fault in rules.row_rules(item, method, model):
                    log.add(fault.at(reading.path, item.line))
            yield item, simple

    lossy = _Placed(log, reading.path)
    lines = _encode(sound(), fmt, allow_lossy=allow_lossy, log=lossy)
    return write_file(lines, Path(target), fmt, log, overwrite)


class _Placed(FindingLog):
    """Passes findings on with the name of the file they are about."""

    def __init__(self, log: FindingLog, file: str) -> None:
        super().__init__()
        self._log = log
        self._file = file

    def add(self, finding: Finding) -> None:
        self._log.add(finding.at(self._file, finding.line))
