"""Translate row numbers in vendors' messages, which count rows of the uploaded file, to lines of the user's file.

"Example 21 ..." becomes "tickets.jsonl:25 (Example 21 of /home/.../train-ab12.jsonl) ...".
"""

from __future__ import annotations

import logging
import re
from typing import Literal

from llmtune.errors import LlmtuneError
from llmtune.provider.types import EncodedFile, Snapshot
from llmtune.runs.store.records import RunRecord

log = logging.getLogger("llmtune")

#: How vendors name a row, counted from 1: "Example 6174", "Line 1, message 3", "Dataset example 1 of 14".
_ROW = re.compile(
    r"\b(?P<words>(?i:dataset )?(?i:example|line|row) (?:number )?#?(?P<row>\d+)(?: of \d+)?)\b(?!,? col)"
)

#: How they list rows, counted from 0: "(indices 0, 4, 7)".
_INDICES = re.compile(r"\(indices (?P<rows>\d+(?:, \d+)*)")

#: What already has a file's name in front is not named again.
_NAMED = re.compile(r"\.\w+:\d+ \($")


def name_rows(record: RunRecord, snapshot: Snapshot) -> Snapshot:
    """Return the snapshot with the user's own file and line wherever it names a row of a file that was sent."""
    changed: dict[str, object] = {}
    if snapshot.error and (text := add_own_lines(record, snapshot.error)) != snapshot.error:
        changed["error"] = text
    warnings = tuple(add_own_lines(record, warning) for warning in snapshot.warnings)
    if warnings != snapshot.warnings:
        changed["warnings"] = warnings
    events = tuple(
        event
        if event.message == (text := add_own_lines(record, event.message))
        else event.model_copy(update={"message": text})
        for event in snapshot.events
    )
    if any(a is not b for a, b in zip(events, snapshot.events, strict=True)):
        changed["events"] = events
    return snapshot.model_copy(update=changed) if changed else snapshot


def name_rows_in(record: RunRecord, error: LlmtuneError) -> None:
    """Put the user's own file and line into an error's message, in place."""
    text = add_own_lines(record, error.message)
    if text != error.message:
        error.message = text
        error.args = (text, *error.args[1:])


def add_own_lines(record: RunRecord, text: str) -> str:
    """Return a vendor's text with the user's own file and line beside each row of a file that was sent.

    A text that names no row, and rows of a dataset that has changed since, stay as they are.
    """
    if not (_ROW.search(text) or _INDICES.search(text)):
        return text
    role: Literal["train", "validation"] = "validation" if "validation" in text.lower() else "train"
    sent = next((file for file in record.files if file.role == role), None)
    if sent is None:
        return text
    lines = _lines(record, role)
    if len(lines) != sent.rows:
        return text
    named = _Namer(text, sent, lines, _dataset_file(record, role))
    text = _ROW.sub(named.one, text)
    return _INDICES.sub(named.several, text)


class _Namer:
    """Replaces rows of a sent file by the lines of the user's file; the sent file's path is named once."""

    def __init__(self, text: str, sent: EncodedFile, lines: tuple[int | None, ...], file: str) -> None:
        self._path, self._lines, self._file = str(sent.path), lines, file
        self._path_named = self._path in text

    def one(self, match: re.Match[str]) -> str:
        line = self._line(int(match["row"]) - 1)
        if line is None or _NAMED.search(match.string[: match.start()]):
            return match[0]
        where = "" if self._path_named else f" of {self._path}"
        self._path_named = True
        return f"{self._file}:{line} ({match['words']}{where})"

    def several(self, match: re.Match[str]) -> str:
        lines = [self._line(int(row)) for row in match["rows"].split(", ")]
        if None in lines:
            return match[0]
        where = "" if self._path_named else f" of {self._path}"
        self._path_named = True
        return f"({self._file}:{', '.join(map(str, lines))}; indices {match['rows']}{where}"

    def _line(self, index: int) -> int | None:
        return self._lines[index] if 0 <= index < len(self._lines) else None


#: Lines by run and part, of the last few runs whose vendor named rows: a job that runs is looked at often.
_cache: dict[tuple[str, str], tuple[int | None, ...]] = {}
_CACHED = 8


def _lines(record: RunRecord, role: str) -> tuple[int | None, ...]:
    """Return the line number of each row of a split, read again from the dataset; empty where that has changed."""
    from llmtune.runs.evaluation import load_same_dataset

    key = (record.id, role)
    if key not in _cache:
        try:
            dataset = load_same_dataset(record)
        except (LlmtuneError, OSError) as error:
            log.info("run %s: rows are not named by their lines: %s", record.id, error)
            return ()
        if len(_cache) >= _CACHED:
            _cache.clear()
        _cache[key] = tuple(row.line for row in (dataset.train if role == "train" else dataset.validation))
    return _cache[key]


def _dataset_file(record: RunRecord, role: str) -> str:
    paths = record.tuning_job.dataset.paths
    return str(paths.get(role) or paths.get("path") or paths.get("train") or "the dataset")
