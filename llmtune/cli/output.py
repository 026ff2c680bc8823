"""Where the command line prints: results to standard output, everything said along the way to standard error.

Names, models, labels and vendors' messages are other people's text. The consoles here print all of it as it is and
write out its control characters, so that no command has to think of it.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import Any

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.text import Text

from llmtune.redaction.control_chars import escape_controls


class PlainConsole(Console):
    """A console on which text is never an escape sequence, and `:robot:` in a model's id never an emoji."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**{"highlight": False, "emoji": False, **settings})

    def render_str(self, text: str, **settings: Any) -> Text:
        """Make a text of a string; cleaned before, because rich measures by the text and drops some characters."""
        return super().render_str(escape_controls(text), **settings)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """Render anything; what did not come as a string is cleaned here. Control segments are rich's own."""
        for segment in super().render(renderable, options):
            text = segment.text if segment.control else escape_controls(segment.text)
            yield segment if text == segment.text else Segment(text, segment.style)


out = PlainConsole()
err = PlainConsole(stderr=True)


def print_json(data: Any) -> None:
    """One JSON document on standard output, as it is: never wrapped, never coloured."""
    import orjson

    sys.stdout.buffer.write(orjson.dumps(data, option=orjson.OPT_INDENT_2 | orjson.OPT_NON_STR_KEYS) + b"\n")
    sys.stdout.buffer.flush()


def confirm(question: str, *, abort: bool = False) -> bool:
    """Ask on standard error for a yes; the question may hold a vendor's words."""
    import typer

    return typer.confirm(escape_controls(question), abort=abort, err=True)


def plain_terminal() -> bool:
    """Whether to print plain lines: standard error is no terminal, or a dumb one."""
    return not err.is_terminal or err.is_dumb_terminal
