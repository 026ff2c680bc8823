"""What the answers of most vendors hold: states, times, numbers and hyperparameters, under the vendor's own names."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any

from llmtune.provider.types import Cursor, RunState, Snapshot


def read_state(raw_state: str, states: Mapping[str, RunState], service: str) -> tuple[RunState, tuple[str, ...]]:
    """Return the state that `service` calls `raw_state`, and a warning where the word is new.

    A word that is not among the `states` is running: an unknown state is never an end.
    """
    if raw_state in states:
        return states[raw_state], ()
    return RunState.RUNNING, (f"{service} says {raw_state!r}, a state that is not known here; taken for running",)


def unix_seconds(value: Any) -> float | None:
    """Return a time in Unix seconds; None when it cannot be read.

    `value` is ISO 8601 text, a datetime, or Unix seconds already.
    """
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return float(value)
    try:
        return (value if isinstance(value, datetime) else datetime.fromisoformat(value)).timestamp()
    except (TypeError, ValueError):
        return None


def read_number(value: Any) -> float | None:
    """Return the number in `value`, which may be spelt as text; None when there is none."""
    try:
        return None if isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        return None


def read_values(
    values: Mapping[str, Any], names: Mapping[str, tuple[str, Callable[[Any], Any]]]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the vendor's hyperparameters (`values`) by our names, and those that have none or cannot be read.

    `names` holds our name for each of the vendor's, and how its value is read.
    """
    our_values: dict[str, Any] = {}
    unmapped: dict[str, Any] = {}
    for name, value in values.items():
        try:
            our_name, read = names[name]
            our_values[our_name] = read(value)
        except (KeyError, TypeError, ValueError):
            unmapped[name] = value
    return our_values, unmapped


def only_new_events(snapshot: Snapshot, cursor: Cursor) -> Snapshot:
    """Return a snapshot without the events whose ids are in the cursor, and the cursor with those that are new; for a
    vendor that gives all events each time."""
    reported = cursor.get("events", [])
    events = tuple(event for event in snapshot.events if event.id not in reported)
    cursor = {**cursor, "events": [*reported, *(event.id for event in events)]}
    return snapshot.model_copy(update={"events": events, "cursor": cursor})
