"""The reference of the command line, as Markdown, from the commands themselves.

Nothing here asks how wide a terminal is or whether it has colours: each command is read as data, not from its help.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from typing import Any

from llmtune import errors

#: Options of every command, described once at the top of the page.
EVERYWHERE = {"help", "install_completion", "show_completion"}


def command_pages(_: str = "") -> str:
    """Return every command with its purpose, usage line, arguments and options."""
    import typer

    from llmtune.cli.app import app

    return "\n".join(line for part in _walk("llmtune", typer.main.get_command(app)) for line in part) + "\n"


def exit_codes(_: str = "") -> str:
    """Return the table of exit codes, with the errors behind each."""
    errors_by_code: dict[int, list[str]] = {}
    for name, value in vars(errors).items():
        if inspect.isclass(value) and issubclass(value, errors.LlmtuneError):
            errors_by_code.setdefault(value.exit_code, []).append(
                f"[`{name}`](reference/errors.md#class-{name.lower()})"
            )
    import typer

    from llmtune.cli.app import app

    epilog = typer.main.get_command(app).epilog or ""
    meanings = {
        int(number): meaning
        for number, meaning in re.findall(r"(\d+) ([^,.]+)", epilog.partition(":")[2].partition(". ")[0] + ",")
    }
    if missing := errors_by_code.keys() - meanings.keys():
        raise ValueError(f"the epilog of `llmtune --help` does not explain exit code {sorted(missing)}")
    lines = ["| code | meaning | errors |", "|---|---|---|"]
    lines += [
        f"| {code} | {meaning} | {', '.join(errors_by_code.get(code, []))} |"
        for code, meaning in sorted(meanings.items())
    ]
    return "\n".join(lines) + "\n"


def _walk(path: str, command: Any) -> Iterator[list[str]]:
    inner = {name: subcommand for name, subcommand in getattr(command, "commands", {}).items() if not subcommand.hidden}
    default = getattr(command, "default", None)  # typed without its own name
    yield [f"## {path}", ""]
    if path == "llmtune":
        yield [*_help(command), *_index(path, inner), *_options(command)]
    elif default:
        remaining = {name: subcommand for name, subcommand in inner.items() if name != default}
        yield [
            *_help(inner[default]),
            *_usage(path, inner[default]),
            *_options(inner[default]),
            *_index(path, remaining),
        ]
    elif inner:
        yield [*_help(command), *_index(path, inner)]
    else:
        yield [*_help(command), *_usage(path, command), *_options(command)]
    for name, subcommand in inner.items():
        if name != default:
            yield from _walk(f"{path} {name}", subcommand)


def _help(command: Any) -> list[str]:
    text = inspect.cleandoc(command.help or "").split("\f")[0].strip()
    if not text:
        raise ValueError(f"the command {command.name} has no help")
    return [escaped(text), ""]


def _index(path: str, inner: dict[str, Any]) -> list[str]:
    lines = ["| command | what it does |", "|---|---|"]
    for name, subcommand in inner.items():
        first = inspect.cleandoc(subcommand.help or "").split("\n\n")[0]
        lines.append(f"| [`{path} {name}`](#{anchor(f'{path} {name}')}) | {cell(first)} |")
    return [*lines, ""]


def _usage(path: str, command: Any) -> list[str]:
    parts = [path]
    for param in command.params:
        if param.param_type_name == "argument" and not getattr(param, "hidden", False):
            parts.append(_place(param))
        elif param.required:
            parts.append(f"{_spelled(param)[0]} {_value(param)}")
    return ["```text", " ".join([*parts, "[OPTIONS]"]), "```", ""]


def _place(argument: Any) -> str:
    """Format an argument for the usage line: JOB, [QUESTION], RUN..."""
    name = (argument.metavar or argument.name).strip("[].").upper()
    name += "..." if argument.nargs != 1 else ""
    return name if argument.required else f"[{name}]"


def _options(command: Any) -> list[str]:
    params = [param for param in command.params if not getattr(param, "hidden", False) and param.name not in EVERYWHERE]
    if not params:
        return []
    lines = ["| given | takes | default | meaning |", "|---|---|---|---|"]
    for param in params:
        if param.param_type_name == "argument":
            spelling, takes = f"`{_place(param)}`", _value(param).lower()
        else:
            spelling = ", ".join(f"`{name}`" for name in _spelled(param))
            takes = "" if param.is_flag else _value(param).lower()
        lines.append(f"| {spelling} | {takes} | {_default(param)} | {cell(param.help or '')} |")
    return [*lines, ""]


def _spelled(option: Any) -> list[str]:
    """Return the spellings of an option: the long name, the letter, and the name that switches it off."""
    return [*sorted(option.opts, key=lambda name: (-len(name), name)), *option.secondary_opts]


def _value(param: Any) -> str:
    """Describe the values of a parameter: a choice, a number with its range, a path, or text."""
    kind = param.type_descriptor.annotation
    for inside in getattr(kind, "__args__", ()):  # list[str], str | None
        if inside is not type(None):
            kind = inside
    if hasattr(kind, "__members__"):
        return "`" + "`, `".join(str(member.value) for member in kind) + "`"
    text = {"str": "TEXT", "int": "INTEGER", "float": "NUMBER", "Path": "PATH", "bool": ""}[kind.__name__]
    minimum, maximum = param.min, param.max
    if minimum is None and maximum is None:
        return text
    span = f">= {minimum}" if maximum is None else f"<= {maximum}" if minimum is None else f"{minimum} to {maximum}"
    return f"{text} {span}"


def _default(param: Any) -> str:
    if param.required:
        return "must be given"
    value = param.default
    if getattr(param, "is_flag", False):
        return "on" if value else "off" if param.secondary_opts and value is False else ""
    if value is None or value == "" or value in ([], ()):
        return ""
    return f"`{getattr(value, 'value', value)}`"


# --- words of Markdown -----------------------------------------------------------------------------------------------
def anchor(heading: str) -> str:
    """Return the anchor of a heading, the same on code hosts and on the site."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def cell(text: str) -> str:
    """Escape text for a cell of a table: one line, no bar."""
    return escaped(" ".join(text.split())).replace("|", "\\|")


def escaped(text: str) -> str:
    """Escape text so that Markdown shows it as it is, outside of backticks."""
    parts = re.split(r"(`[^`\n]*`)", text)
    return "".join(
        part if at % 2 else re.sub(r"([<*_\[\]])", r"\\\1", part).replace("\\_", "_") for at, part in enumerate(parts)
    )
