"""Grader files: what is wrong in one is a sentence with file and line."""

from __future__ import annotations

from pathlib import Path

import pytest

from llmtune.errors import InvalidJob
from llmtune.graders import load_grader


def load(tmp_path: Path, text: str) -> object:
    path = tmp_path / "grader.yaml"
    path.write_text(text)
    return load_grader(path)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("kind: match\noperation: nearly\n", r"grader\.yaml:2: .*operation.*'nearly'"),
        ("kind: guess\n", r"guess"),
        ("operation: exact\n", r"kind"),
        ("kind: match\nreference: a\nweight: 3\n", r"grader\.yaml:3: .*weight"),
        ("kind: match\ntolerance: 0.1\n", r"tolerance: it is of operation numeric"),
        ("kind: match\npartial: true\n", r"partial: it is of operation json"),
        ("kind: regex\npattern: '('\n", r"no regular expression"),
        ("kind: match\nanswer_from: {regex: '(', json_path: a}\n", r"give one of regex and json_path"),
        ("kind: match\nanswer_from: {}\n", r"give one of regex and json_path"),
        ("kind: match\nright_answer: so it is\n", r"does not contain \{reference\}"),
        ("kind: similarity\nmetric: accuracy\n", r"'accuracy' is no metric of texts"),
        ("kind: python\n", r"give one of file and source"),
        ("kind: python\nsource: a\nfile: b\n", r"give one of file and source"),
        ("kind: python\nsource: a\nlowest: 2\n", r"2 is not below highest"),
        ("kind: python\nfile: missing.py\n", r"missing\.py: no such Python grader"),
        ("kind: python\nfile: .\n", "not a regular file but a folder"),
        ("kind: http\n", r"url"),
        ("kind: http\nurl: http://a.example/\n", r"unencrypted"),
        ("kind: http\nurl: https://a.example/\nkey_env: 'a b'\n", r"grader\.yaml:3: .*key_env"),
        ("kind: http\nurl: https://a.example/\nlowest: 2\n", r"2 is not below highest"),
        ("kind: lambda\nfunction: grade\n", r"grader\.yaml:2: .*function"),
        ("kind: weighted\nparts: []\n", r"parts"),
        ("kind: weighted\nparts: [{weight: 0, grader: {kind: regex, pattern: a}}]\n", r"weight"),
        ("- kind: match\n", r"a grader file is a mapping"),
        ("kind: 'match\n", r"grader\.yaml:\d: broken YAML"),
    ],
)
def test_a_fault_is_one_sentence(tmp_path: Path, text: str, sentence: str) -> None:
    with pytest.raises(InvalidJob, match=sentence) as caught:
        load(tmp_path, text)
    assert "\n" not in caught.value.message


def test_graders_inside_graders_end_somewhere(tmp_path: Path) -> None:
    inner = "{kind: regex, pattern: a}"
    for _ in range(5):
        inner = f"{{kind: weighted, parts: [{{weight: 1, grader: {inner}}}]}}"
    with pytest.raises(InvalidJob, match="more than 4 deep"):
        load(tmp_path, inner)


def test_a_missing_file_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(InvalidJob, match="no such grader file"):
        load_grader(tmp_path / "none.yaml")
