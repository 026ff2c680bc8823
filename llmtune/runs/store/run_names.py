"""Which run a text names: an id or its beginning, a key, or a name that several runs may have.

`tickets` is every run of that name, `tickets/local` those at one provider, and `tickets@2` (`tickets/local@2`) the
second of them, counted from the oldest, so that it stays the same run when others are started.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from llmtune.errors import AmbiguousRun, RunNotFound, did_you_mean
from llmtune.provider.types import RunState

#: Which run of several with the same name is taken: the newest that succeeded, the newest that has not ended, the
#: newest of all; None takes none of them.
Preference = Literal["succeeded", "unfinished", "newest"] | None

_NUMBERED = re.compile(r"(?P<name>.+)@(?P<number>\d+)", re.DOTALL)

_UNFINISHED = {state.value for state in RunState if not state.final}

#: Candidates that a message lists at most.
LISTED = 5


@dataclass(frozen=True)
class RunName:
    """What the store has of a run to find it by. `created` is in Unix seconds."""

    id: str
    key: str
    name: str
    provider: str
    state: str
    created: float

    def describe(self) -> str:
        """Describe the run for a list of candidates."""
        day = datetime.fromtimestamp(self.created).astimezone().strftime("%Y-%m-%d %H:%M")
        return f"{self.id} ({self.state} at {self.provider}, {day})"


@dataclass(frozen=True)
class RunMatch:
    """The run that a text names. `note` says which of several it is; None where there is no other."""

    id: str
    note: str | None = None


def match_run(text: str, runs: Sequence[RunName], prefer: Preference = None) -> RunMatch | None:
    """Return the run that `text` names; None where there is none.

    Raises:
        AmbiguousRun: several runs could be meant, and `prefer` does not decide; the message lists them.
        RunNotFound: there is such a name, but not that many runs of it.
    """
    exact = [run for run in runs if text in (run.id, run.key)]
    if len(exact) == 1:
        return RunMatch(exact[0].id)
    named, number = _find_named(text, runs)
    if named and number is not None:
        if not 1 <= number <= len(named):
            count = "is only 1 run" if len(named) == 1 else f"are only {len(named)} runs"
            raise RunNotFound(f"there {count} of that name, so none is {text!r}", hint="llmtune runs list")
        return RunMatch(named[number - 1].id)
    if named:
        return _choose(text, named, prefer)
    started = [run for run in runs if text and (run.id.startswith(text) or run.key.startswith(text))]
    if len(started) > 1:
        ids = ", ".join(sorted(run.id for run in started)[:LISTED])
        raise AmbiguousRun(f"{text!r} could be any of {len(started)} runs: {ids}", hint="give more of the id")
    return RunMatch(started[0].id) if started else None


def _find_named(text: str, runs: Sequence[RunName]) -> tuple[list[RunName], int | None]:
    """Return the runs of a name, oldest first, and the number that `text` picks among them.

    A name may hold `@` and `/` itself, so the whole text is tried as a name first.
    """
    ordered = sorted(runs, key=lambda run: (run.created, run.id))
    numbered = _NUMBERED.fullmatch(text)
    for name, number in ((text, None), (numbered["name"], int(numbered["number"])) if numbered else ("", None)):
        if named := [run for run in ordered if run.name == name]:
            return named, number
        bare, _, provider = name.rpartition("/")
        if bare and (named := [run for run in ordered if run.name == bare and run.provider == provider]):
            return named, number
    return [], None


def _choose(text: str, named: Sequence[RunName], prefer: Preference) -> RunMatch:
    if len(named) == 1:
        return RunMatch(named[0].id)
    listed = ", ".join(run.describe() for run in reversed(named[-LISTED:]))
    if len(named) > LISTED:
        listed += f" and {len(named) - LISTED} older ones"
    hint = f"give one of these ids, or {text}@1 for the oldest run of that name"
    if prefer is None:
        raise AmbiguousRun(f"{len(named)} runs are named {text!r}: {listed}", hint=hint)
    conditions: dict[str, Callable[[RunName], bool]] = {
        "succeeded": lambda run: run.state == RunState.SUCCEEDED.value,
        "unfinished": lambda run: run.state in _UNFINISHED,
        "newest": lambda _: True,
    }
    fits = conditions[prefer]
    chosen = next((run for run in reversed(named) if fits(run)), None)
    verb = {"succeeded": "succeeded", "unfinished": "is unfinished", "newest": ""}[prefer]
    if chosen is None:
        raise AmbiguousRun(f"none of the {len(named)} runs named {text!r} {verb}: {listed}", hint=hint)
    which = f" that {verb}" if verb else ""
    return RunMatch(chosen.id, f"run {chosen.id}: the newest of {len(named)} runs named {text!r}{which}")


def suggest_names(text: str, runs: Sequence[RunName]) -> list[str]:
    """Return the ids and names nearest to `text`, best first."""
    return did_you_mean(text, [name for run in runs for name in (run.name, run.id)])
