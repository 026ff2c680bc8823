"""The consoles of the command line: results go to standard output, progress and messages to standard error.

Names, models, labels and vendors' messages are untrusted text. The consoles mask secrets in it and escape its control
characters, so that no command has to.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.text import Text

from llmtune.redaction.control_chars import escape_controls
from llmtune.redaction.documents import dump_json
from llmtune.redaction.secrets import scrub


class PlainConsole(Console):
    """A console that never interprets escape sequences in text, nor `:robot:` in a model's id as an emoji."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**{"highlight": False, "emoji": False, **settings})

    def render_str(self, text: str, **settings: Any) -> Text:
        """Build a `Text` from a cleaned string; afterwards is too late, as rich measures it and drops characters."""
        return super().render_str(_clean(text), **settings)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """Render anything; what is not a plain string is cleaned here. Control segments are rich's own."""
        if isinstance(renderable, Text) and (clean := _clean(renderable.plain)) != renderable.plain:
            renderable = Text(clean, renderable.style, justify=renderable.justify, overflow=renderable.overflow)
        for segment in super().render(renderable, options):
            text = segment.text if segment.control else escape_controls(segment.text)
            yield segment if text == segment.text else Segment(text, segment.style)


def _clean(text: str) -> str:
    return escape_controls(scrub(text))


out = PlainConsole()
err = PlainConsole(stderr=True)


def print_json(data: Any) -> None:
    """Write one JSON document to standard output: never wrapped, never coloured, secrets masked."""
    write_text(dump_json(data) + "\n")


def print_json_line(data: Any) -> None:
    """Write one JSON document to one line of standard output."""
    write_text(dump_json(data, indent=False) + "\n")


def write_text(text: str) -> None:
    """Write text to standard output as it is: never wrapped, never coloured, always UTF-8."""
    sys.stdout.flush()
    sys.stdout.buffer.write(text.encode("utf-8", "backslashreplace"))
    sys.stdout.buffer.flush()


def check_ending(path: Path | None, *endings: str) -> None:
    """Refuse a file whose ending says no format that can be written, before any work is done for it."""
    if path is not None and path.suffix.lower() not in endings:
        from llmtune.errors import InvalidSettings

        ending = f"the ending {path.suffix!r}" if path.suffix else "no ending"
        listed = f"{', '.join(endings[:-1])} or {endings[-1]}"
        raise InvalidSettings(f"{path} has {ending}, and nothing is written in that format", hint=f"end it in {listed}")


def confirm(question: str, *, abort: bool = False) -> bool:
    """Ask for confirmation on standard error; the question may quote a vendor's text, so it is cleaned."""
    import typer

    return typer.confirm(_clean(question), abort=abort, err=True)


def plain_terminal() -> bool:
    """Return whether to print plain lines: standard error is not a terminal, or a dumb one."""
    return not err.is_terminal or err.is_dumb_terminal
