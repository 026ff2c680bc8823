"""The page on data says what the code does."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from llmtune.data.example import Example
from llmtune.data.findings import Finding
from llmtune.data.formats.base import RowFormat, VendorRows
from llmtune.data.formats.registry import _known, general_formats, get_format, register, vendors
from llmtune.data.io.reading import Reading, load

ROOT = Path(__file__).resolve().parents[3]
PAGE = (ROOT / "docs" / "data.md").read_text(encoding="utf-8")
SOURCES = [
    path
    for folder in ("llmtune/data", "providers")
    for path in (ROOT / folder).rglob("*.py")
    if path.name == "rows.py" or folder == "llmtune/data"
]


def codes_in_the_code() -> set[str]:
    found: set[str] = set()
    for path in SOURCES:
        if path.name in ("chat_template.py", "tokenize.py"):
            continue
        text = path.read_text(encoding="utf-8")
        found |= set(re.findall(r'\b(?:error|warning|info|say|_Loss)\(\s*"([a-z]+(?:-[a-z]+)*)",', text))
    found |= {code.replace("lost-system", "changed-system") for code in found if code == "lost-system"}
    return found | {"secret", "personal-data", "duplicate-row", "contradiction", "leakage"}


def test_every_code_is_documented_and_no_other() -> None:
    table = PAGE[PAGE.index("## Findings") : PAGE.index("## Speed")]
    documented = {
        code
        for line in table.splitlines()
        if line.startswith("| `")
        for code in re.findall(r"`([a-z-]+)`", line.split("|")[1])
    }
    assert documented == codes_in_the_code()


def test_every_general_format_is_documented() -> None:
    table = PAGE[PAGE.index("| format |") : PAGE.index("The backends add")]
    assert set(re.findall(r"^\| `([a-z_]+)`", table, re.MULTILINE)) == {fmt.name for fmt in general_formats()}


EXAMPLES = re.findall(
    r"^`([a-z_]+)`.*?:\n\n```json\n(.*?)\n```$",
    PAGE[PAGE.index("### Each format by example") : PAGE.index("### Tables")],
    re.MULTILINE | re.DOTALL,
)


def test_every_general_format_has_an_example() -> None:
    assert {name for name, _ in EXAMPLES} == {fmt.name for fmt in general_formats()}


@pytest.mark.parametrize(("name", "rows"), EXAMPLES)
def test_the_examples_are_read_as_their_format(name: str, rows: str, tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(rows + "\n", encoding="utf-8")
    reading = Reading(path)
    items = list(reading)
    assert [item for item in items if isinstance(item, Finding)] == []
    assert len(items) == 2
    assert reading.format is not None
    assert reading.format.name == name


def test_the_format_of_the_page_works(rows_file: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    code = PAGE[PAGE.index("## A format of your own") :].split("```python\n")[1].split("```")[0]
    space: dict[str, Any] = {}
    exec(code, space)
    rows: VendorRows = space["ROWS"]
    assert issubclass(space["Dialogs"], RowFormat)
    monkeypatch.setattr("llmtune.data.formats.registry._registered", [])
    register(rows)
    try:
        (example,) = load(rows_file([{"ask": "q", "say": "a"}]))
        assert example.completion() == "a"
        fmt = get_format("dialogs")
        assert fmt.write(example) == {"ask": "q", "say": "a"}
        assert {finding.code for finding in fmt.problems(Example(text="x"))} == {"cannot-text"}
    finally:
        vendors.cache_clear()
        _known.cache_clear()
