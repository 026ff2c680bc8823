"""The page on data says what the code does."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from llmtune.data.checks.check import check
from llmtune.data.example import Example
from llmtune.data.findings import Finding
from llmtune.data.formats.base import RowFormat, VendorRows
from llmtune.data.formats.registry import _formats, general_formats, get_format, register, vendors
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
        found |= set(re.findall(r'\b(?:error|warning|info|say|make_finding|_Loss)\(\s*"([a-z]+(?:-[a-z]+)*)",', text))
    found |= {code.replace("lost-system", "changed-system") for code in found if code == "lost-system"}
    found.add("image")  # of the renderer, whose other codes have underscores
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


REASONING = re.findall(
    r"^\| `([a-z]+)` \| (.+?) \| (.+?) \|$",
    PAGE[PAGE.index("How each vendor carries") : PAGE.index("Locally the")],
    re.MULTILINE,
)
THOUGHT = "The list says so."


def keys_of(value: Any, text: str) -> list[str]:
    """The keys on the way to a text in a row."""
    for key, part in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ():
        if part == text:
            return [str(key)]
        if found := keys_of(part, text):
            return [str(key), *found]
    return []


def test_every_backend_is_in_the_table_of_reasoning() -> None:
    assert {kind for kind, _, _ in REASONING} == set(vendors()) - {"retired", "fake"}


@pytest.mark.parametrize(("kind", "model", "carried"), REASONING)
def test_the_table_of_reasoning_says_what_is_written(kind: str, model: str, carried: str, tmp_path: Path) -> None:
    name = model.strip("`") if model.startswith("`") else None
    path = tmp_path / "rows.jsonl"
    answer = {"role": "assistant", "content": "Green.", "reasoning": THOUGHT}
    row = {"messages": [{"role": "user", "content": "Which light?"}, answer]}
    path.write_text((json.dumps(row) + "\n") * 250)
    report = check(path, provider=kind, model=name, method="sft", checks=("structure",))
    if carried == "refused":
        assert {finding.code for finding in report.findings if finding.is_error} == {"lost-reasoning"}
        return
    assert report.ok
    warned = any("reasoning" in finding.code for finding in report.findings)
    (example, *_) = load(path)
    written = get_format(kind, model=name).write(example)
    keys = keys_of(written, THOUGHT)
    part = written
    for key in keys[:-1]:
        part = part[int(key) if isinstance(part, list) else key]
    shown = "thought" if part.get("thought") is True else "reasoningContent" if "reasoningContent" in keys else keys[-1]
    assert f"`{shown}`" + (", with a warning" if warned else "") == carried


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
        _formats.cache_clear()
