"""Looking at many runs, and at what is new of one: what lists and live pages ask, without reading whole records."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import orjson

from llmtune.metrics.points import MetricPoint
from llmtune.provider.types import RunState
from llmtune.runs.store.store import Store


@dataclass(frozen=True)
class ListedRun:
    """One line of a list. `step` and `total` are optimizer steps, None where not told; times are Unix seconds."""

    id: str
    name: str
    provider: str
    model: str
    state: RunState
    created: float
    updated: float
    step: int | None
    total: int | None


def listed(store: Store, *, limit: int | None = None, only: tuple[RunState, ...] | None = None) -> list[ListedRun]:
    """Runs, newest first, in one query that leaves plans, receipts and curves where they are."""
    from sqlalchemy import select

    from llmtune.runs.store import schema

    table = schema.runs.c
    wanted = (table.id, table.name, table.provider, table.model, table.state, table.created, table.updated, table.live)
    query = select(*wanted).order_by(table.created.desc(), table.id)
    if only is not None:
        query = query.where(table.state.in_([state.value for state in only]))
    if limit is not None:
        query = query.limit(limit)
    with store.read() as connection:
        rows = connection.execute(query).all()
    return [_listed(row) for row in rows]


def _listed(row: Any) -> ListedRun:
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


def how_many(store: Store) -> int:
    """The number of runs in the store."""
    from sqlalchemy import func, select

    from llmtune.runs.store import schema

    with store.read() as connection:
        return int(connection.execute(select(func.count()).select_from(schema.runs)).scalar_one())


def points_after(store: Store, run_id: str, after: int = 0) -> list[tuple[int, MetricPoint]]:
    """Metric points with their running number, in the order they were seen; those with a number above `after`."""
    from llmtune.runs.store import schema

    table = schema.metrics
    query = table.select().where(table.c.run_id == run_id, table.c.seq > after).order_by(table.c.seq)
    with store.read() as connection:
        rows = connection.execute(query).all()
    return [(int(row.seq), MetricPoint.model_validate_json(row.point)) for row in rows]


def kept_reports(store: Store, run_ids: list[str]) -> dict[str, str]:
    """The reports of these runs as JSON text, by id; those that have one."""
    from llmtune.runs.store import schema

    table = schema.reports
    with store.read() as connection:
        rows = connection.execute(table.select().where(table.c.run_id.in_(run_ids))).all()
    return {row.run_id: row.report for row in rows}
