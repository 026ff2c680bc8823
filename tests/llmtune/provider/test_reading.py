"""States, times, numbers and hyperparameters out of vendors' answers."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from llmtune.provider import (
    Event,
    RunState,
    Snapshot,
    only_new_events,
    read_number,
    read_state,
    read_values,
    unix_seconds,
)


def test_a_known_state_is_read_and_an_unknown_one_is_running_with_a_warning() -> None:
    states = {"cooking": RunState.RUNNING, "burnt": RunState.FAILED}
    assert read_state("burnt", states, "Kitchen") == (RunState.FAILED, ())
    state, warnings = read_state("simmering", states, "Kitchen")
    assert state is RunState.RUNNING
    assert warnings == ("Kitchen says 'simmering', a state that is not known here; taken for running",)


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("1970-01-01T00:01:40Z", 100.0),
        ("1970-01-01T01:01:40+01:00", 100.0),
        (datetime(1970, 1, 1, 0, 1, 40, tzinfo=UTC), 100.0),
        ("2026-03-01T12:00:00Z", 1772366400.0),
        (100, 100.0),
        (1.5, 1.5),
        (True, None),
        ("soon", None),
        (None, None),
    ],
)
def test_a_time_is_read_however_it_is_written(value: Any, seconds: float | None) -> None:
    assert unix_seconds(value) == seconds


@pytest.mark.parametrize(("value", "number"), [(" 0.25 ", 0.25), (7, 7.0), ("", None), (None, None), (False, None)])
def test_a_number_may_be_text(value: Any, number: float | None) -> None:
    assert read_number(value) == number


def test_values_are_read_by_our_names_and_what_cannot_be_read_is_kept() -> None:
    names = {"passes": ("epochs", int), "speed": ("learning_rate", float)}
    values, unmapped = read_values({"passes": "3", "speed": "auto", "colour": "red"}, names)
    assert values == {"epochs": 3}
    assert unmapped == {"speed": "auto", "colour": "red"}


def test_an_event_is_reported_once() -> None:
    events = tuple(Event(id=id, time=0.0, message=id) for id in ("a", "b"))
    first = only_new_events(Snapshot(state=RunState.RUNNING, raw_state="", events=events[:1]), {"page": 4})
    assert [event.id for event in first.events] == ["a"]
    second = only_new_events(Snapshot(state=RunState.RUNNING, raw_state="", events=events), first.cursor or {})
    assert [event.id for event in second.events] == ["b"]
    assert second.cursor == {"page": 4, "events": ["a", "b"]}
