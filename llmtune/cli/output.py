"""Where the command line prints: results to standard output, everything said along the way to standard error.

Names, models, labels and vendors' messages are other people's text. The consoles here print all of it as it is, mask
the secrets in it and write out its control characters, so that no command has to think of it.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import Any

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.text import Text

from llmtune.redaction.control_chars import escape_controls
from llmtune.redaction.documents import dump_json
from llmtune.redaction.secrets import scrub


class PlainConsole(Console):
    """A console on which text is never an escape sequence, and `:robot:` in a model's id never an emoji."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**{"highlight": False, "emoji": False, **settings})

    def render_str(self, text: str, **settings: Any) -> Text:
        """Make a text of a string; cleaned before, because rich measures by the text and drops some characters."""
        return super().render_str(_clean(text), **settings)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """Render anything; what did not come as a string is cleaned here. Control segments are rich's own."""
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
    """One JSON document on standard output: never wrapped, never coloured, secrets masked."""
    write_text(dump_json(data) + "\n")


def print_json_line(data: Any) -> None:
    """One JSON document on one line of standard output."""
    write_text(dump_json(data, indent=False) + "\n")


def write_text(text: str) -> None:
    """Text as it is on standard output: never wrapped, never coloured, always UTF-8."""
    sys.stdout.flush()
    sys.stdout.buffer.write(text.encode("utf-8", "backslashreplace"))
    sys.stdout.buffer.flush()


def confirm(question: str, *, abort: bool = False) -> bool:
    """Ask on standard error for a yes; the question may hold a vendor's words."""
    import typer

    return typer.confirm(_clean(question), abort=abort, err=True)


def plain_terminal() -> bool:
    """Whether to print plain lines: standard error is no terminal, or a dumb one."""
    return not err.is_terminal or err.is_dumb_terminal
