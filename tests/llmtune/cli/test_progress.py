"""The bar moves while the run is evaluated, and a pipe gets no more lines for it."""

from __future__ import annotations

from typing import Any

import pytest

from llmtune.cli import progress as shown
from llmtune.provider.types import Progress, RunState
from llmtune.runs.figures import Figures
from llmtune.runs.poller import Update
from tests.llmtune.runs.helpers import a_record


def update(state: RunState, message: str | None = None, **progress: Any) -> Update:
    return Update(a_record(state=state, progress=Progress(**progress)), message=message)


def apply(figures: Figures, news: Update) -> None:
    figures.apply(news.record, news.points)


def test_the_bar_counts_steps_and_then_answers() -> None:
    figures = Figures()
    apply(figures, update(RunState.RUNNING, step=3, total_steps=10, seconds_left=75))
    assert figures.bar == (10, 3)
    assert "1m 15s left" in figures.texts()
    apply(figures, update(RunState.FINALIZING, step=10, total_steps=10, seconds_left=20))
    assert figures.bar == (10, 10)
    assert "20s left" in figures.texts()
    apply(figures, update(RunState.FINALIZING, step=10, total_steps=10, seconds_left=12, answers=30, total_answers=120))
    assert figures.bar == (120, 30)
    assert figures.texts()[-2:] == ["evaluated 30/120 rows", "12s left"]
    apply(figures, update(RunState.SUCCEEDED, step=10, total_steps=10, answers=120, total_answers=120))
    assert figures.texts() == ["succeeded", "step 10/10"]


def test_plain_lines_come_every_few_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    lines: list[str] = []
    monkeypatch.setattr(shown.time, "monotonic", lambda: now)
    plain = shown._Plain()
    monkeypatch.setattr(plain, "_print", lines.append)
    for answers in range(60):  # an answer a second
        plain.update(update(RunState.FINALIZING, step=10, total_steps=10, answers=answers, total_answers=60))
        now += 1.0
    assert len(lines) == 60 / shown.PLAIN_EVERY
    assert lines[-1] == "finalizing  step 10/10  evaluated 55/60 rows"


def test_the_live_bar_prints_nothing_above_it_for_an_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    live = shown._Live()
    printed: list[str] = []
    monkeypatch.setattr(live._bar.console, "print", lambda text, **_: printed.append(text))
    for answers in (1, 2, 3):
        live.update(update(RunState.FINALIZING, answers=answers, total_answers=3))
    task = live._bar.tasks[0]
    assert (task.completed, task.total) == (3, 3)
    assert printed == []
