"""The progress of an evaluation over all the models and rows that it asks."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field

from llmtune.errors import StoreUnavailable
from llmtune.runs.store.store import Store

#: Seconds between two reports of an evaluation's progress.
PROGRESS_INTERVAL = 2.0


@dataclass(frozen=True)
class Standing:
    """How far an evaluation is: `done` of `total` rows of the model called `title`, and the same over all models."""

    title: str
    done: int
    total: int
    answers: int
    total_answers: int
    seconds_left: float | None
    """At the speed of the rows asked so far; None before the first answer that was not cached."""


@dataclass
class EvaluationProgress:
    """A callback for `evaluate`: it reports every few seconds, and when a model has answered all of its rows."""

    report: Callable[[Standing], None]
    clock: Callable[[], float] = time.monotonic
    expected: dict[str, int] = field(default_factory=dict)
    """Rows of each title, in the order in which they are asked."""

    _shares: dict[str, float] = field(default_factory=dict)
    _cached: float = 0.0
    """Rows whose answers were there when their model was asked first."""

    _began: float | None = None
    _reported: float | None = None

    def expect(self, rows: Mapping[str, int]) -> None:
        """Note how many rows each model will be asked."""
        self.expected = dict(rows)

    def __call__(self, title: str, done: int, total: int) -> None:
        """Note that `done` of `total` rows of a title are answered."""
        now = self.clock()
        if self._began is None:
            self._began = now
        share = done / total if total else 1.0
        if title not in self._shares:
            self.expected.setdefault(title, total)
            self._cached += share * self.expected[title]
            self._finish_earlier(title)
        self._shares[title] = max(share, self._shares.get(title, 0.0))
        if done == total or self._reported is None or now - self._reported >= PROGRESS_INTERVAL:
            self._reported = now
            self.report(self._describe(title, done, total, now - self._began))

    def _finish_earlier(self, title: str) -> None:
        """Count the titles before this one as asked: a model that failed is not asked its other rows."""
        for name in self.expected:
            if name == title:
                return
            self._shares[name] = 1.0

    def _describe(self, title: str, done: int, total: int, elapsed: float) -> Standing:
        everything = sum(self.expected.values())
        answered = sum(self.expected[name] * share for name, share in self._shares.items())
        uncached = answered - self._cached
        seconds_left = elapsed / uncached * (everything - answered) if uncached > 0 else None
        return Standing(title, done, total, round(answered), everything, seconds_left)


def say_progress(say: Callable[[str], None]) -> EvaluationProgress:
    """Return a progress callback that reports in messages."""
    return EvaluationProgress(lambda standing: say(f"evaluating {standing.title}: {standing.done}/{standing.total}"))


def store_progress(store: Store, run_id: str, say: Callable[[str], None]) -> EvaluationProgress:
    """Return a progress callback that writes to the run's record; `say` is called without a message."""

    def report(standing: Standing) -> None:
        with suppress(StoreUnavailable):  # progress may be missing from the record; the answers are not
            progress = store.get(run_id).progress
            news = {"answers": standing.answers, "total_answers": standing.total_answers}
            seconds_left = progress.seconds_left if standing.seconds_left is None else standing.seconds_left
            store.change(
                run_id, durable=False, progress=progress.model_copy(update=news | {"seconds_left": seconds_left})
            )
        say("")

    return EvaluationProgress(report)
