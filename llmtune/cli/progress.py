"""A run followed on a terminal: one line that moves, or plain lines where nothing can move."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from llmtune.cli.output import err, plain_terminal

if TYPE_CHECKING:
    from llmtune.report.schema import Report
    from llmtune.runs.poller import Update
    from llmtune.runs.run import Run

#: Seconds between two plain lines about the same step-by-step progress.
PLAIN_EVERY = 5.0


def follow(
    run: Run,
    *,
    timeout: float | None = None,
    stall_timeout: float | None = None,
    queue_timeout: float | None = None,
) -> Report:
    """Wait for the run, showing how it goes, and return its report; `RunFailed` carries that of a failed one."""
    display = _Plain() if plain_terminal() else _Live()
    with display:
        return run.wait(
            timeout=timeout, stall_timeout=stall_timeout, queue_timeout=queue_timeout, on_update=display.update
        )


class _Figures:
    """The numbers shown, kept from one update to the next."""

    def __init__(self) -> None:
        self.state = ""
        self.step: int | None = None
        self.total: int | None = None
        self.left: float | None = None
        self.speed: float | None = None
        self.loss: float | None = None
        self.validation: float | None = None

    def take(self, update: Update) -> None:
        """Take in one update; what it does not say stays as it was."""
        record = update.record
        self.state = record.state.value
        progress = record.progress
        self.step = progress.step if progress.step is not None else self.step
        self.total = progress.total_steps or self.total
        self.left = progress.seconds_left
        self.speed = progress.tokens_per_second or self.speed
        for point in update.points:
            if point.series == "train/loss":
                self.loss = point.value
            elif point.series == "validation/loss":
                self.validation = point.value

    def words(self) -> list[str]:
        """The figures in words; what is not known is left out."""
        said = [self.state]
        if self.step is not None:
            said.append(f"step {self.step}/{self.total}" if self.total else f"step {self.step}")
        if self.loss is not None:
            said.append(f"loss {self.loss:.4f}")
        if self.validation is not None:
            said.append(f"validation {self.validation:.4f}")
        if self.state == "running" and self.speed is not None:
            said.append(f"{self.speed:,.0f} tokens/s")
        if self.state == "running" and self.left is not None:
            said.append(f"{duration(self.left)} left")
        return said


def duration(seconds: float) -> str:
    """1h 05m, 2m 10s or 9s."""
    whole = max(0, round(seconds))
    hours, minutes, rest = whole // 3600, whole % 3600 // 60, whole % 60
    if hours:
        return f"{hours}h {minutes:02d}m"
    return f"{minutes}m {rest:02d}s" if minutes else f"{rest}s"


class _Plain:
    """Lines for pipes, logs and dumb terminals: each state, each event, and the progress now and then."""

    def __init__(self) -> None:
        self._figures = _Figures()
        self._said = ""
        self._at = 0.0

    def __enter__(self) -> _Plain:
        return self

    def __exit__(self, *_: object) -> None:
        self._line(force=True)

    def update(self, update: Update) -> None:
        """Print what is worth a line."""
        before = self._figures.state
        self._figures.take(update)
        for event in update.events:
            self._print(event.message)
        if update.message:
            self._print(update.message)
        self._line(force=self._figures.state != before)

    def _line(self, *, force: bool) -> None:
        now = time.monotonic()
        text = "  ".join(self._figures.words())
        if text and text != self._said and (force or now - self._at >= PLAIN_EVERY):
            self._said, self._at = text, now
            self._print(text)

    @staticmethod
    def _print(text: str) -> None:
        err.print(text, markup=False, soft_wrap=True)


class _Live:
    """A bar with the figures beside it, and the events above it."""

    def __init__(self) -> None:
        from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

        self._figures = _Figures()
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
        words = self._figures.words()
        if words:
            err.print("  ".join(words), markup=False, soft_wrap=True)

    def update(self, update: Update) -> None:
        """Move the bar and print what happened above it."""
        self._figures.take(update)
        for event in update.events:
            self._bar.console.print(event.message, markup=False, soft_wrap=True, style="dim")
        if update.message:
            self._bar.console.print(update.message, markup=False, soft_wrap=True, style="yellow")
        figures = self._figures
        self._bar.update(
            self._task,
            description="  ".join(figures.words()),
            total=figures.total,
            completed=min(figures.step or 0, figures.total or 0),
        )
