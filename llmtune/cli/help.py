"""How `--help` looks: options in groups, values as people write them, whole sentences.

The groups are typer's own `rich_help_panel`; typer draws them only with markup, in which `[lora_rank=4]` would vanish.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from enum import Enum
from typing import Any, ClassVar

import typer
from typer.core import TyperCommand, TyperGroup

#: What stands for the value of an option or argument, by its name; where it has its own `metavar`, that.
METAVARS = {
    "base": "MODEL",
    "baseline": "RUN",
    "best": "FILE",
    "budget": "USD",
    "checkpoint": "NAME",
    "columns": "NAMES",
    "comment": "FILE",
    "data": "DATA",
    "fallback_on": "CONDITIONS",
    "host": "ADDRESS",
    "job": "JOB",
    "key_from": "VARIABLE",
    "metric": "METRIC",
    "model": "MODEL",
    "name": "NAME",
    "old_base": "PATTERN",
    "organization": "NAME",
    "port": "PORT",
    "provider": "PROVIDER",
    "ray": "ADDRESS",
    "run": "RUN",
    "run_a": "RUN",
    "run_b": "RUN",
    "sink": "TRACKER",
    "source": "PROVIDER",
    "space": "FIELD=RANGE",
    "prescreen": "PROVIDER",
    "out": "FOLDER",
    "into": "FOLDER",
    "stall_timeout": "SECONDS",
    "state": "STATE",
    "timeout": "SECONDS",
    "to": "PROVIDER",
}
_BY_TYPE = {"int": "N", "integer": "N", "float": "NUMBER", "Path": "FILE", "path": "FILE"}

MONEY, OUTPUT = "Money", "Output"

#: The group of an option that many commands have.
PANELS = {
    "yes": MONEY,
    "budget": MONEY,
    "allow_unknown_cost": MONEY,
    "deploy": MONEY,
    "as_json": OUTPUT,
    "shape": OUTPUT,
    "output": OUTPUT,
    "comment": OUTPUT,
    "best": OUTPUT,
}


class HelpfulCommand(TyperCommand):
    """A command whose options are listed in groups."""

    def __init__(self, *arguments: Any, **settings: Any) -> None:
        super().__init__(*arguments, **settings)
        for param in self.params:
            if param.param_type_name == "option" and getattr(param, "rich_help_panel", None) is None:
                param.rich_help_panel = PANELS.get(param.name or "")  # type: ignore[attr-defined]

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        """Return the pieces of the usage line: `JOB`, `[RUN]...`, `[OPTIONS]`."""
        return _usage(self)

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write the arguments, then the options by group."""
        _write_params(self, ctx, formatter)


class HelpfulGroup(TyperGroup):
    """A group whose commands are listed in groups, each with a whole sentence."""

    #: The headings in their order; others follow.
    headings: ClassVar[tuple[str, ...]] = ()

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        """Return the pieces of the usage line."""
        return ["COMMAND", "[OPTIONS]"]

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write the commands by group, and the options."""
        self.format_commands(ctx, formatter)
        _write_params(self, ctx, formatter)

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Write the commands by group, in the order in which they were added."""
        panels: dict[str, list[tuple[str, str]]] = {heading: [] for heading in self.headings}
        for name in self.list_commands(ctx):
            command = self.get_command(ctx, name)
            if command is None or command.hidden:
                continue
            panel = getattr(command, "rich_help_panel", None)
            panels.setdefault(panel if isinstance(panel, str) else "Commands", []).append(
                (name, first_sentence(command.help or ""))
            )
        for panel, rows in panels.items():
            if rows:
                with formatter.section(panel):
                    formatter.write_dl(rows)


def use_help(app: typer.Typer) -> None:
    """Make every command of an application and of its groups a `HelpfulCommand`."""
    for command in app.registered_commands:
        command.cls = HelpfulCommand
    for group in app.registered_groups:
        if group.typer_instance is not None:
            use_help(group.typer_instance)


def first_sentence(text: str) -> str:
    """Return the first sentence of a help text, on one line."""
    paragraph = " ".join(inspect.cleandoc(text).split("\n\n")[0].split())
    return paragraph.partition(". ")[0].rstrip(".") + "." if paragraph else ""


def value_name(param: Any) -> str:
    """Return what stands for a parameter's value: FILE, USD, `a|b` of a choice."""
    if param.metavar:
        return str(param.metavar).strip("[].")
    choices = list(_choices(param))
    if choices:
        return "|".join(choices)
    if name := METAVARS.get(param.name):
        return name
    if param.param_type_name == "argument":
        return str(param.name).upper()
    return next((_BY_TYPE[kind] for kind in _type_names(param) if kind in _BY_TYPE), "TEXT")


def _annotation(param: Any) -> Any:
    """Return the Python type of a parameter, the member of a list; None with versions of typer that do not keep it."""
    annotation = getattr(getattr(param, "type_descriptor", None), "annotation", None)
    for inner in getattr(annotation, "__args__", ()):
        if inner is not type(None):
            return inner
    return annotation


def _choices(param: Any) -> Iterator[str]:
    annotation = _annotation(param)
    if inspect.isclass(annotation) and issubclass(annotation, Enum):
        yield from (str(member.value) for member in annotation)
    elif annotation is None:
        yield from (str(getattr(choice, "value", choice)) for choice in getattr(param.type, "choices", ()))


def _type_names(param: Any) -> Iterator[str]:
    yield getattr(_annotation(param), "__name__", "")
    yield str(getattr(getattr(param, "type", None), "name", "")).partition(" ")[0]


def _usage(command: Any) -> list[str]:
    pieces = []
    for param in command.params:
        if param.param_type_name == "argument" and not getattr(param, "hidden", False):
            name = value_name(param)
            pieces.append((name if param.required else f"[{name}]") + ("..." if param.nargs != 1 else ""))
        elif param.required:
            pieces.append(f"{max(param.opts, key=len)} {value_name(param)}")
    return [*pieces, "[OPTIONS]"]


def _write_params(command: Any, ctx: Any, formatter: Any) -> None:
    panels: dict[str, list[tuple[str, str]]] = {"Arguments": [], "Options": []}
    for param in command.get_params(ctx):
        if getattr(param, "hidden", False):
            continue
        if param.param_type_name == "argument":
            panels["Arguments"].append((value_name(param), _explain(param)))
            continue
        panel = getattr(param, "rich_help_panel", None)
        panels.setdefault(panel if isinstance(panel, str) else "Options", []).append((_spell(param), _explain(param)))
    last = panels.pop("Output", [])  # what is printed comes after what is done
    for panel, rows in (*panels.items(), ("Output", last)):
        if rows:
            with formatter.section(panel):
                formatter.write_dl(rows)


def _spell(option: Any) -> str:
    names = ", ".join(sorted(option.opts, key=len))
    if option.secondary_opts and option.default is not False:  # what is off by default needs no way to switch it off
        return f"{names} / {', '.join(option.secondary_opts)}"
    return names if getattr(option, "is_flag", False) else f"{names} {value_name(option)}"


def _explain(param: Any) -> str:
    text = " ".join((param.help or "").split())
    default = param.default
    if isinstance(getattr(param, "show_default", None), str):
        default = param.show_default
    elif param.param_type_name == "option" and param.required:
        return f"{text} (required)"
    elif getattr(param, "is_flag", False):
        default = max(param.opts, key=len) if default and param.secondary_opts else None
    elif not getattr(param, "show_default", True) or callable(default):
        default = None
    default = getattr(default, "value", default)
    if default is None or default in ("", [], ()):
        return text
    return f"{text} (default: {default})"
