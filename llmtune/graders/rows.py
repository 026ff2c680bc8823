"""Rows that a grader is tried on, and a model's answers to them, from files of any container."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

from llmtune.data.findings import Finding, invalid_data
from llmtune.data.io.base import sniff
from llmtune.data.io.readers import read_raw
from llmtune.errors import InvalidData
from llmtune.graders.scoring import Answer, read_tool_calls

#: Rows that are read at most.
MOST_ROWS = 10_000


def read_rows(path: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """Read the rows of a file (JSON lines, JSON, CSV, Parquet, ...) with all of their fields; the first 10,000.

    Raises `InvalidData` for a file that cannot be read, a row that is no object, and a file without rows.
    """
    rows = list(islice(_read(Path(path)), MOST_ROWS))
    if not rows:
        raise InvalidData(f"{path}: there is no row in it")
    return rows


def read_answers(path: str | os.PathLike[str], rows: int) -> list[list[Answer]]:
    """Read answers of a model: a line for each row, with `answer`, or `answers` for several samples.

    An answer is a text, or an object with `text` (or `content`) and `tool_calls`.

    Raises:
        InvalidData: there are more or fewer lines than rows, or a line has no answer.
    """
    answers = []
    for number, line in enumerate(islice(_read(Path(path)), MOST_ROWS), 1):
        entries = line.get("answers", [line.get("answer", line)])
        if not isinstance(entries, list) or not entries:
            raise InvalidData(f"{path}: line {number} has no list of answers")
        answers.append([_read_answer(entry, f"{path}: line {number}") for entry in entries])
    if len(answers) != rows:
        raise InvalidData(
            f"{path}: it has {len(answers):,} lines, and there are {rows:,} rows",
            hint="write one line of answers for each row, in the order of the rows",
        )
    return answers


def _read_answer(entry: Any, where: str) -> Answer:
    if isinstance(entry, str):
        return Answer(entry)
    if isinstance(entry, Mapping):
        text = entry.get("text", entry.get("content"))
        calls = tuple(read_tool_calls(entry.get("tool_calls") or []))
        if isinstance(text, str) or calls:
            return Answer(text if isinstance(text, str) else "", calls)
    raise InvalidData(f"{where} has no answer", hint='write {"answer": "..."} or {"answers": ["...", "..."]}')


def _read(path: Path) -> Iterator[dict[str, Any]]:
    sniffed = sniff(path)
    if isinstance(sniffed, Finding):
        raise invalid_data([sniffed.at(str(path), None)])
    for entry in read_raw(path, sniffed):
        if isinstance(entry, Finding):
            if entry.is_error:
                raise invalid_data([entry.at(str(path), entry.line)])
            continue
        line, row = entry
        if not isinstance(row, dict):
            raise InvalidData(f"{path}:{line}: the row is not an object", hint="write one JSON object per line")
        yield row
