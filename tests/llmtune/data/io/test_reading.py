"""What a file of an unknown kind is said to be, and what stands beside the messages."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import orjson
import pytest

from llmtune.data.findings import Finding
from llmtune.data.io.reading import Reading, read


def findings_of(tmp_path: Path, rows: Any, name: str = "rows.jsonl", **options: Any) -> list[Finding]:
    path = tmp_path / name
    path.write_bytes(rows if isinstance(rows, bytes) else b"".join(orjson.dumps(row) + b"\n" for row in rows))
    return [item for item in read(path, **options) if isinstance(item, Finding)]


@pytest.mark.parametrize("key", ["audio", "audios", "videos", "images", "image", "video"])
def test_media_beside_the_messages_are_told(tmp_path: Path, key: str) -> None:
    turns = [{"from": "human", "value": "What is said?"}, {"from": "gpt", "value": "Hello"}]
    (finding,) = findings_of(tmp_path, [{"conversations": turns, key: ["a.wav"]}])
    assert (finding.code, finding.severity, finding.line) == ("media-beside", "warning", 1)
    assert repr(key) in finding.message


@pytest.mark.parametrize(
    ("text", "name"),
    [
        (b'// my rows\n{"text": "a"}\n', "rows.jsonl"),
        (b'{"text": "a"}\n// more\n{"text": "b"}\n', "rows.jsonl"),
        (b'[\n  // first\n  {"text": "a"}\n]\n', "rows.json"),
        (b'[{"text": /* here */ "a"}]\n', "rows.json"),
        (b"# rows\n", "rows"),
    ],
)
def test_json_with_comments_is_called_that(tmp_path: Path, text: bytes, name: str) -> None:
    findings = findings_of(tmp_path, text, name)
    assert any("JSON with comments" in finding.message for finding in findings)


@pytest.mark.parametrize(
    ("rows", "options"),
    [
        ([{"nr": "1", "frage": "Wann?", "antwort": "Um acht."}], "--column prompt=frage --column completion=antwort"),
        (
            [{"satz": f"Satz Nummer {number}", "art": "ab"[number % 2]} for number in range(8)],
            "--column text=satz --column label=art",
        ),
        ([{"dialog": [{"role": "user", "content": "q"}], "x": "y"}], "--column messages=dialog"),
    ],
)
def test_the_hint_names_columns_that_work(tmp_path: Path, rows: Any, options: str) -> None:
    (finding,) = findings_of(tmp_path, rows)
    assert finding.code == "unknown-format"
    assert options in finding.remedy
    columns = dict(option.removeprefix("--column ").strip().split("=") for option in options.split(" --column "))
    again = findings_of(tmp_path, rows, columns=columns)
    assert not [finding for finding in again if finding.is_error and finding.code != "role"]


def test_the_columns_that_are_read_are_named_as_the_file_has_them(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b'{"utterance": "late again", "intent": "complaint", "id": 1}\n')
    assert Reading(path).columns() == {"text": "utterance", "label": "intent"}
    path.write_bytes(b'{"frage": "Wann?", "context": "Holm", "antwort": "Um acht.", "id": 1}\n')
    reading = Reading(path, columns={"prompt": "frage", "completion": "antwort"})
    assert reading.columns() == {"prompt": "frage + context", "completion": "antwort"}
