"""The progress line of `tune`: on a terminal's standard error or in a notebook, quiet elsewhere."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Any, Literal, Protocol

from llmtune.errors import InvalidJob
from llmtune.runs.figures import Figures, short_line
from llmtune.runs.poller import Update

#: Whether progress is shown: "auto" is where it can be redrawn, on a terminal's standard error or in a notebook; True
#: prints plain lines to standard error elsewhere; False is quiet.
ProgressMode = Literal["auto"] | bool

#: Seconds between two plain lines while only the step changes.
PLAIN_EVERY = 5.0


class _Line(Protocol):
    """One line that can be replaced."""

    def show(self, text: str, *, moved: bool) -> None:
        """Show a text in place of the one before; `moved` says that the run has another state."""
        ...

    def end(self) -> None:
        """Leave the last text as it is, and go to the next line."""
        ...


@contextmanager
def show_progress(
    progress: ProgressMode, on_update: Callable[[Update], None] | None
) -> Iterator[Callable[[Update], None] | None]:
    """Show the updates of a run on one line, and pass each on to `on_update`. Yields the function to call with each.

    Raises:
        InvalidJob: `progress` is neither "auto" nor True nor False.
    """
    if not (progress == "auto" or isinstance(progress, bool)):
        raise InvalidJob(f'it is "auto", True or False, not {progress!r}', where="progress")
    line = _choose_line(progress)
    if line is None:
        yield on_update
        return
    figures: dict[str, Figures] = {}

    def show(update: Update) -> None:
        first = update.record.id not in figures
        run = figures.setdefault(update.record.id, Figures())
        before = run.state
        run.apply(update.record, update.points)
        parts = [update.record.name, *run.texts(), *([update.message] if update.message else ())]
        line.show(short_line("  ".join(parts)), moved=first or run.state != before or bool(update.message))
        if on_update is not None:
            on_update(update)

    try:
        yield show
    finally:
        line.end()


def _choose_line(progress: ProgressMode) -> _Line | None:
    if progress is False:
        return None
    if (display := _find_notebook()) is not None:
        return _NotebookLine(display)
    if sys.stderr is None:
        return None
    if sys.stderr.isatty() and os.environ.get("TERM") != "dumb":
        return _TerminalLine()
    return _PlainLines() if progress is True else None


def _find_notebook() -> Callable[..., Any] | None:
    """Return IPython's `display` where this process is a notebook's kernel; else None. Imports nothing new."""
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    if getattr(shell, "kernel", None) is None:
        return None
    display: Callable[..., Any] = import_module("IPython.display").display
    return display


class _TerminalLine:
    """A line that is written over itself."""

    def __init__(self) -> None:
        self._written = 0

    def show(self, text: str, *, moved: bool) -> None:
        try:
            width = os.get_terminal_size(sys.stderr.fileno()).columns
        except (OSError, ValueError):
            width = 80
        text = text[: max(1, width - 1)]
        _write(f"\r{text.ljust(self._written)}")
        self._written = len(text)

    def end(self) -> None:
        if self._written:
            _write("\n")


class _PlainLines:
    """One line for each state, and for the step every few seconds."""

    def __init__(self) -> None:
        self._text = ""
        self._written = ""
        self._time = 0.0

    def show(self, text: str, *, moved: bool) -> None:
        self._text = text
        if moved or time.monotonic() - self._time >= PLAIN_EVERY:
            self._put()

    def end(self) -> None:
        self._put()

    def _put(self) -> None:
        if self._text != self._written:
            self._written, self._time = self._text, time.monotonic()
            _write(f"{self._text}\n")


class _NotebookLine:
    """An output of the cell that is replaced."""

    def __init__(self, display: Callable[..., Any]) -> None:
        self._display = display
        self._handle: Any = None

    def show(self, text: str, *, moved: bool) -> None:
        data = {"text/plain": text}
        if self._handle is None:
            self._handle = self._display(data, raw=True, display_id=True)
        else:
            self._handle.update(data, raw=True)

    def end(self) -> None:
        pass


def _write(text: str) -> None:
    """Write to standard error; a terminal that went away, or cannot spell a name, does not end the wait."""
    try:
        sys.stderr.write(text)
        sys.stderr.flush()
    except (OSError, ValueError):
        return
