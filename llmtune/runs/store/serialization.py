"""A run's record as a row of the store, and what a snapshot changes of it."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, TypeVar

import orjson
from pydantic_core import to_json

from llmtune.errors import LlmtuneWarning, StoreError
from llmtune.metrics.points import MetricPoint
from llmtune.provider.types import RunState, Snapshot
from llmtune.redaction.secrets import scrub, scrub_leaves
from llmtune.runs.store.records import FIXED, LIVE, PLANNED, LiveRecord, RunRecord

if TYPE_CHECKING:
    from sqlalchemy import Row

T = TypeVar("T")


def read_record(row: Row[Any]) -> RunRecord:
    """Read the record in a row of `runs`. Raises `StoreError` when the row cannot be read."""
    try:
        return _read_record(row)
    except (ValueError, TypeError, KeyError):  # broken JSON and a failed validation are ValueErrors
        raise StoreError(
            f"the record of run {row.id} ({row.name!r} at {row.provider}) is damaged and cannot be read",
            hint="the other runs are not affected; --new starts the job again",
        ) from None


def read_rows(rows: Iterable[Row[Any]], read: Callable[[Row[Any]], T], name: str) -> list[T]:
    """Apply `read` to each row, leaving damaged rows out with one warning, so that the other rows can be listed.

    `name` is a format string for a damaged row, as in "run {0.id}".
    """
    values, damaged = [], []
    for row in rows:
        try:
            values.append(read(row))
        except (ValueError, StoreError):
            damaged.append(name.format(row))
    if damaged:
        warnings.warn(f"damaged in the store and left out: {', '.join(damaged)}", LlmtuneWarning, stacklevel=3)
    return values


def dump(data: Any) -> str:
    """Return data as JSON text."""
    return to_json(data, inf_nan_mode="null").decode()


def _read_record(row: Row[Any]) -> RunRecord:
    columns = row._mapping
    live = LiveRecord.model_validate_json(columns["live"])
    changing: dict[str, Any] = {name: getattr(live, name) for name in LIVE}
    changing |= {"state": RunState(columns["state"]), "updated": columns["updated"]}
    fixed = tuple(columns["run_key" if name == "key" else name] for name in FIXED)
    return _read_planned(columns["document"], fixed).model_copy(update=changing)


@functools.lru_cache(maxsize=2048)
def _read_planned(document: str, fixed: tuple[Any, ...]) -> RunRecord:
    """Read the part of a record that hardly ever changes, once for many polls. The result must not be modified."""
    data = orjson.loads(document) | dict(zip(FIXED, fixed, strict=True))
    return RunRecord.model_validate(data | {"state": RunState.PLANNED, "updated": 0.0})


def build_columns(record: RunRecord, before: RunRecord | None = None) -> dict[str, Any]:
    """Build the columns of a record; with `before`, only those that may have changed since."""
    row: dict[str, Any] = {"state": record.state.value, "updated": record.updated}
    live = record.model_dump(mode="json", include=set(LIVE))
    row["live"] = dump(scrub_leaves(live) | {"cursor": live["cursor"]})  # the cursor goes back to the vendor as it came
    if before is None:
        row |= {"run_key" if name == "key" else name: getattr(record, name) for name in FIXED}
    if before is None or any(getattr(record, name) is not getattr(before, name) for name in PLANNED):
        # Sent, or what the request is built from, or where: never changed. `refuse_secrets` has looked through the job.
        row["document"] = record.model_dump_json(include=set(PLANNED))
    return row


def identify_point(point: MetricPoint) -> str:
    return f"{point.series}@{point.step}@{point.epoch}@{point.source}"


def is_unchanged(record: RunRecord, snapshot: Snapshot) -> bool:
    lists = (snapshot.points, snapshot.events, snapshot.samples, snapshot.checkpoints)
    has_news = any(lists) or snapshot.model is not None
    return not has_news and snapshot.state is record.state and apply_snapshot(record, snapshot) == record


def apply_snapshot(record: RunRecord, snapshot: Snapshot) -> RunRecord:
    """Return the record with the changes of a snapshot."""
    fields: dict[str, Any] = {"raw_state": scrub(snapshot.raw_state)}
    if snapshot.progress != type(snapshot.progress)():
        progress = snapshot.progress.model_dump(exclude_none=True)
        fields["progress"] = record.progress.model_copy(update=progress)
    if snapshot.cursor is not None:
        fields["cursor"] = snapshot.cursor
    if snapshot.error is not None:
        fields["error"] = scrub(snapshot.error)
    if snapshot.billed is not None:
        fields["billed"] = snapshot.billed
    if snapshot.resolved:
        fields["resolved"] = record.resolved | snapshot.resolved
    if snapshot.not_reported:
        fields["not_reported"] = record.not_reported | snapshot.not_reported
    if new_warnings := tuple(
        warning for warning in dict.fromkeys(map(scrub, snapshot.warnings)) if warning not in record.warnings
    ):
        fields["warnings"] = record.warnings + new_warnings
    if snapshot.state.final and record.outcome is None:
        fields["outcome"] = snapshot.state
    return record.model_copy(update=fields)
