"""The progress of an evaluation counts the rows of all models, and says how long the rest takes."""

from __future__ import annotations

from pathlib import Path

from llmtune.provider.types import Progress, RunState
from llmtune.runs.evaluation_progress import PROGRESS_INTERVAL, EvaluationProgress, Standing, store_progress
from llmtune.runs.store.store import Store
from tests.llmtune.runs.helpers import a_record


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_rows_are_counted_over_all_models() -> None:
    clock = Clock()
    standings: list[Standing] = []
    progress = EvaluationProgress(standings.append, clock=clock)
    progress.expect({"base": 20, "tuned": 20, "tuned on train rows": 10})
    progress("base", 0, 20)
    assert (standings[-1].answers, standings[-1].total_answers, standings[-1].seconds_left) == (0, 50, None)
    clock.now = 10.0
    progress("base", 20, 20)
    assert (standings[-1].title, standings[-1].answers) == ("base", 20)
    assert standings[-1].seconds_left == 15.0  # half a second a row, and thirty rows
    progress("tuned", 0, 20)
    clock.now = 12.0
    progress("tuned", 10, 20)
    assert standings[-1].answers == 30
    assert standings[-1].seconds_left == 12.0 / 30 * 20
    progress("tuned", 20, 20)
    progress("tuned on train rows", 10, 10)
    assert (standings[-1].answers, standings[-1].seconds_left) == (50, 0.0)


def test_cached_answers_say_nothing_about_the_speed() -> None:
    clock = Clock()
    standings: list[Standing] = []
    progress = EvaluationProgress(standings.append, clock=clock)
    progress.expect({"base": 100, "tuned": 100})
    progress("base", 100, 100)
    progress("tuned", 0, 100)
    clock.now = 10.0
    progress("tuned", 50, 100)
    assert standings[-1].answers == 150
    assert standings[-1].seconds_left == 10.0


def test_a_model_that_failed_does_not_hold_the_bar_back_and_rows_never_go_back() -> None:
    standings: list[Standing] = []
    progress = EvaluationProgress(standings.append, clock=Clock())
    progress.expect({"base": 10, "few_shot": 10, "tuned": 10})
    progress("base", 10, 10)
    progress("tuned", 10, 10)
    assert standings[-1].answers == standings[-1].total_answers == 30
    progress("tuned", 5, 10)
    progress("tuned", 10, 10)
    assert standings[-1].answers == 30


def test_it_is_reported_every_few_seconds_and_at_the_end() -> None:
    clock = Clock()
    standings: list[Standing] = []
    progress = EvaluationProgress(standings.append, clock=clock)
    for row in range(100):
        clock.now += PROGRESS_INTERVAL / 10
        progress("tuned", row, 100)
    progress("tuned", 100, 100)
    assert 10 <= len(standings) <= 12
    assert standings[-1].done == 100


def test_the_record_has_it_for_everyone_who_follows_the_run(tmp_path: Path) -> None:
    store = Store(f"sqlite:///{tmp_path / 'runs.db'}")
    before = Progress(step=8, total_steps=8, seconds_left=30.0)
    record = a_record(state=RunState.FINALIZING, progress=before)
    store.create_or_join(record)
    said: list[str] = []
    clock = Clock()
    progress = store_progress(store, record.id, said.append)
    progress.clock = clock
    progress.expect({"base": 4, "tuned": 4})
    progress("base", 0, 4)
    assert store.get(record.id).progress == before.model_copy(update={"answers": 0, "total_answers": 8})
    clock.now = 4.0
    progress("base", 4, 4)
    changed = store.get(record.id).progress
    assert (changed.step, changed.answers, changed.seconds_left) == (8, 4, 4.0)
    assert said == ["", ""]
