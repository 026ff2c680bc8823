"""Progress of a run on a terminal: a live bar, or plain lines where the output cannot be redrawn."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from llmtune.cli.output import err, plain_terminal
from llmtune.runs.figures import Figures
from llmtune.runs.progress import PLAIN_EVERY

if TYPE_CHECKING:
    from llmtune.report.schema import Report
    from llmtune.runs.poller import Update
    from llmtune.runs.run import Run


def follow(
    run: Run,
    *,
    timeout: float | None = None,
    stall_timeout: float | None = None,
    queue_timeout: float | None = None,
) -> Report:
    """Wait for the run, showing its progress, and return its report; `RunFailed` carries that of a failed one."""
    display = _Plain() if plain_terminal() else _Live()
    with display:
        return run.wait(
            timeout=timeout, stall_timeout=stall_timeout, queue_timeout=queue_timeout, on_update=display.update
        )


class _Plain:
    """Plain lines for pipes, logs and dumb terminals: each state, each event, and the step every few seconds."""

    def __init__(self) -> None:
        self._figures = Figures()
        self._printed = ""
        self._printed_at = 0.0

    def __enter__(self) -> _Plain:
        return self

    def __exit__(self, *_: object) -> None:
        self._line(force=True)

    def update(self, update: Update) -> None:
        """Print events and messages, and the figures when the state changes or a few seconds have passed."""
        before = self._figures.state
        self._figures.apply(update.record, update.points)
        for event in update.events:
            self._print(event.message)
        if update.message:
            self._print(update.message)
        self._line(force=self._figures.state != before)

    def _line(self, *, force: bool) -> None:
        now = time.monotonic()
        text = "  ".join(self._figures.texts())
        if text and text != self._printed and (force or now - self._printed_at >= PLAIN_EVERY):
            self._printed, self._printed_at = text, now
            self._print(text)

    @staticmethod
    def _print(text: str) -> None:
        err.print(text, markup=False, soft_wrap=True)


class _Live:
    """A bar with the figures beside it, and the events above it."""

    def __init__(self) -> None:
        from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

        self._figures = Figures()
        self._bar = Progress(
            SpinnerColumn(),
            BarColumn(bar_width=24),
            TextColumn("{task.description}", markup=False),
            TimeElapsedColumn(),
            console=err,
            transient=True,
        )
        self._task = self._bar.add_task("starting", total=None)

    def __enter__(self) -> _Live:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()
        parts = self._figures.texts()
        if parts:
            err.print("  ".join(parts), markup=False, soft_wrap=True)

    def update(self, update: Update) -> None:
        """Move the bar, and print events and messages above it."""
        self._figures.apply(update.record, update.points)
        for event in update.events:
            self._bar.console.print(event.message, markup=False, soft_wrap=True, style="dim")
        if update.message:
            self._bar.console.print(update.message, markup=False, soft_wrap=True, style="yellow")
        total, completed = self._figures.bar
        self._bar.update(self._task, description="  ".join(self._figures.texts()), total=total, completed=completed)
