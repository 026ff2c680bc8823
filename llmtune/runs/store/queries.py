"""Queries of lists and live pages: many runs, or the new points of one, without reading complete records."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import orjson

from llmtune.metrics.points import MetricPoint
from llmtune.provider.types import RunState
from llmtune.runs.store.store import Store


@dataclass(frozen=True)
class ListedRun:
    """One line of a list. `step` and `total` are optimizer steps, None where not reported; times are Unix seconds."""

    id: str
    name: str
    provider: str
    model: str
    state: RunState
    created: float
    updated: float
    step: int | None
    total: int | None


def list_runs(store: Store, *, limit: int | None = None, only: tuple[RunState, ...] | None = None) -> list[ListedRun]:
    """List runs, newest first, in one query that does not read plans, receipts and curves."""
    from sqlalchemy import select

    from llmtune.runs.store import schema

    table = schema.runs.c
    columns = (table.id, table.name, table.provider, table.model, table.state, table.created, table.updated, table.live)
    query = select(*columns).order_by(table.created.desc(), table.id)
    if only is not None:
        query = query.where(table.state.in_([state.value for state in only]))
    if limit is not None:
        query = query.limit(limit)
    with store.read() as connection:
        rows = connection.execute(query).all()
    return [_read_listed_run(row) for row in rows]


def _read_listed_run(row: Any) -> ListedRun:
    try:
        progress = orjson.loads(row.live).get("progress") or {}
    except ValueError:  # damaged; what has a column of its own is listed
        progress = {}
    return ListedRun(
        id=row.id,
        name=row.name,
        provider=row.provider,
        model=row.model,
        state=RunState(row.state),
        created=row.created,
        updated=row.updated,
        step=progress.get("step"),
        total=progress.get("total_steps"),
    )


def count_runs(store: Store) -> int:
    """Return the number of runs in the store."""
    from sqlalchemy import func, select

    from llmtune.runs.store import schema

    with store.read() as connection:
        return int(connection.execute(select(func.count()).select_from(schema.runs)).scalar_one())


def points_after(store: Store, run_id: str, after: int = 0) -> list[tuple[int, MetricPoint]]:
    """Return metric points with their running number, in the order they came; only those above `after`."""
    from llmtune.runs.store import schema

    table = schema.metrics
    query = table.select().where(table.c.run_id == run_id, table.c.seq > after).order_by(table.c.seq)
    with store.read() as connection:
        rows = connection.execute(query).all()
    return [(int(row.seq), MetricPoint.model_validate_json(row.point)) for row in rows]


def stored_reports(store: Store, run_ids: list[str]) -> dict[str, str]:
    """Return the reports of these runs as JSON text, by id; runs without one are left out."""
    from llmtune.runs.store import schema

    table = schema.reports
    with store.read() as connection:
        rows = connection.execute(table.select().where(table.c.run_id.in_(run_ids))).all()
    return {row.run_id: row.report for row in rows}
