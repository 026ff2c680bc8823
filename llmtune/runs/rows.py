"""A run's record as a row of the store, and what a snapshot changes of it."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

import orjson

from llmtune.metrics.points import MetricPoint
from llmtune.provider import RunState, Snapshot
from llmtune.runs.records import FIXED, LIVE, PLANNED, LiveRecord, RunRecord
from llmtune.runs.secrets import scrub

if TYPE_CHECKING:
    from sqlalchemy import Row


def record_of(row: Row[Any]) -> RunRecord:
    columns = row._mapping
    live = LiveRecord.model_validate_json(columns["live"])
    changing: dict[str, Any] = {name: getattr(live, name) for name in LIVE}
    changing |= {"state": RunState(columns["state"]), "updated": columns["updated"]}
    fixed = tuple(columns["run_key" if name == "key" else name] for name in FIXED)
    return _planned(columns["document"], fixed).model_copy(update=changing)


@functools.lru_cache(maxsize=2048)
def _planned(document: str, fixed: tuple[Any, ...]) -> RunRecord:
    """The part of a record that hardly ever changes, read once for many polls. Nobody changes what is in it."""
    data = orjson.loads(document) | dict(zip(FIXED, fixed, strict=True))
    return RunRecord.model_validate(data | {"state": RunState.PLANNED, "updated": 0.0})


def columns_of(record: RunRecord, before: RunRecord | None = None) -> dict[str, Any]:
    """The columns of a record; with `before`, only those that may have changed since."""
    row: dict[str, Any] = {"state": record.state.value, "updated": record.updated}
    row["live"] = scrub(record.model_dump_json(include=set(LIVE)))
    if before is None:
        row |= {"run_key" if name == "key" else name: getattr(record, name) for name in FIXED}
    if before is None or any(getattr(record, name) is not getattr(before, name) for name in PLANNED):
        row["document"] = scrub(record.model_dump_json(include=set(PLANNED)))
    return row


def identity(point: MetricPoint) -> str:
    return f"{point.series}@{point.step}@{point.epoch}@{point.source}"


def nothing_new(record: RunRecord, snapshot: Snapshot) -> bool:
    told = snapshot.points or snapshot.events or snapshot.checkpoints or snapshot.model is not None
    return not told and snapshot.state is record.state and updated(record, snapshot) == record


def updated(record: RunRecord, snapshot: Snapshot) -> RunRecord:
    """The record with what the snapshot says of it."""
    fields: dict[str, Any] = {"raw_state": snapshot.raw_state}
    if snapshot.progress != type(snapshot.progress)():
        told = snapshot.progress.model_dump(exclude_none=True)
        fields["progress"] = record.progress.model_copy(update=told)
    if snapshot.cursor is not None:
        fields["cursor"] = snapshot.cursor
    if snapshot.error is not None:
        fields["error"] = snapshot.error
    if snapshot.billed is not None:
        fields["billed"] = snapshot.billed
    if snapshot.resolved:
        fields["resolved"] = record.resolved | snapshot.resolved
    if snapshot.not_reported:
        fields["not_reported"] = record.not_reported | snapshot.not_reported
    if fresh := tuple(each for each in dict.fromkeys(snapshot.warnings) if each not in record.warnings):
        fields["warnings"] = record.warnings + fresh
    if snapshot.state.final and record.outcome is None:
        fields["outcome"] = snapshot.state
    return record.model_copy(update=fields)
