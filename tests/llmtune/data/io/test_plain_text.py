"""A .txt file is plain text: its paragraphs are rows, and a long one is never held as a whole."""

from __future__ import annotations

import io
from pathlib import Path

import pytest

from llmtune.data.example import Example
from llmtune.data.findings import Finding
from llmtune.data.io import plain_text
from llmtune.data.io.plain_text import read_paragraphs
from llmtune.data.io.reading import load, read


def paragraphs(content: bytes) -> list[tuple[int, str]]:
    rows = list(read_paragraphs(io.BytesIO(content)))
    assert not any(isinstance(row, Finding) for row in rows)
    return [(line, row["text"]) for line, row in rows]  # type: ignore[misc,str-bytes-safe]


def test_a_row_is_a_paragraph() -> None:
    assert paragraphs(b"one\ntwo\n\n\n  \nthree\r\nfour\r\n\r\n") == [(1, "one\ntwo"), (6, "three\nfour")]
    assert paragraphs(b"\n\nno end") == [(3, "no end")]
    assert paragraphs(b"  indented\n") == [(1, "  indented")]
    assert paragraphs(b"\n \n") == []


def test_a_file_without_blank_lines_is_read_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plain_text, "LONGEST", 20)
    lines = [f"line {number}" for number in range(40)]
    rows = paragraphs("\n".join(lines).encode())
    assert [line for _, text in rows for line in text.split("\n")] == lines
    assert max(len(text) for _, text in rows) < 40
    assert [line for line, _ in rows] == sorted({line for line, _ in rows})


@pytest.mark.parametrize("text", ["word " * 50, "\u00fcml\u00e4ut" * 50, "x" * 300])
def test_a_line_without_an_end_is_cut_between_words_or_characters(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plain_text, "LONGEST", 32)
    rows = paragraphs(text.encode())
    assert len(rows) > 3
    assert "".join(row for _, row in rows) == text


def test_a_file_is_recognised_by_its_name(tmp_path: Path) -> None:
    file = tmp_path / "book.txt"
    file.write_text("It was a night.\n\nIt was a day.\n", encoding="utf-8")
    assert load(file) == [Example(text="It was a night.", line=1), Example(text="It was a day.", line=3)]
    (tmp_path / "rows.txt").write_text('{"text": "as JSON lines"}\n')
    assert [row.text for row in load(tmp_path / "rows.txt")] == ["as JSON lines"]


def test_a_folder_of_texts_is_one_dataset(tmp_path: Path) -> None:
    for name in ("b", "a"):
        (tmp_path / f"{name}.txt").write_text(f"{name} one\n\n{name} two\n")
    assert [row.text for row in load(tmp_path)] == ["a one", "a two", "b one", "b two"]


def test_other_encodings_are_named_with_the_line(tmp_path: Path) -> None:
    file = tmp_path / "old.txt"
    file.write_bytes(b"fine\n\nfine\ncaf\xe9\n\nfine again\n")
    found = list(read(file))
    assert [row.text for row in found if isinstance(row, Example)] == ["fine", "fine again"]
    (fault,) = (row for row in found if isinstance(row, Finding))
    assert fault.is_error
    assert (fault.line, fault.code) == (4, "encoding")
    file.write_bytes("sixteen".encode("utf-16"))
    assert [row.code for row in read(file) if isinstance(row, Finding)] == ["encoding"]


def test_an_empty_file_is_named(tmp_path: Path) -> None:
    file = tmp_path / "empty.txt"
    file.write_text("\n\n")
    assert [row.code for row in read(file) if isinstance(row, Finding)] == ["empty-file"]
