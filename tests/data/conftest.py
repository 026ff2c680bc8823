"""Small helpers for the tests of datasets."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import orjson
import pytest

from llmtune.data.example import Example
from llmtune.data.findings import Finding
from llmtune.data.io.reading import read

Writer = Callable[..., Path]


@pytest.fixture
def rows_file(tmp_path: Path) -> Writer:
    """Writes rows (objects, or lines as bytes) to a file of JSON lines."""

    def write(rows: Iterable[Any], name: str = "rows.jsonl", end: bytes = b"\n") -> Path:
        path = tmp_path / name
        lines = [row if isinstance(row, bytes) else orjson.dumps(row) for row in rows]
        path.write_bytes(end.join(lines) + end)
        return path

    return write


@pytest.fixture
def both() -> Callable[..., tuple[list[Example], list[Finding]]]:
    """Reads a file into its examples and its findings."""

    def read_both(path: Any, *args: Any, **kwargs: Any) -> tuple[list[Example], list[Finding]]:
        items = list(read(path, *args, **kwargs))
        return (
            [item for item in items if isinstance(item, Example)],
            [item for item in items if isinstance(item, Finding)],
        )

    return read_both
