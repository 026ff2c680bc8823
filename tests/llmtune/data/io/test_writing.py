"""Tables that somebody will open in a spreadsheet."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from llmtune.data.convert import convert

FORMULAS = ["=1+1", "+1 555 0100", "@team", "-2+3+cmd|' /C calc'!A0", "\t=1", '=HYPERLINK("http://x.example","y")']
HARMLESS = ["- an item", "-5", "-1.5", "a = b", 'say ":"=', "", "1+1", "1-800"]


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".csv.gz"])
@pytest.mark.parametrize(("texts", "count"), [(FORMULAS, len(FORMULAS)), (HARMLESS, 0)], ids=["formulas", "harmless"])
def test_formulas_are_warned_of_and_written_as_they_are(
    tmp_path: Path, suffix: str, texts: list[str], count: int
) -> None:
    source, target = tmp_path / "rows.jsonl", tmp_path / f"rows{suffix}"
    source.write_text("".join(json.dumps({"prompt": text, "completion": "x"}) + "\n" for text in texts if text))
    written = convert(source, target, "prompt_completion")
    findings = [finding for finding in written.findings if finding.code == "formula-cells"]
    assert len(findings) == (1 if count else 0)
    if count:
        assert findings[0].severity == "warning"
        assert findings[0].message.startswith(f"{count} rows ")
    if suffix == ".csv":
        with target.open(newline="") as file:
            assert [row["prompt"] for row in csv.DictReader(file)] == [text for text in texts if text]


def test_lines_of_json_are_no_table(tmp_path: Path) -> None:
    source = tmp_path / "rows.jsonl"
    source.write_text('{"prompt": "=1+1", "completion": "x"}\n')
    assert not convert(source, tmp_path / "out.jsonl", "prompt_completion").findings
