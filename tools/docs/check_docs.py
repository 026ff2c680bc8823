"""Check the hand-written pages: every command, option, import, link, file and module that they name must exist.

Generated parts are checked by generate_docs.py; this script checks hand-written pages: those of the checkout's top
folder, docs/, examples/ and providers/, and the results in benchmarks/.
"""

from __future__ import annotations

import ast
import importlib
import re
import shlex
import sys
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
BLOCK = re.compile(r"^ *```(?P<language>\w*)[^\n]*\n(?P<text>.*?)^ *```$", re.DOTALL | re.MULTILINE)
INLINE = re.compile(r"`([^`\n]+)`")
LINK = re.compile(r"\]\((?P<target>[^)\s]+)\)")
HEADING = re.compile(r"^#+ +(?P<text>.+?) *$", re.MULTILINE)

#: Where a command ends in a line of shell.
ENDS = re.compile(r"&&|\|\||[;|]|>\s")
COMMENT = re.compile(r"(^|\s)#\s.*$")


def pages() -> list[Path]:
    """List the hand-written pages."""
    return [
        *(
            ROOT / name
            for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md", "benchmarks/RESULTS.md")
        ),
        *sorted(ROOT.glob("docs/**/*.md")),
        *sorted(ROOT.glob("examples/**/README.md")),
        ROOT / "providers/README.md",
    ]


# --- commands --------------------------------------------------------------------------------------------------------
@cache
def command_line() -> Any:
    """Load the command line as a tree of commands."""
    import typer

    from llmtune.cli.app import app

    return typer.main.get_command(app)


def typed(page: str) -> Iterator[str]:
    """Find the `llmtune` commands on a page, in shell blocks and in the text."""
    for block in BLOCK.finditer(page):
        if block["language"] in ("sh", "bash", "console", ""):
            for line in block["text"].replace("\\\n", " ").splitlines():
                for part in ENDS.split(COMMENT.sub("", line)):
                    if command := re.match(r"\s*(?:\$ )?(?:[A-Z_]+=\S+ )*(llmtune(?: .*)?)$", part.rstrip()):
                        yield command[1]
    for span in INLINE.findall(BLOCK.sub("", page)):
        if re.match(r"llmtune [a-z-]", span):
            yield ENDS.split(span)[0]


def command_fault(text: str) -> str | None:
    """Describe what is wrong with a command as it is written; None if nothing is."""
    try:
        arguments = shlex.split(text, comments=True)[1:]
    except ValueError:
        arguments = text.split()[1:]
    command, path = command_line(), ["llmtune"]
    while arguments and arguments[0] in getattr(command, "commands", {}):
        path.append(arguments.pop(0))
        command = command.commands[path[-1]]
    if default := getattr(command, "default", None):  # what is typed is one of its commands without its name
        command = command.commands[default]
    if getattr(command, "commands", {}) and arguments and re.fullmatch(r"[a-z][a-z-]*", arguments[0]):
        return f"there is no command `{' '.join([*path, arguments[0]])}`"
    options = {"--help", "-h"} | {opt for param in command.params for opt in (*param.opts, *param.secondary_opts)}
    for argument in arguments:
        option = re.match(r"\[*(--[a-z][a-z-]*|-[a-zA-Z])(?=$|[=\],])", argument)
        if option and option[1] not in options:
            return f"`{' '.join(path)}` has no option {option[1]}"
    return None


# --- imports and links -----------------------------------------------------------------------------------------------
def import_faults(page: str) -> Iterator[str]:
    """Find names that a Python block imports from llmtune and that do not exist."""
    for block in BLOCK.finditer(page):
        if block["language"] != "python":
            continue
        try:
            tree = ast.parse(block["text"])
        except SyntaxError as error:
            yield f"a block of Python cannot be read: {error.msg}: {(error.text or '').strip()}"
            continue
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and re.fullmatch(r"llmtune(\..*)?", node.module or ""):
                module = importlib.import_module(node.module or "")
                for alias in node.names:
                    if not hasattr(module, alias.name):
                        yield f"{node.module} has no {alias.name}"


# --- files and modules -----------------------------------------------------------------------------------------------
@cache
def packages() -> frozenset[str]:
    """List the import packages of the checkout."""
    return frozenset(["llmtune", *(path.name for path in ROOT.glob("providers/llmtune_*"))])


@cache
def groups() -> frozenset[str]:
    """List the entry-point groups, whose names look like modules."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return frozenset(project["entry-points"])


def name_faults(path: Path, page: str) -> Iterator[str]:
    """Find files and modules named in backticks that do not exist; `NAME` stands for any name."""
    folders = {"tools", "providers", "benchmarks", "tests", "examples", "docs"} | packages()
    for span in INLINE.findall(BLOCK.sub("", page)):
        for name in span.split():
            if re.fullmatch(r"\w+/[\w./-]*", name) and name.split("/")[0] in folders:
                pattern = name.rstrip("/").replace("NAME", "*")
                if not any(any(base.glob(pattern)) for base in (ROOT, ROOT / "providers", path.parent)):
                    yield f"there is no {name}"
        for name in re.findall(r"(?<![\w./-])llmtune\w*(?:\.\w+)+", span):
            if name.split(".")[0] in packages() and name not in groups() and not has_name(name):
                yield f"there is no {name}"


def has_name(dotted: str) -> bool:
    """Return whether a dotted name is a module, a name in one, or a settings file (`llmtune.toml`)."""
    if dotted.endswith(".toml"):
        return True
    module, parts = None, dotted.split(".")
    while parts and module is None:
        try:
            module = importlib.import_module(".".join(parts))
        except ModuleNotFoundError:
            parts.pop()
    value: Any = module
    for part in dotted.split(".")[len(parts) :]:
        if not hasattr(value, part):  # a field without a default is no attribute of its class
            return part in getattr(value, "__annotations__", {})
        value = getattr(value, part)
    return module is not None


def slug(heading: str) -> str:
    """Return the anchor of a heading, as code hosts generate it."""
    return re.sub(r"[^\w\- ]", "", re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading).lower()).replace(" ", "-")


def link_faults(path: Path, page: str) -> Iterator[str]:
    """Find links to files and headings that do not exist."""
    for link in LINK.finditer(BLOCK.sub("", page)):
        target, _, anchor = link["target"].partition("#")
        if re.match(r"[a-z]+:", target):
            continue
        there = (path.parent / target).resolve() if target else path
        if not there.exists():
            yield f"the link to {link['target']} leads nowhere"
        elif anchor and there.suffix == ".md":
            text = BLOCK.sub("", there.read_text(encoding="utf-8"))
            if anchor not in {slug(heading["text"]) for heading in HEADING.finditer(text)}:
                yield f"{link['target']}: there is no such heading"


def faults(path: Path) -> list[str]:
    """List everything on a page that does not match the code."""
    page = path.read_text(encoding="utf-8")
    messages = [f"{text}: {fault}" for text in typed(page) if (fault := command_fault(text))]
    if path.name != "CHANGELOG.md":  # which also names what is gone
        messages += name_faults(path, page)
    return [*messages, *import_faults(page), *link_faults(path, page)]


def main() -> int:
    """Print every error with its page; return 1 if there are any."""
    messages = [f"{path.relative_to(ROOT)}: {fault}" for path in pages() for fault in faults(path)]
    for message in messages:
        print(message)
    return 1 if messages else 0


if __name__ == "__main__":
    sys.exit(main())
