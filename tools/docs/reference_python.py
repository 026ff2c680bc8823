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
    """Return the page of each public module, as a file name in docs/reference/."""
    return {
        mark["name"]: page.name
        for page in sorted(FOLDER.glob("*.md"))
        for mark in MARK.finditer(page.read_text(encoding="utf-8"))
    }


def missing() -> list[str]:
    """List public modules that no page describes."""
    return [name for name in api.MODULES if name not in homes()]


@cache
def places() -> dict[str, tuple[str, str]]:
    """Return every public name and module, with its module and heading."""
    locations = {module: (module, module) for module in api.MODULES}
    for module in api.MODULES:
        for name in own_names(module):
            locations[name] = (module, heading(module, name))
    return locations


@cache
def own_names(module: str) -> tuple[str, ...]:
    """Return the names described at this module, without those it only re-exports."""
    return tuple(
        name for name, entry in tree(module).items() if not isinstance(entry, str) or not entry.startswith(api.AS_IN)
    )


@cache
def tree(module: str) -> dict[str, Any]:
    """Return the entries of a module, as in api.json."""
    loaded = importlib.import_module(module)
    return {name: api.describe(module, name, getattr(loaded, name)) for name in api.list_public_names(module)}


def heading(module: str, name: str) -> str:
    """Return the heading of a name, with "class" for classes, since `Sweep` and `sweep` would share an anchor."""
    entry = tree(module)[name]
    prefix = "class " if isinstance(entry, dict) and entry["kind"] != "function" else ""
    return f"{prefix}`{name}`" if name.startswith("_") else f"{prefix}{name}"


def linked(name: str, text: str, page: str) -> str:
    """Return a link to the description of a name, relative to a page of the folder."""
    module, title = places()[name]
    there = homes().get(module)
    if there is None:
        return text
    return f"[{text}]({'' if there == page else there}#{anchor(title)})"


# --- blocks ----------------------------------------------------------------------------------------------------------
def module_page(name: str) -> str:
    """Describe a module and each of its public names."""
    page = homes()[name]
    loaded = importlib.import_module(name)
    lines = [*prose(inspect.getdoc(loaded) or "", page, name), ""]
    reexported = [public_name for public_name in tree(name) if public_name not in own_names(name)]
    if reexported:
        links = [linked(public_name, f"`{public_name}`", page) for public_name in reexported]
        lines += [f"Described elsewhere: {', '.join(links)}.", ""]
    for public_name in own_names(name):
        lines += [f"### {heading(name, public_name)}", "", *_described(name, public_name, page), ""]
    return re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).strip() + "\n"


def module_index(_: str = "") -> str:
    """Return the table of all public modules with links to their names."""
    lines = ["| module | names |", "|---|---|"]
    for module in api.MODULES:
        links = ", ".join(_from_above(public_name) for public_name in own_names(module))
        lines.append(f"| {_from_above(module)} | {links} |")
    return "\n".join(lines) + "\n"


def _from_above(name: str) -> str:
    return linked(name, f"`{name}`", "").replace("](", "](reference/")


def _described(module: str, name: str, page: str) -> list[str]:
    entry, value = tree(module)[name], getattr(importlib.import_module(module), name)
    if isinstance(entry, str):
        return [*_fenced(_valued(name, entry, value)), "", *prose(_comment(module, name), page, name)]
    if entry["kind"] == "function":
        return [*_fenced(signature(name, entry)), "", *prose(inspect.getdoc(value) or "", page, name)]
    return _class(name, entry, value, page)


def _valued(name: str, described: str, value: Any) -> str:
    """Describe a value: the target of an alias, a short constant, or else the type."""
    kind = described.removeprefix("value: ")
    if kind != type(value).__name__:
        return f"{name} = {kind}"
    short = isinstance(value, int | float | str | tuple) and len(repr(value)) <= WIDTH and not name.startswith("_")
    return f"{name}: {kind}{api.DEFAULT}{value!r}" if short else f"{name}: {kind}"


def _class(name: str, entry_: dict[str, Any], cls: type, page: str) -> list[str]:
    lines = []
    bases = [base for base in entry_["bases"] if base not in ("Protocol", "StrictModel", "Generic")]
    if "__init__" in entry_.get("members", {}):
        lines += [*_fenced(signature(name, entry_["members"]["__init__"])), ""]
    if entry_["kind"] == "protocol":
        lines += ["A protocol: whatever has these members is one.", ""]
    elif bases:
        links = [linked(base, f"`{base}`", page) if base in places() else f"`{base}`" for base in bases]
        lines += [f"Based on {' and '.join(links)}.", ""]
    lines += [*prose(inspect.getdoc(cls) or "", page, name), ""]
    if entry_["kind"] == "enum":
        return [*lines, *(f"- `{member_name}` = `{value}`" for member_name, value in entry_["members"].items())]
    order = _own(cls)
    field_docs = _field_docs(cls)
    for field in sorted(entry_["fields"].keys() & order.keys(), key=order.__getitem__):
        text = " ".join(line for line in prose(field_docs.get(field, ""), page, name) if line)
        lines.append(f"- `{field}: {_typed(cls, field, entry_['fields'][field])}`" + (f"<br>{text}" if text else ""))
    if lines[-1].startswith("- "):
        lines.append("")
    tests = []
    for member in sorted(entry_["members"].keys() & order.keys(), key=order.__getitem__):
        entry = entry_["members"][member]
        if member == "__init__":
            continue
        if member.startswith("test_"):
            tests.append(member)
        elif isinstance(entry, str):
            value = getattr(cls, member)
            constant = entry.startswith("value: ")
            text = field_docs.get(member, "") if constant else inspect.getdoc(value) or ""
            declaration = _valued(member, entry, value) if constant else entry.removeprefix("property: ")
            lines += [
                f"**`{name}.{member}`**",
                "",
                *_fenced(declaration if constant else f"{member}: {declaration}"),
                "",
            ]
            lines += prose(text, page, name)
        else:
            text = inspect.getdoc(getattr(cls, member)) or ""
            lines += [
                f"**`{name}.{member}`**",
                "",
                *_fenced(signature(member, entry)),
                "",
                *prose(text, page, name),
                "",
            ]
    if tests:
        lines += ["Its tests, each named by what must hold:", "", *(f"- `{each}`" for each in tests)]
    return lines


def _typed(cls: type, field: str, text: str) -> str:
    """Format a field's type and default, without the internals of NamedTuple and factories."""
    kind, default, value = text.partition(api.DEFAULT)
    if reference := re.fullmatch(r"ForwardRef\('(.*)'\)", kind):
        kind, defaults = reference[1], getattr(cls, "_field_defaults", {})
        return f"{kind}{api.DEFAULT}{defaults[field]!r}" if field in defaults else kind
    return f"{kind}{default}{ {'dict': '{}', 'list': '[]', 'tuple': '()'}.get(value, value) }".rstrip()


def _own(cls: type) -> dict[str, int]:
    """Names that a class has of itself, or of a base that is described nowhere else, in the order they are written."""
    order: dict[str, int] = {}
    for base in reversed(cls.__mro__):
        if base.__module__.startswith("llmtune") and (base is cls or base.__name__ not in places()):
            for name in (*inspect.get_annotations(base), *vars(base)):
                order.setdefault(name, len(order))
    return order


def _field_docs(cls: type) -> dict[str, str]:
    """Collect the docstrings of the fields of a class and its bases."""
    docs: dict[str, str] = {}
    for base in reversed(cls.__mro__):
        if not base.__module__.startswith("llmtune"):
            continue
        for node in ast.walk(api.source(base.__module__)):
            if isinstance(node, ast.ClassDef) and node.name == base.__name__:
                docs |= dict(_under(node.body))
    if issubclass(cls, BaseModel):
        docs |= {name: info.description for name, info in cls.model_fields.items() if info.description}
    return docs


def _under(body: list[ast.stmt]) -> Iterator[tuple[str, str]]:
    for node, after in pairwise(body):
        if isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant) and isinstance(after.value.value, str):
            targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
            for target in targets:
                if isinstance(target, ast.Name):
                    yield target.id, inspect.cleandoc(after.value.value)


def _comment(module: str, name: str) -> str:
    """Return the `#:` comment above a value, or the docstring below it."""
    module, name = api.find_definition(module, name)
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
def signature(name: str, function: dict[str, Any]) -> str:
    """Format a signature as Python source, over several lines if it is long."""
    parts, by_name = [], False
    for parameter, text in function["parameters"].items():
        if text.startswith("by name: ") and not by_name and not any(part.startswith("*") for part in parts):
            parts.append("*")
            by_name = True
        text = text.removeprefix("by name: ")
        parts.append(f"{parameter}{text}" if text.startswith(api.DEFAULT) or not text else f"{parameter}: {text}")
    returns = f" -> {function['returns']}" if function["returns"] else ""
    line = f"{name}({', '.join(parts)}){returns}"
    if len(line) <= WIDTH:
        return line
    return "\n".join([f"{name}(", *(f"    {part}," for part in parts), f"){returns}"])


def prose(text: str, page: str, about: str) -> list[str]:
    """Convert a docstring to Markdown: paragraphs, `Args:` and `Raises:` as lists, indented text as blocks."""
    lines: list[str] = []
    for kind, rows in _parts(text):
        if kind == "set in":
            lines += ["```text", *textwrap.dedent("\n".join(rows)).strip("\n").splitlines(), "```", ""]
        elif kind == "words":
            lines += [_words(" ".join(rows).replace("::", ":"), page, about), ""]
        else:
            lines += [f"**{kind}**", "", *(f"- {entry}" for entry in _entries(rows, page, about)), ""]
    return lines


def _parts(text: str) -> Iterator[tuple[str, list[str]]]:
    """Split a docstring into ("words", paragraph), ("set in", block) and (section title, lines)."""
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
    entries: list[str] = []
    for row in rows:
        if len(row) - len(row.lstrip()) == deep or not entries:
            entries.append(row.strip())
        else:
            entries[-1] += f" {row.strip()}"
    for entry in entries:
        name, colon, text = entry.partition(": ")
        if colon and re.fullmatch(r"[\w*., ]+", name):
            yield _words(f"`{name}`: {text}", page, about)
        else:
            yield _words(entry, page, about)


def _words(text: str, page: str, about: str) -> str:
    """Escape a paragraph, and turn public names into links, except `about` itself."""

    def link(match: re.Match[str]) -> str:
        name = match[1].removesuffix("()")
        last = name.rpartition(".")[2]
        for candidate in (name, last if name.startswith("llmtune.") else ""):
            if candidate in places() and candidate != about:
                return linked(candidate, match[0], page)
        return match[0]

    return re.sub(r"`([A-Za-z_][\w.]*(?:\(\))?)`", link, escaped(" ".join(text.split())))


def _fenced(text: str) -> list[str]:
    return ["```text", text, "```"]
