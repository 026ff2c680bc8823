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
from typing import Any, get_args, get_origin, is_typeddict

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
    "llmtune.types",
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
    """Parse the source of a module."""
    return ast.parse(Path(inspect.getfile(importlib.import_module(module))).read_text(encoding="utf-8"))


@cache
def list_public_names(module: str) -> list[str]:
    """List the public names of a module: `__all__`, or names without `_` that it defines or re-exports (`X as X`)."""
    loaded = importlib.import_module(module)
    if hasattr(loaded, "__all__"):
        return sorted(loaded.__all__)
    names: set[str] = set()
    for node in source(module).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Assign):
            names |= {target.id for target in node.targets if isinstance(target, ast.Name)}
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            names.add(node.target.id)
        elif isinstance(node, ast.ImportFrom):
            names |= {alias.asname for alias in node.names if alias.asname and alias.asname == alias.name}
    return sorted(name for name in names if not name.startswith("_"))


def describe_api() -> Tree:
    """Describe the whole public API: names by module, and commands."""
    modules = {}
    for module in MODULES:
        loaded = importlib.import_module(module)
        modules[module] = {name: describe(module, name, getattr(loaded, name)) for name in list_public_names(module)}
    return {"modules": modules, "commands": commands()}


def find_home(module: str, name: str) -> str:
    """Return the public module at which a name of `module` is described."""
    value = getattr(importlib.import_module(module), name)
    defined = getattr(value, "__module__", None)
    if defined in MODULES and getattr(value, "__name__", None) == name:
        return str(defined)
    holders = (candidate for candidate in MODULES if getattr(importlib.import_module(candidate), name, None) is value)
    return next((candidate for candidate in holders if name in list_public_names(candidate)), module)


def describe(module: str, name: str, value: Any) -> Any:
    """Describe one name: a class with its members, a function with its parameters, or a value with its type."""
    home = find_home(module, name)
    if home != module:
        return f"{AS_IN}{home}"
    if inspect.isclass(value) and get_origin(value) is None:
        return describe_class(value)
    if inspect.isfunction(value):
        return describe_function(value)
    module, name = find_definition(module, name)
    for node in source(module).body:
        if isinstance(node, ast.Assign) and any(
            isinstance(target, ast.Name) and target.id == name for target in node.targets
        ):
            alias = get_origin(value) is not None or type(value).__module__ in ("typing", "types")
            return f"value: {ast.unparse(node.value) if alias else type(value).__name__}"
    return f"value: {type(value).__name__}"


@cache
def find_definition(module: str, name: str) -> tuple[str, str]:
    """Return the module in which a name of `module` is assigned or defined, and its name there."""
    for node in source(module).body:
        typing_block = isinstance(node, ast.If)  # `if TYPE_CHECKING:` of a package that imports when a name is used
        for statement in node.body if typing_block else [node]:
            if isinstance(statement, ast.ImportFrom) and (statement.module or "").startswith("llmtune"):
                for alias in statement.names:
                    if (alias.asname or alias.name) == name:
                        return find_definition(str(statement.module), alias.name)
    return module, name


def describe_function(function: Any) -> Tree:
    """Describe a function: its parameters in order, and what it returns."""
    signature = inspect.signature(function)
    parameters = {
        parameter_name(value): describe_parameter(value)
        for value in signature.parameters.values()
        if value.name not in ("self", "cls")
    }
    return {"kind": "function", "parameters": parameters, "returns": format_annotation(signature.return_annotation)}


def parameter_name(parameter: inspect.Parameter) -> str:
    """Return the name of a parameter, with its stars."""
    return {parameter.VAR_POSITIONAL: "*", parameter.VAR_KEYWORD: "**"}.get(parameter.kind, "") + parameter.name


def describe_parameter(parameter: inspect.Parameter) -> str:
    """Describe a parameter: whether it is keyword-only, its annotation and its default."""
    kind = "by name: " if parameter.kind is parameter.KEYWORD_ONLY else ""
    default = "" if parameter.default is parameter.empty else DEFAULT + format_default(parameter.default)
    return f"{kind}{format_annotation(parameter.annotation)}{default}"


def format_annotation(written: Any) -> str:
    """Format an annotation as in the source."""
    if written is inspect.Signature.empty:
        return ""
    if isinstance(written, str):
        return written
    return (
        written.__name__ if isinstance(written, type) and not get_args(written) else inspect.formatannotation(written)
    )


def format_default(value: Any) -> str:
    """Format a default, the same way on every machine and in every version of Python."""
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


def describe_class(cls: type) -> Tree:
    """Describe a class: bases, fields and members, including those inherited from llmtune's classes."""
    classes = [base for base in reversed(cls.__mro__) if base.__module__.startswith("llmtune")]
    protocol = getattr(cls, "_is_protocol", False)
    description: Tree = {
        "kind": "protocol" if protocol else "enum" if issubclass(cls, enum.Enum) else "class",
        "bases": [base.__name__ for base in public_bases(cls)],
    }
    if issubclass(cls, enum.Enum):
        return description | {"members": {member.name: repr(member.value) for member in cls}}
    fields, members = {}, {}
    for base in classes:
        for name, written in inspect.get_annotations(base).items():
            if not name.startswith("_") and name != "model_config":
                fields[name] = describe_field(cls, name, format_annotation(written))
        for name, value in vars(base).items():
            if name.startswith("_") or name in fields or name == "model_config":
                continue
            if (entry := describe_member(value)) is not None:
                members[name] = entry
    plain = not issubclass(cls, BaseModel) and not dataclasses.is_dataclass(cls) and not protocol
    if plain and inspect.isfunction(cls.__init__):
        members["__init__"] = describe_function(cls.__init__)
    return description | {"fields": dict(sorted(fields.items())), "members": dict(sorted(members.items()))}


def describe_member(value: Any) -> Any:
    """Describe a method, property or constant of a class."""
    if isinstance(value, staticmethod | classmethod):
        value = value.__func__
    if inspect.isfunction(value):
        return describe_function(value)
    if isinstance(value, property):
        return (
            f"property: {format_annotation(inspect.signature(value.fget).return_annotation)}"
            if value.fget
            else "property"
        )
    if callable(value) and hasattr(value, "__wrapped__"):
        return describe_function(value.__wrapped__)
    if inspect.isclass(value) or isinstance(value, str | int | float | tuple | bool | None):
        return f"value: {type(value).__name__}"
    return None


def describe_field(cls: type, name: str, written: str) -> str:
    """Describe a field: its type as in the source, and its default, if it has one."""
    default: Any = getattr(cls, name, inspect.Parameter.empty)
    if issubclass(cls, BaseModel) and name in cls.model_fields:
        info = cls.model_fields[name]
        default = info.default if info.default is not PydanticUndefined else inspect.Parameter.empty
        if info.default_factory is not None:
            default = info.default_factory
    elif dataclasses.is_dataclass(cls):
        for member in dataclasses.fields(cls):
            if member.name == name:
                default = inspect.Parameter.empty if member.default is dataclasses.MISSING else member.default
                if member.default_factory is not dataclasses.MISSING:
                    default = member.default_factory
    if inspect.ismemberdescriptor(default) or default is inspect.Parameter.empty:
        return written
    return f"{written}{DEFAULT}{format_default(default)}"


def commands() -> Tree:
    """Describe every command with its arguments and options."""
    import typer

    from llmtune.cli.app import app

    return dict(sorted(walk("llmtune", typer.main.get_command(app))))


def walk(path: str, command: Any) -> Iterator[tuple[str, Tree]]:
    """Describe a command and its subcommands."""
    options = {}
    for param in command.params:
        if param.name in ("help", "install_completion", "show_completion") or getattr(param, "hidden", False):
            continue
        name = " ".join(sorted([*param.opts, *param.secondary_opts], key=lambda opt: (-len(opt), opt)))
        kind = "flag" if getattr(param, "is_flag", False) else format_annotation(param.type_descriptor.annotation)
        many = "..." if param.multiple or param.nargs != 1 else ""
        options[name] = f"{kind}{many}" + ("" if param.required else f"{DEFAULT}{format_default(param.default)}")
    yield path, {"options": dict(sorted(options.items()))}
    for name, inner in getattr(command, "commands", {}).items():
        yield from walk(f"{path} {name}", inner)


# --- what has become of it -------------------------------------------------------------------------------------------
def leaves(tree: Mapping[str, Any], prefix: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], str]]:
    """Yield every leaf with its path; an empty mapping counts as a leaf."""
    for key, value in tree.items():
        if isinstance(value, Mapping) and value:
            yield from leaves(value, (*prefix, key))
        else:
            yield (*prefix, key), json.dumps(value)


def format_path(path: tuple[str, ...]) -> str:
    """Format a path for readers: llmtune.provider.Ref.digest, `llmtune tune --budget`."""
    if path[0] == "commands":
        return " ".join(path[1:]).replace(" options", "")
    tables = ("fields", "members", "parameters")
    inner = pairwise(path)
    return ".".join(part for before, part in inner if before in tables or part not in (*tables, "kind", "bases"))


def resolve_references(tree: Tree) -> Tree:
    """Return the tree with references to other modules replaced by the descriptions there."""
    modules = tree.get("modules", {})

    def resolve(name: str, entry: Any) -> Any:
        if isinstance(entry, str) and entry.startswith(AS_IN):
            return modules.get(entry.removeprefix(AS_IN), {}).get(name, entry)
        return entry

    entries = {
        module: {name: resolve(name, entry) for name, entry in names.items()} for module, names in modules.items()
    }
    return tree | {"modules": entries}


def compare(before: Tree, now: Tree) -> tuple[list[str], list[tuple[str, str]]]:
    """Compare two trees: return the names added, and the breaking changes as (name, what changed).

    A removed module or name is one breaking change, whatever it contained.
    """
    gone_modules = sorted(before.get("modules", {}).keys() - now.get("modules", {}).keys())
    before, now = resolve_references(before), resolve_references(now)
    for module in gone_modules:
        del before["modules"][module]
    added, breaks = [], [(module, "was removed") for module in gone_modules]
    for module, names in before.get("modules", {}).items():
        for name in sorted(names.keys() - now["modules"][module].keys()):
            breaks.append((f"{module}.{name}", "was removed"))
            del names[name]
    old, new = dict(leaves(before)), dict(leaves(now))
    gone, both = sorted(old.keys() - new.keys()), sorted(old.keys() & new.keys())
    breaks += [(format_path(path), "was removed") for path in gone if old[path] not in ("{}", "[]")]
    for path in both:
        if path[-1] == "bases" and set(json.loads(old[path])) < set(json.loads(new[path])):
            added.append(format_path(path))
        elif old[path] != new[path]:
            breaks.append((format_path(path), f"changed from {old[path]} to {new[path]}"))
    for path in sorted(new.keys() - old.keys()):
        if new[path] in ("{}", "[]"):
            continue
        must = len(path) > 2 and path[-2] in ("parameters", "fields", "options") and DEFAULT not in new[path]
        if any(part.get("kind") == "protocol" for part in _along(before, path)):
            breaks.append((format_path(path), "is new in a protocol, so whoever implements it alone lacks it"))
        elif must and len(_along(before, path[:-2])) == len(path) - 2 and not path[-1].startswith("*"):
            breaks.append((format_path(path), "is new and must be given"))
        else:
            added.append(format_path(path))
    breaks += _reordered(before, now)
    return added, breaks


def _along(tree: Tree, path: tuple[str, ...]) -> list[Tree]:
    """Return the tables along a path, as far as it exists."""
    tables: list[Tree] = []
    at: Any = tree
    for part in path:
        at = at.get(part)
        if not isinstance(at, dict):
            break
        tables.append(at)
    return tables


def _reordered(before: Any, now: Any, path: tuple[str, ...] = ()) -> list[tuple[str, str]]:
    """Find functions whose positional parameters have changed their order."""
    if not isinstance(before, dict) or not isinstance(now, dict):
        return []
    changes = []
    if isinstance(before.get("parameters"), dict) and isinstance(now.get("parameters"), dict):
        was, are = (
            [
                name
                for name, text in description["parameters"].items()
                if not text.startswith("by name") and name[0] != "*"
            ]
            for description in (before, now)
        )
        if [name for name in are if name in was] != [name for name in was if name in are] or (
            set(was) <= set(are) and are[: len(was)] != was
        ):
            changes.append((format_path(path), "takes its parameters in another order"))
    for key in before.keys() & now.keys():
        changes += _reordered(before[key], now[key], (*path, key))
    return changes


def is_in_changelog(name: str, changelog: str) -> bool:
    """Return whether the newest section of the changelog has that name, or its last part, in backticks."""
    newest = re.split(r"^## ", changelog, flags=re.MULTILINE)[1]
    quoted = re.findall(r"`([^`]+)`", newest)
    last = re.split(r"[. ]", name)[-1]
    return any(re.search(rf"(?<![\w-]){re.escape(last)}(?![\w-])", quote) for quote in quoted)


# --- whether it says what it is --------------------------------------------------------------------------------------
def find_undocumented() -> list[str]:
    """List public names without a docstring, undescribed fields, and exceptions that a docstring does not mention."""
    messages: list[str] = []
    for module in MODULES:
        for name in list_public_names(module):
            value = getattr(importlib.import_module(module), name)
            if find_home(module, name) != module:
                continue
            if inspect.isclass(value) and get_origin(value) is None:
                messages += _undocumented_in_class(f"{module}.{name}", value)
            elif inspect.isfunction(value):
                messages += _undocumented_in_function(f"{module}.{name}", value, "")
            elif name != "__version__" and not _commented(module, name):
                messages.append(f"{module}.{name}: nothing says what it is (a line `#: ...` above it)")
    return messages


def _undocumented_in_class(path: str, cls: type) -> Iterator[str]:
    text = cls.__doc__ if "__doc__" in vars(cls) else None
    if not text or text.startswith(f"{cls.__name__}("):
        yield f"{path}: no docstring"
        return
    if is_typeddict(cls):  # keywords of a function, which describes them
        return
    described = {
        field for base in cls.__mro__ if base.__module__.startswith("llmtune") for field in _described_fields(base)
    }
    for name in inspect.get_annotations(cls):
        if not name.startswith("_") and name != "model_config" and name not in described:
            texts = " ".join(base.__doc__ or "" for base in cls.__mro__ if base.__module__.startswith("llmtune"))
            if not re.search(rf"\b{name}\b", texts) and not _plain(name):
                yield f"{path}.{name}: neither a docstring of its own nor a word in the class's"
    for name, value in vars(cls).items():
        if name.startswith("_") and name != "__init__":
            continue
        function = value.fget if isinstance(value, property) else getattr(value, "__func__", value)
        function = inspect.unwrap(function) if callable(function) else function
        if inspect.isfunction(function) and function.__module__.startswith("llmtune"):
            yield from _undocumented_in_function(f"{path}.{name}", function, text if name == "__init__" else "", cls)


def _undocumented_in_function(path: str, function: Any, around: str, cls: type | None = None) -> Iterator[str]:
    name = path.rpartition(".")[2]
    if name.startswith("test_"):  # a test of the suite: its name is the sentence
        return
    inherited = inspect.getdoc(getattr(cls, name, None)) if cls is not None and name != "__init__" else None
    passed_to = [inspect.getdoc(inner) or "" for inner in getattr(function, "__options_of__", ())]
    text = " ".join([inspect.getdoc(function) or inherited or "", around, *passed_to]).strip()
    if not text:
        yield f"{path}: no docstring"
        return
    for parameter in inspect.signature(function).parameters.values():
        unclear = (
            name != "__init__"
            and PLAIN.fullmatch(format_annotation(parameter.annotation))
            and not _plain(parameter.name)
        )
        if unclear and not re.search(rf"\b{parameter.name}\b", text):
            yield f"{path}: its docstring does not speak of {parameter.name}"
    for raised in sorted(_raised(function)):
        error = function.__globals__.get(raised) or getattr(llmtune.errors, raised, None)
        if not (inspect.isclass(error) and issubclass(error, LlmtuneError)):
            continue
        family = {base.__name__ for base in error.__mro__ if issubclass(base, LlmtuneError)}
        if not any(re.search(rf"\b{error_name}\b", text) for error_name in family):
            yield f"{path}: raises {raised}, and its docstring does not say so"


def _raised(function: Any) -> set[str]:
    """Collect the names of the exceptions that a function itself raises (not those of the functions it calls)."""
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
    """Collect the fields of a class that have their own docstring."""
    names: set[str] = set()
    for node in ast.walk(source(cls.__module__)):
        if isinstance(node, ast.ClassDef) and node.name == cls.__name__:
            for at, statement in enumerate(node.body[:-1]):
                after = node.body[at + 1]
                says = isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant)
                if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name) and says:
                    names.add(statement.target.id)
    return frozenset(names)


def _plain(name: str) -> bool:
    """Return whether a name means the same everywhere."""
    return name in ("source", "note", "message", "name", "id", "data", "path", "text", "reason")


def _commented(module: str, name: str) -> bool:
    """Return whether a value has a `#:` comment above it or a docstring below it."""
    module, name = find_definition(module, name)
    lines = Path(inspect.getfile(importlib.import_module(module))).read_text(encoding="utf-8").splitlines()
    body = source(module).body
    for at, node in enumerate(body):
        targets = (
            node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
        )
        if any(isinstance(target, ast.Name) and target.id == name for target in targets):
            after = body[at + 1] if at + 1 < len(body) else None
            below = isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant)
            return lines[node.lineno - 2].startswith("#:") or below
    return True


# --- whether its types can be imported --------------------------------------------------------------------------------
@cache
def imported_names(module: str) -> dict[str, tuple[str, str]]:
    """Return by name what a module imports from llmtune, for typing alone too: the module it is from, and its name."""
    names: dict[str, tuple[str, str]] = {}
    for node in ast.walk(source(module)):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("llmtune"):
            names |= {alias.asname or alias.name: (node.module, alias.name) for alias in node.names}
    return names


@cache
def defined_types(module: str) -> frozenset[str]:
    """Return the classes and the aliases in CamelCase that a module defines."""
    names: set[str] = set()
    for node in source(module).body:
        if isinstance(node, ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Assign):
            names |= {target.id for target in node.targets if isinstance(target, ast.Name)}
    return frozenset(name for name in names if re.fullmatch(r"[A-Z]+[a-z]\w*", name))


def find_origin(module: str, name: str) -> tuple[str, str] | None:
    """Return the module of llmtune that defines a type which `module` names, and its name there; None for any other."""
    if name in defined_types(module):
        return module, name
    if name not in imported_names(module):
        return None
    origin, inner = imported_names(module)[name]
    return find_origin(origin, inner)


def named_types(module: str, written: Any) -> Iterator[tuple[str, str]]:
    """Yield the types of llmtune in an annotation, each with the module that defines it."""
    text = format_annotation(written)
    try:
        tree = ast.parse(text, mode="eval")
    except SyntaxError:
        return
    for node in ast.walk(tree):
        origin = None
        if isinstance(node, ast.Name):
            origin = find_origin(module, node.id)
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            package, inner = imported_names(module).get(node.value.id, ("", ""))
            origin = find_origin(f"{package}.{inner}", node.attr) if package else None
        if origin is not None:
            yield origin


def annotations_of(module: str, name: str) -> Iterator[tuple[str, str, Any]]:
    """Yield the annotations of a public name: where each stands, the module whose names it uses, and the annotation."""
    value = getattr(importlib.import_module(module), name)
    if inspect.isfunction(value):
        yield from _annotations_in_function(name, value)
    elif inspect.isclass(value) and get_origin(value) is None:
        for base in value.__mro__:
            if not base.__module__.startswith("llmtune"):
                continue
            fields = inspect.get_annotations(base).items()
            yield from ((f"{name}.{field}", base.__module__, text) for field, text in fields if field[0] != "_")
            for member, inner in vars(base).items():
                function = inner.fget if isinstance(inner, property) else getattr(inner, "__func__", inner)
                function = inspect.unwrap(function) if callable(function) else function
                if inspect.isfunction(function) and (member[0] != "_" or member == "__init__"):
                    yield from _annotations_in_function(f"{name}.{member}", function)
    else:
        module, inner_name = find_definition(module, name)
        for node in source(module).body:
            if isinstance(node, ast.Assign) and any(
                isinstance(target, ast.Name) and target.id == inner_name for target in node.targets
            ):
                yield name, module, ast.unparse(node.value)


def _annotations_in_function(path: str, function: Any) -> Iterator[tuple[str, str, Any]]:
    signature = inspect.signature(function)
    for parameter in signature.parameters.values():
        yield f"{path}({parameter.name})", function.__module__, parameter.annotation
    yield f"{path}()", function.__module__, signature.return_annotation


#: What is handed through public functions, and neither made nor looked into by who calls them.
OPAQUE = frozenset({("llmtune.runs.store.store", "Store")})


def find_private_types() -> list[str]:
    """List the types that public names take, return or hold and that no public module has."""
    public = {find_origin(module, name) for module in MODULES for name in list_public_names(module)} | OPAQUE
    messages: dict[str, str] = {}
    for module in MODULES:
        for name in list_public_names(module):
            if find_home(module, name) != module:
                continue
            for path, written_in, annotation in annotations_of(module, name):
                for origin in named_types(written_in, annotation):
                    if origin not in public and origin[1][0] != "_":
                        text = f"{module}.{path}: its type {origin[1]} ({origin[0]}) is in no public module"
                        messages.setdefault(".".join(origin), text)
    return sorted(messages.values())


def find_overdue() -> list[str]:
    """List deprecated names that are due for removal."""
    messages = []
    for module in MODULES:
        for name in list_public_names(module):
            value = getattr(importlib.import_module(module), name)
            inner = vars(value).items() if inspect.isclass(value) else ()
            for path, entry in [
                (f"{module}.{name}", value),
                *((f"{module}.{name}.{key}", entry) for key, entry in inner),
            ]:
                until = getattr(entry, "__removed_in__", None)
                if until is not None and release(llmtune.__version__) >= release(until):
                    messages.append(f"{path} was to go in {until}, and this is {llmtune.__version__}: remove it")
    return messages


# --- all of it -------------------------------------------------------------------------------------------------------
def faults(before: Tree, now: Tree, changelog: str, *, check: bool) -> list[str]:
    """List every problem of the public API, as sentences."""
    added, breaks = compare(before, now)
    messages = [f"{name}: {what}" for name, what in breaks if not is_in_changelog(name, changelog)]
    if messages:
        messages.append(
            "that breaks somebody's code: keep the name and deprecate it (docs/versioning.md), or name it in backticks"
            " in the newest section of CHANGELOG.md and run `make docs`"
        )
    elif check and before != now:
        names = [*added, *(name for name, _ in breaks)] or ["the modules that names are defined in now"]
        messages.append(
            f"docs/api.json does not have {', '.join(names[:8])}{' ...' if len(names) > 8 else ''} yet; run `make docs`"
        )
    return [*messages, *find_undocumented(), *find_private_types(), *find_overdue()]


def main() -> int:
    """Rewrite the file, or with --check only compare; return 1 if there are problems."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="change nothing; fail when the file is not what is there")
    check = parser.parse_args().check
    now = describe_api()
    text = json.dumps(now, indent=1, ensure_ascii=False) + "\n"
    before = json.loads(FILE.read_text(encoding="utf-8")) if FILE.exists() else {}
    messages = faults(before, json.loads(text), CHANGELOG.read_text(encoding="utf-8"), check=check)
    for message in messages:
        print(message)
    if not check and not messages:
        FILE.write_text(text, encoding="utf-8")
    return 1 if messages else 0


if __name__ == "__main__":
    sys.exit(main())
