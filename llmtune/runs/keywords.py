"""The keywords of `start` and `Run.wait`, for functions that pass them on: `def train(job, **options: Unpack[...])`."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import TypedDict

from llmtune.runs.poller import PollInterval, Update


class StartKeywords(TypedDict, total=False):
    """The keywords of `llmtune.start`, which describes each."""

    budget: float | None
    yes: bool
    allow_unknown_cost: bool
    strict: bool | Collection[str]
    allow_lossy_data: bool
    new: bool
    reuse: bool
    group: str | None
    fallback_on: Sequence[str]
    sinks: Collection[str]


class WaitKeywords(TypedDict, total=False):
    """The keywords of `Run.wait`, which describes each."""

    timeout: float | None
    stall_timeout: float | None
    queue_timeout: float | None
    on_update: Callable[[Update], None] | None
    pace: PollInterval | None


class TuneKeywords(StartKeywords, WaitKeywords, total=False):
    """The keywords of `llmtune.tune` beside `progress` and `seeds`: those of `llmtune.start` and of `Run.wait`."""
