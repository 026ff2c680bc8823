"""Keep docs/api.json what the code offers, and hold it to docs/versioning.md; `--check` only says whether it is.

Three things are looked at, in the modules that are public and in the command line: what was added, removed or changed
since the file was written; that every name says what it means and what it raises; and what is deprecated and overdue.
"""

from __future__ import annotations

import argparse
import ast
import dataclasses
import enum
import importlib
import inspect
import json
import re
import sys
from collections.abc import Iterator, Mapping
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any, get_args, get_origin

from pydantic import BaseModel
from pydantic_core import PydanticUndefined

import llmtune
from llmtune.deprecation import release
from llmtune.errors import LlmtuneError

ROOT = Path(__file__).resolve().parents[2]
FILE = ROOT / "docs" / "api.json"
CHANGELOG = ROOT / "CHANGELOG.md"

#: The public modules, as docs/versioning.md lists them. A name that stands in several is described where it is defined,
#: if that module is public, and else in the first of them.
MODULES = (
    "llmtune",
    "llmtune.provider.protocol",
    "llmtune.provider.types",
    "llmtune.provider.base",
    "llmtune.provider.chat",
    "llmtune.provider.object_store",
    "llmtune.provider.sdk",
    "llmtune.provider.declarations",
    "llmtune.provider.values",
    "llmtune.provider.limits",
    "llmtune.provider.conversions",
    "llmtune.provider.catalog",
    "llmtune.provider.abilities",
    "llmtune.provider.generation",
    "llmtune.provider.http",
    "llmtune.provider.vendor_json",
    "llmtune.provider.encoding",
    "llmtune.metrics.points",
    "llmtune.deprecation",
    "llmtune.errors",
    "llmtune.provider",
    "llmtune.testing",
    "llmtune.testing.conformance",
    "llmtune.testing.generic_vendor",
    "llmtune.testing.fake_provider",
    "llmtune.testing.wire_check",
)

#: Where a leaf of the file tells of something that may be left out, it holds its default after this.
DEFAULT = " = "

#: What the file holds, followed by a module, for a name that is described at that module.
AS_IN = "as in "

#: Types that say nothing of what a parameter means, so that words must.
PLAIN = re.compile(r"(str|int|float|bool|bytes|Any|None|dict|list|tuple|Mapping|Sequence|Iterable|[\[\], |.])+")

Tree = dict[str, Any]


# --- what there is ---------------------------------------------------------------------------------------------------
@cache
def source(module: str) -> ast.Module:
    """The syntax tree of a module."""
    return ast.parse(Path(inspect.getfile(importlib.import_module(module))).read_text(encoding="utf-8"))


def public_names(module: str) -> list[str]:
    """The public names of a module: `__all__`, or what it defines or passes on (`import X as X`) without a `_`."""
    loaded = importlib.import_module(module)
    if hasattr(loaded, "__all__"):
        return sorted(loaded.__all__)
    found: set[str] = set()
    for node in source(module).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            found.add(node.name)
        elif isinstance(node, ast.Assign):
            found |= {target.id for target in node.targets if isinstance(target, ast.Name)}
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            found.add(node.target.id)
        elif isinstance(node, ast.ImportFrom):
            found |= {alias.asname for alias in node.names if alias.asname and alias.asname == alias.name}
    return sorted(name for name in found if not name.startswith("_"))


def surface() -> Tree:
    """Everything public: names by module, and commands."""
    modules = {}
    for module in MODULES:
        loaded = importlib.import_module(module)
        modules[module] = {name: described(module, name, getattr(loaded, name)) for name in public_names(module)}
    return {"modules": modules, "commands": commands()}


def home_of(module: str, name: str) -> str:
    """The public module at which a name of `module` is described."""
    value = getattr(importlib.import_module(module), name)
    defined = getattr(value, "__module__", None)
    if defined in MODULES and getattr(value, "__name__", None) == name:
        return str(defined)
    holders = (each for each in MODULES if getattr(importlib.import_module(each), name, None) is value)
    return next((each for each in holders if name in public_names(each)), module)


def described(module: str, name: str, value: Any) -> Any:
    """One name: a class with its parts, a function with its parameters, or a value with its type."""
    home = home_of(module, name)
    if home != module:
        return f"{AS_IN}{home}"
    if inspect.isclass(value) and get_origin(value) is None:
        return of_class(value)
    if inspect.isfunction(value):
        return of_function(value)
    for node in source(module).body if module != "llmtune" else ():
        if isinstance(node, ast.Assign) and any(
            isinstance(each, ast.Name) and each.id == name for each in node.targets
        ):
            alias = get_origin(value) is not None or type(value).__module__ in ("typing", "types")
            return f"value: {ast.unparse(node.value) if alias else type(value).__name__}"
    return f"value: {type(value).__name__}"


def of_function(function: Any) -> Tree:
    """Parameters in their order, and what is returned."""
    signature = inspect.signature(function)
    told = {str_of(each): parameter(each) for each in signature.parameters.values() if each.name not in ("self", "cls")}
    return {"kind": "function", "parameters": told, "returns": annotation(signature.return_annotation)}


def str_of(each: inspect.Parameter) -> str:
    """The name of a parameter, with the stars it is written with."""
    return {each.VAR_POSITIONAL: "*", each.VAR_KEYWORD: "**"}.get(each.kind, "") + each.name


def parameter(each: inspect.Parameter) -> str:
    """How it may be given, its annotation and its default."""
    kind = "by name: " if each.kind is each.KEYWORD_ONLY else ""
    default = "" if each.default is each.empty else DEFAULT + shown(each.default)
    return f"{kind}{annotation(each.annotation)}{default}"


def annotation(given: Any) -> str:
    """An annotation as it was written."""
    if given is inspect.Signature.empty:
        return ""
    if isinstance(given, str):
        return given
    return given.__name__ if isinstance(given, type) and not get_args(given) else inspect.formatannotation(given)


def shown(value: Any) -> str:
    """A default, the same on every machine and in every version of Python."""
    if isinstance(value, Path):
        return f"Path({value.name!r})"
    if callable(value) and hasattr(value, "__qualname__"):
        return str(value.__qualname__)
    return re.sub(r" at 0x[0-9a-f]+", "", repr(value))


def public_bases(cls: type) -> Iterator[type]:
    """Yield the bases that are promised; a base of a private module stands for its own bases."""
    for base in cls.__bases__:
        if base.__module__.startswith("llmtune._"):
            yield from public_bases(base)
        elif base is not object and not base.__name__.startswith("_"):
            yield base


def of_class(cls: type) -> Tree:
    """Bases, fields and members; what it has from a base of ours counts as its own."""
    ours = [each for each in reversed(cls.__mro__) if each.__module__.startswith("llmtune")]
    protocol = getattr(cls, "_is_protocol", False)
    told: Tree = {
        "kind": "protocol" if protocol else "enum" if issubclass(cls, enum.Enum) else "class",
        "bases": [base.__name__ for base in public_bases(cls)],
    }
    if issubclass(cls, enum.Enum):
        return told | {"members": {each.name: repr(each.value) for each in cls}}
    fields, members = {}, {}
    for each in ours:
        for name, written in inspect.get_annotations(each).items():
            if not name.startswith("_") and name != "model_config":
                fields[name] = field(cls, name, annotation(written))
        for name, value in vars(each).items():
            if name.startswith("_") or name in fields or name == "model_config":
                continue
            if (entry := of_member(value)) is not None:
                members[name] = entry
    plain = not issubclass(cls, BaseModel) and not dataclasses.is_dataclass(cls) and not protocol
    if plain and inspect.isfunction(cls.__init__):
        members["__init__"] = of_function(cls.__init__)
    return told | {"fields": dict(sorted(fields.items())), "members": dict(sorted(members.items()))}


def of_member(value: Any) -> Any:
    """A method, property or constant of a class."""
    if isinstance(value, staticmethod | classmethod):
        value = value.__func__
    if inspect.isfunction(value):
        return of_function(value)
    if isinstance(value, property):
        return f"property: {annotation(inspect.signature(value.fget).return_annotation)}" if value.fget else "property"
    if callable(value) and hasattr(value, "__wrapped__"):
        return of_function(value.__wrapped__)
    if inspect.isclass(value) or isinstance(value, str | int | float | tuple | bool | None):
        return f"value: {type(value).__name__}"
    return None


def field(cls: type, name: str, written: str) -> str:
    """A field's type as written, and its default when it may be left out."""
    default: Any = getattr(cls, name, inspect.Parameter.empty)
    if issubclass(cls, BaseModel) and name in cls.model_fields:
        info = cls.model_fields[name]
        default = info.default if info.default is not PydanticUndefined else inspect.Parameter.empty
        if info.default_factory is not None:
            default = info.default_factory
    elif dataclasses.is_dataclass(cls):
        for each in dataclasses.fields(cls):
            if each.name == name:
                default = inspect.Parameter.empty if each.default is dataclasses.MISSING else each.default
                if each.default_factory is not dataclasses.MISSING:
                    default = each.default_factory
    if inspect.ismemberdescriptor(default) or default is inspect.Parameter.empty:
        return written
    return f"{written}{DEFAULT}{shown(default)}"


def commands() -> Tree:
    """Every command with its arguments and options."""
    import typer

    from llmtune.cli.app import app

    return dict(sorted(walk("llmtune", typer.main.get_command(app))))


def walk(path: str, command: Any) -> Iterator[tuple[str, Tree]]:
    """A command and those below it."""
    options = {}
    for each in command.params:
        if each.name in ("help", "install_completion", "show_completion") or getattr(each, "hidden", False):
            continue
        name = " ".join(sorted([*each.opts, *each.secondary_opts], key=lambda opt: (-len(opt), opt)))
        given = "flag" if getattr(each, "is_flag", False) else annotation(each.type_descriptor.annotation)
        many = "..." if each.multiple or each.nargs != 1 else ""
        options[name] = f"{given}{many}" + ("" if each.required else f"{DEFAULT}{shown(each.default)}")
    yield path, {"options": dict(sorted(options.items()))}
    for name, inner in getattr(command, "commands", {}).items():
        yield from walk(f"{path} {name}", inner)


# --- what has become of it -------------------------------------------------------------------------------------------
def leaves(tree: Mapping[str, Any], prefix: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], str]]:
    """Every leaf with the path to it; an empty part counts as a leaf, so that what holds nothing is seen too."""
    for key, value in tree.items():
        if isinstance(value, Mapping) and value:
            yield from leaves(value, (*prefix, key))
        else:
            yield (*prefix, key), json.dumps(value)


def spoken(path: tuple[str, ...]) -> str:
    """A path as people say it: llmtune.provider.Ref.digest, `llmtune tune --budget`."""
    if path[0] == "commands":
        return " ".join(path[1:]).replace(" options", "")
    tables = ("fields", "members", "parameters")
    inner = pairwise(path)
    return ".".join(part for before, part in inner if before in tables or part not in (*tables, "kind", "bases"))


def resolve_homes(tree: Tree) -> Tree:
    """The tree with what a name is wherever it says at which module it is described."""
    modules = tree.get("modules", {})

    def resolve(name: str, entry: Any) -> Any:
        if isinstance(entry, str) and entry.startswith(AS_IN):
            return modules.get(entry.removeprefix(AS_IN), {}).get(name, entry)
        return entry

    entries = {module: {name: resolve(name, each) for name, each in names.items()} for module, names in modules.items()}
    return tree | {"modules": entries}


def compared(before: Tree, now: Tree) -> tuple[list[str], list[tuple[str, str]]]:
    """What was added, and what is a break: (its name, what became of it).

    A public module or name that is gone is one break, whatever it held: it was moved or removed as a whole.
    """
    gone_modules = sorted(before.get("modules", {}).keys() - now.get("modules", {}).keys())
    before, now = resolve_homes(before), resolve_homes(now)
    for module in gone_modules:
        del before["modules"][module]
    added, breaks = [], [(module, "was removed") for module in gone_modules]
    for module, names in before.get("modules", {}).items():
        for name in sorted(names.keys() - now["modules"][module].keys()):
            breaks.append((f"{module}.{name}", "was removed"))
            del names[name]
    old, new = dict(leaves(before)), dict(leaves(now))
    gone, both = sorted(old.keys() - new.keys()), sorted(old.keys() & new.keys())
    breaks += [(spoken(path), "was removed") for path in gone if old[path] not in ("{}", "[]")]
    for path in both:
        if path[-1] == "bases" and set(json.loads(old[path])) < set(json.loads(new[path])):
            added.append(spoken(path))
        elif old[path] != new[path]:
            breaks.append((spoken(path), f"changed from {old[path]} to {new[path]}"))
    for path in sorted(new.keys() - old.keys()):
        if new[path] in ("{}", "[]"):
            continue
        must = len(path) > 2 and path[-2] in ("parameters", "fields", "options") and DEFAULT not in new[path]
        if any(part.get("kind") == "protocol" for part in _along(before, path)):
            breaks.append((spoken(path), "is new in a protocol, so whoever implements it alone lacks it"))
        elif must and len(_along(before, path[:-2])) == len(path) - 2 and not path[-1].startswith("*"):
            breaks.append((spoken(path), "is new and must be given"))
        else:
            added.append(spoken(path))
    breaks += _reordered(before, now)
    return added, breaks


def _along(tree: Tree, path: tuple[str, ...]) -> list[Tree]:
    """The tables that lie on a path, as far as it goes."""
    found: list[Tree] = []
    at: Any = tree
    for part in path:
        at = at.get(part)
        if not isinstance(at, dict):
            break
        found.append(at)
    return found


def _reordered(before: Any, now: Any, path: tuple[str, ...] = ()) -> list[tuple[str, str]]:
    """Functions whose parameters given by position no longer stand where they stood."""
    if not isinstance(before, dict) or not isinstance(now, dict):
        return []
    found = []
    if isinstance(before.get("parameters"), dict) and isinstance(now.get("parameters"), dict):
        was, are = (
            [name for name, text in each["parameters"].items() if not text.startswith("by name") and name[0] != "*"]
            for each in (before, now)
        )
        if [name for name in are if name in was] != [name for name in was if name in are] or (
            set(was) <= set(are) and are[: len(was)] != was
        ):
            found.append((spoken(path), "takes its parameters in another order"))
    for key in before.keys() & now.keys():
        found += _reordered(before[key], now[key], (*path, key))
    return found


def told_of(name: str, changelog: str) -> bool:
    """Whether the newest section of the changelog has that name, or its last part, in backticks."""
    newest = re.split(r"^## ", changelog, flags=re.MULTILINE)[1]
    quoted = re.findall(r"`([^`]+)`", newest)
    last = re.split(r"[. ]", name)[-1]
    return any(re.search(rf"(?<![\w-]){re.escape(last)}(?![\w-])", each) for each in quoted)


# --- whether it says what it is --------------------------------------------------------------------------------------
def silent() -> list[str]:
    """Public names without a docstring, fields that nothing describes, and errors that a docstring hides."""
    found: list[str] = []
    for module in MODULES:
        for name in public_names(module):
            value = getattr(importlib.import_module(module), name)
            if home_of(module, name) != module:
                continue
            if inspect.isclass(value) and get_origin(value) is None:
                found += _silent_class(f"{module}.{name}", value)
            elif inspect.isfunction(value):
                found += _silent_function(f"{module}.{name}", value, "")
            elif module != "llmtune" and not _commented(module, name):
                found.append(f"{module}.{name}: nothing says what it is (a line `#: ...` above it)")
    return found


def _silent_class(path: str, cls: type) -> Iterator[str]:
    text = cls.__doc__ if "__doc__" in vars(cls) else None
    if not text or text.startswith(f"{cls.__name__}("):
        yield f"{path}: no docstring"
        return
    described = {
        field for each in cls.__mro__ if each.__module__.startswith("llmtune") for field in _described_fields(each)
    }
    for name in inspect.get_annotations(cls):
        if not name.startswith("_") and name != "model_config" and name not in described:
            words = " ".join(each.__doc__ or "" for each in cls.__mro__ if each.__module__.startswith("llmtune"))
            if not re.search(rf"\b{name}\b", words) and not _plain(name):
                yield f"{path}.{name}: neither a docstring of its own nor a word in the class's"
    for name, value in vars(cls).items():
        if name.startswith("_") and name != "__init__":
            continue
        function = value.fget if isinstance(value, property) else getattr(value, "__func__", value)
        function = inspect.unwrap(function) if callable(function) else function
        if inspect.isfunction(function) and function.__module__.startswith("llmtune"):
            yield from _silent_function(f"{path}.{name}", function, text if name == "__init__" else "", cls)


def _silent_function(path: str, function: Any, around: str, cls: type | None = None) -> Iterator[str]:
    name = path.rpartition(".")[2]
    if name.startswith("test_"):  # a test of the suite: its name is the sentence
        return
    inherited = inspect.getdoc(getattr(cls, name, None)) if cls is not None and name != "__init__" else None
    text = f"{inspect.getdoc(function) or inherited or ''} {around}".strip()
    if not text:
        yield f"{path}: no docstring"
        return
    for each in inspect.signature(function).parameters.values():
        unclear = name != "__init__" and PLAIN.fullmatch(annotation(each.annotation)) and not _plain(each.name)
        if unclear and not re.search(rf"\b{each.name}\b", text):
            yield f"{path}: its docstring does not speak of {each.name}"
    for raised in sorted(_raised(function)):
        error = function.__globals__.get(raised) or getattr(llmtune.errors, raised, None)
        if not (inspect.isclass(error) and issubclass(error, LlmtuneError)):
            continue
        family = {each.__name__ for each in error.__mro__ if issubclass(each, LlmtuneError)}
        if not any(re.search(rf"\b{each}\b", text) for each in family):
            yield f"{path}: raises {raised}, and its docstring does not say so"


def _raised(function: Any) -> set[str]:
    """Names of the exceptions that a function itself raises (not what it calls)."""
    try:
        tree = ast.parse(inspect.cleandoc("\n" + inspect.getsource(function)))
    except (OSError, SyntaxError):
        return set()
    return {
        node.exc.func.id
        for node in ast.walk(tree)
        if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call) and isinstance(node.exc.func, ast.Name)
    }


@cache
def _described_fields(cls: type) -> frozenset[str]:
    """Fields of a class that have a docstring of their own."""
    found: set[str] = set()
    for node in ast.walk(source(cls.__module__)):
        if isinstance(node, ast.ClassDef) and node.name == cls.__name__:
            for at, each in enumerate(node.body[:-1]):
                after = node.body[at + 1]
                says = isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant)
                if isinstance(each, ast.AnnAssign) and isinstance(each.target, ast.Name) and says:
                    found.add(each.target.id)
    return frozenset(found)


def _plain(name: str) -> bool:
    """Names whose meaning is the same wherever they stand."""
    return name in ("source", "note", "message", "name", "id", "data", "path", "text", "reason")


def _commented(module: str, name: str) -> bool:
    """Whether a value has a `#:` comment above it or a docstring below it."""
    lines = Path(inspect.getfile(importlib.import_module(module))).read_text(encoding="utf-8").splitlines()
    body = source(module).body
    for at, node in enumerate(body):
        targets = (
            node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
        )
        if any(isinstance(each, ast.Name) and each.id == name for each in targets):
            after = body[at + 1] if at + 1 < len(body) else None
            below = isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant)
            return lines[node.lineno - 2].startswith("#:") or below
    return True


def overdue() -> list[str]:
    """Deprecated names whose day has come."""
    found = []
    for module in MODULES:
        for name in public_names(module):
            value = getattr(importlib.import_module(module), name)
            inner = vars(value).items() if inspect.isclass(value) else ()
            for path, each in [
                (f"{module}.{name}", value),
                *((f"{module}.{name}.{key}", entry) for key, entry in inner),
            ]:
                until = getattr(each, "__removed_in__", None)
                if until is not None and release(llmtune.__version__) >= release(until):
                    found.append(f"{path} was to go in {until}, and this is {llmtune.__version__}: remove it")
    return found


# --- all of it -------------------------------------------------------------------------------------------------------
def faults(before: Tree, now: Tree, changelog: str, *, check: bool) -> list[str]:
    """Everything that stands against the public names as they are, in sentences."""
    added, breaks = compared(before, now)
    found = [f"{name}: {what}" for name, what in breaks if not told_of(name, changelog)]
    if found:
        found.append(
            "that breaks somebody's code: keep the name and deprecate it (docs/versioning.md), or name it in backticks"
            " in the newest section of CHANGELOG.md and run `make docs`"
        )
    elif check and before != now:
        names = [*added, *(name for name, _ in breaks)] or ["the modules that names are defined in now"]
        found.append(
            f"docs/api.json does not have {', '.join(names[:8])}{' ...' if len(names) > 8 else ''} yet; run `make docs`"
        )
    return [*found, *silent(), *overdue()]


def main() -> int:
    """Rewrite the file, or with --check only compare; 1 when something stands against it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="change nothing; fail when the file is not what is there")
    check = parser.parse_args().check
    now = surface()
    text = json.dumps(now, indent=1, ensure_ascii=False) + "\n"
    before = json.loads(FILE.read_text(encoding="utf-8")) if FILE.exists() else {}
    found = faults(before, json.loads(text), CHANGELOG.read_text(encoding="utf-8"), check=check)
    for each in found:
        print(each)
    if not check and not found:
        FILE.write_text(text, encoding="utf-8")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
