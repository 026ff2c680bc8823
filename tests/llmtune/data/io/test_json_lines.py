"""Rows of JSON that are none: each is a finding, and what follows it is read."""

from __future__ import annotations

import io
import json
import os
import re
from pathlib import Path

import pytest

from llmtune.data.checks.check import check
from llmtune.data.findings import Finding
from llmtune.data.io import json_lines
from llmtune.data.io.base import sniff
from llmtune.data.io.json_lines import MAX_DEPTH, read_json, read_json_lines

GOOD = '{"prompt": "Is it open?", "completion": "yes"}'
ODD = {
    "900 levels": ('{"prompt": "a", "completion": "b", "x": ' + "[" * 900 + "]" * 900 + "}", "levels deep"),
    "30000 levels": ('{"x": ' + "[" * 30_000 + "]" * 30_000 + "}", "nested|recursion|deep|broken JSON"),
    "6000 digits": ('{"prompt": "a", "completion": "b", "x": ' + "9" * 6000 + "}", "broken JSON"),
    "infinity": ('{"prompt": "a", "completion": "b", "x": 1e999}', "broken JSON"),
    "half a surrogate pair": ('{"prompt": "\\ud800", "completion": "b"}', "surrogate"),
    "half a surrogate pair as a key": ('{"\\udfff": "b"}', "surrogate"),
}


@pytest.mark.parametrize("name", ODD)
def test_an_odd_row_is_a_finding(tmp_path: Path, name: str) -> None:
    text, sentence = ODD[name]
    path = tmp_path / "rows.jsonl"
    path.write_text(f"{GOOD}\n{text}\n{GOOD}\n")
    report = check(path)
    (finding,) = [finding for finding in report.findings if finding.is_error]
    assert finding.line == 2
    path.write_text(text)
    for read in (read_json_lines, read_json):
        rows = list(read(io.BytesIO(text.encode())))
        assert any(isinstance(row, Finding) for row in rows), read
    assert re.search(sentence, str(finding)), finding


def test_a_row_as_deep_as_is_said_is_read() -> None:
    deep = "[" * (MAX_DEPTH - 1) + "]" * (MAX_DEPTH - 1)
    assert list(read_json_lines(io.BytesIO(f'{{"x": {deep}}}'.encode()))) == [(1, {"x": json.loads(deep)})]
    # Many brackets are not many levels.
    wide = {"x": [[number] for number in range(MAX_DEPTH * 2)]}
    assert list(read_json_lines(io.BytesIO(json.dumps(wide).encode()))) == [(1, wide)]


def test_a_value_that_does_not_end_is_not_held_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_lines, "MAX_ROW", 4 << 20)
    read = 0

    class Endless(io.RawIOBase):
        def read(self, size: int = -1) -> bytes:
            nonlocal read
            data = b'[{"x": "' if not read else b"y" * max(size, 1)
            read += len(data)
            return data.ljust(size, b"y")

    (finding,) = list(read_json(Endless()))  # type: ignore[arg-type]
    assert isinstance(finding, Finding)
    assert finding.code == "row-too-long"
    assert read < 64 << 20


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs pipes with names")
def test_a_pipe_and_a_name_that_is_none_are_findings(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "rows.jsonl")
    for path, sentence in (
        (tmp_path / "rows.jsonl", "not a regular file but a pipe"),
        (Path("a\0b.jsonl"), "not the name of a file"),
        (Path("\ud800.jsonl"), "not the name of a file|does not exist"),
    ):
        finding = sniff(path)
        assert isinstance(finding, Finding)
        assert any(part in finding.message for part in sentence.split("|"))
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "folder" / "train.jsonl")
    report = check(tmp_path / "folder")
    assert any("not a regular file" in finding.message for finding in report.findings)
