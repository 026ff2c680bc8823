"""The reference of the Python names, as Markdown, from the same description of them that docs/api.json holds.

Signatures and defaults are those of public_api.py; the words are the docstrings as they are written. A name in
backticks becomes a link to where it is described.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import re
import textwrap
from collections.abc import Iterator
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import public_api as api
from pydantic import BaseModel
from reference_cli import anchor, escaped

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "docs" / "reference"
MARK = re.compile(r"<!-- generated: module (?P<name>[\w.]+) -->")
SECTION = re.compile(r"(Args|Raises|Returns):$")
#: Longest signature on one line.
WIDTH = 100


# --- where things are ------------------------------------------------------------------------------------------------
@cache
def homes() -> dict[str, str]:
    """The page of each public module, as a file name in docs/reference/."""
    return {
        found["name"]: page.name
        for page in sorted(FOLDER.glob("*.md"))
        for found in MARK.finditer(page.read_text(encoding="utf-8"))
    }


def missing() -> list[str]:
    """Public modules that no page describes."""
    return [name for name in api.MODULES if name not in homes()]


@cache
def places() -> dict[str, tuple[str, str]]:
    """Every public name, with its module and heading; the modules too."""
    found = {module: (module, module) for module in api.MODULES}
    for module in api.MODULES:
        for name in own_names(module):
            found[name] = (module, heading(module, name))
    return found


@cache
def own_names(module: str) -> tuple[str, ...]:
    """The names that are described at this module; others it only passes on."""
    return tuple(
        name for name, told in tree(module).items() if not isinstance(told, str) or not told.startswith(api.AS_IN)
    )


@cache
def tree(module: str) -> dict[str, Any]:
    """What api.json holds of a module."""
    loaded = importlib.import_module(module)
    return {name: api.described(module, name, getattr(loaded, name)) for name in api.public_names(module)}


def heading(module: str, name: str) -> str:
    """The heading over a name: a class says so, since `Sweep` and `sweep` would share an anchor."""
    told = tree(module)[name]
    word = "class " if isinstance(told, dict) and told["kind"] != "function" else ""
    return f"{word}`{name}`" if name.startswith("_") else f"{word}{name}"


def linked(name: str, text: str, page: str) -> str:
    """A name as a link to its description, as seen from a page of the folder."""
    module, title = places()[name]
    there = homes().get(module)
    if there is None:
        return text
    return f"[{text}]({'' if there == page else there}#{anchor(title)})"


# --- blocks ----------------------------------------------------------------------------------------------------------
def module_page(name: str) -> str:
    """One module: what it is for, and each of its public names."""
    page = homes()[name]
    loaded = importlib.import_module(name)
    lines = [*prose(inspect.getdoc(loaded) or "", page, name), ""]
    if passed := [each for each in tree(name) if each not in own_names(name)]:
        lines += [f"Described elsewhere: {', '.join(linked(each, f'`{each}`', page) for each in passed)}.", ""]
    for each in own_names(name):
        lines += [f"### {heading(name, each)}", "", *_described(name, each, page), ""]
    return re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).strip() + "\n"


def module_index(_: str = "") -> str:
    """All public modules with their names, each a link."""
    lines = ["| module | names |", "|---|---|"]
    for module in api.MODULES:
        told = ", ".join(_from_above(each) for each in own_names(module))
        lines.append(f"| {_from_above(module)} | {told} |")
    return "\n".join(lines) + "\n"


def _from_above(name: str) -> str:
    return linked(name, f"`{name}`", "").replace("](", "](reference/")


def _described(module: str, name: str, page: str) -> list[str]:
    told, value = tree(module)[name], getattr(importlib.import_module(module), name)
    if isinstance(told, str):
        return [*_fenced(_valued(name, told, value)), "", *prose(_comment(module, name), page, name)]
    if told["kind"] == "function":
        return [*_fenced(signature(name, told)), "", *prose(inspect.getdoc(value) or "", page, name)]
    return _class(name, told, value, page)


def _valued(name: str, told: str, value: Any) -> str:
    """A value: what an alias stands for, what a short constant is, or else the type."""
    kind = told.removeprefix("value: ")
    if kind != type(value).__name__:
        return f"{name} = {kind}"
    short = isinstance(value, int | float | str | tuple) and len(repr(value)) <= WIDTH and not name.startswith("_")
    return f"{name}: {kind}{api.DEFAULT}{value!r}" if short else f"{name}: {kind}"


def _class(name: str, told: dict[str, Any], cls: type, page: str) -> list[str]:
    lines = []
    bases = [each for each in told["bases"] if each not in ("Protocol", "Noun", "Generic")]
    if "__init__" in told.get("members", {}):
        lines += [*_fenced(signature(name, told["members"]["__init__"])), ""]
    if told["kind"] == "protocol":
        lines += ["A protocol: whatever has these members is one.", ""]
    elif bases:
        shown = [linked(each, f"`{each}`", page) if each in places() else f"`{each}`" for each in bases]
        lines += [f"Based on {' and '.join(shown)}.", ""]
    lines += [*prose(inspect.getdoc(cls) or "", page, name), ""]
    if told["kind"] == "enum":
        return [*lines, *(f"- `{each}` = `{value}`" for each, value in told["members"].items())]
    mine = _own(cls)
    words = _field_docs(cls)
    for field in sorted(told["fields"].keys() & mine.keys(), key=mine.__getitem__):
        said = " ".join(line for line in prose(words.get(field, ""), page, name) if line)
        lines.append(f"- `{field}: {_typed(cls, field, told['fields'][field])}`" + (f"<br>{said}" if said else ""))
    if lines[-1].startswith("- "):
        lines.append("")
    tests = []
    for member in sorted(told["members"].keys() & mine.keys(), key=mine.__getitem__):
        entry = told["members"][member]
        if member == "__init__":
            continue
        if member.startswith("test_"):
            tests.append(member)
        elif isinstance(entry, str):
            value = getattr(cls, member)
            constant = entry.startswith("value: ")
            said = words.get(member, "") if constant else inspect.getdoc(value) or ""
            shown = _valued(member, entry, value) if constant else entry.removeprefix("property: ")
            lines += [f"**`{name}.{member}`**", "", *_fenced(shown if constant else f"{member}: {shown}"), ""]
            lines += prose(said, page, name)
        else:
            said = inspect.getdoc(getattr(cls, member)) or ""
            lines += [
                f"**`{name}.{member}`**",
                "",
                *_fenced(signature(member, entry)),
                "",
                *prose(said, page, name),
                "",
            ]
    if tests:
        lines += ["Its tests, each named by what must hold:", "", *(f"- `{each}`" for each in tests)]
    return lines


def _typed(cls: type, field: str, text: str) -> str:
    """A field's type and default, without the machinery of a NamedTuple or of a factory."""
    kind, default, value = text.partition(api.DEFAULT)
    if found := re.fullmatch(r"ForwardRef\('(.*)'\)", kind):
        kind, defaults = found[1], getattr(cls, "_field_defaults", {})
        return f"{kind}{api.DEFAULT}{defaults[field]!r}" if field in defaults else kind
    return f"{kind}{default}{ {'dict': '{}', 'list': '[]', 'tuple': '()'}.get(value, value) }".rstrip()


def _own(cls: type) -> dict[str, int]:
    """Names that a class has of itself, or of a base that is described nowhere else, in the order they are written."""
    found: dict[str, int] = {}
    for each in reversed(cls.__mro__):
        if each.__module__.startswith("llmtune") and (each is cls or each.__name__ not in places()):
            for name in (*inspect.get_annotations(each), *vars(each)):
                found.setdefault(name, len(found))
    return found


def _field_docs(cls: type) -> dict[str, str]:
    """The docstrings below the fields of a class and of its bases."""
    found: dict[str, str] = {}
    for each in reversed(cls.__mro__):
        if not each.__module__.startswith("llmtune"):
            continue
        for node in ast.walk(api.source(each.__module__)):
            if isinstance(node, ast.ClassDef) and node.name == each.__name__:
                found |= dict(_under(node.body))
    if issubclass(cls, BaseModel):
        found |= {name: info.description for name, info in cls.model_fields.items() if info.description}
    return found


def _under(body: list[ast.stmt]) -> Iterator[tuple[str, str]]:
    for node, after in pairwise(body):
        if isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant) and isinstance(after.value.value, str):
            targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
            for target in targets:
                if isinstance(target, ast.Name):
                    yield target.id, inspect.cleandoc(after.value.value)


def _comment(module: str, name: str) -> str:
    """The `#:` lines above a value, or the docstring below it."""
    tree_, below = api.source(module), dict(_under(api.source(module).body))
    if name in below:
        return below[name]
    lines = Path(inspect.getfile(importlib.import_module(module))).read_text(encoding="utf-8").splitlines()
    for node in tree_.body:
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        if any(isinstance(target, ast.Name) and target.id == name for target in targets):
            above: list[str] = []
            for line in reversed(lines[: node.lineno - 1]):
                if not line.startswith("#:"):
                    break
                above.insert(0, line[2:].strip())
            return "\n".join(above)
    return ""


# --- words -----------------------------------------------------------------------------------------------------------
def signature(name: str, told: dict[str, Any]) -> str:
    """A signature as it is written in Python; over several lines when it is long."""
    parts, by_name = [], False
    for each, text in told["parameters"].items():
        if text.startswith("by name: ") and not by_name and not any(part.startswith("*") for part in parts):
            parts.append("*")
            by_name = True
        text = text.removeprefix("by name: ")
        parts.append(f"{each}{text}" if text.startswith(api.DEFAULT) or not text else f"{each}: {text}")
    returns = f" -> {told['returns']}" if told["returns"] else ""
    line = f"{name}({', '.join(parts)}){returns}"
    if len(line) <= WIDTH:
        return line
    return "\n".join([f"{name}(", *(f"    {part}," for part in parts), f"){returns}"])


def prose(text: str, page: str, about: str) -> list[str]:
    """A docstring as Markdown: paragraphs, `Args:` and `Raises:` as lists, what is set in as a block."""
    lines: list[str] = []
    for kind, rows in _parts(text):
        if kind == "set in":
            lines += ["```text", *textwrap.dedent("\n".join(rows)).strip("\n").splitlines(), "```", ""]
        elif kind == "words":
            lines += [_words(" ".join(rows).replace("::", ":"), page, about), ""]
        else:
            lines += [f"**{kind}**", "", *(f"- {each}" for each in _entries(rows, page, about)), ""]
    return lines


def _parts(text: str) -> Iterator[tuple[str, list[str]]]:
    """The parts of a docstring: ("words", a paragraph), ("set in", a block), or (the title of a section, its lines)."""
    kind, rows = "words", []
    for row in [*text.strip("\n").splitlines(), "", "."]:
        if not row.strip():
            if kind == "words":
                yield from [(kind, rows)] if rows else ()
                rows = []
            elif kind == "set in":
                rows.append("")
        elif row.startswith("    "):
            if kind == "words":
                yield from [(kind, rows)] if rows else ()
                kind, rows = "set in", []
            rows.append(row)
        elif SECTION.match(row):
            yield from [(kind, rows)] if rows else ()
            kind, rows = row.strip(), []
        elif kind != "words":
            yield kind, rows
            kind, rows = "words", [row]
        else:
            rows.append(row)


def _entries(rows: list[str], page: str, about: str) -> Iterator[str]:
    """`name: words` entries, each of which may go on in deeper lines."""
    deep = min((len(row) - len(row.lstrip()) for row in rows if row.strip()), default=0)
    told: list[str] = []
    for row in rows:
        if len(row) - len(row.lstrip()) == deep or not told:
            told.append(row.strip())
        else:
            told[-1] += f" {row.strip()}"
    for each in told:
        name, colon, words = each.partition(": ")
        if colon and re.fullmatch(r"[\w*., ]+", name):
            yield _words(f"`{name}`: {words}", page, about)
        else:
            yield _words(each, page, about)


def _words(text: str, page: str, about: str) -> str:
    """A paragraph, escaped, with the public names in it as links; a name is not linked to itself."""

    def link(match: re.Match[str]) -> str:
        name = match[1].removesuffix("()")
        last = name.rpartition(".")[2]
        for each in (name, last if name.startswith("llmtune.") else ""):
            if each in places() and each != about:
                return linked(each, match[0], page)
        return match[0]

    return re.sub(r"`([A-Za-z_][\w.]*(?:\(\))?)`", link, escaped(" ".join(text.split())))


def _fenced(text: str) -> list[str]:
    return ["```text", text, "```"]
