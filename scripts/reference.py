"""The reference pages, written from the code: commands from the command line, names from the public modules."""

from __future__ import annotations

import importlib
import inspect
import re
import textwrap
from collections.abc import Iterator
from functools import cache
from typing import Any

import public_api
from pydantic import BaseModel

#: What a heading of a docstring's part is called on the page.
PARTS = {"Args:": "Arguments", "Raises:": "Raises", "Returns:": "Returns", "Attributes:": "Attributes"}


# --- commands --------------------------------------------------------------------------------------------------------
def commands(_: str) -> str:
    """Every command with its arguments and options, as `--help` has them."""
    import typer

    from llmtune.cli.app import app

    return "\n".join(_command("llmtune", typer.main.get_command(app), None)) + "\n"


def _command(path: str, command: Any, parent: Any) -> Iterator[str]:
    context = command.context_class(command, info_name=path.rpartition(" ")[2], parent=parent)
    inner = getattr(command, "commands", {})
    yield f"## {path}\n"
    if told := inspect.cleandoc(command.help or ""):
        yield f"{prose(told)}\n"
    if inner:
        yield from ("Commands: " + ", ".join(f"[{name}](#{anchor(f'{path} {name}')})" for name in inner) + ".\n",)
    if default := getattr(command, "default", None):
        yield f"Without a command it is `{path} {default}`.\n"
    usage = " ".join(command.collect_usage_pieces(context))
    yield f"```text\n{path} {usage}\n```\n"
    shown = [each for each in command.params if not getattr(each, "hidden", False) and each.name != "help"]
    if rows := [_parameter(*record) for each in shown if (record := each.get_help_record(context))]:
        yield "| | |\n|---|---|\n" + "\n".join(rows) + "\n"
    if command.epilog:
        yield f"{prose(command.epilog)}\n"
    for name, each in inner.items():
        yield from _command(f"{path} {name}", each, context)


def _parameter(name: str, told: str) -> str:
    cells = (f"`{name}`", prose(" ".join(told.split())))
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


# --- names -----------------------------------------------------------------------------------------------------------
def module(name: str) -> str:
    """The public names of a module: what each is, means and raises."""
    loaded = importlib.import_module(name)
    parts = [f"{prose(inspect.cleandoc(loaded.__doc__ or ''))}\n"]
    elsewhere: dict[str, list[str]] = {}
    for each in public_api.public_names(name):
        entry = public_api.described(name, each, getattr(loaded, each))
        if isinstance(entry, str) and entry.startswith("as in "):
            elsewhere.setdefault(entry.removeprefix("as in "), []).append(each)
        else:
            parts += _name(name, each, getattr(loaded, each), entry)
    for home, names in elsewhere.items():
        links = ", ".join(f"[{each}](#{anchor(f'{home}.{each}')})" for each in names)
        parts.append(f"From [{home}](#{anchor(home)}): {links}.\n")
    return "\n".join(parts)


def _name(home: str, name: str, value: Any, entry: Any) -> Iterator[str]:
    yield f"### {home}.{name}\n"
    if isinstance(entry, str):
        yield f"{_value(home, name, entry)}\n"
        return
    if entry["kind"] == "function":
        yield f"{_signature(name, entry)}\n\n{document(value)}\n"
        return
    bases = f"({', '.join(entry['bases'])})" if entry.get("bases") else ""
    members = entry.get("members", {})
    made = _signature(name, members["__init__"], returns=False) if "__init__" in members else None
    yield f"```text\n{entry['kind']} {name}{bases}\n```\n\n{document(value)}\n"
    if made:
        yield f"{made}\n\n{document(value.__init__)}\n"
    if rows := [_field(value, field, told) for field, told in entry.get("fields", {}).items()]:
        yield "| field | type | default | |\n|---|---|---|---|\n" + "\n".join(rows) + "\n"
    if entry["kind"] == "enum":
        yield "| member | value |\n|---|---|\n" + "\n".join(f"| `{a}` | `{b}` |" for a, b in members.items()) + "\n"
        return
    for each, told in members.items():
        if each != "__init__":
            yield from _member(name, each, getattr(value, each, None), told)


def _member(owner: str, name: str, value: Any, entry: Any) -> Iterator[str]:
    if isinstance(entry, str):
        words = document(value.fget) if isinstance(value, property) and value.fget else ""
        kind = entry.removeprefix("property: ").removeprefix("value: ")
        yield f"**`{owner}.{name}`** (`{kind}`). {words}".rstrip() + "\n"
        return
    yield f"{_signature(f'{owner}.{name}', entry)}\n\n{document(value)}\n"


def _signature(name: str, entry: Any, *, returns: bool = True) -> str:
    told, starred = [], False
    for each, given in entry["parameters"].items():
        starred = starred or each.startswith("*")
        if given.startswith("by name: ") and not starred:
            told.append("*")
            starred = True
        kind, mark, default = given.removeprefix("by name: ").partition(public_api.DEFAULT)
        told.append(f"{each}: {kind}{' = ' + default if mark else ''}" if kind else f"{each}{mark}{default}")
    ending = f" -> {entry['returns']}" if returns and entry["returns"] else ""
    line = f"{name}({', '.join(told)}){ending}"
    if len(line) > 100:
        line = f"{name}(\n" + "".join(f"    {each},\n" for each in told) + f"){ending}"
    return f"```text\n{line}\n```"


def _field(owner: Any, name: str, told: str) -> str:
    kind, mark, default = told.partition(public_api.DEFAULT)
    words = ""
    if issubclass(owner, BaseModel) and name in owner.model_fields:
        words = " ".join((owner.model_fields[name].description or "").split())
    cells = (f"`{name}`", f"`{kind}`", f"`{default}`" if mark else "", prose(words))
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


def _value(home: str, name: str, entry: str) -> str:
    """A constant: its type, and the comment that stands over it."""
    if home == "llmtune":
        return f"`{entry.removeprefix('value: ')}`"
    text = _lines(home)
    at = next((at for at, line in enumerate(text) if re.match(rf"{name}\b.*=", line)), None)
    said: list[str] = []
    while at is not None and at > 0 and text[at - 1].startswith("#:"):
        at -= 1
        said.insert(0, text[at].removeprefix("#:").strip())
    return f"`{entry.removeprefix('value: ')}`. {prose(' '.join(said))}".rstrip()


@cache
def _lines(home: str) -> list[str]:
    return inspect.getsource(importlib.import_module(home)).splitlines()


# --- words -----------------------------------------------------------------------------------------------------------
def document(value: Any) -> str:
    """A docstring as Markdown: its prose, and a list for each of its parts."""
    text = inspect.cleandoc(getattr(value, "__doc__", None) or "")
    found: list[str] = []
    lines = text.splitlines()
    while lines:
        line = lines.pop(0)
        if line not in PARTS:
            found.append(line)
            continue
        body = []
        while lines and (not lines[0].strip() or lines[0].startswith(" ")):
            body.append(lines.pop(0))
        found += ["", f"{PARTS[line]}:", "", *_items(textwrap.dedent("\n".join(body))), ""]
    return prose(re.sub(r"\n{3,}", "\n\n", "\n".join(found)).strip())


def _items(body: str) -> Iterator[str]:
    for item in re.split(r"\n(?=\S)", body.strip()):
        joined = " ".join(item.split())
        name, colon, words = joined.partition(": ")
        yield f"- `{name}`: {words}" if colon and re.fullmatch(r"\*{0,2}[\w, ]+", name) else f"- {joined}"


def prose(text: str) -> str:
    """Text of a docstring that stands in Markdown: what Markdown would take for its own is escaped, but in code."""
    parts = re.split(r"(`[^`]*`)", text)
    return "".join(part if part.startswith("`") else re.sub(r"([<*\[])", r"\\\1", part) for part in parts)


def anchor(heading: str) -> str:
    """A heading's anchor, the same in the checkout and on the site."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")
