"""The figures of a run under way, in a few words: its state, the step, losses or rewards, the time left."""

from __future__ import annotations

import re
from collections.abc import Iterable

from llmtune.metrics.points import MetricPoint
from llmtune.redaction.control_chars import escape_controls
from llmtune.redaction.secrets import scrub
from llmtune.runs.store.records import RunRecord


class Figures:
    """The figures shown, carried from one update to the next."""

    def __init__(self) -> None:
        self.state = ""
        self.step: int | None = None
        self.total: int | None = None
        self.left: float | None = None
        self.speed: float | None = None
        self.loss: float | None = None
        self.validation: float | None = None
        self.reward: float | None = None
        self.answers: int | None = None
        self.total_answers: int | None = None

    @property
    def bar(self) -> tuple[int | None, int]:
        """Return the length of the bar and how far it is: in answers while the run is evaluated, else in steps."""
        if self.total_answers and self.state == "finalizing":
            return self.total_answers, min(self.answers or 0, self.total_answers)
        return self.total, min(self.step or 0, self.total or 0)

    def apply(self, record: RunRecord, points: Iterable[MetricPoint] = ()) -> None:
        """Apply a run's record and its new points; values that they do not hold stay as they were."""
        self.state = record.state.value
        progress = record.progress
        self.step = progress.step if progress.step is not None else self.step
        self.total = progress.total_steps or self.total
        self.left = progress.seconds_left
        self.speed = progress.tokens_per_second or self.speed
        self.answers, self.total_answers = progress.answers, progress.total_answers
        for point in points:
            if point.series == "train/loss":
                self.loss = point.value
            elif point.series == "validation/loss":
                self.validation = point.value
            elif point.series == "train/reward":
                self.reward = point.value

    def texts(self) -> list[str]:
        """Format each known figure."""
        parts = [self.state]
        if self.step is not None:
            parts.append(f"step {self.step}/{self.total}" if self.total else f"step {self.step}")
        if self.loss is not None:
            parts.append(f"loss {self.loss:.4f}")
        if self.reward is not None:
            parts.append(f"reward {self.reward:.3f}")
        if self.validation is not None:
            parts.append(f"validation {self.validation:.4f}")
        if self.state == "running" and self.speed is not None:
            parts.append(f"{self.speed:,.0f} tokens/s")
        if self.state == "finalizing" and self.total_answers:
            parts.append(f"evaluated {self.answers}/{self.total_answers} rows")
        if self.state in ("running", "finalizing") and self.left is not None:
            parts.append(f"{duration(self.left)} left")
        return parts


def duration(seconds: float) -> str:
    """Format a duration as 1h 05m, 2m 10s or 9s."""
    total = max(0, round(seconds))
    hours, minutes, secs = total // 3600, total % 3600 // 60, total % 60
    if hours:
        return f"{hours}h {minutes:02d}m"
    return f"{minutes}m {secs:02d}s" if minutes else f"{secs}s"


def short_line(text: str, limit: int = 160) -> str:
    """Return a text on one line of at most `limit` characters, without secrets and control characters."""
    flat = re.sub(r"[\t\n]", " ", escape_controls(scrub(text)))
    return flat if len(flat) <= limit else f"{flat[: limit - 1]}\u2026"
