"""The reference of the command line, as Markdown, from the commands themselves.

Nothing here asks how wide a terminal is or whether it has colours: each command is read as data, not from its help.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from typing import Any

from llmtune import errors

#: What stands under every command and is told once, at the top of the page.
EVERYWHERE = {"help", "install_completion", "show_completion"}


def command_pages(_: str = "") -> str:
    """Every command with its purpose, its usage line, its arguments and its options."""
    import typer

    from llmtune.cli.app import app

    return "\n".join(line for part in _walk("llmtune", typer.main.get_command(app)) for line in part) + "\n"


def exit_codes(_: str = "") -> str:
    """The codes that a command ends with, and the errors behind each."""
    found: dict[int, list[str]] = {}
    for name, value in vars(errors).items():
        if inspect.isclass(value) and issubclass(value, errors.LlmtuneError):
            found.setdefault(value.exit_code, []).append(f"[`{name}`](reference/errors.md#class-{name.lower()})")
    import typer

    from llmtune.cli.app import app

    said = typer.main.get_command(app).epilog or ""
    meanings = {
        int(number): words
        for number, words in re.findall(r"(\d+) ([^,.]+)", said.partition(":")[2].partition(". ")[0] + ",")
    }
    if missing := found.keys() - meanings.keys():
        raise ValueError(f"the epilog of `llmtune --help` does not explain exit code {sorted(missing)}")
    lines = ["| code | meaning | errors |", "|---|---|---|"]
    lines += [f"| {code} | {words} | {', '.join(found.get(code, []))} |" for code, words in sorted(meanings.items())]
    return "\n".join(lines) + "\n"


def _walk(path: str, command: Any) -> Iterator[list[str]]:
    inner = {name: each for name, each in getattr(command, "commands", {}).items() if not each.hidden}
    default = getattr(command, "default", None)  # typed without its own name
    yield [f"## {path}", ""]
    if path == "llmtune":
        yield [*_help(command), *_index(path, inner), *_options(command)]
    elif default:
        others = {name: each for name, each in inner.items() if name != default}
        yield [*_help(inner[default]), *_usage(path, inner[default]), *_options(inner[default]), *_index(path, others)]
    elif inner:
        yield [*_help(command), *_index(path, inner)]
    else:
        yield [*_help(command), *_usage(path, command), *_options(command)]
    for name, each in inner.items():
        if name != default:
            yield from _walk(f"{path} {name}", each)


def _help(command: Any) -> list[str]:
    text = inspect.cleandoc(command.help or "").split("\f")[0].strip()
    if not text:
        raise ValueError(f"the command {command.name} has no help")
    return [escaped(text), ""]


def _index(path: str, inner: dict[str, Any]) -> list[str]:
    lines = ["| command | what it does |", "|---|---|"]
    for name, each in inner.items():
        first = inspect.cleandoc(each.help or "").split("\n\n")[0]
        lines.append(f"| [`{path} {name}`](#{anchor(f'{path} {name}')}) | {cell(first)} |")
    return [*lines, ""]


def _usage(path: str, command: Any) -> list[str]:
    words = [path]
    for each in command.params:
        if each.param_type_name == "argument" and not getattr(each, "hidden", False):
            words.append(_place(each))
        elif each.required:
            words.append(f"{_spelled(each)[0]} {_value(each)}")
    return ["```text", " ".join([*words, "[OPTIONS]"]), "```", ""]


def _place(argument: Any) -> str:
    """An argument as it stands in the usage line: JOB, [QUESTION], RUN..."""
    name = (argument.metavar or argument.name).strip("[].").upper()
    name += "..." if argument.nargs != 1 else ""
    return name if argument.required else f"[{name}]"


def _options(command: Any) -> list[str]:
    shown = [each for each in command.params if not getattr(each, "hidden", False) and each.name not in EVERYWHERE]
    if not shown:
        return []
    lines = ["| given | takes | default | meaning |", "|---|---|---|---|"]
    for each in shown:
        if each.param_type_name == "argument":
            given, takes = f"`{_place(each)}`", _value(each).lower()
        else:
            given = ", ".join(f"`{name}`" for name in _spelled(each))
            takes = "" if each.is_flag else _value(each).lower()
        lines.append(f"| {given} | {takes} | {_default(each)} | {cell(each.help or '')} |")
    return [*lines, ""]


def _spelled(option: Any) -> list[str]:
    """The long name first, then the letter, then what switches it off."""
    return [*sorted(option.opts, key=lambda name: (-len(name), name)), *option.secondary_opts]


def _value(param: Any) -> str:
    """What is written there: one of a few words, a number with its range, a path, text."""
    kind = param.type_descriptor.annotation
    for inside in getattr(kind, "__args__", ()):  # list[str], str | None
        if inside is not type(None):
            kind = inside
    if hasattr(kind, "__members__"):
        return "`" + "`, `".join(str(each.value) for each in kind) + "`"
    word = {"str": "TEXT", "int": "INTEGER", "float": "NUMBER", "Path": "PATH", "bool": ""}[kind.__name__]
    least, most = param.min, param.max
    if least is None and most is None:
        return word
    span = f">= {least}" if most is None else f"<= {most}" if least is None else f"{least} to {most}"
    return f"{word} {span}"


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
    """The anchor of a heading, the same on code hosts and on the site."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def cell(text: str) -> str:
    """Text as it may stand in a cell of a table: one line, no bar."""
    return escaped(" ".join(text.split())).replace("|", "\\|")


def escaped(text: str) -> str:
    """Text that Markdown shows as it is: what looks like a tag, a link or emphasis outside of backticks is kept."""
    parts = re.split(r"(`[^`\n]*`)", text)
    return "".join(
        part if at % 2 else re.sub(r"([<*_\[\]])", r"\\\1", part).replace("\\_", "_") for at, part in enumerate(parts)
    )
